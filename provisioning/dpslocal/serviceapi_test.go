// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

const (
	testPolicy    = "provisioningserviceowner"
	testPolicyKey = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="
	testName      = "contoso-provisioning-service-1098"
	testHubPolicy = "iothubowner"
	readerPolicy  = "reader"
)

// operatorConfig is testConfig with policies: owners, who may do everything, and
// a reader each.
func operatorConfig() Config {
	cfg := testConfig()
	cfg.Name = testName
	cfg.PolicyKeys = []PolicyKey{
		{Name: testPolicy, Key: testPolicyKey},
		{Name: readerPolicy, Key: testPolicyKey, Permissions: []Permission{EnrollmentRead, RegistrationStatusRead}},
	}
	for i := range cfg.Hubs {
		cfg.Hubs[i].PolicyKeys = []PolicyKey{
			{Name: testHubPolicy, Key: testPolicyKey},
			{Name: readerPolicy, Key: testPolicyKey, Permissions: []Permission{RegistryRead}},
		}
	}
	return cfg
}

// operatorToken signs for a resource as Node's clients do.
func operatorToken(resource, policy string) string {
	return signText(resource, testPolicyKey, fmt.Sprint(time.Now().Add(time.Hour).Unix())) + "&skn=" + policy
}

// operate sends one request to the HTTPS front without a connection. Headers
// come in pairs; Host and Authorization have defaults.
func operate(s *Server, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	separator := "?"
	if strings.Contains(target, "?") {
		separator = "&"
	}
	r := httptest.NewRequest(method, "https://localhost"+target+separator+"api-version=2021-10-01", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	r.Header.Set("Authorization", operatorToken("localhost", testPolicy))
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	newHTTPFront(s.service, s.config).ServeHTTP(w, r)
	return w
}

// codeOf is the error code of an answer's body, which the header must repeat.
func codeOf(t *testing.T, w *httptest.ResponseRecorder) int {
	t.Helper()
	if w.Code < 300 {
		return 0
	}
	var body errorBody
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatalf("body %q: %v", w.Body, err)
	}
	if w.Header().Get("x-ms-error-code") != fmt.Sprint(body.ErrorCode) || body.TrackingID == "" || body.Message == "" {
		t.Errorf("headers %v, body %s", w.Header(), w.Body)
	}
	return body.ErrorCode
}

var (
	changingTimes = regexp.MustCompile(`"(created|lastUpdated)DateTimeUtc":"[^"]*"`)
	changingETags = regexp.MustCompile(`"etag":"\\"[0-9a-f-]+\\""`)
	changingKeys  = regexp.MustCompile(`"(primary|secondary)Key":"[A-Za-z0-9+/]{86}=="`)
)

// steady replaces what differs from one run to the next.
func steady(document []byte) []byte {
	document = changingTimes.ReplaceAll(document, []byte(`"${1}DateTimeUtc":"TIME"`))
	document = changingETags.ReplaceAll(document, []byte(`"etag":"\"ETAG\""`))
	return changingKeys.ReplaceAll(document, []byte(`"${1}Key":"64 BYTES"`))
}

