// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// vectors is testdata/dps-vectors.json, as far as this package needs it. Each
// entry there names its source.
type vectors struct {
	KeyDerivation struct {
		Vectors []struct {
			ID             string `json:"id"`
			GroupKey       string `json:"group_key_b64"`
			RegistrationID string `json:"registration_id"`
			Derived        string `json:"derived_key_b64"`
		} `json:"vectors"`
		InvalidGroupKeys []struct {
			GroupKey string `json:"group_key"`
			Expect   string `json:"expect"`
		} `json:"invalid_group_keys"`
	} `json:"key_derivation"`
	SAS struct {
		Device       []sasVector `json:"device"`
		DeviceReject []sasVector `json:"device_reject"`
		Hub          []sasVector `json:"hub"`
		Generic      []sasVector `json:"generic"`
		Service      []sasVector `json:"service"`
	} `json:"sas"`
	Captured []struct {
		ID      string            `json:"id"`
		Method  string            `json:"method"`
		Target  string            `json:"target"`
		Headers map[string]string `json:"headers"`
		Body    string            `json:"body"`
	} `json:"http_captured"`
	Webhook struct {
		Requests []struct {
			ID   string          `json:"id"`
			Raw  string          `json:"raw"`
			Body json.RawMessage `json:"body"`
		} `json:"requests"`
		Responses []struct {
			ID     string          `json:"id"`
			Status int             `json:"status"`
			Body   json.RawMessage `json:"body"`
			Text   string          `json:"body_text"`
		} `json:"responses"`
		Results []struct {
			WebhookStatus int     `json:"webhook_status"`
			Hub           *string `json:"hub"`
			Status        string  `json:"registration_status"`
			ErrorCode     int     `json:"error_code"`
			ErrorMessage  string  `json:"error_message"`
			Retry         bool    `json:"retry"`
			AfterRetries  *struct {
				ErrorCode    int    `json:"error_code"`
				ErrorMessage string `json:"error_message"`
			} `json:"after_retries"`
		} `json:"results"`
		Masking struct {
			Stored string `json:"stored"`
			Sent   string `json:"sent_in_request"`
		} `json:"masking"`
	} `json:"webhook"`
	WebhookRetry struct {
		Delays     []int `json:"delays_s"`
		Cumulative []int `json:"cumulative_s"`
		Calls      int   `json:"calls_total"`
	} `json:"webhook_retry"`
	RegistrationIDs struct {
		Valid   []string `json:"valid"`
		Invalid []string `json:"invalid"`
	} `json:"registration_id_rules"`
	MQTT struct {
		Connect []struct {
			ID       string `json:"id"`
			UserName string `json:"username"`
		} `json:"connect"`
		Topics []struct {
			Topic       string  `json:"topic"`
			Kind        string  `json:"kind"`
			RID         *string `json:"rid"`
			OperationID *string `json:"operation_id"`
		} `json:"topics_to_service"`
	} `json:"mqtt"`
	Bodies struct {
		Requests []struct {
			ID   string          `json:"id"`
			Raw  string          `json:"raw"`
			Body json.RawMessage `json:"body"`
		} `json:"register_requests"`
		Status []struct {
			ID         string          `json:"id"`
			HTTPStatus int             `json:"http_status"`
			RetryAfter int             `json:"retry_after"`
			Body       json.RawMessage `json:"body"`
		} `json:"operation_status"`
	} `json:"bodies"`
}

type sasVector struct {
	ID        string `json:"id"`
	Key       string `json:"key_b64"`
	Resource  string `json:"sr_on_wire"`
	Signature string `json:"signature_b64"`
	Token     string `json:"token"`
	Expect    string `json:"expect"`
}

