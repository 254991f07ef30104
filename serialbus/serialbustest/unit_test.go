// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// askUnits gives one request, without its checksum, to a bus and returns the replies without theirs.
func askUnits(t *testing.T, bus *modbusLine, at time.Time, request string) string {
	t.Helper()
	var replies []string
	for _, e := range bus.hear(withChecksum(fromHex(t, request)), at, spare) {
		text := fmt.Sprintf("% X", e.reply[:len(e.reply)-2])
		if e.think > 0 {
			text += fmt.Sprint(" after ", e.think)
		}
		replies = append(replies, text)
	}
	return strings.Join(replies, ", ")
}

func newBus(units ...Unit) *modbusLine {
	bus := &modbusLine{}
	for _, u := range units {
		bus.machines = append(bus.machines, newMachine(u))
	}
	return bus
}

func TestUnits(t *testing.T) {
	objects := map[byte]string{0: "V", 1: "P", 2: "1", 4: "N", 0x80: "id"}
	locked := Unit{
		Address: 1, Registers: map[uint16]uint16{10: 7, 1000: 1},
		Settings:  []Setting{{Name: "a", Register: 100, Max: 5}, {Name: "b", Register: 101, Max: 5, Stuck: true}, {Name: "c", Register: 102, Max: 5, Settle: time.Second}},
		Unlock:    &Unlock{138, 1},
		Functions: []byte{3, 6, 0x10},
		OneValue:  true,
		Think:     10 * time.Millisecond,
		Slow:      []Slow{{1000, 1999, 2100 * time.Millisecond}},
	}
	for _, tc := range []struct {
		name  string
		units []Unit
		steps []string // "request -> replies"; "+1s" lets time pass
	}{
		{"registers", []Unit{locked}, []string{
			"01 03 00 0A 00 01 -> 01 03 02 00 07 after 10ms",
			"01 03 00 0A 00 02 -> 01 83 02 after 10ms",
			"01 03 03 E8 00 01 -> 01 03 02 00 01 after 2.1s",
			"01 04 00 0A 00 01 -> 01 84 01 after 10ms",
			"02 03 00 0A 00 01 -> ",
		}},
		{"locked, stuck and settling", []Unit{locked}, []string{
			"01 06 00 64 00 05 -> 01 86 02 after 10ms",
			"01 06 00 8A 00 01 -> 01 06 00 8A 00 01 after 10ms",
			"01 06 00 64 00 05 -> 01 06 00 64 00 05 after 10ms",
			"01 06 00 64 00 06 -> 01 86 03 after 10ms",
			"01 03 00 64 00 01 -> 01 03 02 00 05 after 10ms",
			"01 10 00 65 00 01 02 00 04 -> 01 10 00 65 00 01 after 10ms",
			"01 03 00 65 00 01 -> 01 03 02 00 00 after 10ms",
			"01 10 00 66 00 01 02 00 04 -> 01 10 00 66 00 01 after 10ms",
			"01 03 00 66 00 01 -> 01 03 02 00 00 after 10ms",
			"+1s",
			"01 03 00 66 00 01 -> 01 03 02 00 04 after 10ms",
			"01 10 00 64 00 02 04 00 01 00 01 -> 01 90 03 after 10ms",
		}},
		{"basic only", []Unit{{Address: 1, Objects: objects, Conformity: 0x01}}, []string{
			"01 2B 0E 01 00 -> 01 2B 0E 01 01 00 00 03 00 01 56 01 01 50 02 01 31",
			"01 2B 0E 03 80 -> 01 2B 0E 03 01 00 00 03 00 01 56 01 01 50 02 01 31",
			"01 2B 0E 04 00 -> 01 AB 03",
			"01 11 -> 01 91 01",
		}},
		{"regular with single objects", []Unit{{Address: 1, Objects: objects, Conformity: 0x82}}, []string{
			"01 2B 0E 02 03 -> 01 2B 0E 02 82 00 00 01 04 01 4E",
			"01 2B 0E 04 04 -> 01 2B 0E 04 82 00 00 01 04 01 4E",
			"01 2B 0E 04 80 -> 01 AB 02",
		}},
		{"it keeps silent at what it does not know", []Unit{{Address: 1, Mute: true}}, []string{
			"01 2B 0E 01 00 -> ",
			"01 03 00 00 00 01 -> 01 83 02",
		}},
		{"two on one address", []Unit{{Address: 1, Registers: map[uint16]uint16{0: 1}}, {Address: 1, Registers: map[uint16]uint16{0: 2}}}, []string{
			"01 03 00 00 00 01 -> 01 03 02 00 01, 01 03 02 00 02",
		}},
		{"deaf after a request to nobody", []Unit{{Address: 5, Deaf: 500 * time.Millisecond}, {Address: 6}}, []string{
			"05 03 00 00 00 01 -> 05 83 02",
			"06 03 00 00 00 01 -> 06 83 02",
			"05 03 00 00 00 01 -> 05 83 02",
			"07 03 00 00 00 01 -> ",
			"+499ms",
			"05 03 00 00 00 01 -> ",
			"+1ms",
			"05 03 00 00 00 01 -> 05 83 02",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bus, now := newBus(tc.units...), time.Unix(0, 0)
			for _, step := range tc.steps {
				if pause, err := time.ParseDuration(step); err == nil {
					now = now.Add(pause)
					continue
				}
				request, want, _ := strings.Cut(step, " -> ")
				if got := askUnits(t, bus, now, request); got != want {
					t.Errorf("%s: got %q, want %q", request, got, want)
				}
			}
		})
	}
}

