// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/allocation/policy"
	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/provisioning/dpslocal/dpslocaltest"
)

// troublesKey is the webhook's, in the enrollment's URL.
const troublesKey = "troubleshooting-key"

// answers says what the webhook does at call n, from 1, so long after the first.
// ours is what gatewayd's webhook answers.
type answers func(n int, after time.Duration, ours func() *http.Response) (*http.Response, error)

// webhookLine is the way from the service to the webhook.
type webhookLine struct {
	handler http.Handler
	answers answers

	mu    sync.Mutex
	calls int
	first time.Time
}

// RoundTrip carries one call.
func (l *webhookLine) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls++; l.calls == 1 {
		l.first = time.Now()
	}
	return l.answers(l.calls, time.Since(l.first), func() *http.Response {
		arrived := httptest.NewRequest(r.Method, r.URL.RequestURI(), strings.NewReader(string(body)))
		recorder := httptest.NewRecorder()
		l.handler.ServeHTTP(recorder, arrived)
		return recorder.Result()
	})
}

// ours lets gatewayd's webhook answer.
func ours(_ int, _ time.Duration, ours func() *http.Response) (*http.Response, error) {
	return ours(), nil
}

// foreign is a faulty webhook, for answers that ours never gives.
func foreign(status int, body string) answers {
	return func(int, time.Duration, func() *http.Response) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
	}
}

// downFor is gatewayd killed and started again.
func downFor(outage time.Duration) answers {
	return func(_ int, after time.Duration, ours func() *http.Response) (*http.Response, error) {
		if after < outage {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		}
		return ours(), nil
	}
}

// moody is a policy that is in trouble while its counter lasts.
type moody struct {
	allocation.Policy
	troubles int
}

// Decide is only called by one call at a time.
func (m *moody) Decide(ctx context.Context, q allocation.Question) (allocation.Response, error) {
	if m.troubles > 0 {
		m.troubles--
		return allocation.Response{}, errors.New("the database is away")
	}
	return m.Policy.Decide(ctx, q)
}