func loadVectors(t testing.TB) vectors {
	t.Helper()
	data, err := os.ReadFile("testdata/dps-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestKeyDerivationVectors(t *testing.T) {
	v := loadVectors(t)
	if len(v.KeyDerivation.Vectors) == 0 {
		t.Fatal("no vectors")
	}
	for _, tt := range v.KeyDerivation.Vectors {
		key, err := base64.StdEncoding.DecodeString(tt.GroupKey)
		if err != nil {
			t.Fatal(err)
		}
		got := base64.StdEncoding.EncodeToString(deriveKey(key, tt.RegistrationID))
		if got != tt.Derived {
			t.Errorf("%s: got %s, want %s", tt.ID, got, tt.Derived)
		}
	}
	for _, tt := range v.KeyDerivation.InvalidGroupKeys {
		if _, err := decodeKey(tt.GroupKey); err == nil {
			t.Errorf("key taken, want %q", tt.Expect)
		}
	}
}

func TestSASVectors(t *testing.T) {
	v := loadVectors(t)
	tests := append(append(v.SAS.Device, v.SAS.Hub...), v.SAS.Generic...)
	for _, tt := range tests {
		token, err := parseSASToken(tt.Token)
		if err != nil {
			t.Errorf("%s: %v", tt.ID, err)
			continue
		}
		key, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(tt.Key, "="))
		if err != nil {
			t.Fatalf("%s: %v", tt.ID, err)
		}
		if !token.signedBy(key) {
			t.Errorf("%s: the signature is not accepted", tt.ID)
		}
		if token.signedBy(append(key, 1)) {
			t.Errorf("%s: the signature is accepted with another key", tt.ID)
		}
	}
}

// TestSASForms goes beyond the vectors: what a verifier must not fall for, and
// a signature that a client did not escape.
func TestSASForms(t *testing.T) {
	// The signature holds a "+", which a query parser would turn into a space.
	const plus = "SharedAccessSignature sr=r&sig=+Ac=&se=1"
	token, err := parseSASToken(plus)
	if err != nil || !bytes.Equal(token.signature, []byte{0xf8, 0x07}) {
		t.Errorf("%s: got %v, %v", plus, token.signature, err)
	}
	for _, text := range []string{
		"SharedAccessSignature sr=r&sr=r&sig=AA==&se=1",
		"SharedAccessSignature sr=r&sig=AA==&se=1&se=2",
		"SharedAccessSignature sr=r&sig=AA==&se=1&",
		"SharedAccessSignature sr=r&sig=AA==&se=1&x",
		"SharedAccessSignature sr=%zz&sig=AA==&se=1",
		"SharedAccessSignature sr=r&sig=%zz&se=1",
		"SharedAccessSignature sr=r&sig=!&se=1",
		"SharedAccessSignature sr=r&sig=AA==&se=-1",
		"SharedAccessSignature sr=r&sig=AA==&se=1e3",
		"SharedAccessSignature sr=r&sig=AA==&se=99999999999999999999",
		"SharedAccessSignature&sr=r&sig=AA==&se=1",
		"SharedAccessSignature sr=r&sig=AA==&se=1&x=" + strings.Repeat("x", maxSASToken),
		"",
	} {
		if _, err := parseSASToken(text); !errors.Is(err, errSASForm) {
			t.Errorf("%.80q: got %v, want %v", text, err, errSASForm)
		}
	}
}

// TestDeviceTokens shows the vectors to the service at the time of the bubble,
// the year 2000, in which all of them but one are still good.
func TestDeviceTokens(t *testing.T) {
	v := loadVectors(t)
	synctest.Test(t, func(t *testing.T) {
		const seedGroupKey = "oiK77Oy7rBw8YB6IS6ukRChAw+Yq6GC61RMrPLSTiOOtdI+XDu0LmLuNm11p+qv2I+adqGUdZHm46zXAQdZoOA=="
		cfg := testConfig()
		cfg.EnrollmentGroups = []EnrollmentGroup{{ID: "seed", PrimaryKey: seedGroupKey}}
		cfg.Enrollments = []IndividualEnrollment{{RegistrationID: "Dev-01", PrimaryKey: Secret(v.SAS.Device[0].Key)}}
		s := newCore(t, cfg, nil)
		for _, tt := range v.SAS.Device {
			id := toaster
			if strings.Contains(strings.ToLower(tt.Resource), "dev-01") {
				id = "Dev-01"
			}
			if _, err := s.service.authenticate(testScope, id, tt.Token, nil); err != nil {
				t.Errorf("%s: %v, want accepted", tt.ID, err)
			}
		}
		reasons := map[string]error{
			"se-changed":                   errSASSignature,
			"scheme-word-lower-case":       errSASForm,
			"other-device":                 errSASResource,
			"other-scope":                  errSASResource,
			"expired":                      errSASExpired,
			"group-key-used-directly":      errSASSignature,
			"resigned-with-other-encoding": errSASSignature,
			"missing-sig":                  errSASForm,
			"missing-se":                   errSASForm,
		}
		for _, tt := range v.SAS.DeviceReject {
			_, err := s.service.authenticate(testScope, toaster, tt.Token, nil)
			if want := reasons[tt.ID]; want == nil || !errors.Is(err, want) {
				t.Errorf("%s: got %v, want %v (%s)", tt.ID, err, want, tt.Expect)
			}
		}
	})
}

