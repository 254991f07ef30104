// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/contoso/gatewayd/gateway/config"
	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/provisioning/dpslocal/dpslocaltest"
	"github.com/contoso/gatewayd/serialbus"
)

// town is a gateway with many appliances, the real client and a real service, in
// a bubble.
type town struct {
	*rig
	service  *dpslocaltest.Server
	unplug   atomic.Bool // the network cable
	dials    atomic.Int32
	attempts *moments
	requests *moments // registers that reached the service
}

// moments are times, noted from many goroutines.
type moments struct {
	mu    sync.Mutex
	times []time.Time
}

func (m *moments) note() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.times = append(m.times, time.Now())
}

// since lists those from a time on.
func (m *moments) since(begin time.Time) []time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []time.Time
	for _, at := range m.times {
		if !at.Before(begin) {
			all = append(all, at)
		}
	}
	return all
}

// newTown starts a service and a gateway; fault may be nil.
func newTown(t *testing.T, transport provisioning.Transport, fault func(dpslocal.FaultPoint) dpslocal.Fault) *town {
	t.Helper()
	town := &town{attempts: new(moments), requests: new(moments)}
	town.service = dpslocaltest.Start(t, dpslocaltest.InMemory, func(_ *dpslocal.Config, o *dpslocal.Options) {
		o.Logger = slog.New(slog.DiscardHandler)
		o.Fault = func(p dpslocal.FaultPoint) dpslocal.Fault {
			if p.Call != dpslocal.PollCall {
				town.requests.note()
			}
			if fault == nil {
				return dpslocal.Fault{}
			}
			return fault(p)
		}
	})
	town.start(t, t.TempDir(), transport)
	return town
}

// start runs a gateway on a state directory.
func (town *town) start(t *testing.T, directory string, transport provisioning.Transport) {
	t.Helper()
	town.rig = newRig(t, directory, nil, agreeable)
	w := town.world
	w.hubMode = config.HubOff
	primary, secondary, err := town.service.GroupKeys(dpslocaltest.GroupID)
	if err != nil {
		t.Fatal(err)
	}
	var keys provisioning.GroupKeys
	for _, text := range []string{primary, secondary} {
		key, err := provisioning.ParseGroupKey(text)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	w.keys = keys
	client, err := provisioning.New(provisioning.Config{
		Endpoint: dpslocaltest.Endpoint, IDScope: town.service.IDScope(), Transport: transport,
		RootCAs: town.service.TLSConfig().RootCAs, Clock: w.clock, Budget: w.budget, Fleet: 50,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			town.dials.Add(1)
			if town.unplug.Load() {
				return nil, errors.New("network is unreachable")
			}
			if transport == provisioning.TransportMQTT {
				return town.service.DialMQTT(ctx)
			}
			return town.service.DialHTTPS(ctx)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.registrar = registrarFunc(func(ctx context.Context, r provisioning.Request) (provisioning.Assignment, error) {
		town.attempts.note()
		return client.Register(ctx, r)
	})
	stop := town.stop
	town.stop = func() {
		stop()
		client.Close()
	}
}

// populate plugs appliances in, all at once.
func (town *town) populate(t *testing.T, first, count int) {
	for n := first; n < first+count; n++ {
		identity := toaster
		identity.RegistrationID = fmt.Sprintf("toaster-%d", n)
		town.supervisor.heard(t.Context(), town.line, serialbus.Event{Kind: serialbus.Found, Unit: n, Identity: identity})
	}
}

// count tells how many appliances are in a state.
func (town *town) count(state State) int {
	n := 0
	for _, s := range town.supervisor.snapshot() {
		if s.State == state {
			n++
		}
	}
	return n
}

// probing tells whether an appliance asks for all at this moment.
func (town *town) probing() bool {
	reach := town.world.reach
	reach.mu.Lock()
	defer reach.mu.Unlock()
	return reach.probe != nil
}

func eachKindOfTown(t *testing.T, test func(t *testing.T, transport provisioning.Transport)) {
	for _, transport := range []provisioning.Transport{provisioning.TransportHTTPS, provisioning.TransportMQTT} {
		t.Run(string(transport), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, transport) })
		})
	}
}

// settleTime is how long 50 appliances take at 100 a minute after the probe.
const settleTime = 30*time.Second + probeMost + 2*time.Second

