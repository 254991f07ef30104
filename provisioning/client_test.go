// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc/mqttrpctest"
)

func TestRegister(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.script = inOrder(assigning("3"), assigning("3"), said{Status: 200, Body: `{"operationId":"` + testOp + `","status":"assigned","registrationState":{
			"symmetricKey":{"enrollmentGroupId":"contoso-custom-allocated-devices"},"registrationId":"` + testID + `",
			"createdDateTimeUtc":"2022-08-03T20:34:41.1780000Z","assignedHub":"` + testHub + `","deviceId":"` + testID + `",
			"status":"assigned","substatus":"initialAssignment","lastUpdatedDateTimeUtc":"2022-08-03T20:34:41.3990000Z",
			"etag":"IjY5","payload":{"property1":"value1"},"somethingNew":[1]}}`})
		r := request()
		r.Payload = json.RawMessage(`{"MyDeviceFirmwareVersion":"12.0.2.5"}`)
		var steps []string
		r.Observe = func(p Progress) error {
			steps = append(steps, fmt.Sprintf("%s %q %q %v %d", p.Step, p.Status, p.OperationID, p.Wait, p.Attempt))
			return nil
		}
		got, err := service.client(t).Register(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		want := Assignment{
			RegistrationID: testID, AssignedHub: testHub, DeviceID: testID,
			Substatus: SubstatusInitialAssignment, Payload: json.RawMessage(`{"property1":"value1"}`),
			EnrollmentGroupID:      "contoso-custom-allocated-devices",
			CreatedDateTimeUTC:     time.Date(2022, 8, 3, 20, 34, 41, 178e6, time.UTC),
			LastUpdatedDateTimeUTC: time.Date(2022, 8, 3, 20, 34, 41, 399e6, time.UTC),
			ETag:                   "IjY5", OperationID: testOp,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("assignment (-want +got):\n%s", diff)
		}
		wantSteps := []string{
			`submitting "" "" 0s 0`,
			`assigning "assigning" "` + testOp + `" 3s 0`,
			`assigning "assigning" "` + testOp + `" 3s 0`,
		}
		if service.cfg.Transport != TransportHTTPS {
			wantSteps = append([]string{`connected "" "" 0s 0`}, wantSteps...)
		}
		if diff := cmp.Diff(wantSteps, steps); diff != "" {
			t.Errorf("steps (-want +got):\n%s", diff)
		}
	})
}

func TestRegisterAssignedAtOnce(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		got, err := service.client(t).Register(t.Context(), request())
		if err != nil || got.AssignedHub != testHub || got.DeviceID != "device-1" {
			t.Errorf("got %+v, %v", got, err)
		}
		if story := service.story(); story != "register 0s" {
			t.Errorf("got %s, want no poll", story)
		}
	})
}

