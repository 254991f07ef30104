// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// FuzzWebhookBody sends any body to the whole webhook: it must end in an
// assignment to a linked hub or in one line of text, never in trouble.
func FuzzWebhookBody(f *testing.F) {
	for _, vector := range loadVectors(f).Webhook.Requests {
		f.Add([]byte(vector.Body))
	}
	f.Add(golden(f, "tutorial-toaster.request.json"))
	for _, seed := range []string{``, `null`, `[]`, `{"deviceRuntimeContext":{"registrationId":{}}}`, `{"linkedHubs":[null]}`, "\ufeff{}", `{"a":"\ud800","token":-1e9}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var decision Decision
		handler := NewHandler(Config{Setup: Setup{Policy: Tutorial()}, Observe: func(d Decision) { decision = d }})
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodPost, "/api/f", bytes.NewReader(body)))

		switch recorder.Code {
		case http.StatusOK:
			request, err := ParseRequest(body)
			if err != nil {
				t.Fatalf("assigned what does not parse: %v", err)
			}
			if !slices.Contains(request.LinkedHubs, decision.AssignedHub) {
				t.Errorf("assigned to %q, which is not one of %q", decision.AssignedHub, request.LinkedHubs)
			}
		case http.StatusBadRequest:
			if text := recorder.Body.String(); text == "" || strings.ContainsAny(text, "\r\n") {
				t.Errorf("got refusal %q, want one line", text)
			}
		default:
			t.Errorf("got status %d", recorder.Code)
		}
		if decision.Request != nil && !json.Valid(decision.Request) {
			t.Errorf("the recorded request is not JSON: %q", decision.Request)
		}
	})
}

// FuzzRedact checks that redaction gives valid JSON of the same meaning apart
// from what it masks, and that doing it twice changes nothing.
func FuzzRedact(f *testing.F) {
	f.Add([]byte(`{"primaryKey":"x","u":"https://h/?code=y","n":[1,{"token":2}]}`))
	f.Add([]byte(`["SharedAccessSignature sr=a&sig=b","\\\"",null]`))
	f.Fuzz(func(t *testing.T, document []byte) {
		if !json.Valid(document) {
			return
		}
		once := redact(document)
		if !json.Valid(once) {
			t.Fatalf("%q became %q, which is not JSON", document, once)
		}
		if twice := redact(once); !bytes.Equal(once, twice) {
			t.Errorf("%q became %q, then %q", document, once, twice)
		}
		if !bytes.ContainsAny(document, `?=\`) && !bytes.Contains(once, []byte(redacted)) && !bytes.Equal(document, once) {
			t.Errorf("%q became %q without a secret in it", document, once)
		}
	})
}

// FuzzParseFunctionKeys checks that no error repeats a line of the file.
func FuzzParseFunctionKeys(f *testing.F) {
	f.Add(keyOne + "\n# comment\n" + keyTwo)
	f.Add("short")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := ParseFunctionKeys(text)
		if (err == nil) == (len(keys) == 0) {
			t.Errorf("got %d keys and error %v", len(keys), err)
		}
		if err == nil {
			return
		}
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); len(line) >= minFunctionKeyLength && strings.Contains(err.Error(), line) {
				t.Errorf("the error shows a line of the file: %v", err)
			}
		}
	})
}

// FuzzScan holds the scanner against encoding/json: both must see the same
// members and elements.
func FuzzScan(f *testing.F) {
	f.Add(golden(f, "tutorial-toaster.request.json"))
	f.Add([]byte("{\"\xff\xff\":0,\"\xff\":1}"))
	f.Add([]byte(` { "a" : [ 1 , "]}\"" , { } , [ ] ] , "a" : -1e9 , "" : null } `))
	f.Fuzz(func(t *testing.T, document []byte) {
		if !json.Valid(document) {
			return
		}
		document = bytes.TrimSpace(document)
		var object map[string]json.RawMessage
		var list []json.RawMessage
		switch document[0] {
		case '{':
			got := map[string]json.RawMessage{}
			for name, value := range members(document) {
				got[string(name)] = value
			}
			if err := json.Unmarshal(document, &object); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(object, got); diff != "" {
				t.Errorf("members (-encoding/json +scan):\n%s", diff)
			}
		case '[':
			got := slices.Collect(elements(document))
			if err := json.Unmarshal(document, &list); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(list, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("elements (-encoding/json +scan):\n%s", diff)
			}
		}
	})
}

// FuzzCertificate gives anything as the context of a certificate: what is found
// is never empty.
func FuzzCertificate(f *testing.F) {
	f.Add([]byte(`{"clientCertificates":{"primary":{"certificate":"MIIB","info":{"subjectName":"CN=a"}}}}`))
	f.Add([]byte(`{"certificateInfo":{},"signingCertificateInfo":{"version":1e99}}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		device := DeviceRuntimeContext{X509: document, TPM: document}
		if got, ok := device.Certificate(); ok == (got == Certificate{}) {
			t.Errorf("got %+v, %t", got, ok)
		}
		if got, ok := device.SigningCertificate(); ok == (got == Certificate{}) {
			t.Errorf("got %+v, %t", got, ok)
		}
		device.TPMKeys()
	})
}

// FuzzCheckDocument holds the checker against encoding/json: what is JSON to one
// is JSON to the other, but for documents beyond the bounds.
func FuzzCheckDocument(f *testing.F) {
	f.Add(golden(f, "tutorial-toaster.request.json"))
	for _, seed := range []string{
		`0`, `-0`, `01`, `-`, `1.`, `.5`, `1.5e+7`, `1e`, `1E-05`, `+1`, `0x1`, `tru`, `true`, `truee`, `nul`, `false`, `NaN`,
		`"\u00e9\uD83D"`, `"\u00g0"`, `"\u12"`, `"\x"`, `"\`, `"`, `"a`, "\"\t\"", "\"\xff\"", "\"\x7f\"", ` [ ] `, `[1,]`, `[,1]`, `[1 2]`, `[`, `{"a":1,}`,
		`{"a" 1}`, `{"a":}`, `{a:1}`, `{"a":1}{`, `{}`, `{} `, `{"a":{"b":[{}]}}`, "\v1", ``, ` `, "\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		err := checkDocument(document)
		if err != nil && !strings.Contains(err.Error(), "not valid JSON") {
			return
		}
		if json.Valid(document) != (err == nil) {
			t.Errorf("%q: got %v, and json.Valid says %t", document, err, json.Valid(document))
		}
	})
}
