// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// kills is how often the daemon is killed: $KILLS, which `make test-crash`
// raises, or enough to see each state once in a while.
func kills(t *testing.T) int {
	text := os.Getenv("KILLS")
	if text == "" {
		return 36 // each moment over each transport
	}
	count, err := strconv.Atoi(text)
	if err != nil || count < 1 {
		t.Fatalf("KILLS=%q is not a number of kills", text)
	}
	return count
}

// TestCrash kills the daemon with SIGKILL and starts it again: every appliance
// ends configured, and DPS never sees a second operation begin while one runs.
//
// The rounds kill in turn while the service asks the webhook, once with the
// answer to the register unread and once with it; at the first poll; after some
// line of the log between an appliance's first word and its proven settings, so
// on both sides of each write to disk; and in each state that only trouble leads
// to. They change between the transports and between a strict service, which
// answers 409203 to a second register, and a lenient one.
func TestCrash(t *testing.T) {
	total := kills(t)
	kinds := []struct {
		name, transport string
		strict          bool
	}{
		{"https strict", "https", true},
		{"mqtt strict", "mqtt", true},
		{"https lenient", "https", false},
		{"mqtt lenient", "mqtt", false},
	}
	for k, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			c := &crashSite{transport: kind.transport, lines: 60}
			var err error
			if c.webhook, err = freeAddress(); err != nil {
				t.Fatal(err)
			}
			var stop func()
			if c.service, stop, err = startDPS(t.TempDir(), c.webhook, kind.strict,
				dpslocal.Options{Fault: c.watch, WebhookTransport: c}); err != nil {
				t.Fatal(err)
			}
			defer stop()
			for n := k; n < total; n += len(kinds) {
				c.round(t, n)
			}
		})
	}
}

// crashSite is a service and what it has seen.
type crashSite struct {
	transport, webhook string
	service            *dpslocal.Server
	lines              int // of the log of the last whole run

	mu    sync.Mutex
	armed moment
	first *daemon  // whom to kill; nil = nobody
	extra []string // registers that came while an operation ran
}

// moment says when a round kills.
type moment string

const (
	inDoubt     moment = "while the webhook is asked, the register's answer unread"
	allocating  moment = "while the webhook is asked"
	polling     moment = "at the first poll"
	someLine    moment = "after a line of the log"
	throttled   moment = "in state throttled"
	unreachable moment = "in state unreachable"
	refused     moment = "in state refused"
	disabled    moment = "in state disabled"
	conflict    moment = "in state conflict"
)

// moments is the order of the rounds.
var moments = []moment{inDoubt, throttled, allocating, unreachable, polling, refused, someLine, disabled, conflict}

// trouble is how the service answers a register until the daemon is killed.
var trouble = map[moment]dpslocal.Fault{
	throttled:   {Status: 429, RetryAfter: "2"},
	unreachable: {Drop: true},
	refused:     {Status: 400},
}

// watch sees every call of a device before the service acts on it.
func (c *crashSite) watch(p dpslocal.FaultPoint) dpslocal.Fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.Call == dpslocal.RegisterCall {
		for _, operation := range c.service.Operations(p.RegistrationID) {
			if operation.Ended.IsZero() {
				c.extra = append(c.extra, p.RegistrationID)
			}
		}
	}
	if p.Call == dpslocal.PollCall {
		c.kill(polling)
	}
	if p.Call != dpslocal.RegisterCall || c.first == nil {
		return dpslocal.Fault{}
	}
	if c.armed == inDoubt {
		c.first.command.Process.Signal(syscall.SIGSTOP) //nolint:errcheck // frozen, it cannot read the answer
	}
	return trouble[c.armed]
}

// RoundTrip carries the service's question to the webhook.
func (c *crashSite) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	killed := c.kill(inDoubt) || c.kill(allocating)
	c.mu.Unlock()
	if killed {
		return nil, errors.New("connection refused")
	}
	return http.DefaultTransport.RoundTrip(r)
}

// kill ends the daemon if this is its moment; the lock is held.
func (c *crashSite) kill(now moment) bool {
	if c.first == nil || c.armed != now {
		return false
	}
	c.first.kill()
	c.first = nil
	return true
}

// startArmed starts a daemon that is to be killed at a moment. No call of it is
// served before that is known.
func (c *crashSite) startArmed(config string, at moment) (*daemon, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := startDaemon(config)
	c.armed, c.first = at, d
	return d, err
}

// disarm ends what startArmed has begun.
func (c *crashSite) disarm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed, c.first = "", nil
}

// enrollment changes whether the group may register.
func (c *crashSite) enrollment(t *testing.T, status dpslocal.ProvisioningStatus) {
	t.Helper()
	group := enrollmentGroup(c.webhook)
	group.ProvisioningStatus = status
	if err := c.service.SetGroup(group); err != nil {
		t.Fatal(err)
	}
}

