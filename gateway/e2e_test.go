// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/contoso/gatewayd/gateway/config"
	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

const (
	toasterHub  = "contoso-toasters-hub-1098.azure-devices.net"
	heatPumpHub = "contoso-heatpumps-hub-1098.azure-devices.net"
	groupID     = "contoso-custom-allocated-devices"
	heatPumpID  = "mainbuilding167-contoso-hpsd-088"
)

// TestMain looks for goroutines that a stopped gateway leaves behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world of one end-to-end test: real lines, a real local DPS, the real gateway.
type endToEnd struct {
	service  *dpslocal.Server
	dir      string
	toaster  *serialbustest.Line
	heatPump *serialbustest.Line
	gateway  *Gateway
	log      *lockedBuffer
}

// lockedBuffer collects a log that several goroutines write.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// startEndToEnd runs everything until the test ends.
func startEndToEnd(t *testing.T, transport string, id string, fault func(dpslocal.FaultPoint) dpslocal.Fault) *endToEnd {
	t.Helper()
	e := &endToEnd{log: &lockedBuffer{}, dir: t.TempDir()}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(e.log.String())
		}
	})
	logger := slog.New(slog.NewTextHandler(e.log, nil))
	webhook, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// By a name that goes with it when it is unplugged: the number of its terminal may soon be another test's.
	if e.toaster, err = serialbustest.NewToasterLine(
		serialbustest.Toaster{RegistrationID: id, Vendor: "Contoso", Model: "TSTRSD-007", Firmware: "12.0.2.5"},
		serialbustest.WithLink(filepath.Join(t.TempDir(), "toaster")),
	); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.toaster.Close() })
	if e.heatPump, err = serialbustest.NewModbusLine([]serialbustest.HeatPump{{Unit: 7, RegistrationID: heatPumpID, Vendor: "Contoso", Model: "HPSD-088", Firmware: "12.0.2.5"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.heatPump.Close() })

	dir := e.dir
	e.service, err = dpslocal.New(dpslocal.Config{
		IDScope: "0ne00ABCDEF", Name: "contoso-provisioning-service-1098",
		Hubs: []dpslocal.Hub{{Name: toasterHub}, {Name: heatPumpHub}},
		EnrollmentGroups: []dpslocal.EnrollmentGroup{{
			ID: groupID, AllocationPolicy: "custom", WebhookURL: dpslocal.Secret("http://" + webhook.Addr().String() + "/api/HttpTrigger1"),
		}},
	}, dpslocal.Options{Dir: dir, HTTPS: "127.0.0.1:0", MQTT: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler), Fault: fault})
	if err != nil {
		t.Fatal(err)
	}
	runUntilCleanup(t, e.service.Run)

	key, _, err := e.service.GroupKeys(groupID)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "group-key"), []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	endpoint, hubs := e.service.HTTPSAddr(), e.service.MQTTAddr()
	switch transport {
	case "mqtt":
		endpoint = e.service.MQTTAddr()
	case "mqtt-ws": // of the hubs too
		hubs = e.service.HTTPSAddr()
	}
	cfg, err := config.Parse("test.toml", fmt.Appendf(nil, `
site = "mainbuilding"
state_dir = %q
[dps]
endpoint = %q
id_scope = "0ne00ABCDEF"
transport = %q
group_key = %q
ca_file = %q
registers_per_minute = 6000
[hub]
resolve = { %q = %q, %q = %q }
[allocation]
[[bus]]
name = "kitchen"
port = %q
driver = "line"
profile = "contoso-tstrsd-007"
record = "kitchen.rec"
[[bus]]
name = "boiler room"
port = %q
driver = "modbus-rtu"
profile = "contoso-hpsd-088"
units = "7"
`, dir, endpoint, transport, filepath.Join(dir, "group-key"), e.service.CAFile(),
		toasterHub, hubs, heatPumpHub, hubs, e.toaster.Link(), e.heatPump.Path()))
	if err != nil {
		t.Fatal(err)
	}
	if e.gateway, err = New(t.Context(), cfg, Options{Logger: logger, Webhook: webhook}); err != nil {
		t.Fatal(err)
	}
	runUntilCleanup(t, e.gateway.Run)
	return e
}