// TestAllocationRequestVectors builds each published request again, byte for
// byte, from an enrollment and a registration as the service holds them.
func TestAllocationRequestVectors(t *testing.T) {
	for _, tt := range loadVectors(t).Webhook.Requests {
		want := string(compactJSON(tt.Body))
		if tt.Raw != "" {
			want = tt.Raw
		}
		var published struct {
			EnrollmentGroup struct {
				EnrollmentGroupID string    `json:"enrollmentGroupId"`
				ETag              string    `json:"etag"`
				Created           time.Time `json:"createdDateTimeUtc"`
				Updated           time.Time `json:"lastUpdatedDateTimeUtc"`
				IoTHubs           []string  `json:"iotHubs"`
				Definition        struct {
					WebhookURL string `json:"webhookUrl"`
					APIVersion string `json:"apiVersion"`
				} `json:"customAllocationDefinition"`
			} `json:"enrollmentGroup"`
			Context struct {
				RegistrationID string          `json:"registrationId"`
				CurrentHub     string          `json:"currentIotHubHostName"`
				CurrentDevice  string          `json:"currentDeviceId"`
				Payload        json.RawMessage `json:"payload"`
			} `json:"deviceRuntimeContext"`
			LinkedHubs []string `json:"linkedHubs"`
		}
		if err := json.Unmarshal([]byte(want), &published); err != nil {
			t.Fatal(err)
		}
		group := published.EnrollmentGroup
		enrollment := EnrollmentGroup{
			ID:               group.EnrollmentGroupID,
			PrimaryKey:       testPrimary,
			AllocationPolicy: Custom,
			WebhookURL:       Secret(strings.Replace(group.Definition.WebhookURL, "****", "code=SECRET", 1)),
			Hubs:             group.IoTHubs,
		}.entry()
		enrollment.ETag = strings.Trim(group.ETag, `"`)
		enrollment.Created, enrollment.Updated = group.Created, group.Updated
		got := newAllocationRequest(enrollment,
			Operation{RegistrationID: published.Context.RegistrationID, Payload: compactJSON(published.Context.Payload)},
			Registration{AssignedHub: published.Context.CurrentHub, DeviceID: published.Context.CurrentDevice},
			published.LinkedHubs)
		// One vector is of an enrollment that was made for an older version.
		want = strings.Replace(want, `"apiVersion":"`+group.Definition.APIVersion, `"apiVersion":"`+webhookAPIVersion, 1)
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.ID, diff)
		}
	}
}

func TestMaskingVector(t *testing.T) {
	v := loadVectors(t).Webhook.Masking
	if got := maskQuery(v.Stored); got != v.Sent {
		t.Errorf("got %s, want %s", got, v.Sent)
	}
}

// TestWebhookResultVectors plays each row of the tutorial's troubleshooting table.
func TestWebhookResultVectors(t *testing.T) {
	for _, tt := range loadVectors(t).Webhook.Results {
		synctest.Test(t, func(t *testing.T) {
			body := `{"iotHubHostName":null}`
			switch {
			case tt.WebhookStatus != 200:
				body = "no"
			case tt.Hub != nil && *tt.Hub == "valid":
				body = goodAnswer
			case tt.Hub != nil:
				body = `{"iotHubHostName":""}`
			}
			hook := always(tt.WebhookStatus, body)
			s := newCore(t, testConfig(), hook)
			c := request(RegisterCall, toaster)
			a := s.service.serve(t.Context(), c)
			synctest.Wait()
			c.kind, c.operationID = PollCall, decodeStatus(t, a.body).OperationID
			got := decodeStatus(t, s.service.serve(t.Context(), c).body)
			if got.Status != tt.Status || got.RegistrationState.Status != tt.Status || got.RegistrationState.ErrorCode != tt.ErrorCode {
				t.Errorf("webhook %d: got %+v, want %s with code %d", tt.WebhookStatus, got, tt.Status, tt.ErrorCode)
			}
			if tt.ErrorMessage != "" && got.RegistrationState.ErrorMessage != tt.ErrorMessage {
				t.Errorf("webhook %d: message %q, want %q", tt.WebhookStatus, got.RegistrationState.ErrorMessage, tt.ErrorMessage)
			}
			if !tt.Retry {
				if hook.calls() != 1 {
					t.Errorf("webhook %d: called %d times, want once", tt.WebhookStatus, hook.calls())
				}
				return
			}
			time.Sleep(10 * time.Minute)
			got = decodeStatus(t, s.service.serve(t.Context(), c).body)
			if got.Status != "failed" || got.RegistrationState.ErrorCode != codeCustomFailed {
				t.Errorf("webhook %d: after the retries: got %+v, want failed with 400207", tt.WebhookStatus, got)
			}
			if tt.AfterRetries != nil && got.RegistrationState.ErrorMessage != tt.AfterRetries.ErrorMessage {
				t.Errorf("webhook %d: after the retries: message %q, want %q", tt.WebhookStatus, got.RegistrationState.ErrorMessage, tt.AfterRetries.ErrorMessage)
			}
		})
	}
}

