// SPDX-License-Identifier: Apache-2.0

package serialbus_test

import (
	"slices"
	"testing"
	"time"

	"github.com/contoso/gatewayd/serialbus"
	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// TestEveryProfileHasAScript: each built-in profile finds the appliances of the simulator's script of the same name,
// all of them and at the profile's own speed.
func TestEveryProfileHasAScript(t *testing.T) {
	t.Parallel()
	for _, name := range serialbus.Profiles() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !slices.Contains(serialbustest.Scripts(), name) {
				t.Fatalf("serialbustest/scripts/%s.toml is missing: describe there an appliance that the profile is for", name)
			}
			text, err := serialbustest.BuiltinScript(name)
			if err != nil {
				t.Fatal(err)
			}
			script, err := serialbustest.ParseScript(text)
			if err != nil {
				t.Fatal(err)
			}
			lines, err := script.Start(nil)
			if err != nil {
				t.Skipf("no pseudo-terminals here: %v", err)
			}
			for _, l := range lines {
				t.Cleanup(func() { _ = l.Close() })
				cfg := serialbus.Config{Port: l.Path(), Driver: serialbus.DriverLine, Profile: name, Rescan: time.Second}
				if l.Units()[0] != 0 {
					cfg.Driver = serialbus.DriverModbusRTU
					for _, unit := range l.Units() {
						cfg.Units = append(cfg.Units, byte(unit))
					}
				}
				bus := runBus(t, cfg)
				for _, unit := range l.Units() {
					if is := bus.next(t, serialbus.Found, unit).Identity; is == (serialbus.Identity{}) {
						t.Errorf("unit %d of %s says nothing of itself", unit, l.Name())
					}
				}
			}
		})
	}
}
