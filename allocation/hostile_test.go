// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// hostileTexts are what an attacker would like to see in somebody's terminal,
// spreadsheet, shell, database or format string.
var hostileTexts = []string{
	"two\nlines", "a\r\nlevel=ERROR msg=\"forged\"", "\x00nul", "\x1b[2J\x1b[31mred", "\x1b]0;title\x07", "bell\a back\b\b\b",
	"\u009b31m", "del\x7f", "\u202egnp.exe", "\u2066isolate\u2069", "zero\u200bwidth\ufeff", "\u2028line\u2029paragraph", "\u0085next",
	"\xff\xfe\xfd", "half \xe2\x82", "surrogate \xed\xa0\x80", "\U000e0041tag", "\ue000private",
	"%s%d%n%!v(BADINDEX)", "' OR 1=1; DROP TABLE devices; --", "../../../etc/passwd", "=cmd|' /C calc'!A0", "$(reboot)`reboot`",
	`"}],"x":"`, `\`, `\\"`, "<script>alert(1)</script>", strings.Repeat("\u202e", 100),
}

// TestNothingHidesInALog sends hostile texts in every member, under every
// answer, and reads the log as text and as JSON: one record is one line in which
// every character shows, whatever the request and the policy said.
func TestNothingHidesInALog(t *testing.T) {
	t.Parallel()
	policies := map[string]Policy{
		"assigned": policyFunc(func(r Request) (Response, error) {
			return Response{IoTHubHostName: r.LinkedHubs[0], Rule: r.LinkedHubs[0], Payload: quote(r.LinkedHubs[0])}, nil
		}),
		"refused": policyFunc(func(r Request) (Response, error) {
			return Response{}, Refusal{Message: "not " + *r.DeviceRuntimeContext.RegistrationID, Rule: r.LinkedHubs[0]}
		}),
		"in trouble": policyFunc(func(r Request) (Response, error) {
			return Response{}, errors.New("looking for " + *r.DeviceRuntimeContext.RegistrationID)
		}),
		"panicking":   policyFunc(func(r Request) (Response, error) { panic(*r.DeviceRuntimeContext.RegistrationID) }),
		"foreign hub": policyFunc(func(r Request) (Response, error) { return Response{IoTHubHostName: "x" + r.LinkedHubs[0]}, nil }),
		"tutorial":    Tutorial(),
	}
	for name, policy := range policies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, hostile := range hostileTexts {
				var asText, asJSON bytes.Buffer
				var decision Decision
				both := slog.NewMultiHandler(slog.NewTextHandler(&asText, nil), slog.NewJSONHandler(&asJSON, nil))
				handler := NewHandler(Config{Setup: Setup{Policy: policy}, Logger: slog.New(both), Observe: func(d Decision) { decision = d }})
				raw := bytes.ReplaceAll(quote(hostile), []byte(`\u202e`), []byte("\u202e")) // as it is, where JSON may have it so
				answer := post(handler, "/api/f", fmt.Sprintf(
					"{\n\t\"deviceRuntimeContext\": {\"registrationId\": %[1]s, %[1]s: %[1]s},\r\n\"linkedHubs\": [%[1]s]}", raw))
				for format, log := range map[string]string{"text": asText.String(), "JSON": asJSON.String()} {
					line, ended := strings.CutSuffix(log, "\n")
					if !ended || !shows(line) {
						t.Errorf("%q as %s: got a record that hides something: %q", hostile, format, log)
					}
				}
				if !json.Valid(asJSON.Bytes()) {
					t.Errorf("%q: the record is not JSON: %s", hostile, &asJSON)
				}
				if answer.Code != http.StatusOK && !shows(answer.Body.String()) {
					t.Errorf("%q: the refusal hides something: %q", hostile, answer.Body)
				}
				for header, values := range answer.Header() {
					for _, value := range values {
						if !shows(value) || strings.Contains(value, hostile) {
							t.Errorf("%q: got header %s: %q", hostile, header, value)
						}
					}
				}
				if recorded, err := json.Marshal(decision); err != nil || bytes.ContainsAny(recorded, "\n\r") {
					t.Errorf("%q: recorded as %q, %v", hostile, recorded, err)
				}
			}
		})
	}
}

// quote gives text as JSON.
func quote(text string) json.RawMessage {
	quoted, err := json.Marshal(text)
	if err != nil {
		return nil // cannot happen: a string always marshals
	}
	return quoted
}

// shows tells whether text is one line in which every character can be seen.
func shows(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

func TestVisible(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                         "",
		"thermostat-7":             "thermostat-7",
		"Küche 日本 ✓":               "Küche 日本 ✓",
		"{\n\t\"a\":\r\n1}":        `{  "a":  1}`,
		"\x1b[31mred\x7f":          `\u001b[31mred\u007f`,
		"a\u202eb\u00a0\U000e0041": `a\u202eb\u00a0\udb40\udc41`,
		"\xff\xe2\x82x":            "\ufffd\ufffd\ufffdx",
	} {
		if diff := cmp.Diff(want, visible(text)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

// TestNoURLIsFetched: a request full of addresses makes nobody call them.
func TestNoURLIsFetched(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	url := "http://" + listener.Addr().String() + "/x"
	body := strings.ReplaceAll(`{"$schema":"URL","enrollmentGroup":{"customAllocationDefinition":{"webhookUrl":"URL","apiVersion":"2021-10-01"},"iotHubs":["URL"],
		"attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"info":{"subjectName":"CN=URL","issuerName":"URL"}}}}}},
		"deviceRuntimeContext":{"registrationId":"x-contoso-tstrsd-007","currentIotHubHostName":"URL","payload":{"modelId":"URL","$ref":"URL"}},
		"linkedHubs":["URL","a-toasters-1"]}`, "URL", url)
	handler := NewHandler(Config{Setup: Setup{Policy: Tutorial()}})
	for _, text := range []string{body, strings.ReplaceAll(body, "x-contoso-tstrsd-007", url), `"` + url + `"`} {
		for _, target := range []string{"/api/f", "/api/f?code=" + url + "&callback=" + url} {
			post(handler, target, text)
		}
	}
	// Connections come in their order, so one of our own ends the list.
	own, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	first, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if first.RemoteAddr().String() != own.LocalAddr().String() {
		t.Error("somebody called an address out of a request")
	}
}
