// SPDX-License-Identifier: Apache-2.0

package allocation_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/allocation/policy"
)

const (
	fuzzKey = "u2Ck1f9Jc0Qm7Xy3bW8aTzr4PsLdNvGh"

	// plantedSecret stands in a member whose name says that it is secret.
	plantedSecret = "pL4nt3dS3cr3t"
)

// FuzzHandler sends any method, address, headers and body to the whole webhook,
// the way net/http hands them over, and holds the answer to the contract.
func FuzzHandler(f *testing.F) {
	const toaster = `{"enrollmentGroup":{"enrollmentGroupId":"g"},"deviceRuntimeContext":{"registrationId":"a-contoso-tstrsd-007","payload":{"v":1}},"linkedHubs":["a-toasters-1","b-heatpumps-1"]}`
	for _, seed := range []struct{ method, target, header, body string }{
		{"POST", "/api/f?code=" + fuzzKey, "", toaster},
		{"POST", "/api/f", "X-Functions-Key: " + fuzzKey + "\r\n", strings.Replace(toaster, "tstrsd-007", "hpsd-088", 1)},
		{"POST", "/api/f?code=wrong", "Content-Type: text/xml\r\n", toaster},
		{"POST", "/api/f?code=" + fuzzKey, "", `{"deviceRuntimeContext":{"registrationId":"aaa"}}`},
		{"POST", "/api/f?code=" + fuzzKey, "", `{"deviceRuntimeContext":{"registrationId":"aaa"},"linkedHubs":["x-1"]}`},
		{"GET", "/api/f", "", ""},
		{"POST", "/api//f", "", ""},
		{"POST", "/api/../f?code=%zz;&", "X-Forwarded-For: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n"},
		{"POST", "/api/f?code=" + fuzzKey, "Expect: 100-continue\r\n", strings.Repeat("[", 70) + strings.Repeat("]", 70)},
		{"POST", "/api/f?code=" + fuzzKey, "", `{"linkedHubs":["` + strings.Repeat("x", 300) + `"]}`},
		{"POST", "http://evil.example/api/f?code=" + fuzzKey, "", "\ufeffnull"},
		{"OPTIONS", "*", "", "\x00"},
	} {
		f.Add(seed.method, seed.target, seed.header, []byte(seed.body))
	}
	keys, err := allocation.ParseFunctionKeys(fuzzKey)
	if err != nil {
		f.Fatal(err)
	}
	policies := []allocation.Policy{allocation.Tutorial(), fuzzPolicy(f)}
	f.Fuzz(func(t *testing.T, method, target, header string, body []byte) {
		for _, planted := range []bool{false, true} {
			if planted {
				if body = plant(body); body == nil {
					return
				}
			}
			for _, policy := range policies {
				fuzzOnce(t, policy, keys, method, target, header, body)
			}
		}
	})
}

// fuzzPolicy reads what a request holds in all ways that a policy file has.
func fuzzPolicy(f *testing.F) allocation.Policy {
	parsed, err := policy.Parse("policy.toml", []byte(`
[[rule]]
name = "expression"
when.cel = "has(request.deviceRuntimeContext.registrationId) && request.deviceRuntimeContext.registrationId.matches('^(a+)+$') && has(request.linkedHubs) && request.linkedHubs.exists(h, h.contains('x'))"
refuse = "Not today."
[[rule]]
name = "plain"
when.registration_id.contains = "tstrsd"
when.linked_hubs.present = true
hub = { contains = "toasters", none = "next" }
tags = { kind = "toaster" }
[[rule]]
name = "any"
when.linked_hubs.present = true
hub = { contains = "-", none = "next" }
[[rule]]
name = "rest"
refuse = "Nothing fits."
`))
	if err != nil {
		f.Fatal(err)
	}
	return parsed
}