func TestRegisterResumesAnOperation(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.script = inOrder(assigning("3"), assigned(testOp))
		r := request()
		r.OperationID = testOp
		if _, err := service.client(t).Register(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if got, want := service.story(), "poll 0s, poll 3s"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// TestRegisterEndings checks which error each ending is.
func TestRegisterEndings(t *testing.T) {
	tests := []struct {
		name   string
		script []said
		want   string // type and text
	}{
		{
			"failed",
			[]said{assigning("3"), failed(400207, "Custom allocation failed with status code: 400")},
			`*provisioning.FailedError: the provisioning service ended the registration as failed (code 400207): Custom allocation failed with status code: 400`,
		},
		{
			"failed at once",
			[]said{failed(400208, "CustomAllocationIotHubNotSpecified")},
			`*provisioning.FailedError: the provisioning service ended the registration as failed (code 400208): CustomAllocationIotHubNotSpecified`,
		},
		{
			"disabled",
			[]said{assigning("3"), {Status: 200, Body: `{"operationId":"x","status":"disabled"}`}},
			`*provisioning.FailedError: the enrollment is disabled`,
		},
		{
			"unauthorized",
			[]said{refusal(401, 401002, "")},
			`*provisioning.ServiceError: submitting: the provisioning service answered 401 (code 401002): No. [tracking ID 00000000-0000-4000-8000-000000000000]; the key was not accepted, and the clock is right`,
		},
		{
			"unauthorized on a poll",
			[]said{assigning("3"), refusal(401, 401002, "")},
			`*provisioning.ServiceError: polling operation: the provisioning service answered 401 (code 401002): No. [tracking ID 00000000-0000-4000-8000-000000000000]; the key was not accepted, and the clock is right`,
		},
		{
			"no enrollment",
			[]said{refusal(404, 404201, "")},
			`*provisioning.ServiceError: submitting: the provisioning service answered 404 (code 404201): No. [tracking ID 00000000-0000-4000-8000-000000000000]`,
		},
		{
			"not JSON",
			[]said{{Status: 200, Body: "<html>Welcome to the guest network</html>"}},
			`*provisioning.UnreachableError: submitting: the answer is not the provisioning service's: it is not a JSON object`,
		},
		{
			"no operation ID",
			[]said{{Status: 202, Body: `{"status":"assigning"}`}},
			`*provisioning.UnreachableError: submitting: the answer is not the provisioning service's: it names no operation`,
		},
		{
			"no hub",
			[]said{{Status: 200, Body: `{"operationId":"x","status":"assigned","registrationState":{"deviceId":"d"}}`}},
			`*provisioning.UnreachableError: submitting: the answer is not the provisioning service's: it says assigned and names no hub`,
		},
		{
			"somebody else's",
			[]said{{Status: 200, Body: `{"operationId":"x","status":"assigned","registrationState":{"registrationId":"other","assignedHub":"h","deviceId":"d"}}`}},
			`*provisioning.UnreachableError: submitting: the answer is not the provisioning service's: it is about another registration ID`,
		},
		{
			"longer than 64 KiB",
			[]said{{Status: 200, Body: `{"status":"assigned","x":"` + strings.Repeat("a", maxBody) + `"}`}},
			`*provisioning.UnreachableError: submitting: the answer is not the provisioning service's: it is longer than 65536 bytes`,
		},
		{
			"connection dropped after the request",
			[]said{{}},
			`*provisioning.UnreachableError: submitting: `,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, service *dps) {
				service.script = inOrder(test.script...)
				_, err := service.client(t).Register(t.Context(), request())
				if err == nil {
					t.Fatal("no error")
				}
				text, found := strings.CutPrefix(err.Error(), `registering "`+testID+`": `)
				if !found {
					t.Errorf("the error does not name the device: %v", err)
				}
				if strings.Contains(text, "https://") || strings.Contains(text, "api-version") {
					t.Errorf("the error holds a URL: %v", err)
				}
				got := kindName(err) + ": " + text
				if got != test.want && !(strings.HasSuffix(test.want, ": ") && strings.HasPrefix(got, test.want)) {
					t.Errorf("\n got %s\nwant %s", got, test.want)
				}
			})
		})
	}
}

// kindName names the first of the documented types that err wraps.
func kindName(err error) string {
	var throttled *ThrottledError
	var unreachable *UnreachableError
	var failed *FailedError
	var refused *ServiceError
	switch {
	case errors.As(err, &throttled):
		return "*provisioning.ThrottledError"
	case errors.As(err, &unreachable):
		return "*provisioning.UnreachableError"
	case errors.As(err, &failed):
		return "*provisioning.FailedError"
	case errors.As(err, &refused):
		return "*provisioning.ServiceError"
	}
	return "other"
}

func TestRegisterChecksItsRequest(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Request)
		want   error
	}{
		{"registration ID", func(r *Request) { r.RegistrationID = "dev." }, ErrRegistrationID},
		{"no key", func(r *Request) { r.Keys = nil }, ErrKey},
		{"empty key", func(r *Request) { r.Keys = []DeviceKey{{}} }, ErrKey},
		{"payload is no JSON", func(r *Request) { r.Payload = json.RawMessage(`{`) }, ErrRequest},
		{"payload is no object", func(r *Request) { r.Payload = json.RawMessage(`[1]`) }, ErrRequest},
		{"payload too long", func(r *Request) { r.Payload = json.RawMessage(`{"a":"` + strings.Repeat("x", maxPayload) + `"}`) }, ErrRequest},
		{"operation ID damaged", func(r *Request) { r.OperationID = "a/b" }, ErrRequest},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, service *dps) {
				r := request()
				test.change(&r)
				_, err := service.client(t).Register(t.Context(), r)
				if !errors.Is(err, test.want) {
					t.Errorf("got %v, want %v", err, test.want)
				}
				if n := len(service.requests()); n != 0 {
					t.Errorf("%d requests were sent", n)
				}
			})
		})
	}
}

