// SPDX-License-Identifier: Apache-2.0

package enrollment

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// storedGroup is an entry as a service writes it: with members that only it sets,
// with one that this package does not know, without keys.
const storedGroup = `{"enrollmentGroupId":"g 1","attestation":{"type":"symmetricKey"},"capabilities":{"iotEdge":false},
	"etag":"\"0000f176-0000-0700-0000-62eaad1e0000\"","provisioningStatus":"enabled","reprovisionPolicy":{"updateHubAssignment":true,"migrateDeviceData":true},
	"createdDateTimeUtc":"2022-08-03T19:02:52.9087548Z","lastUpdatedDateTimeUtc":"2022-08-03T19:02:52","allocationPolicy":"custom",
	"iotHubs":["contoso-toasters-hub-1098.azure-devices.net"],"credentialPolicyName":"preview",
	"customAllocationDefinition":{"webhookUrl":"https://f.example/api/HttpTrigger1?code=sesame","apiVersion":"2019-03-31"}}`

const storedKeys = `{"type":"symmetricKey","symmetricKey":{"primaryKey":"` + policyKey + `","secondaryKey":"` + policyKey + `"}}`

const storedEnrollment = `{"registrationId":"Dev-01","deviceId":"d","attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"info":{"version":3}}}}},
	"etag":"\"e\"","registrationState":{"registrationId":"Dev-01","status":"assigned"}}`

// TestGroupRequests sees every call on groups as it goes over the wire.
func TestGroupRequests(t *testing.T) {
	s, client := serve(
		t,
		reply{200, nil, storedGroup},
		reply{200, nil, storedGroup},
		reply{200, nil, storedGroup}, reply{200, nil, storedKeys}, reply{200, nil, storedGroup},
		reply{200, nil, storedGroup},
		reply{200, nil, storedKeys},
		reply{204, nil, ""},
		reply{204, nil, ""},
		reply{200, map[string]string{"x-ms-continuation": "tok=1", "x-ms-item-type": "enrollmentGroup"}, "[" + storedGroup + "]"}, reply{200, nil, "[]"},
		reply{200, nil, `{"isSuccessful":false,"errors":[{"enrollmentGroupId":"g2","errorCode":409000,"errorStatus":"there\u001b[2J"}]}`},
	)
	ctx, groups := t.Context(), client.Groups()
	key, err := ParseKey(policyKey)
	if err != nil {
		t.Fatal(err)
	}

	got, err := groups.Get(ctx, "g 1")
	if err != nil {
		t.Fatal(err)
	}
	if got.CustomAllocation.WebhookURL.Reveal() != "https://f.example/api/HttpTrigger1?code=sesame" ||
		!got.CreatedDateTimeUTC.Equal(time.Date(2022, 8, 3, 19, 2, 52, 908754800, time.UTC)) ||
		!got.LastUpdatedDateTimeUTC.Equal(time.Date(2022, 8, 3, 19, 2, 52, 0, time.UTC)) {
		t.Errorf("got %+v", got)
	}
	if diff := cmp.Diff(map[string]json.RawMessage{"credentialPolicyName": json.RawMessage(`"preview"`)}, got.Other); diff != "" {
		t.Errorf("unknown members (-want +got):\n%s", diff)
	}
	if _, err := groups.Put(ctx, Group{ID: "g 1", Entry: Entry{Attestation: Attestation{Type: AttestationSymmetricKey}}}); err != nil {
		t.Error(err)
	}
	if _, err := groups.Update(ctx, "g 1", func(g *Group) error { g.ProvisioningStatus = Disabled; return nil }); err != nil {
		t.Error(err)
	}
	forced := got
	forced.ETag, forced.Attestation.SymmetricKey = AnyETag, &SymmetricKey{PrimaryKey: key}
	if _, err := groups.Put(ctx, forced); err != nil {
		t.Error(err)
	}
	attestation, err := groups.Attestation(ctx, "g 1")
	if err != nil || attestation.SymmetricKey.SecondaryKey.Reveal() != policyKey {
		t.Errorf("keys %+v, %v", attestation, err)
	}
	if err := groups.Delete(ctx, "g 1", ""); err != nil {
		t.Error(err)
	}
	if err := groups.Delete(ctx, "g 1", "e"); err != nil {
		t.Error(err)
	}
	seen := 0
	for g, err := range groups.Query(ctx, 2) {
		if err != nil || g.ID != "g 1" {
			t.Errorf("queried %+v, %v", g, err)
		}
		seen++
	}
	if seen != 1 {
		t.Errorf("%d groups, want 1", seen)
	}
	result, err := groups.Bulk(ctx, BulkUpdateIfMatchETag, []Group{{ID: "g1", Entry: Entry{ETag: `"e"`}}, {ID: "g2"}})
	want := BulkResult{Errors: []BulkError{{EnrollmentGroupID: "g2", ErrorCode: 409000, ErrorStatus: "there [2J"}}}
	if diff := cmp.Diff(want, result); err != nil || diff != "" {
		t.Errorf("bulk: %v (-want +got):\n%s", err, diff)
	}
	s.golden("groups.golden")
}

