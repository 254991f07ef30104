// SPDX-License-Identifier: Apache-2.0

package serialbus_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/serialbus"
	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// nibe runs the profile of NIBE's MODBUS 40 against the simulator's script of it.
func nibe(t *testing.T) (*serialbustest.Line, *running) {
	t.Helper()
	text, err := serialbustest.BuiltinScript("nibe-modbus40")
	if err != nil {
		t.Fatal(err)
	}
	script, err := serialbustest.ParseScript(text)
	if err != nil {
		t.Fatal(err)
	}
	started, err := script.Start(nil)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	l := started[0]
	t.Cleanup(func() { _ = l.Close() })
	bus := runBus(t, serialbus.Config{Port: l.Path(), Driver: serialbus.DriverModbusRTU, Profile: "nibe-modbus40", Units: []byte{1}})
	is := bus.next(t, serialbus.Found, 1).Identity
	if is.Vendor != "NIBE" || is.Model != "F1245" || is.Firmware != "5539" || is.Serial != "" || is.RegistrationID != "" {
		t.Errorf("identity: %+v", is)
	}
	return l, bus
}

// TestNIBE: settings of a unit that takes one value per write, refuses most functions and thinks for long.
func TestNIBE(t *testing.T) {
	t.Parallel()
	l, bus := nibe(t)
	want := desired("hotWaterComfortMode", `"luxury"`, "roomSetpoint", `"21.5"`, "allowHeating", `true`)
	mustApply(t, bus, 1, want)
	if diff := cmp.Diff(map[string]string{"hotWaterComfortMode": "luxury", "roomSetpoint": "21.5", "allowHeating": "1"}, l.Settings(1)); diff != "" {
		t.Error(diff)
	}
	for register, writes := range map[uint16]int{47041: 1, 47398: 1, 47371: 0} { // heating was allowed already
		if got := l.RegisterWrites(1, register); got != writes {
			t.Errorf("register %d was written %d times, want %d", register, got, writes)
		}
	}
}

// TestNIBEProvesItsRegisters: where the register of the firmware holds something else, nothing is written.
func TestNIBEProvesItsRegisters(t *testing.T) {
	t.Parallel()
	l, bus := nibe(t)
	if err := l.Set(1, "43001", "5538"); err != nil {
		t.Fatal(err)
	}
	_, err := bus.Apply(t.Context(), 1, serialbus.Settings{Desired: desired("roomSetpoint", `25`)})
	var rejected *serialbus.RejectedError
	if !errors.As(err, &rejected) || !strings.Contains(err.Error(), `register 43001 should hold the firmware "5539" and holds 5538`) {
		t.Errorf("got %v", err)
	}
	if l.Writes(1) != 0 {
		t.Errorf("written %d times", l.Writes(1))
	}
}