// TestEnrollmentDocuments follows an entry of each kind through its life and
// compares each document with a golden file.
func TestEnrollmentDocuments(t *testing.T) {
	s := newCore(t, operatorConfig(), nil)
	hook := `"allocationPolicy":"custom","customAllocationDefinition":{"webhookUrl":"` + testHook + `","apiVersion":"2019-03-31"}`
	tests := []struct {
		name, method, target, body string
		status                     int
		file                       string
	}{
		{
			"group with keys of the service", "PUT", "/enrollmentGroups/g1",
			`{"enrollmentGroupId":"g1","attestation":{"type":"symmetricKey"}}`, 200, "service-group-put.json",
		},
		{"group", "GET", "/enrollmentgroups/G1/", "", 200, "service-group-get.json"},
		{"its keys", "POST", "/enrollmentgroups/g1/attestationmechanism", "", 200, "service-attestation.json"},
		{
			"everything", "PUT", "/enrollments/Dev-01",
			`{"registrationId":"Dev-01","deviceId":"kettle#1","optionalDeviceInformation":{"a": 1},"capabilities":{"iotEdge":true},
			"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"` + testPrimary + `","secondaryKey":"` + testSecondary + `"}},
			"initialTwin":{"tags":{"t": 1},"properties":{"desired":{"d":2}}},"provisioningStatus":"disabled",
			"reprovisionPolicy":{"updateHubAssignment":true,"migrateDeviceData":false},"iotHubs":["` + toasters + `"],` + hook + `,"createdDateTimeUtc":"1999-01-01T00:00:00Z"}`,
			200, "service-individual-put.json",
		},
		{"individual", "GET", "/enrollments/dev-01", "", 200, "service-individual-get.json"},
		{"legacy", "PUT", "/enrollments/old", `{"iotHubHostName":"` + heatPumps + `","reprovisionPolicy":{"updateHubAssignment":false},"attestation":{"type":"tpm","tpm":{"endorsementKey":"AAEC"}}}`, 200, "service-legacy-put.json"},
		{"page", "POST", "/enrollments/query", `{"query":"SELECT * FROM enrollments"}`, 200, "service-query.json"},
	}
	for _, tt := range tests {
		w := operate(s, tt.method, tt.target, tt.body)
		if w.Code != tt.status {
			t.Fatalf("%s: %d %s", tt.name, w.Code, w.Body)
		}
		golden(t, tt.file, append(steady(w.Body.Bytes()), '\n'))
	}
}

// TestCertificateDocuments: what is read can be written back, with or without
// the certificates themselves.
func TestCertificateDocuments(t *testing.T) {
	s := newCore(t, operatorConfig(), nil)
	ca := string(s.CAPEM())
	put := func(body string, headers ...string) entryDocument {
		t.Helper()
		w := operate(s, "PUT", "/enrollmentGroups/x", body, headers...)
		var d entryDocument
		if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return d
	}
	first := put(`{"attestation":{"type":"x509","x509":{"signingCertificates":{"primary":{"certificate":` + string(encodeJSON(ca)) + `}}}}}`)
	if got := first.Attestation.X509.SigningCertificates.Primary; got.Certificate != ca || !strings.HasPrefix(got.Info.SubjectName, "CN=dpslocal CA") || len(got.Info.SHA256Thumbprint) != 64 {
		t.Errorf("PUT answers %+v, %+v", got, got.Info)
	}
	read := operate(s, "GET", "/enrollmentGroups/x", "").Body.String()
	if strings.Contains(read, "BEGIN CERTIFICATE") || !strings.Contains(read, `"info"`) {
		t.Errorf("GET answers %s", read)
	}
	second := put(read, "If-Match", first.ETag)
	if second.ETag == first.ETag || second.Attestation.X509.SigningCertificates.Primary.Certificate != ca {
		t.Errorf("written back: %+v", second)
	}
	w := operate(s, "PUT", "/enrollmentGroups/y", `{"attestation":{"type":"x509","x509":{"caReferences":{"primary":"none"}}}}`)
	if codeOf(t, w) != codeInvalid || !strings.Contains(w.Body.String(), "ca_certificate") {
		t.Errorf("an unknown CA: %d %s", w.Code, w.Body)
	}
}

