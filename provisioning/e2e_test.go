// SPDX-License-Identifier: Apache-2.0

package provisioning_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/provisioning/hub"
)

// The tests in this file run the client against the local service, which shares no code with it, over loopback.

const (
	toaster   = "breakroom499-contoso-tstrsd-007"
	toasters  = "contoso-toasters-hub-1098.azure-devices.net"
	heatPumps = "contoso-heatpumps-hub-1098.azure-devices.net"
	group     = "contoso-custom-allocated-devices"
	nowhere   = "dps.invalid" // on the service's certificate, and known to no name server
	anyHost   = "example.com" // on the service's certificate, and on those of net/http/httptest
)

// site is a running local service.
type site struct {
	server *dpslocal.Server
	roots  *x509.CertPool
	key    provisioning.GroupKey
}

// webhook answers every allocation request with what it returns.
type webhook func(body []byte) (status int, answer string)

// RoundTrip implements [http.RoundTripper].
func (w webhook) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	status, answer := w(body)
	return &http.Response{
		StatusCode: status, Request: r, Header: make(http.Header),
		Body: io.NopCloser(bytes.NewReader([]byte(answer))),
	}, nil
}

// allocateToasters is the tutorial's answer to its toaster.
func allocateToasters([]byte) (int, string) {
	return http.StatusOK, `{"iotHubHostName":"` + toasters + `","initialTwin":{"properties":{"desired":{"state":"ready","darknessSetting":"medium"}},` +
		`"tags":{"deviceType":"toaster"}},"payload":{"property1":"value1"}}`
}

func newSite(t *testing.T, hook webhook, fault func(dpslocal.FaultPoint) dpslocal.Fault) *site {
	t.Helper()
	return newSiteWith(t, dpslocal.Options{WebhookTransport: hook, Fault: fault})
}

// newSiteWith starts a site of other options; their Dir is its own.
func newSiteWith(t *testing.T, options dpslocal.Options) *site {
	t.Helper()
	options.Dir = filepath.Join(t.TempDir(), "dps")
	server, err := dpslocal.New(dpslocal.Config{
		IDScope:  "0ne00002193",
		Hubs:     []dpslocal.Hub{{Name: toasters}, {Name: heatPumps}},
		TLSNames: []string{nowhere, anyHost},
		EnrollmentGroups: []dpslocal.EnrollmentGroup{{
			ID:               group,
			AllocationPolicy: dpslocal.Custom,
			WebhookURL:       "https://policy.example/api/HttpTrigger1?code=SECRET",
		}},
	}, options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := server.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
	})

	s := &site{server: server, roots: x509.NewCertPool()}
	if !s.roots.AppendCertsFromPEM(server.CAPEM()) {
		t.Fatal("the local service's CA is no PEM")
	}
	primary, _, err := server.GroupKeys(group)
	if err != nil {
		t.Fatal(err)
	}
	if s.key, err = provisioning.ParseGroupKey(primary); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) client(t *testing.T, transport provisioning.Transport) *provisioning.Client {
	t.Helper()
	return s.clientWith(t, transport, func(*provisioning.Config) {})
}

