// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/gateway/config"
	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/provisioning/dpslocal/dpslocaltest"
	"github.com/contoso/gatewayd/provisioning/hub"
	"github.com/contoso/gatewayd/serialbus"
)

// connectHubs lets appliances keep real sessions with the service's hub.
func (town *town) connectHubs() {
	town.world.hubMode = config.HubStay
	town.world.openHub = func(ctx context.Context, a *assignment, key provisioning.DeviceKey) (hubSession, error) {
		resource := provisioning.HubResource(a.AssignedHub, a.DeviceID)
		session, err := hub.Connect(ctx, hub.Config{
			Host: a.AssignedHub, DeviceID: a.DeviceID, RootCAs: town.service.TLSConfig().RootCAs, Now: town.world.clock.Now,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return town.service.DialMQTT(ctx) },
			Token: func(now time.Time) (string, error) {
				return key.SASToken(resource, "", now.Add(tokenLife)).Reveal(), nil
			},
		})
		if err != nil {
			return nil, err
		}
		return session, nil
	}
}

// withKeys starts the gateway anew with other group keys, as an operator does
// with a new key file.
func (town *town) withKeys(t *testing.T, directory string, transport provisioning.Transport, texts ...string) {
	t.Helper()
	town.stop()
	town.start(t, directory, transport)
	var keys provisioning.GroupKeys
	for _, text := range texts {
		key, err := provisioning.ParseGroupKey(text)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	town.world.keys = keys
	town.connectHubs()
}

// update plugs the appliances in with a firmware, so that each registers again
// if it is new.
func (town *town) update(t *testing.T, count int, firmware string) {
	for n := range count {
		identity := toaster
		identity.RegistrationID, identity.Firmware = fmt.Sprintf("toaster-%d", n), firmware
		town.supervisor.heard(t.Context(), town.line, serialbus.Event{Kind: serialbus.Lost, Unit: n})
		town.supervisor.heard(t.Context(), town.line, serialbus.Event{Kind: serialbus.Found, Unit: n, Identity: identity})
	}
}

// wantServed checks that every appliance is configured over a session with its hub.
func (town *town) wantServed(t *testing.T, when string, count int) {
	t.Helper()
	time.Sleep(2 * time.Minute)
	synctest.Wait()
	served := 0
	for _, s := range town.supervisor.snapshot() {
		if s.HubConnected && s.State == StateConfigured {
			served++
		}
	}
	if served != count {
		t.Fatalf("%s: %d of %d appliances are served", when, served, count)
	}
}

// TestRolloverLosesNoAppliance walks through dps-protocol 13.4: the secondary is
// regenerated, the gateway gets it, the primary is regenerated. At each step
// every appliance is restarted, and registers again.
func TestRolloverLosesNoAppliance(t *testing.T) {
	eachKindOfTown(t, func(t *testing.T, transport provisioning.Transport) {
		const count = 12
		fresh := func(n byte) string { return base64.StdEncoding.EncodeToString(slices.Repeat([]byte{n}, 64)) }
		directory := t.TempDir()
		town := newTown(t, transport, nil)
		defer func() { town.stop() }()
		regenerate := func(primary, secondary string) {
			t.Helper()
			group := dpslocal.EnrollmentGroup{ID: dpslocaltest.GroupID, PrimaryKey: dpslocal.Secret(primary), SecondaryKey: dpslocal.Secret(secondary)}
			if err := town.service.SetGroup(group); err != nil {
				t.Fatal(err)
			}
		}
		first, second, err := town.service.GroupKeys(dpslocaltest.GroupID)
		if err != nil {
			t.Fatal(err)
		}
		steps := []struct {
			name      string
			enrolled  [2]string // the service's keys
			gateway   []string
			registers int // more than one each
		}{
			{"before", [2]string{first, second}, []string{first, second}, 0},
			{"the secondary is regenerated", [2]string{first, fresh(1)}, []string{first, second}, 0},
			{"the gateway has the new one", [2]string{first, fresh(1)}, []string{first, fresh(1)}, 0},
			{"the primary is regenerated", [2]string{fresh(2), fresh(1)}, []string{first, fresh(1)}, 1},
			{"the gateway has both", [2]string{fresh(2), fresh(1)}, []string{fresh(2), fresh(1)}, 0},
		}
		for n, step := range steps {
			regenerate(step.enrolled[0], step.enrolled[1])
			town.withKeys(t, directory, transport, step.gateway...)
			if n > 0 { // what is stored opens the hub, in whatever way the service keeps its keys in step
				town.update(t, count, fmt.Sprintf("%d.0", n-1))
				town.wantServed(t, step.name+", by the stored assignment", count)
			}
			begun := time.Now()
			town.update(t, count, fmt.Sprintf("%d.0", n))
			town.wantServed(t, step.name, count)
			if got, want := len(town.requests.since(begun)), count+step.registers; got != want {
				t.Errorf("%s: %d registers, want %d", step.name, got, want)
			}
		}
	})
}

// TestRule7TheOtherKeyComesBeforeDPS: a hub that takes only the secondary is shown
// the primary twice and the secondary once.
func TestRule7TheOtherKeyComesBeforeDPS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		r := newRig(t, t.TempDir(), func(ctx context.Context, request provisioning.Request) (provisioning.Assignment, error) {
			asked.Add(1)
			return assign(ctx, request)
		}, agreeable)
		defer r.stop()
		group, err := provisioning.ParseGroupKey(base64.StdEncoding.EncodeToString(slices.Repeat([]byte{7}, 64)))
		if err != nil {
			t.Fatal(err)
		}
		primary, err := provisioning.ParseGroupKey(testGroupKey)
		if err != nil {
			t.Fatal(err)
		}
		r.world.keys = provisioning.GroupKeys{primary, group}
		var shown []string
		accepted := group.Derive(toasterID).Fingerprint()
		r.world.openHub = func(_ context.Context, _ *assignment, key provisioning.DeviceKey) (hubSession, error) {
			if key.Fingerprint() != accepted {
				shown = append(shown, "primary")
				return nil, &hub.RefusedError{Code: 5}
			}
			shown = append(shown, "secondary")
			return r.session, nil
		}
		r.plugIn(t)
		r.wantState(t, StateConfigured)
		if diff := cmp.Diff("primary primary secondary", strings.Join(shown, " ")); diff != "" {
			t.Error(diff)
		}
		if got := asked.Load(); got != 1 {
			t.Errorf("DPS was asked %d times, want once", got)
		}
		// The next session begins with the key that was accepted.
		shown = nil
		r.supervisor.heard(t.Context(), r.line, serialbus.Event{Kind: serialbus.Lost})
		r.session.err = hub.ErrLost
		close(r.session.done)
		r.session = newFakeSession(ready)
		r.plugIn(t)
		time.Sleep(time.Minute)
		r.wantState(t, StateConfigured)
		if len(shown) == 0 || slices.Contains(shown, "primary") {
			t.Errorf("shown %q, want only the secondary", shown)
		}

		// When neither is accepted DPS is asked.
		accepted, shown = "", nil
		r.session.err = hub.ErrLost
		close(r.session.done)
		time.Sleep(10 * time.Minute)
		if got := asked.Load(); got != 2 {
			t.Errorf("DPS was asked %d times, want once more", got)
		}
	})
}