// TestRule8ComingBackIsQuick: while there is no network one appliance tries for
// all, and when it is back everybody is assigned soon.
func TestRule8ComingBackIsQuick(t *testing.T) {
	eachKindOfTown(t, func(t *testing.T, transport provisioning.Transport) {
		town := newTown(t, transport, nil)
		defer func() { town.stop() }()
		town.unplug.Store(true)
		town.populate(t, 0, 50)
		time.Sleep(20 * time.Second)
		if got := town.dials.Load(); got > 12 { // each attempt dials up to three times
			t.Errorf("%d connections were tried at first; those that wait for their turn should hear of it", got)
		}
		time.Sleep(40 * time.Second)
		begun := time.Now()
		time.Sleep(30 * time.Minute)
		town.wantOneProbe(t, begun)
		for moment := time.Now(); town.probing() && time.Since(moment) < probeLeast; {
			time.Sleep(time.Second) // the one that asks for all says that it is registering
		}
		if got := town.count(StateUnreachable); got != 50 {
			t.Errorf("%d appliances are unreachable, want 50", got)
		}
		for _, s := range town.supervisor.snapshot() {
			if s.Error == nil || s.Error.Verdict == "" {
				t.Fatalf("%s does not say why", s.RegistrationID)
			}
			if s.Registration.NextAttempt == nil || time.Until(*s.Registration.NextAttempt) > probeMost {
				t.Fatalf("%s says that it is next tried at %v, want within a minute", s.RegistrationID, s.Registration.NextAttempt)
			}
		}

		town.unplug.Store(false)
		time.Sleep(settleTime)
		synctest.Wait()
		if got := town.count(StateAssigned); got != 50 {
			t.Errorf("%d appliances are assigned %v after the network was back, want 50", got, settleTime)
		}
	})
}

// wantOneProbe checks that attempts came one by one, 30 to 60 s apart.
func (town *town) wantOneProbe(t *testing.T, begun time.Time) {
	t.Helper()
	probes := town.attempts.since(begun)
	if len(probes) < 10 {
		t.Errorf("%d attempts, want one each 30 to 60 s", len(probes))
	}
	for n := 1; n < len(probes); n++ {
		if gap := probes[n].Sub(probes[n-1]); gap < probeLeast || gap > probeMost+5*time.Second {
			t.Errorf("%v between two attempts, want 30 to 60 s", gap)
		}
	}
}

// TestRule8AServiceInTrouble: a 5xx is not the service's word on anything either.
func TestRule8AServiceInTrouble(t *testing.T) {
	eachKindOfTown(t, func(t *testing.T, transport provisioning.Transport) {
		var broken atomic.Bool
		broken.Store(true)
		town := newTown(t, transport, func(dpslocal.FaultPoint) dpslocal.Fault {
			if broken.Load() {
				return dpslocal.Fault{Status: 503}
			}
			return dpslocal.Fault{}
		})
		defer func() { town.stop() }()
		town.populate(t, 0, 50)
		time.Sleep(15 * time.Minute) // rule 2 has its ten failures first
		begun := time.Now()
		time.Sleep(30 * time.Minute)
		town.wantOneProbe(t, begun)
		broken.Store(false)
		time.Sleep(settleTime + 30*time.Second) // each looks for what it may have begun, which counts like a register
		synctest.Wait()
		if got := town.count(StateAssigned); got != 50 {
			t.Errorf("%d appliances are assigned, want 50", got)
		}
	})
}

// TestRule8AServiceThatNamesItsReturn: a 5xx with a long hint is no sign that the
// service is back, and the hint counts for all.
func TestRule8AServiceThatNamesItsReturn(t *testing.T) {
	eachKindOfTown(t, func(t *testing.T, transport provisioning.Transport) {
		var broken atomic.Bool
		broken.Store(true)
		town := newTown(t, transport, func(dpslocal.FaultPoint) dpslocal.Fault {
			if broken.Load() {
				return dpslocal.Fault{Status: 503, RetryAfter: "1200"}
			}
			return dpslocal.Fault{}
		})
		defer func() { town.stop() }()
		town.populate(t, 0, 50)
		time.Sleep(19 * time.Minute)
		if got := len(town.requests.since(time.Time{})); got > 2 {
			t.Errorf("%d requests within the twenty minutes that the service asked for, want the first", got)
		}
		broken.Store(false)
		time.Sleep(time.Minute + settleTime + 30*time.Second)
		synctest.Wait()
		if got := town.count(StateAssigned); got != 50 {
			t.Errorf("%d appliances are assigned, want 50", got)
		}
	})
}

// TestRule8AnOutageLeavesHubSessionsAlone: appliances that want DPS to be asked
// again keep their sessions while it is away, but for the one that asks for all.
func TestRule8AnOutageLeavesHubSessionsAlone(t *testing.T) {
	eachKindOfTown(t, func(t *testing.T, transport provisioning.Transport) {
		town := newTown(t, transport, nil)
		defer func() { town.stop() }()
		town.connectHubs()
		town.update(t, 20, "1")
		town.wantServed(t, "at first", 20)
		var opened atomic.Int32
		open := town.world.openHub
		town.world.openHub = func(ctx context.Context, a *assignment, key provisioning.DeviceKey) (hubSession, error) {
			opened.Add(1)
			return open(ctx, a, key)
		}
		town.unplug.Store(true)
		town.update(t, 20, "2")
		time.Sleep(5 * time.Minute)
		opened.Store(0)
		begun := time.Now()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		// One more for the attempt that was under way at the beginning.
		if sessions, probes := int(opened.Load()), len(town.attempts.since(begun)); sessions > probes+1 {
			t.Errorf("%d hub sessions were opened for %d attempts", sessions, probes)
		}
		town.wantOneProbe(t, begun)
		town.unplug.Store(false)
		town.wantServed(t, "after the outage", 20)
	})
}