func TestRegisterNullPayloadIsNone(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		r := request()
		r.Payload = json.RawMessage(" null ")
		if _, err := service.client(t).Register(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if got, want := service.requests()[0].Body, `{"registrationId":"`+testID+`"}`; got != want {
			t.Errorf("sent %s, want %s", got, want)
		}
	})
}

// TestInterruptedLooksFirst: after a lost PUT the assignment is looked up where the transport can.
func TestInterruptedLooksFirst(t *testing.T) {
	state := `{"registrationId":"` + testID + `","status":"%s","assignedHub":"` + testHub + `","deviceId":"device-1"}`
	tests := []struct {
		name   string
		lookup []said
		https  string
	}{
		{"assigned", []said{{Status: 200, Body: fmt.Sprintf(state, "assigned")}}, "lookup 0s"},
		{"assigning, then assigned", []said{{Status: 200, RetryAfter: "7", Body: fmt.Sprintf(state, "assigning")}, {Status: 200, Body: fmt.Sprintf(state, "assigning")}, {Status: 200, Body: fmt.Sprintf(state, "assigned")}}, "lookup 0s, lookup 7s, lookup 17s"},
		{"failed", []said{{Status: 200, Body: fmt.Sprintf(state, "failed")}}, "lookup 0s, register 0s"},
		{"unassigned", []said{{Status: 200, Body: fmt.Sprintf(state, "unassigned")}}, "lookup 0s, register 0s"},
		{"never registered", []said{refusal(404, 404201, "")}, "lookup 0s, register 0s"},
		{"throttled, then assigned", []said{refusal(429, 429001, ""), {Status: 200, Body: fmt.Sprintf(state, "assigned")}}, "lookup 0s, lookup 1s"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, service *dps) {
				service.script = func(n int, q asked) said {
					if q.Do == "lookup" {
						return test.lookup[min(n, len(test.lookup)-1)]
					}
					return assigned(testOp)
				}
				r := request()
				r.Interrupted = true
				got, err := service.client(t).Register(t.Context(), r)
				if err != nil || got.DeviceID != "device-1" || got.AssignedHub != testHub {
					t.Fatalf("got %+v, %v", got, err)
				}
				want := test.https
				if service.cfg.Transport != TransportHTTPS {
					want = "register 0s"
				}
				story := strings.ReplaceAll(service.story(), "1.", "1s") // the first retry has up to a tenth of jitter
				if story != want && !strings.HasPrefix(story, want) {
					t.Errorf("got %s, want %s", service.story(), want)
				}
			})
		})
	}
}

// TestRunningRegistration: 409203 means wait and ask again.
func TestRunningRegistration(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		registers := 0
		service.script = func(_ int, q asked) said {
			switch {
			case q.Do == "lookup":
				return said{Status: 200, Body: `{"status":"assigned","assignedHub":"` + testHub + `","deviceId":"device-1"}`}
			case registers < 2:
				registers++
				return refusal(409, 409203, "5")
			}
			return assigned(testOp)
		}
		var retries int
		r := request()
		r.Observe = func(p Progress) error {
			if p.Step == StepRetrying {
				retries++
			}
			return nil
		}
		got, err := service.client(t).Register(t.Context(), r)
		if err != nil || got.DeviceID != "device-1" {
			t.Fatalf("got %+v, %v", got, err)
		}
		var kinds []string
		for _, q := range service.requests() {
			kinds = append(kinds, q.Do)
		}
		want, wantRetries := "[register lookup]", 1
		if service.cfg.Transport != TransportHTTPS {
			want, wantRetries = "[register register register]", 2
		}
		if fmt.Sprint(kinds) != want || retries != wantRetries {
			t.Errorf("got %v and %d retries, want %s and %d", kinds, retries, want, wantRetries)
		}
		if at := service.requests()[1].At; at < 5*time.Second || at > 5500*time.Millisecond {
			t.Errorf("asked again after %v, want 5 s and up to a tenth more", at)
		}
	})
}

