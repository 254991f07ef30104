// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// TestRegistersOfAProperty: types, formats and units on their way into the registers and back.
func TestRegistersOfAProperty(t *testing.T) {
	const (
		fahrenheit = "type='number'\nunit='degF'\nregister_unit='degC'\nscale=10\nmin=40\nmax=90\n"
		offset     = "type='number'\nunit='K'\nregister_unit='K'\nformat='int16'\nmin=-10\nmax=10\n"
		energy     = "type='number'\nunit='W'\nregister_unit='W'\nformat='int32'\nmin=-100000\nmax=100000\n"
		kilowatts  = "type='number'\nunit='kW'\nregister_unit='W'\nformat='uint32'\nmin=0\nmax=100\n"
		minutes    = "type='number'\nunit='h'\nregister_unit='min'\nmin=0\nmax=24\n"
	)
	for _, tc := range []struct {
		name, property, value string
		want                  []uint16
		back                  string
	}{
		{"degrees of two kinds: the nearest tenth, reported as wanted", fahrenheit, `"65"`, []uint16{183}, `"65"`},
		{"as a number", fahrenheit, `65.5`, []uint16{186}, `65.5`},
		{"the nearest step would be below the lowest", fahrenheit, `40`, []uint16{45}, `40`},
		{"the nearest step would be above the highest", fahrenheit, `90`, []uint16{322}, `90`},
		{"below zero", offset, `-3`, []uint16{0xFFFD}, `-3`},
		{"two registers", energy, `70000`, []uint16{1, 0x1170}, `70000`},
		{"two registers below zero", energy, `"-1"`, []uint16{0xFFFF, 0xFFFF}, `"-1"`},
		{"low word first", energy + "low_word_first=true\n", `70000`, []uint16{0x1170, 1}, `70000`},
		{"kilowatts", kilowatts, `70.5`, []uint16{1, 0x1364}, `70.5`},
		{"hours in minutes", minutes, `1.5`, []uint16{90}, `1.5`},
		{"true", "type='bool'\n", `true`, []uint16{1}, `true`},
		{"false as text", "type='bool'\n", `"false"`, []uint16{0}, `"false"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			prop := propertyOf(t, "register=10\n"+tc.property)
			value := json.RawMessage(tc.value)
			if reason := prop.refuse(value); reason != "" {
				t.Fatal("refused:", reason)
			}
			got := prop.encode(value)
			if !slices.Equal(got, tc.want) {
				t.Errorf("registers: got %v, want %v", got, tc.want)
			}
			if back := prop.decode(got, value); string(back) != tc.back {
				t.Errorf("back: got %s, want %s", back, tc.back)
			}
		})
	}
}

// TestWhatTheApplianceHolds: what a register holds that nobody wanted is told in the property's unit and in the twin's type.
func TestWhatTheApplianceHolds(t *testing.T) {
	for _, tc := range []struct {
		name, property, like string
		registers            []uint16
		want                 string
	}{
		{"another temperature", "type='number'\nunit='degF'\nregister_unit='degC'\nscale=10\nmin=40\nmax=90\n", `"65"`, []uint16{200}, `"68"`},
		{"with its digits", "type='number'\nunit='degF'\nregister_unit='degC'\nscale=10\nmin=40\nmax=90\n", `65`, []uint16{201}, `68.18`},
		{"neither true nor false", "type='bool'\n", `true`, []uint16{7}, `7`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			prop := propertyOf(t, "register=10\n"+tc.property)
			if got := prop.decode(tc.registers, json.RawMessage(tc.like)); string(got) != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestBoolsAreNothingElse(t *testing.T) {
	prop := propertyOf(t, "register=10\ntype='bool'\n")
	for _, value := range []string{`1`, `"yes"`, `null`, `"True"`} {
		if prop.refuse(json.RawMessage(value)) == "" {
			t.Errorf("%s was taken", value)
		}
	}
}

// propertyOf parses a property of a Modbus profile.
func propertyOf(t *testing.T, text string) property {
	t.Helper()
	return profileOf(t, "[[property]]\nname='a'\n"+text).Properties[0]
}

// profileOf parses a Modbus profile; keys of its own must stand first.
func profileOf(t *testing.T, text string) profile {
	t.Helper()
	own, properties, _ := strings.Cut(text, "[[property]]")
	p, err := parseProfile(fmt.Appendf(nil, "name='x'\ndriver='modbus-rtu'\nsettle='1s'\n%s[serial]\nbaud=9600\nparity='none'\nstop_bits=1\n[[property]]%s", own, properties))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestWorkedExample: the profile that docs/serial.md makes from a maker's table is one, and does what is said there.
func TestWorkedExample(t *testing.T) {
	doc, err := os.ReadFile("../docs/serial.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(doc), "```toml\nname = \"acme-flow-9\"\n")
	text, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatal("the example is not there")
	}
	p, err := ParseProfile([]byte("name = \"acme-flow-9\"\n" + text))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		d := &modbusDriver{profile: p, master: newTestRTU(script{
			"01 03 00 65 00 01":          {"01 03 02 00 C8", "01 03 02 01 5E"},
			"01 03 00 8A 00 01":          {"01 03 02 00 00", "01 03 02 00 01"},
			"01 10 00 8A 00 01 02 00 01": {"01 10 00 8A 00 01"},
			"01 10 00 65 00 01 02 01 5E": {"01 10 00 65 00 01"},
		}.wire(t))}
		got, err := d.apply(t.Context(), 1, Settings{Desired: desiredOf(t, `{"flowSetpoint":"95","mode":"cooling"}`)})
		checkApplied(t, got, err, map[string]string{"flowSetpoint": `"95"`}, true, "mode", nil)
	})
}
