// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBuiltInProfiles(t *testing.T) {
	if diff := cmp.Diff([]string{"alp", "at", "contoso-hpsd-088", "contoso-tstrsd-007", "eva-dts", "nibe-modbus40", "scpi"}, Profiles()); diff != "" {
		t.Error(diff)
	}
	for _, name := range Profiles() {
		if _, err := loadProfile(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseProfileRefuses(t *testing.T) {
	const (
		line   = "name='x'\ndriver='line'\nprotocol='alp'\n"
		modbus = "name='x'\ndriver='modbus-rtu'\n"
		serial = "[serial]\nbaud=9600\nparity='none'\nstop_bits=1\n"
		number = "[[property]]\nname='a'\ntype='number'\nregister=1\nmin=0\n"
		watts  = "unit='W'\nregister_unit='W'\n"
	)
	for _, tc := range []struct{ name, text, want string }{
		{"not TOML", "name=", "toml"},
		{"unknown key", line + "colour='red'\n" + serial, "colour"},
		{"driver", "driver='can'\n" + serial, `driver "can"`},
		{"protocol", "driver='line'\nprotocol='scpi'\n" + serial, `protocol "scpi"`},
		{"protocol of modbus", modbus + "protocol='alp'\n" + serial, "only the driver line has one"},
		{"any setting in a register", modbus + "any_setting=true\n" + serial, "any_setting"},
		{"no baud", line, "serial.baud 0"},
		{"stop bits", line + "[serial]\nbaud=9600\nparity='none'\nstop_bits=3\n", "serial.stop_bits 3"},
		{"parity", line + "[serial]\nbaud=9600\nstop_bits=1\n", `serial.parity ""`},
		{"settle", line + "settle='soon'\n" + serial, `settle "soon"`},
		{"reply timeout", line + "reply_timeout='2h'\n" + serial, `reply_timeout "2h"`},
		{"basic object", modbus + serial + "[identity]\nserial_object=0x05\n", "0x5"},
		{"no register", modbus + serial + "[[property]]\nname='a'\ntype='enum'\nvalues={on=1}\n", "register"},
		{"register on a line", line + serial + "[[property]]\nname='a'\ntype='enum'\nallowed=['on']\nregister=1\n", "register"},
		{"enum without numbers", modbus + serial + "[[property]]\nname='a'\ntype='enum'\nregister=1\n", "values"},
		{"enum without words", line + serial + "[[property]]\nname='a'\ntype='enum'\n", "allowed"},
		{"number without bounds", modbus + serial + "[[property]]\nname='a'\ntype='number'\nregister=1\n", "min, max"},
		{"number without a unit", modbus + serial + number + "max=1\nregister_unit='W'\n", "unit: missing"},
		{"register without a unit", modbus + serial + number + "max=1\nunit='W'\n", "register_unit: missing"},
		{"units that do not belong together", modbus + serial + number + "max=1\nunit='W'\nregister_unit='degC'\n", `register_unit "degC"`},
		{"unknown units that differ", modbus + serial + number + "max=1\nunit='furlong'\nregister_unit='league'\n", `register_unit "league"`},
		{"register unit on a line", line + serial + "[[property]]\nname='a'\ntype='number'\nmin=0\nmax=1\nunit='W'\nregister_unit='W'\n", "only for a register"},
		{"number too big", modbus + serial + number + watts + "max=7000\nscale=10\n", "65535"},
		{"below zero", modbus + serial + number + watts + "max=1\nformat='int16'\nscale=40000\n", "32767"},
		{"format", modbus + serial + number + watts + "max=1\nformat='float32'\n", `format "float32"`},
		{"word order of one word", modbus + serial + number + watts + "max=1\nlow_word_first=true\n", "low_word_first"},
		{"second register", modbus + serial + "[[property]]\nname='a'\ntype='number'\nregister=65535\nformat='uint32'\nmin=0\nmax=1\n" + watts, "above 65535"},
		{"unit of an enum", line + serial + "[[property]]\nname='a'\ntype='enum'\nallowed=['on']\nunit='W'\n", "only for a number"},
		{"words of a bool", modbus + serial + "[[property]]\nname='a'\ntype='bool'\nregister=1\nvalues={on=1}\n", "only for an enum"},
		{"register of two", modbus + serial + "[[property]]\nname='a'\ntype='bool'\nregister=1\n[[property]]\nname='b'\ntype='bool'\nregister=1\n", `register 1 belongs to property "a"`},
		{"register of the unlock", modbus + "unlock={register=1,value=1}\n" + serial + "[[property]]\nname='a'\ntype='bool'\nregister=1\n", "register 1 belongs to unlock"},
		{"unlock on a line", line + "unlock={register=1,value=1}\n" + serial, "only the driver modbus-rtu has registers"},
		{"writes per day", modbus + "writes_per_day=-1\n" + serial, "writes_per_day -1"},
		{"writes per day of a property", modbus + serial + "[[property]]\nname='a'\ntype='bool'\nregister=1\nwrites_per_day=1001\n", "writes_per_day 1001"},
		{"type", line + serial + "[[property]]\nname='a'\ntype='text'\n", `type "text"`},
		{"name", line + serial + "[[property]]\ntype='enum'\nallowed=['on']\n", "name: missing"},
		{"twice", line + serial + strings.Repeat("[[property]]\nname='a'\ntype='enum'\nallowed=['on']\n", 2), "named twice"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := parseProfile([]byte(tc.text))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q in it", err, tc.want)
			}
		})
	}
}

