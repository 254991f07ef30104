// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc/mqttrpctest"
)

// TestGoldenRequests compares every document that is sent with a file, over both transports.
func TestGoldenRequests(t *testing.T) {
	payload := json.RawMessage(`{"MyDeviceFirmwareVersion":"12.0.2.5", "note":"<a & b>"}`)
	for _, transport := range []Transport{TransportHTTPS, TransportMQTT} {
		synctest.Test(t, func(t *testing.T) {
			service := newDPS(t, transport)
			var hello string
			service.mqtt.Connect = func(c *mqttrpctest.Client) int {
				hello = fmt.Sprintf("client ID: %s\nuser name: %s\npassword:  %s\nkeep alive: %d s, clean session: %t, protocol level: %d\n",
					c.ID, c.Username, c.Password, c.KeepAlive, c.CleanSession, c.ProtocolVersion)
				return 0
			}
			service.mqtt.Subscribe = func(_ *mqttrpctest.Client, filter string) byte {
				hello += "subscribe: " + filter + "\n"
				return 1
			}
			service.script = func(n int, q asked) said {
				switch {
				case q.Do == "lookup":
					return refusal(404, 404201, "")
				case q.Do == "register":
					return assigning("3")
				}
				return assigned(testOp)
			}
			r := request()
			for _, r.Payload = range []json.RawMessage{nil, payload} {
				r.Interrupted = r.Payload == nil
				if _, err := service.client(t).Register(t.Context(), r); err != nil {
					t.Fatal(err)
				}
			}
			seen := map[string]string{}
			for _, q := range service.requests() {
				name := q.Do
				if strings.Contains(q.Body, "payload") {
					name += "-payload"
				}
				seen[name] = strings.ReplaceAll(q.Wire, version(), "VERSION")
			}
			if transport == TransportMQTT {
				seen["connect"] = strings.ReplaceAll(hello, escapeComponent(version()), "VERSION")
			}
			for name, text := range seen {
				golden(t, string(transport)+"-"+name+".golden", text)
			}
			if want := map[Transport]int{TransportHTTPS: 4, TransportMQTT: 4}[transport]; len(seen) != want {
				t.Errorf("%s: %d kinds of documents, want %d", transport, len(seen), want)
			}
		})
	}
}

func TestRegisterBodyVectors(t *testing.T) {
	var file struct {
		Bodies struct {
			Requests []struct {
				ID   string          `json:"id"`
				Body json.RawMessage `json:"body"`
			} `json:"register_requests"`
		} `json:"bodies"`
	}
	vectors(t, &file)
	checked := 0
	for _, v := range file.Bodies.Requests {
		r := request()
		switch v.ID { // the others are other clients' ways
		case "minimal":
		case "payload":
			r.Payload = json.RawMessage(`{"MyDeviceFirmwareVersion":"12.0.2.5","MyDeviceProvisioningVersion":"1.0.0.0"}`)
		default:
			continue
		}
		checked++
		got, err := registerBody(r)
		if err != nil {
			t.Fatal(err)
		}
		var gotValue, want any
		if err := errors.Join(json.Unmarshal(got, &gotValue), json.Unmarshal(v.Body, &want)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, gotValue); diff != "" {
			t.Errorf("%s (-want +got):\n%s", v.ID, diff)
		}
	}
	if checked != 2 {
		t.Errorf("%d vectors found, want 2", checked)
	}
}