func TestRunningRegistrationForEver(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.script = func(_ int, q asked) said {
			if q.Do == "lookup" {
				return refusal(404, 404201, "")
			}
			return refusal(409, 409203, "")
		}
		_, err := service.client(t).Register(t.Context(), request())
		if kindName(err) != "*provisioning.ServiceError" || running(err) == nil {
			t.Errorf("got %v, want the service's 409203", err)
		}
		if n := strings.Count(service.story(), "register"); n != 10 {
			t.Errorf("%d registers, want 10", n)
		}
	})
}

// TestObserveEndsTheAttempt: what cannot be recorded is not acted on.
func TestObserveEndsTheAttempt(t *testing.T) {
	tests := []struct {
		step Step
		sent string // how the story begins that is allowed
	}{
		{StepConnected, ""},
		{StepSubmitting, ""},
		{StepAssigning, "register 0s"},
	}
	for _, test := range tests {
		t.Run(string(test.step), func(t *testing.T) {
			eachTransport(t, func(t *testing.T, service *dps) {
				if test.step == StepConnected && service.cfg.Transport == TransportHTTPS {
					t.Skip("HTTPS has no such step")
				}
				service.script = inOrder(assigning("3"), assigned(testOp))
				diskFull := errors.New("disk full")
				r := request()
				r.Observe = func(p Progress) error {
					if p.Step == test.step {
						return diskFull
					}
					return nil
				}
				_, err := service.client(t).Register(t.Context(), r)
				if !errors.Is(err, diskFull) || kindName(err) != "other" {
					t.Errorf("got %v, want the error of Observe", err)
				}
				if got := service.story(); got != test.sent {
					t.Errorf("sent %q, want %q", got, test.sent)
				}
			})
		})
	}
}

// TestCloseWaitsForRegistrations: when it returns, nothing of the client is at work.
func TestCloseWaitsForRegistrations(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.script = inOrder(assigning("200"))
		client := service.client(t)
		recording := false
		r := request()
		r.Observe = func(p Progress) error {
			if p.Step == StepAssigning {
				recording = true
				time.Sleep(time.Minute) // a very slow disk
				recording = false
			}
			return nil
		}
		var group sync.WaitGroup
		group.Go(func() { _, _ = client.Register(t.Context(), r) })
		time.Sleep(time.Second)
		client.Close()
		if recording {
			t.Error("the client was closed while a registration was at work")
		}
		group.Wait()
	})
}

func TestAClosedClientRefuses(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		client := service.client(t)
		client.Close()
		if _, err := client.Register(t.Context(), request()); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	})
}

// TestTwoHundredAtOnce registers 200 devices in one client, each with two polls.
func TestTwoHundredAtOnce(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		const devices = 200
		service.script = func(n int, q asked) said {
			time.Sleep(10 * time.Millisecond) // so that all are under way at once
			if n < 2 {
				return assigning("1")
			}
			return said{Status: 200, Body: `{"status":"assigned","registrationState":{"registrationId":"` + q.RegistrationID +
				`","assignedHub":"` + testHub + `","deviceId":"` + q.RegistrationID + `"}}`}
		}
		client := service.client(t)
		var group sync.WaitGroup
		for i := range devices {
			group.Go(func() {
				r := request()
				r.RegistrationID = fmt.Sprintf("device-%d", i)
				got, err := client.Register(t.Context(), r)
				if err != nil || got.DeviceID != r.RegistrationID || got.OperationID != testOp {
					t.Errorf("%s: %+v, %v", r.RegistrationID, got, err)
				}
			})
		}
		group.Wait()
		if n := len(service.requests()); n != 3*devices {
			t.Errorf("%d requests, want %d", n, 3*devices)
		}
		dials := service.network.Dials(testHost + ":443")
		if service.cfg.Transport == TransportHTTPS && (dials == 0 || dials > maxConnections) {
			t.Errorf("%d connections for all, want at most %d", dials, maxConnections)
		}
		synctest.Wait()
		if left := service.mqtt.Clients(); left != 0 {
			t.Errorf("%d MQTT connections are left", left)
		}
	})
}