// TestIndividualRequests does the same for what is different there, and for
// registrations.
func TestIndividualRequests(t *testing.T) {
	const record = `{"registrationId":"Dev:01","status":"failed","errorCode":400207,"errorMessage":"Custom allocation failed with status code: 400","createdDateTimeUtc":"never"}`
	s, client := serve(
		t,
		reply{200, nil, storedEnrollment}, reply{200, nil, storedEnrollment},
		reply{204, nil, ""},
		reply{200, nil, `[` + storedEnrollment + `]`},
		reply{200, nil, `{"isSuccessful":true,"errors":[]}`},
		reply{200, nil, record},
		reply{204, nil, ""},
		reply{200, nil, `[` + record + `]`},
	)
	ctx := t.Context()
	if _, err := client.Individuals().Update(ctx, "dev-01", func(i *Individual) error { i.DeviceID = "d2"; return nil }); err != nil {
		t.Error(err)
	}
	if err := client.Individuals().Delete(ctx, "Dev-01", AnyETag); err != nil {
		t.Error(err)
	}
	for i, err := range client.Individuals().Query(ctx, 0) {
		if err != nil || i.RegistrationState.Status != "assigned" {
			t.Errorf("queried %+v, %v", i, err)
		}
	}
	if _, err := client.Individuals().Bulk(ctx, BulkDelete, []Individual{{RegistrationID: "x"}}); err != nil {
		t.Error(err)
	}
	got, err := client.Registrations().Get(ctx, "Dev:01")
	if err != nil || got.ErrorCode != 400207 || !got.CreatedDateTimeUTC.IsZero() {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := client.Registrations().Delete(ctx, "Dev:01", ""); err != nil {
		t.Error(err)
	}
	for r, err := range client.Registrations().Query(ctx, "g/1", 100) {
		if err != nil || r.RegistrationID != "Dev:01" {
			t.Errorf("queried %+v, %v", r, err)
		}
	}
	s.golden("individuals.golden")
}

// TestNodeSendsTheSame compares with what Microsoft's client was seen to send.
func TestNodeSendsTheSame(t *testing.T) {
	s, client := serve(t, reply{200, nil, `{"enrollmentGroupId":"g1","attestation":{"type":"symmetricKey"}}`})
	entry := Entry{Attestation: Attestation{Type: AttestationSymmetricKey}, ETag: `"e1"`}
	if _, err := client.Groups().Put(t.Context(), Group{ID: "g1", Entry: entry}); err != nil {
		t.Fatal(err)
	}
	sent := s.requests[0]
	for _, part := range []string{"PUT /enrollmentGroups/g1?api-version=2021-10-01\n", "\nIf-Match: \"e1\"\n", "\nContent-Type: application/json; charset=utf-8\n"} {
		if !strings.Contains(sent, part) {
			t.Errorf("%q is not in\n%s", part, sent)
		}
	}
	var got, want any
	_, body, _ := strings.Cut(sent, "\n\n")
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	_ = json.Unmarshal([]byte(`{"enrollmentGroupId":"g1","attestation":{"type":"symmetricKey"},"etag":"\"e1\""}`), &want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
}

func TestErrors(t *testing.T) {
	const body = `{"errorCode":404204,"trackingId":"8ad0","message":"no such\n\u001b[31mgroup"}`
	for _, test := range []struct {
		name  string
		reply reply
		want  ServiceError // the zero value stands for ErrNotService
	}{
		{"in full", reply{404, map[string]string{"x-ms-error-code": "404204"}, body}, ServiceError{HTTPStatus: 404, Code: 404204, TrackingID: "8ad0", Message: "no such [31mgroup"}},
		{"only a header", reply{412, map[string]string{"x-ms-error-code": "412000"}, ""}, ServiceError{HTTPStatus: 412, Code: 412000}},
		{"hub style", reply{401, nil, `{"Message":"ErrorCode:X;text"}`}, ServiceError{HTTPStatus: 401, Message: "ErrorCode:X;text"}},
		{"throttled", reply{429, map[string]string{"Retry-After": "7"}, "<html>"}, ServiceError{HTTPStatus: 429, RetryAfter: 7 * time.Second}},
		{"throttled for ever", reply{429, map[string]string{"Retry-After": "2000000000"}, ""}, ServiceError{HTTPStatus: 429, RetryAfter: 24 * time.Hour}},
		{"a front end", reply{503, map[string]string{"Retry-After": "soon"}, ""}, ServiceError{HTTPStatus: 503}},
		{"a login page", reply{404, nil, "<html>log in</html>"}, ServiceError{}},
		{"a redirect", reply{302, map[string]string{"Location": "https://elsewhere.example/"}, ""}, ServiceError{}},
		{"no document", reply{200, nil, ""}, ServiceError{}},
		{"null", reply{200, nil, "null"}, ServiceError{}},
		{"another shape", reply{200, nil, "[]"}, ServiceError{}},
		{"another group", reply{200, nil, `{"enrollmentGroupId":"h"}`}, ServiceError{}},
		{"two documents", reply{200, nil, `{"enrollmentGroupId":"g"}{}`}, ServiceError{}},
		{"too long", reply{200, nil, `{"enrollmentGroupId":"g"}` + strings.Repeat(" ", 1<<20)}, ServiceError{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, client := serve(t, test.reply)
			_, err := client.Groups().Get(t.Context(), "g")
			if test.want == (ServiceError{}) {
				if !errors.Is(err, ErrNotService) {
					t.Errorf("got %v, want ErrNotService", err)
				}
				return
			}
			got, ok := errors.AsType[*ServiceError](err)
			if !ok {
				t.Fatalf("got %v, want a *ServiceError", err)
			}
			if diff := cmp.Diff(test.want, *got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !strings.HasPrefix(err.Error(), `reading enrollment group "g": the provisioning service answered `) {
				t.Errorf("text %q", err)
			}
		})
	}
}

func TestQueryEnds(t *testing.T) {
	more := func(token string) map[string]string { return map[string]string{"X-Ms-Continuation": token} }
	t.Run("the same page again", func(t *testing.T) {
		_, client := serve(t, reply{200, more("a"), "[]"}, reply{200, more("a"), "[]"})
		var last error
		for _, err := range client.Groups().Query(t.Context(), 0) {
			last = err
		}
		if !errors.Is(last, ErrNotService) {
			t.Errorf("got %v", last)
		}
	})
	t.Run("null is no page", func(t *testing.T) {
		_, client := serve(t, reply{200, nil, "null"})
		seen := 0
		for _, err := range client.Groups().Query(t.Context(), 0) {
			if seen++; !errors.Is(err, ErrNotService) {
				t.Errorf("got %v", err)
			}
		}
		if seen != 1 {
			t.Errorf("%d elements, want an error", seen)
		}
	})
	t.Run("an entry without a name", func(t *testing.T) {
		_, client := serve(t, reply{200, nil, `[{"enrollmentGroupId":"a"},{}]`})
		var last error
		seen := 0
		for _, err := range client.Groups().Query(t.Context(), 0) {
			seen, last = seen+1, err
		}
		if seen != 2 || !errors.Is(last, ErrNotService) {
			t.Errorf("%d entries, then %v", seen, last)
		}
	})
	t.Run("an error on the second page", func(t *testing.T) {
		_, client := serve(t, reply{200, more("a"), `[{"registrationId":"x"}]`}, reply{500, nil, ""})
		seen := 0
		for _, err := range client.Registrations().Query(t.Context(), "g", 1) {
			seen++
			if _, refused := errors.AsType[*ServiceError](err); refused != (seen == 2) {
				t.Errorf("element %d: %v", seen, err)
			}
		}
		if seen != 2 {
			t.Errorf("%d elements, want 2", seen)
		}
	})
	t.Run("enough", func(t *testing.T) {
		_, client := serve(t, reply{200, more("a"), `[{"enrollmentGroupId":"a"},{"enrollmentGroupId":"b"}]`})
		for g, err := range client.Groups().Query(t.Context(), 0) {
			if err != nil || g.ID != "a" {
				t.Errorf("got %+v, %v", g, err)
			}
			break
		}
	})
}

// TestNothingIsSent lists what is refused before a request.
func TestNothingIsSent(t *testing.T) {
	_, client := serve(t)
	ctx := t.Context()
	for _, id := range []string{"", ".", "..", "a\nb", strings.Repeat("x", 129), "a\xff"} {
		if _, err := client.Groups().Get(ctx, id); !errors.Is(err, ErrID) {
			t.Errorf("get %q: %v", id, err)
		}
		if err := client.Individuals().Delete(ctx, id, ""); !errors.Is(err, ErrID) {
			t.Errorf("delete %q: %v", id, err)
		}
		for _, err := range client.Registrations().Query(ctx, id, 0) {
			if !errors.Is(err, ErrID) {
				t.Errorf("query %q: %v", id, err)
			}
		}
	}
	if _, err := client.Groups().Bulk(ctx, BulkCreate, make([]Group, 11)); !errors.Is(err, ErrBulk) {
		t.Errorf("11 at once: %v", err)
	}
	if _, err := client.Groups().Bulk(ctx, BulkCreate, nil); !errors.Is(err, ErrBulk) {
		t.Errorf("none at once: %v", err)
	}
	if _, err := client.Groups().Bulk(ctx, BulkCreate, make([]Group, 1)); !errors.Is(err, ErrID) {
		t.Errorf("one without a name: %v", err)
	}
}

// TestUpdateWritesNothing when there is no reason or no condition to write by.
func TestUpdateWritesNothing(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		name   string
		script []reply // and not one request more
		change error
		want   error
	}{
		{"a change that fails", []reply{{200, nil, storedEnrollment}}, broken, broken},
		{"no etag", []reply{{200, nil, `{"registrationId":"Dev-01"}`}}, nil, ErrNotService},
		{"no keys", []reply{{200, nil, `{"registrationId":"Dev-01","etag":"e","attestation":{"type":"symmetricKey"}}`}, {200, nil, `{}`}}, nil, ErrNotService},
		{"another device", []reply{{200, nil, `{"registrationId":"Dev-02","etag":"e"}`}}, nil, ErrNotService},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, client := serve(t, test.script...)
			if _, err := client.Individuals().Update(t.Context(), "Dev-01", func(*Individual) error { return test.change }); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// TestAnotherRegistration is not taken for the one that was asked for.
func TestAnotherRegistration(t *testing.T) {
	_, client := serve(t, reply{200, nil, `{"registrationId":"b","status":"assigned"}`})
	if _, err := client.Registrations().Get(t.Context(), "a"); !errors.Is(err, ErrNotService) {
		t.Errorf("got %v", err)
	}
}

// TestOtherHidesNothing checks that members kept from an answer never stand in
// for those that this package knows.
func TestOtherHidesNothing(t *testing.T) {
	text, err := json.Marshal(Group{ID: "g", Entry: Entry{Other: map[string]json.RawMessage{
		"ETAG": json.RawMessage(`"x"`), "enrollmentGroupId": json.RawMessage(`"h"`), "new": json.RawMessage(`1`),
	}}})
	if want := `{"enrollmentGroupId":"g","new":1}`; err != nil || string(text) != want {
		t.Errorf("got %s, %v, want %s", text, err, want)
	}
}

func TestNew(t *testing.T) {
	policy, err := ParseConnectionString("HostName=h;SharedAccessKeyName=p;SharedAccessKey=" + policyKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"localhost", ":443", "localhost:0", "localhost:https", "localhost:65536", "https://localhost:1"} {
		if _, err := New(Config{ConnectionString: policy, Address: address}); !errors.Is(err, ErrConfig) {
			t.Errorf("address %q: %v", address, err)
		}
	}
	if _, err := New(Config{}); !errors.Is(err, ErrConfig) {
		t.Errorf("no connection string: %v", err)
	}
	client, err := New(Config{ConnectionString: policy, Address: "[::1]:8443"})
	if err != nil || client.HostName() != "h" {
		t.Errorf("got %v, %v", client, err)
	}
}

// TestTrust refuses a certificate that nobody vouches for, and a context that has
// ended.
func TestTrust(t *testing.T) {
	s, client := serve(t)
	stranger, err := New(Config{ConnectionString: client.policy, Address: s.Listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Groups().Get(t.Context(), "g"); err == nil || !strings.Contains(err.Error(), "certificate") || strings.Contains(err.Error(), "https://") {
		t.Errorf("an unknown certificate: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.Groups().Get(ctx, "g"); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context: %v", err)
	}
}

func FuzzConnectionString(f *testing.F) {
	f.Add("HostName=h;SharedAccessKeyName=p;SharedAccessKey=" + policyKey)
	f.Add("SharedAccessKey=BwcH;;HostName=h;=;SharedAccessKeyName=p;")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseConnectionString(text)
		if err != nil {
			return
		}
		again, err := ParseConnectionString("HostName=" + c.HostName + ";SharedAccessKeyName=" + c.Policy + ";SharedAccessKey=" + c.Key.Reveal())
		if err != nil || again.HostName != c.HostName || again.Policy != c.Policy || again.Key.Reveal() != c.Key.Reveal() {
			t.Errorf("%+v became %+v, %v", c, again, err)
		}
		token := c.token(time.Unix(1893456000, 0))
		if strings.ContainsAny(token, "\r\n") || strings.Count(token, "&") != 3 {
			t.Errorf("token %q", token)
		}
	})
}

// FuzzAnswer reads answers as entries, and writes back what could be read.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{storedGroup, storedEnrollment, storedKeys, `{"Other":1,"attestation":{"symmetricKey":{}},"customAllocationDefinition":{}}`, `[]`, `null`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		_ = serviceError(http.StatusNotFound, http.Header{}, text)
		var individual Individual
		if decode(text, &individual) == nil {
			if _, err := writable(individual); err != nil {
				t.Error(err)
			}
		}
		var first, second Group
		if decode(text, &first) != nil {
			return
		}
		written, err := RevealJSON(first)
		if err != nil {
			t.Fatal(err)
		}
		if err := decode(written, &second); err != nil {
			t.Fatalf("%s: %v", written, err)
		}
		again, err := RevealJSON(second)
		if err != nil || !bytes.Equal(written, again) {
			t.Errorf("%s became %s, %v", written, again, err)
		}
	})
}
