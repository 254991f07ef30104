// SPDX-License-Identifier: Apache-2.0

package serialbus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/serialbus"
	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// These tests run the whole package on real pseudo-terminals. They wait for events, not for times; the limit only ends
// a test that hangs.
const limit = 5 * time.Minute

var (
	breakroom = serialbustest.Toaster{
		RegistrationID: "breakroom499-contoso-tstrsd-007", Vendor: "Contoso", Model: "TSTRSD-007", Serial: "499",
		Firmware: "12.0.2.5", Provisioning: "1.0.0.0",
	}
	mainbuilding = serialbustest.HeatPump{
		Unit: 1, RegistrationID: "mainbuilding167-contoso-hpsd-088", Vendor: "Contoso", Model: "HPSD-088", Serial: "167",
		Firmware: "12.0.2.5", Provisioning: "1.0.0.0",
	}
)

func toasterIdentity() serialbus.Identity {
	return serialbus.Identity{
		RegistrationID: "breakroom499-contoso-tstrsd-007", Vendor: "Contoso", Model: "TSTRSD-007", Serial: "499",
		Firmware: "12.0.2.5", Provisioning: "1.0.0.0", Source: serialbus.SourceALP,
	}
}

func pumpIdentity() serialbus.Identity {
	return serialbus.Identity{
		RegistrationID: "mainbuilding167-contoso-hpsd-088", Vendor: "Contoso", Model: "HPSD-088", Serial: "167",
		Firmware: "12.0.2.5", Provisioning: "1.0.0.0", Source: serialbus.SourceDeviceIdentification,
	}
}

// running is a Bus at work and its events.
type running struct {
	*serialbus.Bus
	events  chan serialbus.Event
	waiting []serialbus.Event // told and not yet asked for
}

