// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"unicode"

	"github.com/contoso/gatewayd/allocation"
)

// FuzzMeaning: whatever comes back, only a 200 is passed on, only the function's
// own statuses refuse, and no reason shows the key or breaks a line.
func FuzzMeaning(f *testing.F) {
	f.Add(200, "application/json", "", `{"iotHubHostName":"b"}`)
	f.Add(400, "text/plain", "", "no "+secret)
	f.Add(503, "", "1", "Function host is not running.")
	f.Add(302, "text/html", "https://u:p@h/"+secret+"?code=x", "<html>")
	f.Add(404, "text/html;;", "\x00", "\xff\x1b[31m")
	f.Fuzz(func(t *testing.T, status int, contentType, header, body string) {
		if status < 200 || status > 999 {
			return
		}
		client, err := New(Config{URL: functionURL, Key: parseKey(t, secret), Proxy: noProxy})
		if err != nil {
			t.Fatal(err)
		}
		response := &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {contentType}, "Location": {header}, "Retry-After": {header}}}
		passed, err := client.meaning(response, []byte(body))
		if err == nil {
			if status != http.StatusOK || string(passed) != body {
				t.Fatalf("status %d was passed on as %q", status, passed)
			}
			return
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the key is shown: %v", err)
		}
		if strings.ContainsFunc(err.Error(), unicode.IsControl) {
			t.Errorf("a control character in %q", err)
		}
		if _, refusal := errors.AsType[allocation.Refusal](err); refusal {
			if status < 400 || status >= 429 || status == 401 || status == 403 || status == 404 || strings.HasPrefix(body, "<") {
				t.Errorf("status %d with %q counts as a refusal", status, body)
			}
		}
	})
}
