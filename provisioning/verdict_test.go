// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc"
	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc/mqttrpctest"
)

// TestVerdicts writes down what is said of everything that can go wrong, and compares it with a file to be read as a
// list.
func TestVerdicts(t *testing.T) {
	unreachable := func(err error) error { return &UnreachableError{Op: opSubmitting, Cause: err} }
	dial := func(err error) error {
		return unreachable(fmt.Errorf("dialling: %w", &net.OpError{Op: "dial", Net: "tcp", Err: err}))
	}
	answer := func(status, code int) error { return &ServiceError{HTTPStatus: status, Code: code, Message: "…"} }
	refused := func(code int, c CredentialError) error {
		c.Cause = &ServiceError{HTTPStatus: 401, Code: code, Message: "Unauthorized"}
		return &c
	}
	ended := func(code int, message string) error {
		return &FailedError{Status: StatusFailed, Code: code, Message: message}
	}
	certificate := func(err error) error {
		return unreachable(&tls.CertificateVerificationError{Err: err})
	}
	proxied := func(status int, cause error) error {
		if cause == nil {
			cause = fmt.Errorf("it answered %d", status)
		}
		return unreachable(&ProxyError{Proxy: "proxy.test:3128", Status: status, Cause: cause})
	}
	alert := func(text string) error {
		return unreachable(&net.OpError{Op: "remote error", Err: errors.New("tls: " + text)})
	}
	config := func(change func(*Config)) error {
		cfg := Config{Endpoint: testHost, IDScope: testScope, Transport: TransportHTTPS}
		change(&cfg)
		_, err := New(cfg)
		return err
	}
	payload := func(text string) error {
		r := request()
		r.Payload = json.RawMessage(text)
		return r.check()
	}
	late := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	issued := Issue(t, "device-1", nil, ECDSAKey(t, elliptic.P256()))
	other := Issue(t, "device-1", nil, ECDSAKey(t, elliptic.P256()))
	own := issued.Certificate(t)
	sections := []struct {
		title string
		rows  []verdictCase
	}{
		{"The service ended the registration", []verdictCase{
			{"status disabled", &FailedError{Status: StatusDisabled}},
			{"400207, the webhook said 400", ended(400207, "Custom allocation failed with status code: 400")},
			{"400207, the webhook said 428", ended(400207, "Custom allocation failed with status code: 428")},
			{"400207, the webhook said 429", ended(400207, "Custom allocation failed with status code: 429")},
			{"400207, the webhook said 500", ended(400207, "Custom allocation failed with status code: 500")},
			{"400207, no status named", ended(400207, "CustomAllocationFailed")},
			{"no code, the webhook was out of reach", ended(0, "An error occurred while sending the request.")},
			{"400208, no hub named", ended(400208, "CustomAllocationIotHubNotSpecified")},
			{"400209, the webhook said 401", ended(400209, "CustomAllocationUnauthorizedAccess")},
			{"the hub said IotHubUnauthorizedAccess", ended(401002, `{"Message":"ErrorCode:IotHubUnauthorizedAccess;Unauthorized","ExceptionMessage":"Tracking ID:…"}`)},
			{"the hub said 400027", ended(400027, "…")},
			{"the hub said ConnectionForcefullyClosedOnNewConnection", ended(0, "ErrorCode:ConnectionForcefullyClosedOnNewConnection;…")},
			{"the hub said 404104", ended(404104, "…")},
			{"the hub said DeviceConnectionClosedRemotely", ended(0, "ErrorCode:DeviceConnectionClosedRemotely;…")},
			{"the hub said 429xxx", ended(429001, "…")},
			{"the hub said ThrottlingException", ended(0, "ErrorCode:ThrottlingException;…")},
			{"401002 in the registration's state", ended(401002, "Unauthorized")},
			{"401002 in the registration's state, about a certificate", ended(401002, "Invalid certificate.")},
			{"another code", ended(404001, "IotHubNotFound")},
			{"no code, no message", ended(0, "")},
		}},
		{"The service refused the request, or put it off", []verdictCase{
			{"400004", answer(400, 400004)},
			{"401000, the clock is right", refused(401000, CredentialError{Tried: 1, SkewKnown: true})},
			{"401002, the clock is right", refused(401002, CredentialError{Tried: 1, SkewKnown: true})},
			{"401000, both keys tried", refused(401000, CredentialError{Tried: 2, SkewKnown: true, Skew: time.Second})},
			{"401002, both keys tried", refused(401002, CredentialError{Tried: 2, SkewKnown: true, Skew: time.Second})},
			{"401000, the clock was corrected in vain", refused(401000, CredentialError{Tried: 2, SkewKnown: true, Skew: time.Hour, Corrected: true})},
			{"401002, the clock was corrected in vain", refused(401002, CredentialError{Tried: 2, SkewKnown: true, Skew: time.Hour, Corrected: true})},
			{"401000, the clocks disagree", refused(401000, CredentialError{Tried: 1, SkewKnown: true, Skew: -time.Hour})},
			{"401002, the clocks disagree", refused(401002, CredentialError{Tried: 1, SkewKnown: true, Skew: -time.Hour})},
			{"401000, no time given", refused(401000, CredentialError{Tried: 2})},
			{"401002, no time given", refused(401002, CredentialError{Tried: 2})},
			{"CONNACK 5, no time given", refused(0, CredentialError{Tried: 1})},
			{"401002, a certificate was shown", refused(401002, CredentialError{Certificate: true})},
			{"404201", answer(404, 404201)},
			{"404202", answer(404, 404202)},
			{"404203", answer(404, 404203)},
			{"404204", answer(404, 404204)},
			{"404 without a code", answer(404, 0)},
			{"405", answer(405, 0)},
			{"409203", answer(409, 409203)},
			{"409 with another code", answer(409, 409001)},
			{"412xxx", answer(412, 412000)},
			{"415", answer(415, 0)},
			{"429001, the attempt ended", &ThrottledError{NextAttempt: late, Cause: answer(429, 429001)}},
			{"429, met by another device of this gateway", &ThrottledError{NextAttempt: late}},
			{"500001, ten times", unreachable(answer(500, 500001))},
			{"503 without a body, ten times", unreachable(answer(503, 0))},
			{"assigning for ever", unreachable(ErrAttemptLimit)},
		}},
		{"On the way to the service", []verdictCase{
			{"DNS: no such name", dial(&net.DNSError{Err: "no such host", Name: testHost, IsNotFound: true})},
			{"DNS: no answer", dial(&net.DNSError{Err: "i/o timeout", Name: testHost, IsTimeout: true})},
			{"DNS: the name server fails", dial(&net.DNSError{Err: "server misbehaving", Name: testHost, IsTemporary: true})},
			{"proxy: 407", proxied(407, nil)},
			{"proxy: 401", proxied(401, nil)},
			{"proxy: 403", proxied(403, nil)},
			{"proxy: 503", proxied(503, nil)},
			{"proxy: connection refused", proxied(0, os.NewSyscallError("connect", syscall.ECONNREFUSED))},
			{"proxy: no such name", proxied(0, &net.DNSError{Err: "no such host", Name: "proxy.test", IsNotFound: true})},
			{"proxy: silent", proxied(0, os.ErrDeadlineExceeded)},
			{"proxy: unknown root", proxied(0, &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}})},
			{"proxy: not a proxy", proxied(0, errors.New("the answer is not HTTP"))},
			{"proxy: bad setting", unreachable(&ProxyError{Cause: errors.New("invalid port")})},
			{"connection refused", dial(os.NewSyscallError("connect", syscall.ECONNREFUSED))},
			{"network unreachable", dial(os.NewSyscallError("connect", syscall.ENETUNREACH))},
			{"host unreachable", dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH))},
			{"no answer to the dialling", dial(os.ErrDeadlineExceeded)},
			{"no answer to the request", unreachable(context.DeadlineExceeded)},
			{"connection reset", unreachable(os.NewSyscallError("read", syscall.ECONNRESET))},
			{"connection ended early", unreachable(fmt.Errorf("reading the answer: %w", io.ErrUnexpectedEOF))},
			{"MQTT connection lost", unreachable(fmt.Errorf("%w: pingresp not received", mqttrpc.ErrLost))},
			{"TLS: unknown root", certificate(x509.UnknownAuthorityError{})},
			{"TLS: signed by what is no authority", certificate(x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign})},
			{"TLS: another name", certificate(x509.HostnameError{Certificate: new(x509.Certificate), Host: testHost})},
			{"TLS: not valid yet", certificate(x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time 1970-01-01T00:01:07Z is before 2026-01-01T00:00:00Z"})},
			{"TLS: expired", certificate(x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time 2027-01-01T00:00:00Z is after 2026-12-01T00:00:00Z"})},
			{"TLS: refused", alert("protocol version not supported")},
			{"TLS: our certificate refused", alert("bad certificate")},
			{"no TLS at all", unreachable(tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"})},
			{"auto: a login page, and refused elsewhere", unreachable(errors.Join(
				fmt.Errorf("over https: %w: status 302", ErrNotService), fmt.Errorf("over mqtt-ws: %w: status 302", ErrNotService),
				fmt.Errorf("over mqtt: %w", os.NewSyscallError("connect", syscall.ECONNREFUSED))))},
			{"a login page answers", unreachable(fmt.Errorf("%w: status 302", ErrNotService))},
		}},
		{"On this machine", []verdictCase{
			{"registration ID that cannot be one", CheckRegistrationID("dev.")},
			{"key that is no key", func() error { _, err := ParseGroupKey("x"); return err }()},
			{"key that was not granted", func() error { _, err := DerivedKeys{}.DeviceKeys(testID); return err }()},
			{"certificate of another name", own.checkFor("device-2", late)},
			{"certificate that has run out", own.checkFor("device-1", late.AddDate(100, 0, 0))},
			{"certificate that is not valid yet", own.checkFor("device-1", late.AddDate(-100, 0, 0))},
			{"certificate with another's key", func() error { _, err := ParseCertificate(issued.PEM(), other.KeyPEM()); return err }()},
			{"no ID scope", config(func(c *Config) { c.IDScope = "" })},
			{"malformed ID scope", config(func(c *Config) { c.IDScope = "0ne/x" })},
			{"bad endpoint", config(func(c *Config) { c.Endpoint = "https://" + testHost })},
			{"unknown transport", config(func(c *Config) { c.Transport = "amqp" })},
			{"budget below zero", config(func(c *Config) { c.PollsPerSecond = -1 })},
			{"payload that is no object", payload(`[1]`)},
			{"payload that is too large", payload(`{"x":"` + strings.Repeat("x", maxPayload) + `"}`)},
			{"stored operation ID that is damaged", func() error { r := request(); r.OperationID = "a/b"; return r.check() }()},
			{"interrupted", fmt.Errorf("submitting: %w", context.Canceled)},
			{"client closed", ErrClosed},
			{"anything else", errors.New("a wasp's nest")},
		}},
	}
	var list strings.Builder
	seen := make(map[string][]int) // kind to codes
	for _, section := range sections {
		fmt.Fprintf(&list, "%s\n%s\n\n", section.title, strings.Repeat("=", len(section.title)))
		for _, row := range section.rows {
			d := Verdict(fmt.Errorf("registering %q: %w", testID, row.err))
			seen[d.Kind] = append(seen[d.Kind], d.Code)
			if (d.Kind == "unknown") != (row.title == "anything else") {
				t.Errorf("%s: of the kind %q", row.title, d.Kind)
			}
			fmt.Fprintf(&list, "%s\n  %s\n  Owner: %s\n  Next:  %s\n  Kind:  %s\n", row.title, d.Verdict, d.Owner, d.Next, d.Kind)
			if d.SDKResult != "" {
				fmt.Fprintf(&list, "  C SDK: %s\n", d.SDKResult)
			}
			list.WriteString("\n")
		}
	}
	golden(t, "verdicts.golden", list.String())

	for _, f := range Failures() {
		if seen[f.Kind] == nil {
			t.Errorf("no case shows the kind %q", f.Kind)
		}
		for _, code := range f.Codes {
			if !slices.Contains(seen[f.Kind], code) {
				t.Errorf("no case shows %d as %q", code, f.Kind)
			}
		}
	}
	if d := Verdict(nil); d != (Diagnosis{}) {
		t.Errorf("no error is diagnosed as %+v", d)
	}
}

// verdictCase is something that can go wrong, as people would name it.
type verdictCase struct {
	title string
	err   error
}

// TestFailuresAreReadable holds every row of the table to the same form, so that lists can be laid out and sentences
// joined.
func TestFailuresAreReadable(t *testing.T) {
	owners := []string{OwnerTechnician, OwnerSiteNetwork, OwnerPolicy, OwnerCloudOperator}
	kinds := make(map[string]bool)
	for _, f := range Failures() {
		if kinds[f.Kind] {
			t.Errorf("%s: there twice", f.Kind)
		}
		kinds[f.Kind] = true
		if f.Kind == "" || strings.Trim(f.Kind, "abcdefghijklmnopqrstuvwxyz-") != "" || len(f.Kind) > 32 {
			t.Errorf("%q: not a short word in lower case", f.Kind)
		}
		if !slices.Contains(owners, f.Owner) {
			t.Errorf("%s: unknown owner %q", f.Kind, f.Owner)
		}
		for text, most := range map[string]int{f.Verdict: 96, f.Next: 160} {
			if !strings.HasSuffix(text, ".") || len(text) > most || strings.TrimSpace(text) != text || strings.ContainsAny(text, "\n\t|") {
				t.Errorf("%s: not sentences of at most %d bytes: %q", f.Kind, most, text)
			}
		}
		for name := range strings.SplitSeq(f.SDKResult, ", ") {
			if name != "" && !strings.HasPrefix(name, "PROV_DEVICE_RESULT_") {
				t.Errorf("%s: the C SDK knows no %q", f.Kind, name)
			}
		}
	}
}

// TestDocumentedFailures keeps the table of docs/provisioning.md that of the source.
func TestDocumentedFailures(t *testing.T) {
	const path, begin, end = "../docs/provisioning.md", "<!-- failures: go test ./provisioning -update writes this table -->\n", "<!-- end of failures -->\n"
	document := string(readFile(t, path))
	before, rest, ok := strings.Cut(document, begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatalf("%s has no place for the table", path)
	}
	var table strings.Builder
	table.WriteString("\n| kind | what happened | who | what to do |\n|---|---|---|---|\n")
	for _, f := range Failures() {
		names := "`" + f.Kind + "`"
		for _, code := range f.Codes {
			names += fmt.Sprintf("<br>%d", code)
		}
		for name := range strings.SplitSeq(f.SDKResult, ", ") {
			if name != "" {
				names += "<br>" + name
			}
		}
		fmt.Fprintf(&table, "| %s | %s | %s | %s |\n", names, f.Verdict, f.Owner, f.Next)
	}
	table.WriteString("\n")
	want := before + begin + table.String() + end + after
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(document, want); diff != "" {
		t.Errorf("%s (-is +should be):\n%s", path, diff)
	}
}

// TestVerdictOfRealErrors makes the network's and TLS's errors instead of composing them.
func TestVerdictOfRealErrors(t *testing.T) {
	tests := []struct {
		name   string
		change func(t *testing.T, d *dps)
		want   string
	}{
		{"refused", func(_ *testing.T, d *dps) { d.cfg.Endpoint = "nobody.test" }, "connection-refused"},
		{"unknown root", func(t *testing.T, d *dps) { d.cfg.RootCAs = mqttrpctest.NewAuthority(t).Pool }, "tls-untrusted"},
		{"wrong name", func(_ *testing.T, d *dps) {
			dial := d.cfg.DialContext
			d.cfg.Endpoint = "other.test"
			d.cfg.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				_, port, _ := net.SplitHostPort(address)
				return dial(ctx, network, testHost+":"+port)
			}
		}, "tls-name"},
		{"clock far ahead", func(*testing.T, *dps) { time.Sleep(100 * 365 * 24 * time.Hour) }, "tls-expired"},
		{"no TLS", func(_ *testing.T, d *dps) {
			d.cfg.DialContext = func(context.Context, string, string) (net.Conn, error) {
				here, there := net.Pipe()
				go func() {
					_, _ = there.Read(make([]byte, 4096))
					_, _ = there.Write([]byte("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"))
					_ = there.Close()
				}()
				return here, nil
			}
		}, "not-dps"},
		{"no answer", func(_ *testing.T, d *dps) { d.script = inOrder(said{Hang: true}) }, "timeout"},
		{"connection dropped", func(_ *testing.T, d *dps) { d.script = inOrder(said{}) }, "connection-lost"},
		{"redirect", func(_ *testing.T, d *dps) {
			elsewhere := said{Status: 302, Body: "{}", Header: http.Header{"Location": {"/" + testScope + "/registrations/" + testID + "/operations/x"}}}
			d.script = inOrder(elsewhere, assigned(testOp))
		}, "not-dps"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, transport := range []Transport{TransportHTTPS, TransportMQTT, TransportMQTTWS} {
				synctest.Test(t, func(t *testing.T) {
					service := newDPS(t, transport)
					test.change(t, service)
					_, err := service.client(t).Register(t.Context(), request())
					if got := Verdict(err).Kind; got != test.want {
						t.Errorf("%s: got %s, want %s (%v)", transport, got, test.want, err)
					}
					if kindName(err) != "*provisioning.UnreachableError" {
						t.Errorf("%s: %v is no UnreachableError", transport, err)
					}
				})
			}
		})
	}
}

func TestWebhookStatus(t *testing.T) {
	tests := []struct {
		code    int
		message string
		status  int
		ok      bool
	}{
		{400207, "Custom allocation failed with status code: 500", 500, true},
		{400207, "Custom allocation failed with status code: 400.", 400, true},
		{400207, "CustomAllocationFailed", 0, false},
		{400207, "status code: 5000", 0, false},
		{400208, "Custom allocation failed with status code: 500", 0, false},
	}
	for _, test := range tests {
		status, ok := (&FailedError{Status: StatusFailed, Code: test.code, Message: test.message}).WebhookStatus()
		if status != test.status || ok != test.ok {
			t.Errorf("%d %s: got %d, %t, want %d, %t", test.code, test.message, status, ok, test.status, test.ok)
		}
	}
}
