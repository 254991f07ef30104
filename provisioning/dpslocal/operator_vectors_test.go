// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
)

// TestServiceTokenVectors: tokens of real clients open the service API, at the
// time at which a bubble begins.
func TestServiceTokenVectors(t *testing.T) {
	v := loadVectors(t)
	if len(v.SAS.Service) == 0 {
		t.Fatal("no vectors")
	}
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range v.SAS.Service {
			admit := policies{{Name: testPolicy, Key: Secret(tt.Key)}}
			hosts := []string{"localhost", testName + serviceDomain}
			if name, err := admit.authorize(tt.Token, hosts, []string{"enrollments", "x"}, EnrollmentRead); err != nil || name != testPolicy {
				t.Errorf("%s: %q, %v", tt.ID, name, err)
			}
			if _, err := admit.authorize(tt.Token, hosts[:0], nil, EnrollmentRead); err == nil {
				t.Errorf("%s: a token for another host was taken", tt.ID)
			}
			other := policies{{Name: testPolicy, Key: testPrimary}}
			if _, err := other.authorize(tt.Token, hosts, nil, EnrollmentRead); err == nil {
				t.Errorf("%s: taken with another key", tt.ID)
			}
		}
	})
}

// TestCapturedServiceCalls sends what Microsoft's service client was seen to
// send, headers and odd paths included.
func TestCapturedServiceCalls(t *testing.T) {
	want := map[string]int{
		"node-service-put-group":           412, // with an etag that nothing has
		"node-service-put-group-space":     400,
		"node-service-delete":              404,
		"node-service-group-attestation":   404,
		"node-service-query-page2":         400, // with the continuation of another service
		"node-service-query-registrations": 404,
		"node-service-bulk":                200,
	}
	s := newCore(t, operatorConfig(), nil)
	for _, tt := range loadVectors(t).Captured {
		status, ok := want[tt.ID]
		if !ok {
			continue
		}
		delete(want, tt.ID)
		r := httptest.NewRequest(tt.Method, "https://localhost"+tt.Target, strings.NewReader(tt.Body))
		if tt.Body != "" {
			r.Header.Set("Content-Type", "application/json; charset=utf-8")
		}
		for name, value := range tt.Headers {
			r.Header.Set(name, value)
		}
		r.Header.Set("Authorization", operatorToken("localhost", testPolicy))
		w := httptest.NewRecorder()
		newHTTPFront(s.service, s.config).ServeHTTP(w, r)
		if w.Code != status {
			t.Errorf("%s: %d %s, want %d", tt.ID, w.Code, w.Body, status)
		}
	}
	for id := range want {
		t.Errorf("no %s among the vectors", id)
	}
}

// FuzzParseEnrollment: what is let through and is valid comes back the same when
// it is shown and read again.
func FuzzParseEnrollment(f *testing.F) {
	for _, tt := range loadVectors(f).Captured {
		f.Add([]byte(tt.Body), true)
	}
	f.Add([]byte(`{"registrationId":"a","deviceId":"b","optionalDeviceInformation":{},"capabilities":{"iotEdge":true},"initialTwin":null,
		"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"`+testPrimary+`","secondaryKey":"`+testSecondary+`"}},
		"reprovisionPolicy":{"updateHubAssignment":true,"migrateDeviceData":false},"allocationPolicy":"custom",
		"customAllocationDefinition":{"webhookUrl":"`+testHook+`"},"iotHubHostName":"h"}`), false)
	f.Add([]byte(`{"enrollmentGroupId":"g","attestation":{"type":"x509","x509":{"caReferences":{"primary":"ca"}}}}`), true)
	f.Add([]byte(`{"registrationId":"a","attestation":{"type":"tpm","tpm":{"endorsementKey":"AAEC"}}}`), false)
	linked := []Hub{{Name: "h"}}
	f.Fuzz(func(t *testing.T, body []byte, group bool) {
		kind := Individual
		if group {
			kind = Group
		}
		first, err := parseEnrollment(kind, "", body)
		if err != nil || first.validate(linked) != nil {
			return
		}
		shown := encodeJSON(first.document(true))
		second, err := parseEnrollment(kind, first.ID, shown)
		if err != nil {
			t.Fatalf("%s is shown as %s: %v", body, shown, err)
		}
		if err := second.validate(linked); err != nil {
			t.Errorf("%s is shown as %s: %v", body, shown, err)
		}
		if again := encodeJSON(second.document(true)); string(again) != string(shown) {
			t.Errorf("shown as %s and then as %s", shown, again)
		}
	})
}

// FuzzParseQuery: what is let through makes no choice.
func FuzzParseQuery(f *testing.F) {
	for _, text := range []string{`{"query":"*"}`, `{"query":"SELECT * FROM enrollments"}`, `{"query":"select *"}`, `{"query":"SELECT * FROM e WHERE a=1"}`, `{}`, ``} {
		f.Add([]byte(text), "2", "ZGV2")
	}
	f.Fuzz(func(t *testing.T, body []byte, maxItems, continuation string) {
		var specification struct{ Query string }
		if parseQuery(body) == nil && json.Unmarshal(body, &specification) == nil && strings.ContainsAny(specification.Query, "=<>'(") {
			t.Errorf("taken: %s", body)
		}
		p, err := parsePage(maxItems, continuation)
		if err != nil {
			return
		}
		if p.size < 1 || p.size > maxPage || (p.after == "") != (continuation == "") {
			t.Errorf("%q and %q make %+v", maxItems, continuation, p)
		}
	})
}

// FuzzParseTwinChange: a change that is taken leaves a twin that can be shown,
// and the difference that the device hears leads to the same.
func FuzzParseTwinChange(f *testing.F) {
	for _, text := range []string{
		`{"tags":{"a":1},"properties":{"desired":{"b":{"c":null}}}}`,
		`{"properties":{"desired":{"$version":2,"$metadata":{},"a":[1]}}}`, `{"tags":null}`, `{}`, `[]`,
	} {
		f.Add([]byte(text), true)
		f.Add([]byte(text), false)
	}
	f.Fuzz(func(t *testing.T, body []byte, replace bool) {
		change, err := parseTwinChange(body, replace)
		if err != nil {
			return
		}
		before, err := parseInitialTwin([]byte(`{"tags":{"a":1},"properties":{"desired":{"b":{"c":2,"d":3},"e":4}}}`))
		if err != nil {
			t.Fatal(err)
		}
		after := before
		if change.apply(&after) != nil || !replace || change.desired == nil {
			return
		}
		heard, err := mergeSection(before.Desired, difference(before.Desired, change.desired), maxTwinSection)
		if err != nil || sectionText(heard) != sectionText(after.Desired) {
			t.Errorf("%s: the device has %s, %v; the hub %s", body, sectionText(heard), err, sectionText(after.Desired))
		}
	})
}