// round kills one daemon and lets the next finish.
func (c *crashSite) round(t *testing.T, n int) {
	t.Helper()
	toasterID := fmt.Sprintf("room%d-contoso-tstrsd-007", n)
	heatPumpID := fmt.Sprintf("building%d-contoso-hpsd-088", n)
	toaster, err := newToaster(toasterID)
	if err != nil {
		t.Fatal(err)
	}
	defer toaster.Close()
	heatPump, err := newHeatPump(heatPumpID)
	if err != nil {
		t.Fatal(err)
	}
	defer heatPump.Close()
	how := moments[n/4%len(moments)]
	buses := lineBus("kitchen", toaster.Path()) + modbusBus("boiler room", heatPump.Path(), "1")
	var twin *serialbustest.Line
	if how == conflict {
		// By a name that goes with it: the number of its terminal may soon be another test's.
		if twin, err = newToaster(toasterID, serialbustest.WithLink(filepath.Join(t.TempDir(), "attic"))); err != nil {
			t.Fatal(err)
		}
		defer twin.Close()
		buses += lineBus("attic", twin.Link())
	}
	began := time.Now()
	config, err := setup{dir: t.TempDir(), service: c.service, webhook: c.webhook, transport: c.transport, buses: buses}.write()
	if err != nil {
		t.Fatal(err)
	}

	if how == disabled {
		c.enrollment(t, dpslocal.Disabled)
	}
	first, err := c.startArmed(config, how)
	if err != nil {
		t.Fatal(err)
	}
	state, isState := strings.CutPrefix(string(how), "in state ")
	after := 1 + rand.IntN(c.lines)
	configured := func(d *daemon) bool {
		log := d.log()
		return strings.Contains(log, `msg="appliance configured" registration_id=`+toasterID) &&
			strings.Contains(log, `msg="appliance configured" registration_id=`+heatPumpID)
	}
	due := first.waitUntil(scriptWait, func() bool {
		switch {
		case how == disabled: // both, or the next would read the end of an operation from before it was enabled
			log := first.log()
			return strings.Contains(log, `msg="appliance disabled" registration_id=`+toasterID) &&
				strings.Contains(log, `msg="appliance disabled" registration_id=`+heatPumpID)
		case isState:
			return strings.Contains(first.log(), `msg="appliance `+state)
		case how == someLine:
			return first.count() >= after || configured(first) // it may say less than the one before
		default:
			return false // it ends when it is killed
		}
	})
	c.disarm()
	first.kill()
	if isState && !due {
		t.Fatalf("round %d: the daemon never came into state %s:\n%s", n, state, first.log())
	}
	if how == disabled {
		c.enrollment(t, dpslocal.Enabled)
	}
	if twin != nil {
		twin.Unplug()
	}
	second, err := startDaemon(config)
	if err != nil {
		t.Fatal(err)
	}
	defer second.kill()
	if !second.waitUntil(scriptWait, func() bool { return configured(second) }) {
		t.Fatalf("round %d, killed %s: not all configured.\nBefore the kill:\n%s\n\nAfter it:\n%s", n, how, first.log(), second.log())
	}
	c.lines = max(20, second.count())
	t.Logf("round %d: killed %s, whole after %s", n, how, time.Since(began).Round(10*time.Millisecond))
	for hub, device := range map[string]string{toasterHub: toasterID, heatPumpHub: heatPumpID} {
		twin, ok := c.service.Twin(hub, device)
		if !ok || string(twin.Reported["state"]) != string(twin.Desired["state"]) {
			t.Errorf("round %d, killed %s: the twin of %s reports %s, wanted %s", n, how, device, twin.Reported["state"], twin.Desired["state"])
		}
		onlyOneAtATime(t, c.service, device)
	}
	if got := toaster.Settings(0)["darknessSetting"]; got != "medium" {
		t.Errorf("round %d, killed %s: the toaster is set to %q, want medium", n, how, got)
	}
	// Over HTTPS a register in doubt is looked up; over MQTT, which has no
	// lookup, the service's 409203 or the running operation answers it.
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport == "https" && len(c.extra) > 0 {
		t.Errorf("round %d, killed %s: registers sent while an operation ran: %q", n, how, c.extra)
	}
}

// onlyOneAtATime checks that no operation of a registration began while
// another ran.
func onlyOneAtATime(t *testing.T, service *dpslocal.Server, registrationID string) {
	t.Helper()
	operations := service.Operations(registrationID)
	if len(operations) == 0 {
		t.Errorf("%s: no operation at all", registrationID)
	}
	for i := 1; i < len(operations); i++ {
		before := operations[i-1]
		if before.Ended.IsZero() || operations[i].Begun.Before(before.Ended) {
			t.Errorf("%s: operation %s began at %s while %s ran until %s", registrationID,
				operations[i].ID, operations[i].Begun, before.ID, before.Ended)
		}
	}
}