// clientWith makes a client with a configuration that change has the last word on.
func (s *site) clientWith(t *testing.T, transport provisioning.Transport, change func(*provisioning.Config)) *provisioning.Client {
	t.Helper()
	endpoint := s.server.HTTPSAddr()
	if transport == provisioning.TransportMQTT { // WebSocket shares the port of HTTPS
		endpoint = s.server.MQTTAddr()
	}
	cfg := provisioning.Config{
		Endpoint: endpoint, IDScope: s.server.IDScope(), Transport: transport, RootCAs: s.roots,
		RegistersPerMinute: 1e6, PollsPerSecond: 1e6,
	}
	change(&cfg)
	client, err := provisioning.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func (s *site) request(id string) provisioning.Request {
	return provisioning.Request{RegistrationID: id, Keys: []provisioning.DeviceKey{s.key.Derive(id)}}
}

// session opens one over WebSocket after a registration that came that way, and over MQTT after the others.
func (s *site) session(t *testing.T, transport provisioning.Transport, assignment provisioning.Assignment, key provisioning.DeviceKey) (*hub.Session, error) {
	t.Helper()
	webSocket, address := false, s.server.MQTTAddr()
	if transport == provisioning.TransportMQTTWS {
		webSocket, address = true, s.server.HTTPSAddr()
	}
	session, err := hub.Connect(t.Context(), hub.Config{
		Host: assignment.AssignedHub, Address: address, WebSocket: webSocket, DeviceID: assignment.DeviceID, RootCAs: s.roots,
		Token: func(now time.Time) (string, error) {
			return key.SASToken(provisioning.HubResource(assignment.AssignedHub, assignment.DeviceID), "", now.Add(time.Hour)).Reveal(), nil
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		t.Cleanup(session.Close)
	}
	return session, err
}

// eachTransport runs a test over each transport.
func eachTransport(t *testing.T, test func(t *testing.T, transport provisioning.Transport)) {
	t.Helper()
	for _, transport := range []provisioning.Transport{provisioning.TransportHTTPS, provisioning.TransportMQTTWS, provisioning.TransportMQTT} {
		t.Run(string(transport), func(t *testing.T) { test(t, transport) })
	}
}

// TestEndToEnd goes from a group key to a twin that was read, changed and reported.
func TestEndToEnd(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport provisioning.Transport) {
		var sent atomic.Value
		site := newSite(t, func(body []byte) (int, string) {
			sent.Store(string(body))
			return allocateToasters(body)
		}, nil)
		r := site.request(toaster)
		r.Payload = json.RawMessage(`{"MyDeviceFirmwareVersion":"12.0.2.5"}`)
		got, err := site.client(t, transport).Register(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if got.AssignedHub != toasters || got.DeviceID != toaster || got.Substatus != provisioning.SubstatusInitialAssignment ||
			string(got.Payload) != `{"property1":"value1"}` || got.EnrollmentGroupID != group || got.LastUpdatedDateTimeUTC.IsZero() || got.ETag == "" {
			t.Errorf("assignment %+v", got)
		}
		var asked struct {
			DeviceRuntimeContext struct{ Payload json.RawMessage }
		}
		if err := json.Unmarshal([]byte(sent.Load().(string)), &asked); err != nil || string(asked.DeviceRuntimeContext.Payload) != string(r.Payload) {
			t.Errorf("the webhook was asked with %s, %v", sent.Load(), err)
		}

		session, err := site.session(t, transport, got, r.Keys[0])
		if err != nil {
			t.Fatal(err)
		}
		twin, err := session.Twin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]json.RawMessage{"state": json.RawMessage(`"ready"`), "darknessSetting": json.RawMessage(`"medium"`)}
		if diff := cmp.Diff(want, twin.Desired.Values); diff != "" {
			t.Errorf("desired (-want +got):\n%s", diff)
		}
		version, err := session.Report(t.Context(), twin.Desired.Values)
		if err != nil || version != twin.Reported.Version+1 {
			t.Errorf("reported version %d, %v, want %d", version, err, twin.Reported.Version+1)
		}
		if err := site.server.SetDesired(toasters, toaster, map[string]json.RawMessage{"darknessSetting": json.RawMessage(`"dark"`)}); err != nil {
			t.Fatal(err)
		}
		change := <-session.Desired()
		if change.Version != twin.Desired.Version+1 || string(change.Values["darknessSetting"]) != `"dark"` {
			t.Errorf("pushed %+v", change)
		}
		if err := site.server.DeleteDevice(toasters, toaster); err != nil {
			t.Fatal(err)
		}
		<-session.Done()
		_, err = site.session(t, transport, got, r.Keys[0])
		var refused *hub.RefusedError
		if !errors.As(err, &refused) {
			t.Errorf("after the device was deleted: %v, want a RefusedError", err)
		}
	})
}

// TestEndToEndRefusals checks the endings that the service decides.
func TestEndToEndRefusals(t *testing.T) {
	tests := []struct {
		name   string
		hook   webhook
		change func(s *site, r *provisioning.Request)
		kind   string
		code   int
	}{
		{"policy refuses", func([]byte) (int, string) { return 400, "Unrecognized device registration." }, nil, "custom-allocation-failed", 400207},
		{"policy names no hub", func([]byte) (int, string) { return 200, `{"iotHubHostName":""}` }, nil, "custom-allocation-no-hub", 400208},
		{"policy wants another key", func([]byte) (int, string) { return 401, "" }, nil, "custom-allocation-unauthorized", 400209},
		{"wrong device key", allocateToasters, func(s *site, r *provisioning.Request) {
			r.Keys = []provisioning.DeviceKey{s.key.Derive("another")}
		}, "unauthorized", 401002},
		{"disabled", allocateToasters, func(s *site, _ *provisioning.Request) {
			err := s.server.SetGroup(dpslocal.EnrollmentGroup{
				ID: group, AllocationPolicy: dpslocal.Hashed, ProvisioningStatus: dpslocal.Disabled,
			})
			if err != nil {
				panic(err)
			}
		}, "disabled", 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, transport provisioning.Transport) {
				site := newSite(t, test.hook, nil)
				r := site.request(toaster)
				if test.change != nil {
					test.change(site, &r)
				}
				_, err := site.client(t, transport).Register(t.Context(), r)
				if got := provisioning.Verdict(err); got.Kind != test.kind || got.Code != test.code {
					t.Errorf("got %s %d, want %s %d (%v)", got.Kind, got.Code, test.kind, test.code, err)
				}
			})
		})
	}
}