// runUntilCleanup runs a server and stops it in order when the test ends.
func runUntilCleanup(t *testing.T, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// until waits until the appliance satisfies the condition.
func (e *endToEnd) until(t *testing.T, id, what string, condition func(Status) bool) Status {
	t.Helper()
	limit := time.After(3 * time.Minute)
	for {
		changed := e.gateway.Changed()
		for _, a := range e.gateway.Snapshot() {
			if a.RegistrationID == id && condition(a) {
				return a
			}
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("%s never came to: %s; last: %+v", id, what, e.gateway.Snapshot())
		}
	}
}

func is(state State) func(Status) bool { return func(a Status) bool { return a.State == state } }

// TestEndToEnd follows an operator's hand to the appliance over both transports:
// a new desired property, one out of bounds, a device deleted at its hub.
func TestEndToEnd(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"auto", "mqtt-ws", "mqtt"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			e := startEndToEnd(t, transport, toasterID, nil)
			e.until(t, toasterID, "configured", is(StateConfigured))
			e.until(t, heatPumpID, "configured", is(StateConfigured))
			if got := e.heatPump.Settings(7)["temperatureSetting"]; got != "65" {
				t.Errorf("the heat pump is set to %q, want 65", got)
			}

			if err := e.service.SetDesired(toasterHub, toasterID, map[string]json.RawMessage{"darknessSetting": json.RawMessage(`"dark"`)}); err != nil {
				t.Fatal(err)
			}
			e.until(t, toasterID, "dark reported", func(a Status) bool { return string(a.Reported["darknessSetting"]) == `"dark"` })
			if got := e.toaster.Settings(0)["darknessSetting"]; got != "dark" {
				t.Errorf("the toaster is set to %q, want dark", got)
			}

			if err := e.service.SetDesired(heatPumpHub, heatPumpID, map[string]json.RawMessage{"temperatureSetting": json.RawMessage(`"500"`)}); err != nil {
				t.Fatal(err)
			}
			refused := e.until(t, heatPumpID, "a rejected setting", func(a Status) bool { return a.Error != nil && a.Error.Kind == "setting-rejected" })
			if refused.State != StateConnected || !strings.Contains(refused.Error.Next, "temperatureSetting") {
				t.Errorf("got %s, %+v", refused.State, refused.Error)
			}
			if got := e.heatPump.Settings(7)["temperatureSetting"]; got != "65" {
				t.Errorf("the heat pump was set to %q by a value out of bounds", got)
			}
			if got := string(refused.Reported["state"]); got != `"on"` {
				t.Errorf("state reported as %s beside a refused property, want \"on\"", got)
			}

			before := len(e.service.Operations(toasterID))
			if err := e.service.DeleteDevice(toasterHub, toasterID); err != nil {
				t.Fatal(err)
			}
			e.until(t, toasterID, "registered and configured again", func(a Status) bool {
				return a.State == StateConfigured && a.HubConnected && len(e.service.Operations(toasterID)) == before+1
			})
		})
	}
}

// TestPolicyRefusal: an appliance that the policy does not know is refused in
// words, and the one beside it is served.
func TestPolicyRefusal(t *testing.T) {
	t.Parallel()
	const kettle = "lobby1-contoso-kettle-001"
	e := startEndToEnd(t, "https", kettle, nil)
	refused := e.until(t, kettle, "refused", is(StateRefused))
	if refused.Error == nil || refused.Error.Code != 400207 || refused.Error.Owner != "policy owner" {
		t.Errorf("got %+v, want 400207 for the policy's owner", refused.Error)
	}
	if refused.Registration == nil || refused.Registration.NextAttempt == nil {
		t.Errorf("got %+v, want the time of the next attempt", refused.Registration)
	}
	e.until(t, heatPumpID, "configured", is(StateConfigured))
}

// TestThrottledThenAssigned: 429 answers are shown and waited out.
func TestThrottledThenAssigned(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"https", "mqtt"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			var registers atomic.Int32
			e := startEndToEnd(t, transport, toasterID, func(p dpslocal.FaultPoint) dpslocal.Fault {
				if p.Call == dpslocal.RegisterCall && registers.Add(1) == 1 {
					return dpslocal.Fault{Status: 429, RetryAfter: "1"}
				}
				return dpslocal.Fault{}
			})
			for _, id := range []string{toasterID, heatPumpID} {
				e.until(t, id, "configured", is(StateConfigured))
			}
			if !strings.Contains(e.log.String(), "appliance throttled") {
				t.Error("the log does not say that an appliance was throttled")
			}
		})
	}
}

// TestUnpluggedWhileConfigured: the line goes away, the appliance is absent, the
// other one is untouched, and the daemon stops in order.
func TestUnpluggedWhileConfigured(t *testing.T) {
	t.Parallel()
	e := startEndToEnd(t, "https", toasterID, nil)
	e.until(t, toasterID, "configured", is(StateConfigured))
	e.toaster.Unplug()
	gone := e.until(t, toasterID, "absent", func(a Status) bool { return !a.Present })
	if gone.State != StateConfigured {
		t.Errorf("state: got %s; being away is no change of state", gone.State)
	}
	// The recording of the line holds the whole story, though the daemon still runs.
	recorded, err := os.ReadFile(filepath.Join(e.dir, "kitchen.rec"))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"# mode: master\n", " opened\n", "|.{\"jsonrpc\":\"2.0\"", " lost "} {
		if !strings.Contains(string(recorded), part) {
			t.Errorf("the recording does not say %q:\n%.2000s", part, recorded)
		}
	}
	e.until(t, heatPumpID, "configured", is(StateConfigured))
}