// TestEnrollmentETags goes through the table of dps-protocol 17.4.
func TestEnrollmentETags(t *testing.T) {
	for _, path := range []string{"/enrollments/", "/enrollmentGroups/"} {
		s := newCore(t, operatorConfig(), nil)
		body := `{"attestation":{"type":"symmetricKey"}}`
		var e entryDocument
		first := operate(s, "PUT", path+"e", body)
		if err := json.Unmarshal(first.Body.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		unknown := codeUnknown
		if path == "/enrollmentGroups/" {
			unknown = codeGroupUnknown
		}
		tests := []struct {
			name, method, id, ifMatch string
			status, code              int
		}{
			{"PUT of what exists", "PUT", "e", "", 409, codeExists},
			{"PUT with another etag", "PUT", "e", `"other"`, 412, codeETag},
			{"PUT with an etag of what does not exist", "PUT", "f", "*", 412, codeETag},
			{"PUT with the etag", "PUT", "E", e.ETag, 200, 0},
			{"PUT with the etag of before", "PUT", "e", e.ETag, 412, codeETag},
			{"PUT with any", "PUT", "e", "*", 200, 0},
			{"DELETE with another etag", "DELETE", "e", "other", 412, codeETag},
			{"DELETE of nothing", "DELETE", "f", "", 404, unknown},
			{"GET of nothing", "GET", "f", "", 404, unknown},
			{"keys of nothing", "POST", "f/attestationmechanism", "", 404, unknown},
			{"DELETE", "DELETE", "e", "", 204, 0},
			{"DELETE again", "DELETE", "e", "*", 404, unknown},
			{"PUT of what is gone", "PUT", "e", "", 200, 0},
		}
		for _, tt := range tests {
			sent := ""
			if tt.method == "PUT" {
				sent = body
			}
			w := operate(s, tt.method, path+tt.id, sent, "If-Match", tt.ifMatch)
			if code := codeOf(t, w); w.Code != tt.status || code != tt.code {
				t.Errorf("%s%s: got %d, %d; want %d, %d", path, tt.name, w.Code, code, tt.status, tt.code)
			}
			if tt.status == 204 && (w.Body.Len() > 0 || w.Header().Get("Content-Type") != "") {
				t.Errorf("%s: %v %q, want nothing", tt.name, w.Header(), w.Body)
			}
		}
	}
}

// An update without keys keeps the keys, and what it changes counts at once.
func TestEnrollmentUpdateTakesEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCore(t, operatorConfig(), always(200, goodAnswer))
		register(t, s, request(RegisterCall, toaster))
		read := operate(s, "GET", "/enrollmentGroups/"+testGroup, "").Body.String()
		if strings.Contains(read, testPrimary) || !strings.Contains(read, testHook) {
			t.Errorf("GET answers %s; want no keys, and the URL as it is", read)
		}
		disabled := strings.Replace(read, `"provisioningStatus":"enabled"`, `"provisioningStatus":"disabled"`, 1)
		w := operate(s, "PUT", "/enrollmentGroups/"+testGroup, disabled, "If-Match", "*")
		if w.Code != 200 || !strings.Contains(w.Body.String(), testPrimary) {
			t.Errorf("PUT: %d %s, want the keys that were there", w.Code, w.Body)
		}
		if got := register(t, s, request(RegisterCall, toaster)); got.Status != string(DisabledOutcome) {
			t.Errorf("got %+v, want it disabled", got)
		}
		if w := operate(s, "DELETE", "/enrollmentGroups/"+testGroup, ""); w.Code != 204 {
			t.Errorf("DELETE: %d %s", w.Code, w.Body)
		}
		if left, err := s.store.Enrollments(t.Context()); err != nil || len(left) != 0 {
			t.Errorf("stored after the deletion: %v, %v", left, err)
		}
		if a := s.service.serve(t.Context(), request(RegisterCall, toaster)); a.status != 401 {
			t.Errorf("registering without an enrollment: %d", a.status)
		}
	})
}

