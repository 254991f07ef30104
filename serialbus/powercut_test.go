// SPDX-License-Identifier: Apache-2.0

package serialbus_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/serialbus"
	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// TestPowerCutsWhileSetting: the appliance's power fails before or after each step of a write. The gateway comes to the
// wanted settings all the same, and what took effect is not written again.
func TestPowerCutsWhileSetting(t *testing.T) {
	t.Parallel()
	cut := func(fault serialbustest.Fault, on string) serialbustest.Option {
		return serialbustest.WithRules(serialbustest.Rule{Fault: fault, On: on, Times: 1, Delay: 300 * time.Millisecond})
	}
	for _, on := range []string{"stage", "commit", "write"} {
		for _, fault := range []serialbustest.Fault{serialbustest.FaultPowerBefore, serialbustest.FaultPowerAfter} {
			t.Run(on+" "+fault.String(), func(t *testing.T) {
				t.Parallel()
				unit, want := 0, desired("state", `"ready"`, "darknessSetting", `"dark"`)
				var l *serialbustest.Line
				var cfg serialbus.Config
				if on == "write" {
					unit, want = 1, desired("state", `"on"`)
					l = newPumps(t, []serialbustest.HeatPump{mainbuilding}, cut(fault, on))
					cfg = pumpConfig(l.Path(), 1)
				} else {
					l = newToaster(t, cut(fault, on))
					cfg = toasterConfig(l.Path())
				}
				cfg.Rescan, cfg.ReplyTimeout = time.Second, 200*time.Millisecond
				bus := runBus(t, cfg)
				bus.next(t, serialbus.Found, unit)
				mustApply(t, bus, unit, want)
				if got := l.Stats().Faults[fault.String()]; got != 1 {
					t.Errorf("the power failed %d times", got)
				}
				if l.Writes(unit) != 1 {
					t.Errorf("%d writes took effect, want 1", l.Writes(unit))
				}
				shown := l.Settings(unit)
				for name := range want {
					if diff := cmp.Diff(string(want[name]), `"`+shown[name]+`"`); diff != "" {
						t.Errorf("%s: %s", name, diff)
					}
				}
			})
		}
	}
}