// TestLogsHoldNoSecretsAndNoQuery runs a registration with everything going wrong and reads its log.
func TestLogsHoldNoSecretsAndNoQuery(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		var log bytes.Buffer
		service.cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		nasty := said{Status: 503, Body: `{"errorCode":500001,"message":"line one\nline two\u0007\u001b[31m","trackingId":"x\ny"}`}
		service.script = inOrder(refusal(429, 429001, "2"), nasty, assigning("3"), nasty, refusal(429, 429001, "400"))
		r := request()
		r.Payload = json.RawMessage(`{"secret":"in the payload"}`)
		_, err := service.client(t).Register(t.Context(), r)
		if err == nil {
			t.Fatal("no error")
		}
		text := log.String() + err.Error()
		for _, bad := range []string{"SharedAccessSignature", "sig=", "in the payload", "api-version", "\x1b", "\x07", `\x1b`, "one\nline", testKey().Reveal()} {
			if strings.Contains(text, bad) {
				t.Errorf("the log or the error holds %q:\n%s", bad, text)
			}
		}
		for _, want := range []string{"registration_id=" + testID, "operation_id=" + testOp, "attempt=1", "retry_in=", "err.http_status=503", "err.message=\"line one line two [31m\""} {
			if !strings.Contains(text, want) {
				t.Errorf("the log lacks %s:\n%s", want, text)
			}
		}
	})
}

func TestNewRefusesABadConfiguration(t *testing.T) {
	good := Config{Endpoint: "dps.test:8443", IDScope: testScope, Transport: TransportHTTPS}
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"nothing", func(*Config) {}, ""},
		{"an address", func(c *Config) { c.Endpoint = "127.0.0.1:8443" }, ""},
		{"an IPv6 address", func(c *Config) { c.Endpoint = "[::1]:8443" }, ""},
		{"an IPv6 address without a port", func(c *Config) { c.Endpoint = "::1" }, ""},
		{"an IPv6 address in brackets", func(c *Config) { c.Endpoint = "[::1]" }, ""},
		{"half a bracket", func(c *Config) { c.Endpoint = "[::1" }, `endpoint "[::1"`},
		{"no endpoint", func(c *Config) { c.Endpoint = "" }, `endpoint ""`},
		{"a URL", func(c *Config) { c.Endpoint = "https://dps.test" }, `endpoint "https://dps.test" is neither`},
		{"no ID scope", func(c *Config) { c.IDScope = "" }, "ID scope"},
		{"ID scope with a slash", func(c *Config) { c.IDScope = "0ne/x" }, "ID scope"},
		{"no transport", func(c *Config) { c.Transport = "" }, `transport ""`},
		{"amqp", func(c *Config) { c.Transport = "amqp" }, `transport "amqp" is unknown; use auto, https, mqtt-ws or mqtt`},
		{"negative budget", func(c *Config) { c.PollsPerSecond = -1 }, "-1 polls per second"},
		{"negative fleet", func(c *Config) { c.Fleet = -1 }, "below zero"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg := good
			test.change(&cfg)
			client, err := New(cfg)
			if client != nil {
				client.Close()
			}
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestIPv6Endpoints: each spelling leads to the address, over each transport by its own port.
func TestIPv6Endpoints(t *testing.T) {
	tests := []struct {
		endpoint  string
		transport Transport
		want      string
	}{
		{"::1", TransportHTTPS, "[::1]:443"},
		{"::1", TransportMQTTWS, "[::1]:443"},
		{"::1", TransportMQTT, "[::1]:8883"},
		{"[::1]", TransportHTTPS, "[::1]:443"},
		{"[::1]", TransportMQTT, "[::1]:8883"},
		{"[::1]:8443", TransportHTTPS, "[::1]:8443"},
	}
	for _, test := range tests {
		t.Run(test.endpoint+" "+string(test.transport), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				service := newDPS(t, test.transport)
				service.cfg.Endpoint = test.endpoint
				_, err := service.client(t).Register(t.Context(), request())
				if got := Verdict(err).Kind; got != "connection-refused" || service.network.Dials(test.want) == 0 {
					t.Errorf("%s was dialled %d times and the end was %s (%v)", test.want, service.network.Dials(test.want), got, err)
				}
			})
		})
	}
}

