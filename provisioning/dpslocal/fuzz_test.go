// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// FuzzParseSASToken: whatever is let through can be signed for again.
func FuzzParseSASToken(f *testing.F) {
	v := loadVectors(f)
	for _, tt := range append(append(v.SAS.Device, v.SAS.DeviceReject...), v.SAS.Hub...) {
		f.Add(tt.Token)
	}
	f.Fuzz(func(t *testing.T, text string) {
		token, err := parseSASToken(text)
		if err != nil {
			return
		}
		sr, se, ok := strings.Cut(token.signed, "\n")
		if !ok || !strings.Contains(text, "sr="+sr) || !strings.Contains(text, "se="+se) {
			t.Errorf("%q is signed over %q, which is not in it", text, token.signed)
		}
		if token.signedBy([]byte("a key that nobody has")) {
			t.Error("signed by a key of ours")
		}
		_ = token.check("resource", time.Unix(0, 0))
	})
}

// FuzzParseDPSTopic: the request ID comes back byte for byte, out of the topic.
func FuzzParseDPSTopic(f *testing.F) {
	for _, tt := range loadVectors(f).MQTT.Topics {
		f.Add(tt.Topic)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		got, err := parseDPSTopic(topic)
		if err != nil {
			return
		}
		if got.rid == "" || strings.Contains(got.rid, "&") || !strings.Contains(topic, "$rid="+got.rid) {
			t.Errorf("%q: request ID %q", topic, got.rid)
		}
		answer := responseTopic(answer{status: 202, retryAfter: "3"}, got.rid)
		if !strings.HasPrefix(answer, "$dps/registrations/res/202/?$rid="+got.rid) {
			t.Errorf("answer topic %q", answer)
		}
	})
}

// FuzzParseUserName: a name is of a hub or of the service, never of both.
func FuzzParseUserName(f *testing.F) {
	for _, tt := range loadVectors(f).MQTT.Connect {
		f.Add(tt.UserName)
	}
	f.Add("h.azure-devices.net/dev/?api-version=2021-04-12")
	f.Fuzz(func(t *testing.T, text string) {
		user, err := parseUserName(text)
		if err != nil {
			return
		}
		hub := user.hub != "" && user.deviceID != ""
		service := user.idScope != "" && user.registrationID != ""
		if hub == service {
			t.Errorf("%q: %+v", text, user)
		}
	})
}

// FuzzParseRegistration: a payload that is let through is a compact object.
func FuzzParseRegistration(f *testing.F) {
	for _, tt := range loadVectors(f).Bodies.Requests {
		f.Add([]byte(tt.Raw))
		f.Add([]byte(tt.Body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		payload, err := parseRegistration(body, toaster, "2021-06-01")
		if err != nil || payload == nil {
			return
		}
		var object map[string]json.RawMessage
		if err := json.Unmarshal(payload, &object); err != nil {
			t.Errorf("payload %q: %v", payload, err)
		}
		if got := string(encodeJSON(deviceRuntimeContext{Payload: payload})); !strings.Contains(got, string(payload)) {
			t.Errorf("payload %q is changed on its way to the webhook: %q", payload, got)
		}
	})
}

// FuzzMergeSection: a twin stays a JSON object within its limits.
func FuzzMergeSection(f *testing.F) {
	f.Add([]byte(`{"a":1}`), []byte(`{"a":null,"b":{"c":[1,{"d":null}]}}`))
	f.Add([]byte(`{"a":{"b":1}}`), []byte(`{"a":{"b":null}}`))
	f.Fuzz(func(t *testing.T, section, patch []byte) {
		before, changes := objectOf(section), objectOf(patch)
		merged, err := mergeSection(before, changes, maxTwinSection)
		if err != nil {
			return
		}
		document := encodeJSON(withVersion(merged, 2))
		if !json.Valid(document) || len(document) > maxTwinSection+20 {
			t.Errorf("%q and %q make %q", section, patch, document)
		}
		for name, value := range changes {
			if _, ok := merged[name]; ok != present(value) {
				t.Errorf("%q: there %v after a patch with %q", name, ok, value)
			}
		}
	})
}