// TestWebhookRetryVector holds the documented schedule: 11 calls in 415 seconds.
func TestWebhookRetryVector(t *testing.T) {
	v := loadVectors(t).WebhookRetry
	synctest.Test(t, func(t *testing.T) {
		hook := always(503, "later")
		s := newCore(t, testConfig(), hook)
		begun := time.Now()
		got := register(t, s, request(RegisterCall, toaster))
		if got.RegistrationState.ErrorCode != codeCustomFailed {
			t.Errorf("got %+v, want 400207", got)
		}
		var offsets []int
		for _, at := range hook.times {
			offsets = append(offsets, int(at.Sub(begun)/time.Second))
		}
		if diff := cmp.Diff(append([]int{0}, v.Cumulative...), offsets); diff != "" {
			t.Errorf("calls in seconds after register (-want +got):\n%s", diff)
		}
		for i, body := range hook.bodies {
			if body != hook.bodies[0] {
				t.Errorf("call %d differs from the first: %s", i, body)
			}
		}
		for n, want := range v.Delays {
			if got := webhookDelay(n + 1); got != time.Duration(want)*time.Second {
				t.Errorf("delay %d: got %s, want %ds", n+1, got, want)
			}
		}
	})
}

func TestRegistrationIDVectors(t *testing.T) {
	v := loadVectors(t).RegistrationIDs
	for _, id := range v.Valid {
		if !registrationIDPattern.MatchString(id) {
			t.Errorf("%q refused, want taken", id)
		}
	}
	for _, id := range v.Invalid {
		if registrationIDPattern.MatchString(id) {
			t.Errorf("%q taken, want refused", id)
		}
	}
}

func TestTopicVectors(t *testing.T) {
	kinds := map[string]CallKind{"register": RegisterCall, "status": PollCall}
	for _, tt := range loadVectors(t).MQTT.Topics {
		got, err := parseDPSTopic(tt.Topic)
		if tt.Kind == "invalid" {
			if err == nil {
				t.Errorf("%s: got %+v, want an error", tt.Topic, got)
			}
			continue
		}
		want := dpsTopic{kind: kinds[tt.Kind], rid: *tt.RID}
		if tt.OperationID != nil {
			want.operationID = *tt.OperationID
		}
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v; want %+v", tt.Topic, got, err, want)
		}
	}
}

func TestUserNameVectors(t *testing.T) {
	for _, tt := range loadVectors(t).MQTT.Connect {
		if tt.UserName == "" {
			continue
		}
		got, err := parseUserName(tt.UserName)
		if err != nil || got.idScope != testScope || got.registrationID == "" || got.apiVersion != "2019-03-31" {
			t.Errorf("%s: got %+v, %v", tt.ID, got, err)
		}
	}
}

func TestRegisterBodyVectors(t *testing.T) {
	for _, tt := range loadVectors(t).Bodies.Requests {
		body := []byte(tt.Raw)
		if tt.Body != nil {
			body = tt.Body
		}
		var sent struct {
			RegistrationID string          `json:"registrationId"`
			Payload        json.RawMessage `json:"payload"`
		}
		if len(body) > 0 {
			if err := json.Unmarshal(body, &sent); err != nil {
				t.Fatal(err)
			}
		}
		id := sent.RegistrationID
		if id == "" {
			id = toaster
		}
		payload, err := parseRegistration(body, id, "2019-03-31")
		if tt.ID == "tpm" {
			if err == nil {
				t.Error("tpm: taken, want refused")
			}
			continue
		}
		want := []byte(nil)
		if present(sent.Payload) {
			want = compactJSON(sent.Payload)
		}
		if err != nil || !bytes.Equal(payload, want) {
			t.Errorf("%s: got %s, %v; want %s", tt.ID, payload, err, want)
		}
	}
}