func runBus(t *testing.T, cfg serialbus.Config) *running {
	t.Helper()
	bus, err := serialbus.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Bus: bus, events: make(chan serialbus.Event, 1000)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- bus.Run(ctx, func(e serialbus.Event) { r.events <- e }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	return r
}

// next returns the next event of that kind at that unit. Other events of the unit are skipped; those of other units
// wait for their turn, because the order between units is nobody's promise.
func (r *running) next(t *testing.T, kind serialbus.EventKind, unit int) serialbus.Event {
	t.Helper()
	timeout := time.After(limit)
	for i := 0; ; i++ {
		if i == len(r.waiting) {
			select {
			case e := <-r.events:
				r.waiting = append(r.waiting, e)
			case <-timeout:
				t.Fatalf("no %v at unit %d", kind, unit)
			}
		}
		e := r.waiting[i]
		if e.Unit != unit {
			continue
		}
		r.waiting = slices.Delete(r.waiting, i, i+1)
		if e.Kind == kind {
			return e
		}
		i--
		t.Logf("meanwhile: %v %d %v", e.Kind, e.Unit, e.Err)
	}
}

func lines[T any](t *testing.T, make func(T, ...serialbustest.Option) (*serialbustest.Line, error), what T, opts ...serialbustest.Option) *serialbustest.Line {
	t.Helper()
	l, err := make(what, opts...)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func newToaster(t *testing.T, opts ...serialbustest.Option) *serialbustest.Line {
	t.Helper()
	return lines(t, serialbustest.NewToasterLine, breakroom, opts...)
}

func newPumps(t *testing.T, units []serialbustest.HeatPump, opts ...serialbustest.Option) *serialbustest.Line {
	t.Helper()
	return lines(t, serialbustest.NewModbusLine, units, opts...)
}

func toasterConfig(port string) serialbus.Config {
	return serialbus.Config{Port: port, Driver: serialbus.DriverLine, Profile: "contoso-tstrsd-007"}
}

func pumpConfig(port string, units ...byte) serialbus.Config {
	return serialbus.Config{Port: port, Driver: serialbus.DriverModbusRTU, Profile: "contoso-hpsd-088", Units: units}
}

func desired(pairs ...string) map[string]json.RawMessage {
	all := make(map[string]json.RawMessage)
	for i := 0; i < len(pairs); i += 2 {
		all[pairs[i]] = json.RawMessage(pairs[i+1])
	}
	return all
}

func TestToasterOnAPTY(t *testing.T) {
	t.Parallel()
	again(t, func() error { return setToaster(t) })
}

func setToaster(t *testing.T) error {
	t.Helper()
	l := newToaster(t)
	bus := runBus(t, toasterConfig(l.Path()))
	if diff := cmp.Diff(toasterIdentity(), bus.next(t, serialbus.Found, 0).Identity); diff != "" {
		return errors.New(diff)
	}
	settings := serialbus.Settings{
		AssignedHub: "contoso-toasters-hub-1098.azure-devices.net", DeviceID: "breakroom499-contoso-tstrsd-007",
		Desired: desired("state", `"ready"`, "darknessSetting", `"medium"`, "colour", `"red"`), Payload: json.RawMessage(`{"property1":"value1"}`),
	}
	for _, wrote := range []bool{true, false} {
		got, err := bus.Apply(t.Context(), 0, settings)
		if err != nil {
			return err
		}
		want := serialbus.Applied{
			Reported: desired("state", `"ready"`, "darknessSetting", `"medium"`), Unmapped: []string{"colour"}, Wrote: wrote,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return errors.New(diff)
		}
	}
	wantHeld := map[string]string{
		"state": "ready", "darknessSetting": "medium", "assignedHub": settings.AssignedHub, "deviceId": settings.DeviceID,
		"payload": `{"property1":"value1"}`,
	}
	if diff := cmp.Diff(wantHeld, l.Settings(0)); diff != "" {
		return errors.New(diff)
	}
	if l.Writes(0) != 1 {
		return fmt.Errorf("%d writes, want 1", l.Writes(0))
	}
	return nil
}

func TestHeatPumpsOnAPTY(t *testing.T) {
	t.Parallel()
	again(t, func() error { return setHeatPumps(t) })
}

func setHeatPumps(t *testing.T) error {
	t.Helper()
	second, old := mainbuilding, mainbuilding
	second.Unit, second.RegistrationID = 32, "" // it cannot name itself
	old.Unit, old.Old = 7, true
	l := newPumps(t, []serialbustest.HeatPump{mainbuilding, second, old})
	bus := runBus(t, pumpConfig(l.Path(), 1, 2, 7, 32))
	if diff := cmp.Diff(pumpIdentity(), bus.next(t, serialbus.Found, 1).Identity); diff != "" {
		return errors.New(diff)
	}
	if e := bus.next(t, serialbus.Lost, 2); !errors.Is(e.Err, serialbus.ErrSilent) {
		return fmt.Errorf("unit 2: %w", e.Err)
	}
	wantOld := serialbus.Identity{Model: "Contoso-HPSD-088-12.0.2.5", Source: serialbus.SourceServerID}
	if diff := cmp.Diff(wantOld, bus.next(t, serialbus.Found, 7).Identity); diff != "" {
		return errors.New(diff)
	}
	nameless := pumpIdentity()
	nameless.RegistrationID = ""
	if diff := cmp.Diff(nameless, bus.next(t, serialbus.Found, 32).Identity); diff != "" {
		return errors.New(diff)
	}

	settings := serialbus.Settings{AssignedHub: "hub", Desired: desired("state", `"on"`, "temperatureSetting", `"65"`)}
	for _, wrote := range []bool{true, false} {
		got, err := bus.Apply(t.Context(), 1, settings)
		if err != nil {
			return err
		}
		if diff := cmp.Diff(serialbus.Applied{Reported: settings.Desired, Wrote: wrote}, got); diff != "" {
			return errors.New(diff)
		}
	}
	if diff := cmp.Diff(map[string]string{"state": "on", "temperatureSetting": "65"}, l.Settings(1)); diff != "" {
		return errors.New(diff)
	}
	if l.Writes(1) != 2 || l.Writes(32) != 0 {
		return fmt.Errorf("%d and %d writes, want 2 and 0", l.Writes(1), l.Writes(32))
	}
	return nil
}

// TestNoiseOnAPTY: random bytes give words, and Run goes on.
func TestNoiseOnAPTY(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]serialbus.Config{"line": toasterConfig(""), "modbus": pumpConfig("", 1)} {
		t.Run(name, func(t *testing.T) {
			// By a name that goes with it: the number of its terminal may soon be another test's.
			l, err := serialbustest.NewNoiseLine(serialbustest.WithLink(filepath.Join(t.TempDir(), "adapter")))
			if err != nil {
				t.Skipf("no pseudo-terminals here: %v", err)
			}
			t.Cleanup(func() { _ = l.Close() })
			cfg.Port = l.Link()
			bus := runBus(t, cfg)
			if e := bus.next(t, serialbus.Lost, len(cfg.Units)); !errors.Is(e.Err, serialbus.ErrNoise) {
				t.Errorf("got %v", e.Err)
			}
			l.Unplug()
			if _, err := bus.Apply(t.Context(), len(cfg.Units), serialbus.Settings{}); err == nil {
				t.Error("noise took settings")
			}
		})
	}
}

func TestWrongSpeedOnAPTY(t *testing.T) {
	t.Parallel()
	again(t, func() error {
		l := newPumps(t, []serialbustest.HeatPump{mainbuilding}, serialbustest.WithBaud(9600))
		bus := runBus(t, pumpConfig(l.Path(), 1))
		if e := bus.next(t, serialbus.Lost, 1); !errors.Is(e.Err, serialbus.ErrNoise) {
			return fmt.Errorf("it was lost: %w", e.Err)
		}
		return nil
	})
}

func TestSpeedIsSearchedOnAPTY(t *testing.T) {
	t.Parallel()
	l := newPumps(t, []serialbustest.HeatPump{mainbuilding}, serialbustest.WithBaud(9600))
	cfg := pumpConfig(l.Path(), 1, 2)
	cfg.AutoBaud = true
	bus := runBus(t, cfg)
	if diff := cmp.Diff(pumpIdentity(), bus.next(t, serialbus.Found, 1).Identity); diff != "" {
		t.Error(diff)
	}
}

// TestFaultsOnAPTY: lost, damaged and foreign replies and an echo do not keep an appliance from being found and set.
func TestFaultsOnAPTY(t *testing.T) {
	t.Parallel()
	everyFourth := func(fault serialbustest.Fault) serialbustest.Option {
		return serialbustest.WithFault(func(_, n int) serialbustest.Fault {
			if n%4 == 2 {
				return fault
			}
			return serialbustest.FaultNone
		})
	}
	for _, tc := range []struct {
		name   string
		option serialbustest.Option
	}{
		{"silence", everyFourth(serialbustest.FaultSilence)},
		{"corrupt", everyFourth(serialbustest.FaultCorrupt)},
		{"foreign", everyFourth(serialbustest.FaultForeign)},
		{"cut", everyFourth(serialbustest.FaultCut)},
		{"echo", serialbustest.WithEcho()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Run("modbus", func(t *testing.T) {
				t.Parallel()
				l := newPumps(t, []serialbustest.HeatPump{mainbuilding}, tc.option)
				cfg := pumpConfig(l.Path(), 1)
				cfg.Rescan, cfg.ReplyTimeout = time.Second, 250*time.Millisecond
				bus := runBus(t, cfg)
				if diff := cmp.Diff(pumpIdentity(), bus.next(t, serialbus.Found, 1).Identity); diff != "" {
					t.Error(diff)
				}
				mustApply(t, bus, 1, desired("state", `"on"`, "temperatureSetting", `65`))
			})
			t.Run("line", func(t *testing.T) {
				t.Parallel()
				l := newToaster(t, tc.option)
				cfg := toasterConfig(l.Path())
				cfg.Rescan, cfg.ReplyTimeout = time.Second, 250*time.Millisecond
				bus := runBus(t, cfg)
				if diff := cmp.Diff(toasterIdentity(), bus.next(t, serialbus.Found, 0).Identity); diff != "" {
					t.Error(diff)
				}
				mustApply(t, bus, 0, desired("state", `"ready"`, "darknessSetting", `"dark"`))
			})
		})
	}
}

