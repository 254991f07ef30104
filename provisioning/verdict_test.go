// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc"
	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc/mqttrpctest"
)

// TestVerdictTable writes the whole table down and compares it with a file that people can read.
func TestVerdictTable(t *testing.T) {
	unreachable := func(err error) error { return &UnreachableError{Op: opSubmitting, Cause: err} }
	dial := func(err error) error {
		return unreachable(fmt.Errorf("dialling: %w", &net.OpError{Op: "dial", Net: "tcp", Err: err}))
	}
	refused := func(status, code int) error { return &ServiceError{HTTPStatus: status, Code: code, Message: "…"} }
	ended := func(code int, message string) error {
		return &FailedError{Status: StatusFailed, Code: code, Message: message}
	}
	certificate := func(err error) error {
		return unreachable(&tls.CertificateVerificationError{Err: err})
	}
	late := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	rows := []struct {
		what string
		err  error
	}{
		{"400207, webhook said 400", ended(400207, "Custom allocation failed with status code: 400")},
		{"400207, webhook said 428", ended(400207, "Custom allocation failed with status code: 428")},
		{"400207, no status named", ended(400207, "CustomAllocationFailed")},
		{"400207, webhook said 429", ended(400207, "Custom allocation failed with status code: 429")},
		{"400207, webhook said 500", ended(400207, "Custom allocation failed with status code: 500")},
		{"400208", ended(400208, "CustomAllocationIotHubNotSpecified")},
		{"400209", ended(400209, "CustomAllocationUnauthorizedAccess")},
		{"failed with another code", ended(401002, "Unauthorized")},
		{"failed without a code", ended(0, "An error occurred while sending the request.")},
		{"disabled", &FailedError{Status: StatusDisabled}},
		{"400004", refused(400, 400004)},
		{"401000", refused(401, 401000)},
		{"401002", refused(401, 401002)},
		{"404201", refused(404, 404201)},
		{"409203", refused(409, 409203)},
		{"409 with another code", refused(409, 409001)},
		{"412", refused(412, 412000)},
		{"429, attempt ended", &ThrottledError{NextAttempt: late, Cause: refused(429, 429001)}},
		{"429 met by a neighbour", &ThrottledError{NextAttempt: late}},
		{"500, ten times", unreachable(refused(500, 500001))},
		{"503 without a body, ten times", unreachable(refused(503, 0))},
		{"assigning for ever", unreachable(ErrAttemptLimit)},
		{"name not found", dial(&net.DNSError{Err: "no such host", Name: testHost, IsNotFound: true})},
		{"name server silent", dial(&net.DNSError{Err: "i/o timeout", Name: testHost, IsTimeout: true})},
		{"refused", dial(os.NewSyscallError("connect", syscall.ECONNREFUSED))},
		{"network unreachable", dial(os.NewSyscallError("connect", syscall.ENETUNREACH))},
		{"host unreachable", dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH))},
		{"reset", unreachable(os.NewSyscallError("read", syscall.ECONNRESET))},
		{"end of the connection", unreachable(fmt.Errorf("reading the answer: %w", io.ErrUnexpectedEOF))},
		{"MQTT connection lost", unreachable(fmt.Errorf("%w: pingresp not received", mqttrpc.ErrLost))},
		{"no answer in time", unreachable(context.DeadlineExceeded)},
		{"dial timed out", dial(os.ErrDeadlineExceeded)},
		{"unknown root", certificate(x509.UnknownAuthorityError{})},
		{"wrong name", certificate(x509.HostnameError{Certificate: new(x509.Certificate), Host: testHost})},
		{"certificate expired", certificate(x509.CertificateInvalidError{Reason: x509.Expired})},
		{"not a CA", certificate(x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign})},
		{"TLS alert", unreachable(&net.OpError{Op: "remote error", Err: errors.New("tls: protocol version not supported")})},
		{"no TLS at all", unreachable(tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"})},
		{"captive portal", unreachable(fmt.Errorf("%w: status 302", ErrNotService))},
		{"bad registration ID", CheckRegistrationID("dev.")},
		{"bad key", func() error { _, err := ParseGroupKey("x"); return err }()},
		{"bad payload", fmt.Errorf("%w: the payload is not a JSON object", ErrRequest)},
		{"cancelled", fmt.Errorf("submitting: %w", context.Canceled)},
		{"client closed", ErrClosed},
		{"anything else", errors.New("a wasp's nest")},
	}
	var table strings.Builder
	unused := make(map[string]bool)
	for kind := range verdicts {
		unused[kind] = true
	}
	owners := map[string]bool{OwnerTechnician: true, OwnerSiteNetwork: true, OwnerPolicy: true, OwnerCloudOperator: true}
	for _, row := range rows {
		d := Verdict(fmt.Errorf("registering %q: %w", testID, row.err))
		delete(unused, d.Kind)
		fmt.Fprintf(&table, "%s\n  kind:    %s\n  code:    %d\n  verdict: %s\n  owner:   %s\n  next:    %s\n\n", row.what, d.Kind, d.Code, d.Verdict, d.Owner, d.Next)
		if !owners[d.Owner] || d.Verdict == "" || d.Next == "" {
			t.Errorf("%s: %+v is not complete", row.what, d)
		}
	}
	golden(t, "verdicts.golden", table.String())
	for kind := range unused {
		t.Errorf("no row shows the kind %q", kind)
	}
	if d := Verdict(nil); d != (Diagnosis{}) {
		t.Errorf("no error is diagnosed as %+v", d)
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
		{"clock far ahead", func(*testing.T, *dps) { time.Sleep(100 * 365 * 24 * time.Hour) }, "tls-clock"},
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
			for _, transport := range []Transport{TransportHTTPS, TransportMQTT} {
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