// TestBoundsWinOverTheCloud: what a profile does not allow is refused, whatever the twin wants (serial 7.6).
func TestBoundsWinOverTheCloud(t *testing.T) {
	for _, tc := range []struct{ name, profile, property, value, want string }{
		{"state", "contoso-hpsd-088", "state", `"on"`, ""},
		{"state off the list", "contoso-hpsd-088", "state", `"defrost"`, `"defrost" is not one of off, on`},
		{"state as a number", "contoso-hpsd-088", "state", `1`, `1 is not one of off, on`},
		{"null", "contoso-hpsd-088", "state", `null`, `null is not one of off, on`},
		{"temperature as text", "contoso-hpsd-088", "temperatureSetting", `"65"`, ""},
		{"temperature as a number", "contoso-hpsd-088", "temperatureSetting", `65`, ""},
		{"lowest", "contoso-hpsd-088", "temperatureSetting", `40`, ""},
		{"highest", "contoso-hpsd-088", "temperatureSetting", `"90"`, ""},
		{"tenths", "contoso-hpsd-088", "temperatureSetting", `65.5`, ""},
		{"too cold", "contoso-hpsd-088", "temperatureSetting", `39.9`, "39.9 is outside 40 to 90 degF"},
		{"too hot", "contoso-hpsd-088", "temperatureSetting", `"95"`, `"95" is outside 40 to 90 degF`},
		{"too fine", "contoso-hpsd-088", "temperatureSetting", `65.25`, "65.25 is finer than the appliance can hold (steps of 0.1)"},
		{"a word", "contoso-hpsd-088", "temperatureSetting", `"warm"`, `"warm" is not a number`},
		{"infinite", "contoso-hpsd-088", "temperatureSetting", `"Inf"`, `"Inf" is not a number`},
		{"hex", "contoso-hpsd-088", "temperatureSetting", `"0x41"`, `"0x41" is not a number`},
		{"huge", "contoso-hpsd-088", "temperatureSetting", `1e400`, `1e400 is not a number`},
		{"an object", "contoso-hpsd-088", "temperatureSetting", `{"a":1}`, `{"a":1} is not a number`},
		{"text in text", "contoso-hpsd-088", "temperatureSetting", `"\"65\""`, `is not a number`},
		{"darkness", "contoso-tstrsd-007", "darknessSetting", `"medium"`, ""},
		{"darkness off the list", "contoso-tstrsd-007", "darknessSetting", `"burnt"`, `"burnt" is not one of dark, light, medium`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := loadProfile(tc.profile)
			if err != nil {
				t.Fatal(err)
			}
			plan := p.plan(map[string]json.RawMessage{tc.property: json.RawMessage(tc.value)})
			got := ""
			if len(plan.refused) == 1 {
				got = plan.refused[0].Reason
			}
			if (tc.want == "") != (len(plan.wanted) == 1) || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestPlanListsUnmapped(t *testing.T) {
	desired := map[string]json.RawMessage{"zone": json.RawMessage(`1`), "colour": json.RawMessage(`"red"`), "state": json.RawMessage(`"on"`)}
	pump, _ := loadProfile("contoso-hpsd-088")
	if diff := cmp.Diff([]string{"colour", "zone"}, pump.plan(desired).unmapped); diff != "" {
		t.Error(diff)
	}
	anything, _ := loadProfile("alp")
	if got := anything.plan(desired); len(got.unmapped) != 0 || len(got.wanted) != 3 {
		t.Errorf("the profile alp passes everything on, got %+v", got)
	}
}

// TestDecodeKeepsTheTwinsType: "65" stays text, 65 stays a number.
func TestDecodeKeepsTheTwinsType(t *testing.T) {
	p, _ := loadProfile("contoso-hpsd-088")
	temperature, _ := p.property("temperatureSetting")
	state, _ := p.property("state")
	for _, tc := range []struct {
		name     string
		prop     property
		register uint16
		like     string
		want     string
	}{
		{"text", temperature, 650, `"65"`, `"65"`},
		{"number", temperature, 650, `65`, `65`},
		{"tenths as text", temperature, 655, `"65.5"`, `"65.5"`},
		{"word", state, 1, `"on"`, `"on"`},
		{"no word for it", state, 7, `"on"`, `7`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := string(tc.prop.decode([]uint16{tc.register}, json.RawMessage(tc.like))); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// FuzzProperty: whatever the twin holds, a value that is not refused survives the way into the register and back.
func FuzzProperty(f *testing.F) {
	for _, value := range []string{`"on"`, `"65"`, `65`, `65.5`, `4e1`, `"4e1"`, `null`, `{}`, `"\u0036\u0035"`, `-0`, `"`, ``, `90.00000001`} {
		f.Add(value)
	}
	p, err := loadProfile("contoso-hpsd-088")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, prop := range p.Properties {
			raw := json.RawMessage(value)
			if prop.refuse(raw) != "" {
				continue
			}
			register := prop.encode(raw)
			back := prop.decode(register, raw)
			if prop.refuse(back) != "" || !slices.Equal(prop.encode(back), register) {
				t.Errorf("%s: %s became %d and that %s", prop.Name, value, register, back)
			}
		}
	})
}

// FuzzParseProfile: a profile of a site's own, whatever is in its file, is refused or can be followed.
func FuzzParseProfile(f *testing.F) {
	for _, name := range Profiles() {
		text, err := profileFiles.ReadFile("profiles/" + name + ".toml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(strings.Replace(string(text), `"`+name+`"`, `"my-own"`, 1)))
	}
	f.Add([]byte(ovenProfile))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParseProfile(text)
		if err != nil {
			return
		}
		cfg := Config{Port: "/dev/ttyTEST", Driver: p.Driver, Profile: p.Name, Profiles: []Profile{p}}
		if p.Driver == DriverModbusRTU {
			cfg.Units = []byte{1}
		}
		if _, err := New(cfg, nil); err != nil {
			t.Fatal(err)
		}
	})
}