// TestEndToEndLostAnswer loses the answer to a register that the service has accepted. The next attempt finds the
// assignment over HTTPS, and registers again over MQTT.
func TestEndToEndLostAnswer(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport provisioning.Transport) {
		var registers atomic.Int32
		site := newSite(t, allocateToasters, func(p dpslocal.FaultPoint) dpslocal.Fault {
			return dpslocal.Fault{Drop: p.Call == dpslocal.RegisterCall && registers.Add(1) == 1}
		})
		client := site.client(t, transport)
		r := site.request(toaster)
		_, err := client.Register(t.Context(), r)
		var unreachable *provisioning.UnreachableError
		if !errors.As(err, &unreachable) {
			t.Fatalf("got %v, want an UnreachableError", err)
		}
		r.Interrupted = true
		got, err := client.Register(t.Context(), r)
		if err != nil || got.AssignedHub != toasters {
			t.Fatalf("got %+v, %v", got, err)
		}
		want := map[provisioning.Transport]int{provisioning.TransportHTTPS: 1, provisioning.TransportMQTTWS: 2, provisioning.TransportMQTT: 2}[transport]
		if n := int(registers.Load()); n > want {
			t.Errorf("%d registers, want at most %d", n, want)
		}
	})
}

// TestEndToEndThrottled has the service throttle once, on the register and on a poll.
func TestEndToEndThrottled(t *testing.T) {
	t.Parallel() // it waits for the hints in real time
	eachTransport(t, func(t *testing.T, transport provisioning.Transport) {
		var calls sync.Map
		site := newSite(t, allocateToasters, func(p dpslocal.FaultPoint) dpslocal.Fault {
			if _, again := calls.LoadOrStore(p.Call, true); again {
				return dpslocal.Fault{}
			}
			return dpslocal.Fault{Status: http.StatusTooManyRequests, RetryAfter: "1"}
		})
		var throttled int
		r := site.request(toaster)
		r.Observe = func(p provisioning.Progress) error {
			if p.Step == provisioning.StepThrottled {
				throttled++
			}
			return nil
		}
		if _, err := site.client(t, transport).Register(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if throttled != 2 {
			t.Errorf("throttled %d times, want 2", throttled)
		}
	})
}

// TestEndToEndTwoHundred registers 200 devices over loopback, twenty at once, and twenty of them visit their hub.
func TestEndToEndTwoHundred(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport provisioning.Transport) {
		site := newSite(t, allocateToasters, nil)
		client := site.client(t, transport)
		var devices sync.WaitGroup
		turns := make(chan struct{}, 20) // 200 handshakes at once take longer on a busy machine than the service waits for one
		for i := range 200 {
			devices.Go(func() {
				turns <- struct{}{}
				defer func() { <-turns }()
				r := site.request(fmt.Sprintf("unit%d-contoso-tstrsd-007", i))
				got, err := client.Register(t.Context(), r)
				if err != nil || got.DeviceID != r.RegistrationID {
					t.Errorf("%s: %+v, %v", r.RegistrationID, got, err)
					return
				}
				if i%10 != 0 {
					return
				}
				session, err := site.session(t, transport, got, r.Keys[0])
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := session.Twin(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		devices.Wait()
	})
}