// TestRule8ANewcomerWaitsToo: an appliance that is plugged in during an outage
// says so and is not tried by itself.
func TestRule8ANewcomerWaitsToo(t *testing.T) {
	eachKindOfTown(t, func(t *testing.T, transport provisioning.Transport) {
		town := newTown(t, transport, nil)
		defer func() { town.stop() }()
		town.unplug.Store(true)
		town.populate(t, 0, 1)
		time.Sleep(10 * time.Second)
		town.populate(t, 1, 5)
		synctest.Wait()
		if got := town.count(StateUnreachable); got != 6 {
			t.Errorf("%d appliances are unreachable, want 6", got)
		}
		if got := len(town.attempts.since(time.Time{})); got != 1 {
			t.Errorf("%d attempts, want the first one's", got)
		}
		town.unplug.Store(false)
		time.Sleep(settleTime)
		synctest.Wait()
		if got := town.count(StateAssigned); got != 6 {
			t.Errorf("%d appliances are assigned, want 6", got)
		}
	})
}

// TestRule8OneAppliancesTroubleIsItsOwn: while the service answers others, one
// whose requests get lost does not hold them up, nor is it tried in a circle.
func TestRule8OneAppliancesTroubleIsItsOwn(t *testing.T) {
	eachKindOfTown(t, func(t *testing.T, transport provisioning.Transport) {
		var lost atomic.Int32
		town := newTown(t, transport, func(p dpslocal.FaultPoint) dpslocal.Fault {
			switch {
			case p.RegistrationID == "toaster-0":
				lost.Add(1)
				return dpslocal.Fault{Close: true}
			case p.Call == dpslocal.PollCall:
				return dpslocal.Fault{Status: 429, RetryAfter: "5"} // an answer, again and again
			}
			return dpslocal.Fault{RetryAfter: "3", Delay: time.Second}
		})
		defer func() { town.stop() }()
		town.populate(t, 1, 20)
		time.Sleep(3 * time.Second)
		town.populate(t, 0, 1)
		time.Sleep(40 * time.Second)
		if got := lost.Load(); got < 1 || got > 6 {
			t.Errorf("%d requests of the unlucky one in 40 s, want a few", got)
		}
		if town.count(StateUnreachable) > 1 {
			t.Error("others wait for the unlucky one")
		}
	})
}

// TestRule4APowerCut: appliances that are all there at once are spread over
// N / rate, and a restart in the middle forgets nothing.
func TestRule4APowerCut(t *testing.T) {
	eachKindOfTown(t, func(t *testing.T, transport provisioning.Transport) {
		directory := t.TempDir()
		town := newTown(t, transport, nil)
		town.stop()
		begun := time.Now()
		town.start(t, directory, transport)
		town.populate(t, 0, 50)
		for range 5 {
			time.Sleep(3 * time.Second)
			town.stop()
			town.start(t, directory, transport)
			town.populate(t, 0, 50)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		defer func() { town.stop() }()
		if got := town.count(StateAssigned); got != 50 {
			t.Errorf("%d appliances are assigned, want 50", got)
		}
		sent := town.requests.since(begun)
		for n := 1; n < len(sent); n++ {
			if gap := sent[n].Sub(sent[n-1]); gap < 600*time.Millisecond-time.Microsecond {
				t.Errorf("register %d came %v after the one before, want 600 ms", n, gap)
			}
		}
	})
}

// TestRule2TheHoldBackOutlivesARestart of the gateway: one appliance drew a 429,
// and its neighbours keep to it after the restart.
func TestRule2TheHoldBackOutlivesARestart(t *testing.T) {
	eachKindOfTown(t, func(t *testing.T, transport provisioning.Transport) {
		var begun time.Time
		directory := t.TempDir()
		town := newTown(t, transport, func(p dpslocal.FaultPoint) dpslocal.Fault {
			if time.Since(begun) < 100*time.Second {
				return dpslocal.Fault{Status: 429, RetryAfter: "100"}
			}
			return dpslocal.Fault{}
		})
		town.stop()
		begun = time.Now()
		town.start(t, directory, transport)
		town.populate(t, 0, 10)
		for range 8 {
			time.Sleep(7 * time.Second)
			synctest.Wait()
			town.stop()
			town.start(t, directory, transport)
			town.populate(t, 0, 10)
		}
		defer func() { town.stop() }()
		if got := len(town.requests.since(begun)); got != 1 {
			t.Errorf("%d registers while registers are held back, want the first", got)
		}
		time.Sleep(90 * time.Second)
		synctest.Wait()
		if got := town.count(StateAssigned); got != 10 {
			t.Errorf("%d appliances are assigned after the hold-back, want 10", got)
		}
	})
}