// TestTroubleshooting walks down the tutorial's table of what a webhook answers
// and what becomes of the device, by its own words (dps-protocol 12.4): gatewayd's
// webhook answers wherever it can produce the row, and a faulty one elsewhere.
// Over both transports, with the policy built in and with the same as a file.
func TestTroubleshooting(t *testing.T) {
	const (
		kettle = "lobby1-contoso-kettle-001"
		barred = "barred-contoso-tstrsd-007"
		path   = "/api/HttpTrigger1"
		good   = path + "?code=" + troublesKey
	)
	tests := []struct {
		row      string // of the table
		url      string
		id       string
		answers  answers
		troubles int // of the policy, before it decides

		status string
		code   int
		sdk    string // the C SDK's word, without PROV_DEVICE_RESULT_
		calls  int
		waited time.Duration // from the first call to the last
	}{
		{"200 with a linked hub", good, toasterID, ours, 0, "assigned", 0, "OK", 1, 0},
		{"200 with an empty hub", good, toasterID, foreign(200, `{"iotHubHostName":""}`), 0, "failed", 400208, "HUB_NOT_SPECIFIED", 1, 0},
		{"200 with null for a hub", good, toasterID, foreign(200, `{"iotHubHostName":null}`), 0, "failed", 400208, "HUB_NOT_SPECIFIED", 1, 0},
		{"401, a wrong key", path + "?code=another-key-0123456789", toasterID, ours, 0, "failed", 400209, "UNAUTHORIZED", 1, 0},
		{"401, no key", path, toasterID, ours, 0, "failed", 400209, "UNAUTHORIZED", 1, 0},
		{"an individual enrollment disables the device", good, barred, ours, 0, "disabled", 0, "DISABLED", 0, 0},
		{"429 and above for a while", good, toasterID, ours, 3, "assigned", 0, "OK", 4, 30 * time.Second},
		{"429 and above until the last retry", good, toasterID, ours, 10, "assigned", 0, "OK", 11, 415 * time.Second},
		{"429 and above for good", good, toasterID, ours, 11, "failed", 400207, "DEV_AUTH_ERROR", 11, 415 * time.Second},
		{"429 itself", good, toasterID, foreign(429, ""), 0, "failed", 400207, "DEV_AUTH_ERROR", 11, 415 * time.Second},
		{"killed, and back at once", good, toasterID, downFor(time.Second), 0, "assigned", 0, "OK", 2, time.Second},
		{"killed, and back after a minute", good, toasterID, downFor(time.Minute), 0, "assigned", 0, "OK", 6, 95 * time.Second},
		{"killed, and back before the last retry", good, toasterID, downFor(414 * time.Second), 0, "assigned", 0, "OK", 11, 415 * time.Second},
		{"killed, and away for longer than the grace", good, toasterID, downFor(416 * time.Second), 0, "failed", 400207, "DEV_AUTH_ERROR", 11, 415 * time.Second},
		{"another status: 400, a refusal", good, kettle, ours, 0, "failed", 400207, "DEV_AUTH_ERROR", 1, 0},
		{"another status: 404, a wrong path", "/HttpTrigger1?code=" + troublesKey, toasterID, ours, 0, "failed", 400207, "DEV_AUTH_ERROR", 1, 0},
		{"another status: 302", good, toasterID, foreign(302, ""), 0, "failed", 400207, "DEV_AUTH_ERROR", 1, 0},
		{"another status: 428", good, toasterID, foreign(428, ""), 0, "failed", 400207, "DEV_AUTH_ERROR", 1, 0},
	}
	keys, err := allocation.ParseFunctionKeys(troublesKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, with := range []struct {
		name   string
		policy allocation.Policy
	}{{"built in", allocation.Tutorial()}, {"file", policy.Tutorial()}} {
		for _, transport := range []provisioning.Transport{provisioning.TransportHTTPS, provisioning.TransportMQTT} {
			for _, test := range tests {
				t.Run(with.name+"/"+string(transport)+"/"+test.row, func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						way := &webhookLine{answers: test.answers, handler: allocation.NewHandler(allocation.Config{
							Setup:  allocation.Setup{Policy: &moody{with.policy, test.troubles}, FunctionKeys: keys},
							Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
						})}
						service := dpslocaltest.Start(t, dpslocaltest.InMemory, func(cfg *dpslocal.Config, opts *dpslocal.Options) {
							cfg.Hubs = []dpslocal.Hub{{Name: toasterHub}, {Name: heatPumpHub}}
							cfg.EnrollmentGroups[0].AllocationPolicy = dpslocal.Custom
							cfg.EnrollmentGroups[0].WebhookURL = dpslocal.Secret("https://gateway.example" + test.url)
							cfg.Enrollments = []dpslocal.IndividualEnrollment{{RegistrationID: barred, PrimaryKey: barredKey, ProvisioningStatus: dpslocal.Disabled}}
							opts.WebhookTransport = way
						})
						begun := time.Now()
						assignment, err := registerOnce(t, service, transport, test.id)
						took := time.Since(begun)
						failed, isFailed := errors.AsType[*provisioning.FailedError](err)
						status, code, sdk := "assigned", 0, "OK"
						switch {
						case isFailed:
							status, code, sdk = string(failed.Status), failed.Code, strings.TrimPrefix(provisioning.Verdict(err).SDKResult, "PROV_DEVICE_RESULT_")
						case err != nil:
							t.Fatal(err)
						case assignment.AssignedHub != toasterHub:
							t.Errorf("assigned to %s, want %s", assignment.AssignedHub, toasterHub)
						}
						if status != test.status || code != test.code || sdk != test.sdk {
							t.Errorf("got %s %d %s, want %s %d %s", status, code, sdk, test.status, test.code, test.sdk)
						}
						if way.calls != test.calls || took < test.waited || took > test.waited+10*time.Second {
							t.Errorf("%d calls in %s, want %d in %s and the time to the next poll", way.calls, took, test.calls, test.waited)
						}
					})
				})
			}
		}
	}
}

// barredKey is that of the device which an individual enrollment disables.
const barredKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="

// registerOnce registers a device as gatewayd does.
func registerOnce(t *testing.T, service *dpslocaltest.Server, transport provisioning.Transport, id string) (provisioning.Assignment, error) {
	t.Helper()
	client, err := provisioning.New(provisioning.Config{
		Endpoint: dpslocaltest.Endpoint, IDScope: service.IDScope(), Transport: transport,
		RootCAs: service.TLSConfig().RootCAs, Proxy: provisioning.NoProxy,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if transport == provisioning.TransportMQTT {
				return service.DialMQTT(ctx)
			}
			return service.DialHTTPS(ctx)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	text := service.DeviceKey(id)
	if strings.HasPrefix(id, "barred") {
		text = barredKey
	}
	key, err := provisioning.ParseDeviceKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return client.Register(t.Context(), provisioning.Request{RegistrationID: id, Keys: []provisioning.DeviceKey{key}})
}
