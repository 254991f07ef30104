// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestConfigValidate(t *testing.T) {
	pumps := Config{Port: "/dev/ttyUSB0", Driver: DriverModbusRTU, Profile: "contoso-hpsd-088", Units: []byte{1, 2}}
	toaster := Config{Port: "/dev/ttyACM0", Driver: DriverLine, Profile: "contoso-tstrsd-007"}
	with := func(c Config, change func(*Config)) Config { change(&c); return c }
	for _, tc := range []struct {
		name string
		cfg  Config
		want string // part of the error, "" = valid
	}{
		{"heat pumps", pumps, ""},
		{"toaster", toaster, ""},
		{"modbus without a profile", with(pumps, func(c *Config) { c.Profile = "" }), ""},
		{"no port", with(toaster, func(c *Config) { c.Port = "" }), "port: missing"},
		{"no driver", with(toaster, func(c *Config) { c.Driver = "" }), `driver "": allowed are line and modbus-rtu`},
		{"line without a profile", with(toaster, func(c *Config) { c.Profile = "" }), "profile: missing"},
		{"unknown profile", with(toaster, func(c *Config) { c.Profile = "contoso-x" }), `profile "contoso-x": unknown; known are alp, at, contoso-hpsd-088`},
		{"path as a profile", with(toaster, func(c *Config) { c.Profile = "../profiles/alp" }), "unknown"},
		{"profile of the other driver", with(toaster, func(c *Config) { c.Profile = "contoso-hpsd-088" }), "it is for the driver modbus-rtu, not line"},
		{"no units", with(pumps, func(c *Config) { c.Units = nil }), `units: missing`},
		{"unit 0", with(pumps, func(c *Config) { c.Units = []byte{0} }), "units: 0 is no address"},
		{"unit 248", with(pumps, func(c *Config) { c.Units = []byte{248} }), "units: 248 is no address"},
		{"unit twice", with(pumps, func(c *Config) { c.Units = []byte{7, 7} }), "units: 7 is named twice"},
		{"units on a line", with(toaster, func(c *Config) { c.Units = []byte{1} }), "units: only the driver modbus-rtu"},
		{"baud", with(toaster, func(c *Config) { c.Baud = 75 }), "baud 75: allowed are 300 to 4000000"},
		{"parity", with(toaster, func(c *Config) { c.Parity = "mark" }), `parity "mark": allowed are none, even and odd`},
		{"speed searched", with(pumps, func(c *Config) { c.AutoBaud = true }), ""},
		{"speed searched and given", with(pumps, func(c *Config) { c.AutoBaud, c.Baud = true, 9600 }), "baud auto: only"},
		{"speed searched, parity given", with(pumps, func(c *Config) { c.AutoBaud, c.Parity = true, ParityEven }), "leave parity out"},
		{"speed searched on a line", with(toaster, func(c *Config) { c.AutoBaud = true }), "baud auto: only"},
		{"negative time", with(toaster, func(c *Config) { c.Rescan = -time.Second }), "rescan -1s"},
		{"two faults", with(toaster, func(c *Config) { c.Port, c.Baud = "", 1 }), "baud 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.cfg.Validate()
			got := ""
			if err != nil {
				got = err.Error()
			}
			if (tc.want == "") != (err == nil) || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q in it", got, tc.want)
			}
			if _, newErr := New(tc.cfg, nil); (newErr == nil) != (err == nil) {
				t.Errorf("New says %v, Validate %v", newErr, err)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	p, err := loadProfile("contoso-hpsd-088")
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Baud: 19200, Parity: ParityEven, Settle: DefaultSettle, ReplyTimeout: DefaultReplyTimeout,
		Recheck: DefaultRecheck, Rescan: DefaultRescan,
	}
	if diff := cmp.Diff(want, Config{}.withDefaults(p)); diff != "" {
		t.Error(diff)
	}
	set := Config{Baud: 9600, Parity: ParityNone, Settle: 1, ReplyTimeout: 2, Recheck: 3, Rescan: 4}
	if diff := cmp.Diff(set, set.withDefaults(p)); diff != "" {
		t.Error(diff)
	}
}

func TestParseUnits(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       []byte
		wantErr    string
	}{
		{"one", "1", []byte{1}, ""},
		{"range and one", "1-3,40", []byte{1, 2, 3, 40}, ""},
		{"spaces", " 2 , 4 - 5 ", []byte{2, 4, 5}, ""},
		{"last", "246-247", []byte{246, 247}, ""},
		{"empty", "", nil, `"" is no address`},
		{"empty part", "1,,2", nil, `"" is no address`},
		{"zero", "0", nil, `"0" is no address`},
		{"too high", "1-248", nil, `"248" is no address`},
		{"not a byte", "300", nil, `"300" is no address`},
		{"word", "all", nil, `"all" is no address`},
		{"backwards", "5-2", nil, "write 2-5"},
		{"twice", "1-5,3", nil, "3 is named twice"},
		{"open range", "5-", nil, `"" is no address`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParseUnits(tc.text)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			if (tc.wantErr == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tc.wantErr) {
				t.Errorf("got error %v, want %q in it", err, tc.wantErr)
			}
		})
	}
}

func FuzzParseUnits(f *testing.F) {
	for _, text := range []string{"1", "1-32,40", "247", "1-247", "5-2", "-", ",", "1-1-1", "0x10", "+1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		units, err := ParseUnits(text)
		if err != nil {
			return
		}
		// What parses must be what Validate takes.
		cfg := Config{Port: "/dev/ttyS0", Driver: DriverModbusRTU, Units: units}
		if err := cfg.Validate(); err != nil {
			t.Errorf("%q gives %v, which is refused: %v", text, units, err)
		}
	})
}
