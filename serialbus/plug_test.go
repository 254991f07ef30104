// SPDX-License-Identifier: Apache-2.0

package serialbus_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/serialbus"
	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// faultAt makes the reply to the nth request get lost, and then closes a channel.
func faultAt(n int) (serialbustest.Option, <-chan struct{}) {
	due := make(chan struct{})
	return serialbustest.WithFault(func(_, at int) serialbustest.Fault {
		if at != n {
			return serialbustest.FaultNone
		}
		close(due)
		return serialbustest.FaultSilence
	}), due
}

// TestUnpluggedAtAnyRequest pulls the plug at each request of the work on a line: the first look, the second reading,
// the settings, between stage and commit. The appliance is found again and takes its settings, once.
func TestUnpluggedAtAnyRequest(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		requests int // that finding and setting take
		unit     int
		settings serialbus.Settings
		line     func(t *testing.T, opts ...serialbustest.Option) *serialbustest.Line
		config   func(port string) serialbus.Config
		writes   int
	}{
		{
			"line", 7, 0,
			serialbus.Settings{Desired: desired("state", `"ready"`, "darknessSetting", `"medium"`)},
			newToaster, toasterConfig, 1,
		},
		{
			"modbus", 12, 1,
			serialbus.Settings{Desired: desired("state", `"on"`, "temperatureSetting", `"65"`)},
			func(t *testing.T, opts ...serialbustest.Option) *serialbustest.Line {
				return newPumps(t, []serialbustest.HeatPump{mainbuilding}, opts...)
			},
			func(port string) serialbus.Config { return pumpConfig(port, 1) }, 2,
		},
	} {
		for n := range tc.requests {
			t.Run(fmt.Sprintf("%s %d", tc.name, n), func(t *testing.T) {
				t.Parallel()
				name := filepath.Join(t.TempDir(), "usb-adapter")
				fault, due := faultAt(n)
				l := tc.line(t, fault, serialbustest.WithLink(name))
				replugged := make(chan error, 1)
				go func() { // the appliance took the request; nobody is told
					<-due
					l.Unplug()
					replugged <- l.Plug()
				}()
				bus := runBus(t, tc.config(name))
				bus.next(t, serialbus.Found, tc.unit)
				applied, err := bus.Apply(t.Context(), tc.unit, tc.settings)
				for ; err != nil; applied, err = bus.Apply(t.Context(), tc.unit, tc.settings) {
					// To a machine that stalls in a write, the adapter takes no more bytes.
					if !errors.Is(err, serialbus.ErrUnplugged) && !errors.Is(err, serialbus.ErrWriteStuck) {
						t.Errorf("applying: %v", err)
					}
					bus.next(t, serialbus.Found, tc.unit)
				}
				if diff := cmp.Diff(tc.settings.Desired, applied.Reported); diff != "" {
					t.Error(diff)
				}
				if err := <-replugged; err != nil {
					t.Fatal(err)
				}
				if got := l.Writes(tc.unit); got != tc.writes {
					t.Errorf("%d writes, want %d", got, tc.writes)
				}
			})
		}
	}
}

// TestAThousandReplugs: nothing is left of an adapter that was pulled, neither a descriptor nor a goroutine.
func TestAThousandReplugs(t *testing.T) {
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	name := filepath.Join(t.TempDir(), "usb-adapter")
	plug := func() *os.File {
		master, slave, err := pty.Open()
		if err != nil {
			t.Skipf("no pseudo-terminals here: %v", err)
		}
		defer slave.Close()
		if err := os.Symlink(slave.Name(), name+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
		return master
	}
	adapter := plug()
	cfg := toasterConfig(name)
	cfg.Settle = time.Nanosecond
	bus := runBus(t, cfg)
	bus.next(t, serialbus.LineUp, 0)
	descriptors, goroutines := openDescriptors(t), runtime.NumGoroutine()
	for range rounds {
		next := plug() // before the other is pulled, so that it is another device
		_ = adapter.Close()
		adapter = next
		bus.Nudge()
		bus.next(t, serialbus.LineDown, 0)
		bus.Nudge()
		for !bus.up(t) {
			next := plug()
			_ = adapter.Close()
			adapter = next
			bus.Nudge()
		}
	}
	if now := openDescriptors(t); now > descriptors {
		t.Errorf("%d descriptors are open after %d rounds, %d were before", now, rounds, descriptors)
	}
	if now := runtime.NumGoroutine(); now > goroutines+2 { // one may be about to end
		t.Errorf("%d goroutines after %d rounds, %d before", now, rounds, goroutines)
	}
	_ = adapter.Close()
}

// up waits until the line is up. It reports false if somebody else holds the port: another test that has lost its own
// pseudo-terminal may be after the number of ours.
func (r *running) up(t *testing.T) bool {
	t.Helper()
	timeout := time.After(limit)
	for {
		select {
		case e := <-r.events:
			if e.Kind == serialbus.LineUp || errors.Is(e.Err, serialbus.ErrPortBusy) {
				return e.Kind == serialbus.LineUp
			}
		case <-timeout:
			t.Fatal("the line does not come up")
		}
	}
}

// openDescriptors counts the open files of this process.
func openDescriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("no /proc here: %v", err)
	}
	return len(all)
}