// mustApply applies until it works, as the gateway does. How often that takes depends on how soon the machine lets the
// line come back.
func mustApply(t *testing.T, bus *running, unit int, want map[string]json.RawMessage) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		got, err := bus.Apply(t.Context(), unit, serialbus.Settings{Desired: want})
		if err == nil {
			if diff := cmp.Diff(want, got.Reported); diff != "" {
				t.Error(diff)
			}
			return
		}
		t.Logf("applying: %v", err)
		if time.Now().After(end) {
			t.Fatal("it was never applied")
		}
	}
}

// TestUnplugAndReplugOnAPTY: the stable name stays, the device behind it is a new one.
func TestUnplugAndReplugOnAPTY(t *testing.T) {
	t.Parallel()
	again(t, func() error { return unplugAndReplug(t) })
}

func unplugAndReplug(t *testing.T) error {
	t.Helper()
	name := filepath.Join(t.TempDir(), "usb-adapter")
	plug := func() *serialbustest.Line {
		l := newToaster(t)
		if err := os.Symlink(l.Path(), name); err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := plug()
	cfg := toasterConfig(name)
	cfg.Recheck = 50 * time.Millisecond
	bus := runBus(t, cfg)
	bus.next(t, serialbus.Found, 0)
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	l.Unplug()
	if e := bus.next(t, serialbus.Lost, 0); !errors.Is(e.Err, serialbus.ErrUnplugged) || e.Identity != toasterIdentity() {
		return fmt.Errorf("lost: %+v", e)
	}
	if e := bus.next(t, serialbus.LineDown, 0); !errors.Is(e.Err, serialbus.ErrUnplugged) {
		return fmt.Errorf("down at first: %w", e.Err)
	}
	if e := bus.next(t, serialbus.LineDown, 0); !errors.Is(e.Err, serialbus.ErrNoPort) {
		return fmt.Errorf("down then: %w", e.Err)
	}
	plug()
	bus.next(t, serialbus.LineUp, 0)
	bus.next(t, serialbus.Found, 0)
	return nil
}

func TestSwitchedOffAndUpdatedOnAPTY(t *testing.T) {
	t.Parallel()
	again(t, func() error { return switchOffAndUpdate(t) })
}

func switchOffAndUpdate(t *testing.T) error {
	t.Helper()
	l := newPumps(t, []serialbustest.HeatPump{mainbuilding})
	cfg := pumpConfig(l.Path(), 1)
	cfg.Recheck, cfg.Rescan, cfg.ReplyTimeout = 20*time.Millisecond, 50*time.Millisecond, 200*time.Millisecond
	bus := runBus(t, cfg)
	bus.next(t, serialbus.Found, 1)
	l.Power(1, false)
	if e := bus.next(t, serialbus.Lost, 1); !errors.Is(e.Err, serialbus.ErrSilent) {
		return fmt.Errorf("without power: %w", e.Err)
	}
	l.Power(1, true)
	bus.next(t, serialbus.Found, 1)
	l.SetFirmware(1, "13.0.0.0")
	if e := bus.next(t, serialbus.Lost, 1); !errors.Is(e.Err, serialbus.ErrChanged) {
		return fmt.Errorf("updated: %w", e.Err)
	}
	if e := bus.next(t, serialbus.Found, 1); e.Identity.Firmware != "13.0.0.0" {
		return fmt.Errorf("updated to %+v", e.Identity)
	}
	return nil
}

// BenchmarkBuilding is 64 toasters and 8 lines of 32 heat pumps in one process, from nothing to all found.
func BenchmarkBuilding(b *testing.B) {
	for b.Loop() {
		building(b)
	}
}

func building(b *testing.B) {
	ctx, cancel := context.WithCancel(b.Context())
	found, ended := make(chan struct{}, 1000), make(chan error, 100)
	start := func(l *serialbustest.Line, err error, cfg serialbus.Config) func() {
		if err != nil {
			b.Fatal(err)
		}
		cfg.Port = l.Path()
		bus, err := serialbus.New(cfg, nil)
		if err != nil {
			b.Fatal(err)
		}
		go func() {
			ended <- bus.Run(ctx, func(e serialbus.Event) {
				if e.Kind == serialbus.Found {
					found <- struct{}{}
				}
			})
		}()
		return func() { _ = l.Close() }
	}
	const toasters, buses, units = 64, 8, 32
	for range toasters {
		l, err := serialbustest.NewToasterLine(breakroom)
		defer start(l, err, toasterConfig(""))()
	}
	for n := range buses {
		var pumps []serialbustest.HeatPump
		var addresses []byte
		for u := range byte(units) {
			p := mainbuilding
			p.Unit, p.RegistrationID = u+1, fmt.Sprintf("main%d-%d-contoso-hpsd-088", n, u+1)
			pumps, addresses = append(pumps, p), append(addresses, u+1)
		}
		l, err := serialbustest.NewModbusLine(pumps)
		defer start(l, err, pumpConfig("", addresses...))()
	}
	for range toasters + buses*units {
		<-found
	}
	cancel()
	for range toasters + buses {
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}
}