// TestMQTTSomebodyElseAnswers: what does not speak MQTT is not the service, and no hiccup either.
func TestMQTTSomebodyElseAnswers(t *testing.T) {
	for _, transport := range []Transport{TransportMQTT, TransportMQTTWS} {
		t.Run(string(transport), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				service := newDPS(t, transport)
				asked := 0
				service.mqtt.Connect = func(c *mqttrpctest.Client) int {
					asked++
					c.Raw([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"))
					return -1
				}
				_, err := service.client(t).Register(t.Context(), request())
				if got := kindName(err) + " " + Verdict(err).Kind; got != "*provisioning.UnreachableError not-dps" {
					t.Errorf("got %s (%v)", got, err)
				}
				if asked != 1 {
					t.Errorf("asked %d times, want 1", asked)
				}
			})
		})
	}
}

// TestRule12APutOverAStaleConnection: the server closed an idle connection; nothing of the PUT reached it, so it may
// be sent again, and is.
func TestRule12APutOverAStaleConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := newDPS(t, TransportHTTPS)
		closing := assigned(testOp)
		closing.Header = http.Header{"Connection": {"close"}}
		service.script = inOrder(assigned(testOp), closing, assigned(testOp))
		client := service.client(t)
		for i := range 3 {
			if _, err := client.Register(t.Context(), request()); err != nil {
				t.Fatalf("registration %d: %v", i, err)
			}
		}
	})
}

// TestMQTTRefusedConnections: what a CONNACK says obeys the same rules as an answer.
func TestMQTTRefusedConnections(t *testing.T) {
	tests := []struct {
		code int
		want string
	}{
		{1, "*provisioning.ServiceError request-refused"},
		{3, "*provisioning.UnreachableError service-trouble"},
		{4, "*provisioning.ServiceError unauthorized-clock-unknown"},
		{5, "*provisioning.ServiceError unauthorized-clock-unknown"},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				service := newDPS(t, TransportMQTT)
				service.mqtt.Connect = refuseWith(test.code)
				_, err := service.client(t).Register(t.Context(), request())
				if got := kindName(err) + " " + Verdict(err).Kind; got != test.want {
					t.Errorf("got %s, want %s (%v)", got, test.want, err)
				}
				dials := service.network.Dials(testHost + ":8883")
				if want := map[bool]int{true: maxFailures, false: 1}[test.code == 3]; dials != want {
					t.Errorf("%d connections, want %d", dials, want)
				}
			})
		})
	}
}

// TestUnsent: only an attempt that sent no register leaves nothing to be looked for.
func TestUnsent(t *testing.T) {
	tests := []struct {
		name   string
		change func(d *dps)
		unsent bool
	}{
		{"no connection", func(d *dps) {
			d.cfg.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route to host") }
		}, true},
		{"no answer", func(d *dps) { d.script = inOrder(said{}) }, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, service *dps) {
				test.change(service)
				_, err := service.client(t).Register(t.Context(), request())
				var unreachable *UnreachableError
				if !errors.As(err, &unreachable) || unreachable.Unsent != test.unsent {
					t.Errorf("got %v, want an UnreachableError, unsent: %v", err, test.unsent)
				}
			})
		})
	}
}

// TestHeadersAreBounded: what comes before a body counts as little as the body itself.
func TestHeadersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := newDPS(t, TransportHTTPS)
		asked := 0
		answerAt(t, service, testHost+":443", func(w http.ResponseWriter, _ *http.Request) {
			asked++
			w.Header().Set("X-Long", strings.Repeat("x", 1<<20))
			w.WriteHeader(http.StatusTooManyRequests)
		})
		_, err := service.client(t).Register(t.Context(), request())
		if !errors.As(err, new(*UnreachableError)) || asked != 1 {
			t.Errorf("got %v after %d requests, want an UnreachableError after one", err, asked)
		}
	})
}