// TestUnitsAtTheirOwnPanel: what a person changes there shows on the line, and is no write.
func TestUnitsAtTheirOwnPanel(t *testing.T) {
	m := newMachine(HeatPump{Unit: 1, Firmware: "1"}.asUnit())
	for _, step := range [][3]string{{"state", "on", "on"}, {"temperatureSetting", "65.5", "65.5"}, {"101", "700", "700"}, {"0x0A", "5", "5"}} {
		if err := m.set(step[0], step[1]); err != nil {
			t.Error(err)
		}
		if got, err := m.get(step[0]); got != step[2] || err != nil {
			t.Errorf("%s is %s, %v", step[0], got, err)
		}
	}
	for _, step := range [][2]string{{"state", "ajar"}, {"temperatureSetting", "65.55"}, {"300", "1"}, {"colour", "red"}, {"10", "-1"}, {"10", "65536"}} {
		if err := m.set(step[0], step[1]); err == nil {
			t.Errorf("%s took %s", step[0], step[1])
		}
	}
	if _, err := m.get("colour"); err == nil {
		t.Error("it has a colour")
	}
	if diff := cmp.Diff(map[string]string{"state": "on", "temperatureSetting": "70"}, m.settings()); diff != "" || m.writes() != 0 {
		t.Errorf("%d writes, %s", m.writes(), diff)
	}
}

// TestPowerFails at every point of a write, and what is left then.
func TestPowerFails(t *testing.T) {
	now := time.Unix(0, 0)
	fails := func(fault Fault) decision {
		return func(_ int, kind string) fate {
			if kind == "read" || kind == "status" || kind == "identify" {
				return fate{}
			}
			return fate{fault, time.Second}
		}
	}
	for fault, want := range map[Fault]string{FaultUnheard: "00 00", FaultPowerBefore: "00 00", FaultPowerAfter: "00 01"} {
		bus := newBus(HeatPump{Unit: 1}.asUnit())
		if got := bus.hear(withChecksum(fromHex(t, "01 10 00 64 00 01 02 00 01")), now, fails(fault)); got != nil {
			t.Errorf("%v: it answered", fault)
		}
		const read = "01 03 00 64 00 01"
		if got := askUnits(t, bus, now, read); got != "" && fault != FaultUnheard {
			t.Errorf("%v: it answers without power", fault)
		}
		if got := askUnits(t, bus, now.Add(time.Second), read); got != "01 03 02 "+want {
			t.Errorf("%v: it holds %s", fault, got)
		}
	}

	stage := withTrailer([]byte(`{"id":1,"method":"stage","params":{"rev":1,"desired":{"state":"ready"}}}`))
	toast := &toaster{}
	if got := toast.hear(stage, now, fails(FaultPowerAfter)); got != nil || toast.staged != nil {
		t.Error("what was staged outlived the power cut")
	}
	if got := toast.hear(stage, now.Add(time.Second), spare); len(got) != 1 || toast.staged == nil {
		t.Error("it takes nothing when the power is back")
	}
	commit := withTrailer([]byte(`{"id":2,"method":"commit","params":{"rev":1,"crc":"` + toast.staged.CRC + `"}}`))
	if got := toast.hear(commit, now.Add(time.Second), fails(FaultPowerAfter)); got != nil || toast.settings()["state"] != "ready" {
		t.Error("what was committed is lost")
	}
}

func TestToasterAtItsOwnPanel(t *testing.T) {
	toast := &toaster{}
	if err := toast.set("darknessSetting", "dark"); err != nil {
		t.Error(err)
	}
	if got, err := toast.get("darknessSetting"); got != "dark" || err != nil {
		t.Error(got, err)
	}
	if toast.set("darknessSetting", "black") == nil || toast.set("colour", "red") == nil || toast.writes() != 0 {
		t.Error("it takes what it does not have, or counts it as a write")
	}
	if _, err := toast.get("colour"); err == nil {
		t.Error("it has a colour")
	}
}