// The roots that this process trusts for a webhook are no part of the document,
// and outlast a change of it.
func TestEnrollmentKeepsWebhookCA(t *testing.T) {
	dir := t.TempDir()
	cfg := operatorConfig()
	certs, err := openCertificates(dir, cfg.withDefaults(), testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	cfg.EnrollmentGroups[0].WebhookCAFile = certs.path(caCertFile)
	s := newCore(t, cfg, nil)
	read := operate(s, "GET", "/enrollmentGroups/"+testGroup, "").Body.String()
	if w := operate(s, "PUT", "/enrollmentGroups/"+testGroup, read, "If-Match", "*"); w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if e, _ := s.service.enrollments.find(Group, testGroup); e.webhookCAFile != certs.path(caCertFile) {
		t.Errorf("CA file %q after a change", e.webhookCAFile)
	}
}

func TestServiceAPIRefuses(t *testing.T) {
	s := newCore(t, operatorConfig(), nil)
	group := "/enrollmentGroups/" + testGroup
	good := `{"attestation":{"type":"symmetricKey"}}`
	owner, reader := operatorToken("localhost", testPolicy), operatorToken("localhost", readerPolicy)
	tests := []struct {
		name, method, target, body, token string
		status, code                      int
	}{
		{"no token", "GET", group, "", " ", 401, codeUnauthorized},
		{"expired", "GET", group, "", signText("localhost", testPolicyKey, "1000000000") + "&skn=" + testPolicy, 401, codeUnauthorized},
		{"another key", "GET", group, "", signText("localhost", testPrimary, "4102444800") + "&skn=" + testPolicy, 401, codeUnauthorized},
		{"no policy", "GET", group, "", strings.TrimSuffix(owner, "&skn="+testPolicy), 401, codeUnauthorized},
		{"another policy", "GET", group, "", operatorToken("localhost", "nobody"), 401, codeUnauthorized},
		{"another host", "GET", group, "", operatorToken("other.azure-devices-provisioning.net", testPolicy), 401, codeUnauthorized},
		{"another path", "GET", group, "", operatorToken("localhost/enrollmentGroups/other", testPolicy), 401, codeUnauthorized},
		{"half a segment", "GET", group, "", operatorToken("localhost/enrollmentGroups/contoso", testPolicy), 401, codeUnauthorized},
		{"longer than the path", "GET", group, "", operatorToken("localhost"+group+"/x", testPolicy), 401, codeUnauthorized},
		{"a device's token", "GET", group, "", deviceToken(toaster, derive(testPrimary, toaster)), 401, codeUnauthorized},
		{"reader reads", "GET", group, "", reader, 200, 0},
		{"reader writes", "PUT", "/enrollmentGroups/n", good, reader, 401, codeUnauthorized},
		{"reader wants keys", "POST", group + "/attestationmechanism", "", reader, 401, codeUnauthorized},
		{"reader writes many", "POST", "/enrollments", `{"mode":"delete","enrollments":[{"registrationId":"x"}]}`, reader, 401, codeUnauthorized},
		{"reader lists", "POST", "/enrollments/query", `{"query":"*"}`, reader, 200, 0},
		{"reader lists registrations", "POST", "/registrations/" + testGroup + "/query", "", reader, 200, 0},
		{"reader deletes a registration", "DELETE", "/registrations/x", "", reader, 401, codeUnauthorized},
		{"service's own name", "GET", group, "", operatorToken(testName+serviceDomain, testPolicy), 200, 0},
		{"name with a port", "GET", group, "", operatorToken("localhost:8443", testPolicy), 200, 0},
		{"path", "GET", group, "", operatorToken("LOCALHOST/enrollmentgroups", testPolicy), 200, 0},
		{"whole path", "GET", group, "", operatorToken("localhost"+group, testPolicy), 200, 0},
		{"method", "PATCH", group, "", owner, 405, codeMethodNotAllowed},
		{"no JSON", "PUT", "/enrollments/a", "{", owner, 400, codeInvalid},
		{"not UTF-8", "PUT", "/enrollments/a", "{\"deviceId\":\"\xff\"}", owner, 400, codeInvalid},
		{"no attestation", "PUT", "/enrollments/a", "{}", owner, 400, codeInvalid},
		{"attestation none", "PUT", "/enrollments/a", `{"attestation":{"type":"none"}}`, owner, 400, codeInvalid},
		{"other ID", "PUT", "/enrollments/a", `{"registrationId":"b","attestation":{"type":"symmetricKey"}}`, owner, 400, codeInvalid},
		{"ID with a space", "PUT", "/enrollmentGroups/g%201", good, owner, 400, codeInvalid},
		{"short key", "PUT", "/enrollments/a", `{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"AAEC"}}}`, owner, 400, codeInvalid},
		{"custom without webhook", "PUT", "/enrollments/a", `{"allocationPolicy":"custom","attestation":{"type":"symmetricKey"}}`, owner, 400, codeInvalid},
		{"hub that is not linked", "PUT", "/enrollments/a", `{"iotHubs":["h.example"],"attestation":{"type":"symmetricKey"}}`, owner, 400, codeInvalid},
		{"too large", "PUT", "/enrollments/a", strings.Repeat(" ", maxBody) + good, owner, 413, codeTooLarge},
		{"query with a choice", "POST", "/enrollments/query", `{"query":"SELECT * FROM enrollments WHERE a = 1"}`, owner, 400, codeInvalid},
		{"query without text", "POST", "/enrollments/query", `{}`, owner, 400, codeInvalid},
		{"no such registration", "GET", "/registrations/none", "", owner, 404, codeUnknown},
		{"deleting no such registration", "DELETE", "/registrations/none", "", owner, 404, codeUnknown},
		{"registrations of no group", "POST", "/registrations/none/query", "", owner, 404, codeGroupUnknown},
		{"no such path", "GET", "/enrollments/a/b/c", "", owner, 404, codeUnknown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := operate(s, tt.method, tt.target, tt.body, "Authorization", tt.token)
			if code := codeOf(t, w); w.Code != tt.status || code != tt.code {
				t.Errorf("got %d, %d, %s; want %d, %d", w.Code, code, w.Body, tt.status, tt.code)
			}
		})
	}
	t.Run("api-version", func(t *testing.T) {
		r := httptest.NewRequest("GET", group, nil)
		r.Header.Set("Authorization", owner)
		w := httptest.NewRecorder()
		newHTTPFront(s.service, s.config).ServeHTTP(w, r)
		if code := codeOf(t, w); w.Code != 400 || code != codeInvalid {
			t.Errorf("without api-version: %d %s", w.Code, w.Body)
		}
	})
	t.Run("closed", func(t *testing.T) {
		closed := newCore(t, testConfig(), nil)
		if w := operate(closed, "GET", group, ""); w.Code != 401 {
			t.Errorf("without policies: %d %s", w.Code, w.Body)
		}
	})
}