// TestAnswerVectors reads the published bodies.
func TestAnswerVectors(t *testing.T) {
	type body struct {
		ID         string          `json:"id"`
		HTTPStatus int             `json:"http_status"`
		RetryAfter *int            `json:"retry_after"`
		Body       json.RawMessage `json:"body"`
	}
	var file struct {
		Bodies struct {
			Status []body `json:"operation_status"`
			Errors []body `json:"errors"`
		} `json:"bodies"`
	}
	vectors(t, &file)

	want := map[string]string{
		"register-accepted": "assigning " + testOp,
		"poll-assigning":    "assigning " + testOp,
		"assigned": "assigned " + testOp + ` {contoso-toasters-hub-1098.azure-devices.net breakroom499-contoso-tstrsd-007 initialAssignment ` +
			`{"property1":"value1"} contoso-custom-allocated-devices 2022-08-03T20:34:41.178Z 2022-08-03T20:34:41.399Z IjY5MDAwMDAwLTAwMDAtMDcwMC0wMDAwLTYyZWFhZDFlMDAwMCI=}`,
		"failed-400207": "failed " + testOp + " the provisioning service ended the registration as failed (code 400207): Custom allocation failed with status code: 400",
		"disabled":      "disabled " + testOp + " the enrollment is disabled",
	}
	for _, v := range file.Bodies.Status {
		op, err := parseOperation(v.Body, testID)
		if err != nil {
			t.Errorf("%s: %v", v.ID, err)
			continue
		}
		got := string(op.status) + " " + op.id
		if op.final() {
			a, err := op.assignment(testID)
			if err != nil {
				got += " " + err.Error()
			} else {
				var compact strings.Builder
				for part := range strings.FieldsSeq(string(a.Payload)) {
					compact.WriteString(part)
				}
				got += fmt.Sprintf(" {%s %s %s %s %s %s %s %s}", a.AssignedHub, a.DeviceID, a.Substatus, compact.String(), a.EnrollmentGroupID,
					a.CreatedDateTimeUTC.Format(time.RFC3339Nano), a.LastUpdatedDateTimeUTC.Format(time.RFC3339Nano), a.ETag)
			}
		}
		if got != want[v.ID] {
			t.Errorf("%s:\n got %s\nwant %s", v.ID, got, want[v.ID])
		}
		delete(want, v.ID)
	}
	if len(want) != 0 {
		t.Errorf("bodies that were not found: %v", want)
	}

	var texts []string
	for _, v := range file.Bodies.Errors {
		answer := reply{status: v.HTTPStatus, body: v.Body, at: time.Now()}
		if v.RetryAfter != nil {
			answer.retryAfter = fmt.Sprint(*v.RetryAfter)
		}
		err := answer.serviceError()
		var refused *ServiceError
		if !errors.As(err, &refused) {
			t.Errorf("%s: %v", v.Body, err)
			continue
		}
		texts = append(texts, fmt.Sprintf("%d %d %v %s", refused.HTTPStatus, refused.Code, refused.RetryAfter, refused.Message))
	}
	wantTexts := []string{
		"401 401002 0s Unauthorized",
		"429 429001 10s Operations are being throttled for this tenant. Please try again later.",
		"401 0 0s Authorization required",
	}
	if diff := cmp.Diff(wantTexts, texts); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

func TestParseTime(t *testing.T) {
	for text, want := range map[string]string{
		"2022-08-03T20:34:41.1780000Z":  "2022-08-03T20:34:41.178Z",
		"2022-08-03T20:34:41Z":          "2022-08-03T20:34:41Z",
		"2022-08-03T20:34:41":           "2022-08-03T20:34:41Z",
		"2022-08-03T22:34:41.5+02:00":   "2022-08-03T20:34:41.5Z",
		"yesterday":                     "0001-01-01T00:00:00Z",
		"":                              "0001-01-01T00:00:00Z",
		"2022-08-03T20:34:41.17800001Z": "2022-08-03T20:34:41.17800001Z",
	} {
		if got := parseTime(text).Format(time.RFC3339Nano); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

// TestRule9WhatTheServiceNamesIsData feeds names that would break something further on.
func TestRule9WhatTheServiceNamesIsData(t *testing.T) {
	answer := func(operationID, hub, deviceID string) []byte {
		text, err := json.Marshal(map[string]any{
			"operationId": operationID, "status": "assigned",
			"registrationState": map[string]any{"assignedHub": hub, "deviceId": deviceID},
		})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	tests := []struct {
		name string
		body []byte
		ok   bool
	}{
		{"plain", answer("4.a", "hub.example", "device-1"), true},
		{"punctuation in the device ID", answer("4.a", "hub.example", "a-:.%_*?!(),=@$'"), true},
		{"no operation ID", answer("", "hub.example", "d"), true},
		{"operation ID with a slash", answer("../../x", "hub.example", "d"), false},
		{"operation ID with a wildcard", answer("a#", "hub.example", "d"), false},
		{"operation ID too long", answer(strings.Repeat("a", 257), "hub.example", "d"), false},
		{"hub with a port", answer("4.a", "hub.example:22", "d"), false},
		{"hub with a path", answer("4.a", "hub.example/x", "d"), false},
		{"hub with a control character", answer("4.a", "hub\n.example", "d"), false},
		{"hub too long", answer("4.a", strings.Repeat("a", 254), "d"), false},
		{"device ID with a slash", answer("4.a", "hub.example", "a/b"), false},
		{"device ID with a wildcard", answer("4.a", "hub.example", "a+"), false},
		{"device ID with a space", answer("4.a", "hub.example", "a b"), false},
		{"device ID too long", answer("4.a", "hub.example", strings.Repeat("a", 129)), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := parseOperation(test.body, testID)
			if test.ok && err != nil || !test.ok && !errors.Is(err, ErrNotService) {
				t.Errorf("got %v, want it accepted: %t", err, test.ok)
			}
		})
	}
}

func TestPrintable(t *testing.T) {
	tests := []struct{ text, want string }{
		{"plain", "plain"},
		{" two\r\n lines\t ", "two lines"},
		{"bell\a escape\x1b[31m", "bell escape…"},
		{"bad\xffbytes", "bad bytes"},
		{"right\u202eleft", "right left"},
		{"twelve chars", "twelve chars"},
		{"thirteen char", "thirteen ch…"},
		{"ünïcödé ünïcödé", "ünïcödé ünï…"},
	}
	for _, test := range tests {
		if got := printable(test.text, 12); got != test.want {
			t.Errorf("%q: got %q, want %q", test.text, got, test.want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("bell\a \xff \u202e", 12)
	f.Fuzz(func(t *testing.T, text string, most int) {
		most = 1 + most&0xff
		got := printable(text, most)
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > most {
			t.Errorf("%q: %q is not at most %d characters", text, got, most)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Errorf("%q: %q holds %U", text, got, r)
			}
		}
	})
}