// fuzzOnce sends one request as net/http would hand it over.
func fuzzOnce(t *testing.T, policy allocation.Policy, keys []allocation.FunctionKey, method, target, header string, body []byte) {
	t.Helper()
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: gateway\r\n%sContent-Length: %d\r\n\r\n", method, target, header, len(body))
	request, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head + string(body))))
	if err != nil {
		return
	}
	if body, err = io.ReadAll(request.Body); err != nil || bytes.Contains(body, []byte(fuzzKey)) {
		return
	}
	request.Body = io.NopCloser(bytes.NewReader(body))
	request.RemoteAddr = "127.0.0.1:40000"
	var log bytes.Buffer
	var decisions []allocation.Decision
	handler := allocation.NewHandler(allocation.Config{
		Setup:   allocation.Setup{Policy: policy, FunctionKeys: keys},
		Logger:  slog.New(slog.NewTextHandler(&log, nil)),
		Observe: func(d allocation.Decision) { decisions = append(decisions, d) },
	})
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, request)
	checkAnswer(t, request, body, answer)
	checkRecord(t, answer.Code, decisions, log.String())
}

// plant puts a secret into a body that is a JSON object, and gives nil for any
// other.
func plant(body []byte) []byte {
	body = bytes.TrimSpace(body)
	if !json.Valid(body) || body[0] != '{' || bytes.Contains(body, []byte(plantedSecret)) {
		return nil
	}
	secret := `{"primaryKey":"` + plantedSecret + `","nested":{"tokens":["` + plantedSecret + `"]},"url":"https://h/f?code=` + plantedSecret + `"`
	if rest := bytes.TrimSpace(body[1:]); rest[0] != '}' {
		secret += ","
	}
	return append([]byte(secret), body[1:]...)
}

// checkAnswer holds an answer to the contract (dps-protocol 12.4).
func checkAnswer(t *testing.T, request *http.Request, body []byte, answer *httptest.ResponseRecorder) {
	t.Helper()
	for header, values := range answer.Header() {
		known := map[string][]string{
			"Content-Type": {"text/plain; charset=utf-8", "application/json; charset=utf-8"},
			"Allow":        {"POST"},
			"Retry-After":  {"5"},
			"Connection":   {"close"},
		}[header]
		if len(values) != 1 || !slices.Contains(known, values[0]) {
			t.Errorf("got header %s: %q", header, values)
		}
	}
	text := answer.Body.String()
	switch answer.Code {
	case http.StatusOK:
		var response struct {
			IoTHubHostName string `json:"iotHubHostName"`
		}
		if err := json.Unmarshal(answer.Body.Bytes(), &response); err != nil {
			t.Fatalf("got a response that is not JSON: %s", text)
		}
		parsed, err := allocation.ParseRequest(body)
		if err != nil || !slices.Contains(parsed.LinkedHubs, response.IoTHubHostName) {
			t.Errorf("assigned to %q, which is not one of %q (%v)", response.IoTHubHostName, parsed.LinkedHubs, err)
		}
		return
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusRequestEntityTooLarge:
		if request.Method != http.MethodPost {
			t.Errorf("got status %d for %s", answer.Code, request.Method)
		}
	case http.StatusMethodNotAllowed, http.StatusNotFound:
	default:
		t.Errorf("got status %d, which the contract does not have", answer.Code)
	}
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("got %q, want one line of text", text)
	}
}

// checkRecord looks at what remains of a request.
func checkRecord(t *testing.T, status int, decisions []allocation.Decision, log string) {
	t.Helper()
	want := 1
	if status == http.StatusNotFound || status == http.StatusMethodNotAllowed {
		want = 0 // nothing was decided
	}
	if len(decisions) != want || strings.Count(log, "\n") != want {
		t.Fatalf("got %d decisions and this log with status %d, want %d of each:\n%s", len(decisions), status, want, log)
	}
	if want == 0 {
		return
	}
	recorded, err := json.Marshal(decisions[0])
	if err != nil {
		t.Errorf("the decision cannot be recorded: %v", err)
	}
	for where, text := range map[string]string{"record": string(recorded), "log": log} {
		if strings.Contains(text, plantedSecret) || strings.Contains(text, fuzzKey) {
			t.Errorf("the %s tells a secret: %s", where, text)
		}
	}
	if line := strings.TrimSuffix(log, "\n"); strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("the log hides something: %q", log)
	}
	if decisions[0].Status != status {
		t.Errorf("recorded status %d, answered %d", decisions[0].Status, status)
	}
}