// TestServiceQueryPages reads lists in pages of two, as clients do: until there
// is no continuation header.
func TestServiceQueryPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := operatorConfig()
		cfg.EnrollmentGroups[0].AllocationPolicy, cfg.EnrollmentGroups[0].WebhookURL = Static, ""
		s := newCore(t, cfg, nil)
		for _, id := range []string{"c", "A", "b", "e", "D"} {
			if w := operate(s, "PUT", "/enrollments/"+id, `{"attestation":{"type":"symmetricKey"}}`); w.Code != 200 {
				t.Fatal(w.Body)
			}
			register(t, s, request(RegisterCall, "reg-"+id))
		}
		tests := []struct {
			target, body, itemType, size string
			want                         [][]string
		}{
			{"/enrollments/query", `{"query":"*"}`, "enrollment", "2", [][]string{{"A", "b"}, {"c", "D"}, {"e"}}},
			{"/enrollments/query", `{"query":"select *"}`, "enrollment", "5", [][]string{{"A", "b", "c", "D", "e"}}},
			{"/enrollmentGroups/query", `{"query":"SELECT * FROM enrollmentGroups"}`, "enrollmentGroup", "-1", [][]string{{testGroup}}},
			{"/registrations/" + testGroup + "/query", "", "deviceRegistration", "4", [][]string{{"reg-A", "reg-b", "reg-c", "reg-D"}, {"reg-e"}}},
			{"/Registrations/" + strings.ToUpper(testGroup) + "/Query/", `{"query":"whatever"}`, "deviceRegistration", "", [][]string{{"reg-A", "reg-b", "reg-c", "reg-D", "reg-e"}}},
		}
		for _, tt := range tests {
			var got [][]string
			for next, more := "", true; more; more = next != "" {
				w := operate(s, "POST", tt.target, tt.body, "x-ms-max-item-count", tt.size, "x-ms-continuation", next)
				var entries []struct{ RegistrationID, EnrollmentGroupID string }
				if err := json.Unmarshal(w.Body.Bytes(), &entries); err != nil || w.Header().Get("x-ms-item-type") != tt.itemType {
					t.Fatalf("%s: %d %v %s", tt.target, w.Code, w.Header(), w.Body)
				}
				var ids []string
				for _, e := range entries {
					ids = append(ids, cmp.Or(e.RegistrationID, e.EnrollmentGroupID))
				}
				got = append(got, ids)
				next = w.Header().Get("x-ms-continuation")
			}
			if diff := gocmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.target, diff)
			}
		}
		for _, header := range [][]string{{"x-ms-max-item-count", "0"}, {"x-ms-max-item-count", "many"}, {"x-ms-continuation", "tok=1"}, {"x-ms-continuation", "ICA"}} {
			if w := operate(s, "POST", "/enrollments/query", `{"query":"*"}`, header...); w.Code != 400 {
				t.Errorf("%v: %d %s", header, w.Code, w.Body)
			}
		}
	})
}

// TestEmptyList: nothing is an empty array, not null.
func TestEmptyList(t *testing.T) {
	s := newCore(t, operatorConfig(), nil)
	for _, target := range []string{"/enrollments/query", "/registrations/" + testGroup + "/query"} {
		if w := operate(s, "POST", target, `{"query":"*"}`); w.Body.String() != "[]" {
			t.Errorf("%s: %s", target, w.Body)
		}
	}
}

// TestBulk: each entry by itself, the modes in any case, and at most ten.
func TestBulk(t *testing.T) {
	s := newCore(t, operatorConfig(), nil)
	one := func(id, more string) string {
		return `{"registrationId":"` + id + `","attestation":{"type":"symmetricKey"}` + more + `}`
	}
	first := operate(s, "PUT", "/enrollments/a", one("a", ""))
	var a entryDocument
	if err := json.Unmarshal(first.Body.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	fresh := `,"etag":` + string(encodeJSON(a.ETag))
	tests := []struct {
		name, mode, entries string
		want                string // the failures, as id code
	}{
		{"create", "create", one("a", "") + "," + one("b", "") + "," + one("c", ""), "a 409001"},
		{"update", "Update", one("b", `,"provisioningStatus":"disabled"`) + "," + one("z", ""), "z 404201"},
		{"with etags", "updateIfMatchEtag", one("a", fresh) + "," + one("b", `,"etag":"\"other\""`), "b 412001"},
		{"of before", "updateIfMatchETag", one("a", fresh), "a 412001"},
		{"bad entry", "create", `{"registrationId":"d"},7`, "d 400004, 400004"},
		{"delete", "DELETE", one("a", "") + "," + one("b", "") + "," + one("z", ""), "z 404201"},
	}
	for _, tt := range tests {
		w := operate(s, "POST", "/enrollments/", `{"mode":"`+tt.mode+`","enrollments":[`+tt.entries+`]}`)
		var result bulkResult
		if err := json.Unmarshal(w.Body.Bytes(), &result); err != nil || w.Code != 200 {
			t.Fatalf("%s: %d %s", tt.name, w.Code, w.Body)
		}
		var got []string
		for _, e := range result.Errors {
			got = append(got, strings.TrimSpace(fmt.Sprint(e.RegistrationID, " ", e.ErrorCode)))
		}
		if strings.Join(got, ", ") != tt.want || result.IsSuccessful != (tt.want == "") {
			t.Errorf("%s: %s, want %s", tt.name, w.Body, tt.want)
		}
	}
	if left := s.service.enrollments.list(Individual); len(left) != 1 || left[0].ID != "c" {
		t.Errorf("left %v", left)
	}
	w := operate(s, "POST", "/enrollmentGroups", `{"mode":"create","enrollmentGroups":[{"enrollmentGroupId":"`+testGroup+`","attestation":{"type":"symmetricKey"}}]}`)
	golden(t, "service-bulk.json", append(w.Body.Bytes(), '\n'))
	for name, body := range map[string]string{
		"mode":   `{"mode":"merge","enrollments":[{}]}`,
		"none":   `{"mode":"create","enrollments":[]}`,
		"eleven": `{"mode":"create","enrollments":[1,2,3,4,5,6,7,8,9,10,11]}`,
		"other":  `{"mode":"create","enrollmentGroups":[{}]}`,
		"form":   `[]`,
	} {
		if w := operate(s, "POST", "/enrollments", body); codeOf(t, w) != codeInvalid {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

// TestRegistrationDocuments reads and deletes a registration; the next one counts
// as the first.
func TestRegistrationDocuments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hook := always(200, goodAnswer)
		s := newCore(t, operatorConfig(), hook)
		register(t, s, request(RegisterCall, toaster))
		register(t, s, request(RegisterCall, toaster))
		if !strings.Contains(hook.body(1), "currentIotHubHostName") {
			t.Errorf("the second request has no current hub: %s", hook.body(1))
		}
		target := "/registrations/" + strings.ToUpper(toaster)
		w := operate(s, "GET", target, "")
		golden(t, "service-registration.json", append(steady(w.Body.Bytes()), '\n'))
		var state struct{ ETag string }
		if err := json.Unmarshal(w.Body.Bytes(), &state); err != nil {
			t.Fatal(err)
		}
		if w := operate(s, "DELETE", target, "", "If-Match", `"other"`); codeOf(t, w) != codeETag {
			t.Errorf("with another etag: %d %s", w.Code, w.Body)
		}
		if w := operate(s, "DELETE", target, "", "If-Match", state.ETag); w.Code != http.StatusNoContent {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if got := register(t, s, request(RegisterCall, toaster)); got.RegistrationState.Substatus != initialAssignment {
			t.Errorf("got %+v", got)
		}
		if strings.Contains(hook.body(2), "currentIotHubHostName") {
			t.Errorf("the request after the deletion has a current hub: %s", hook.body(2))
		}
	})
}

// A registration cannot be deleted while its operation runs.
func TestDeletingRunningRegistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCore(t, operatorConfig(), always(500, ""))
		if a := s.service.serve(t.Context(), request(RegisterCall, toaster)); a.status != 202 {
			t.Fatal(a.status)
		}
		if w := operate(s, "DELETE", "/registrations/"+toaster, ""); codeOf(t, w) != codeConflict {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if w := operate(s, "GET", "/registrations/"+toaster, ""); !strings.Contains(w.Body.String(), `"status":"assigning"`) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

// The individual enrollment shows its registration.
func TestIndividualShowsRegistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := operatorConfig()
		cfg.Enrollments = []IndividualEnrollment{{RegistrationID: "one", PrimaryKey: testPrimary, AllocationPolicy: Static}}
		s := newCore(t, cfg, nil)
		c := request(RegisterCall, "one")
		c.token = deviceToken("one", testPrimary)
		register(t, s, c)
		if got := operate(s, "GET", "/enrollments/one", "").Body.String(); !strings.Contains(got, `"registrationState":{"symmetricKey":{},"registrationId":"one"`) {
			t.Errorf("got %s", got)
		}
		if got := operate(s, "POST", "/enrollments/query", `{"query":"*"}`).Body.String(); strings.Contains(got, "registrationState") {
			t.Errorf("a list has %s", got)
		}
	})
}

// TestPolicyConfig: permissions are checked where they stand.
func TestPolicyConfig(t *testing.T) {
	cfg := operatorConfig()
	cfg.PolicyKeys[1].Permissions[0] = ServiceConnect
	cfg.PolicyKeys = append(cfg.PolicyKeys, PolicyKey{Name: testPolicy, Key: "AAEC"}, PolicyKey{Key: testPolicyKey})
	cfg.Hubs[0].PolicyKeys[1].Permissions[0] = EnrollmentRead
	err := cfg.validate()
	for _, want := range []string{
		`policy_key "reader": permission "ServiceConnect"`,
		`policy_key "provisioningserviceowner": named twice`,
		`policy_key "provisioningserviceowner": key: 3 bytes`,
		`policy_key without a name`,
		`hub "` + toasters + `": policy_key "reader": permission "EnrollmentRead"`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %s in it", err, want)
		}
	}
}
