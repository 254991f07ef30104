// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/contoso/gatewayd/serialbus"
)

// oven is a profile as an integrator writes one.
const oven = `name = "fabrikam-oven"
driver = "line"
protocol = "text"

[serial]
baud = 9600
parity = "none"
stop_bits = 1

[text]
terminator = "\r"

[[text.query]]
send = "WHO"
expect = '^OVEN (?P<model>\S+) #(?P<serial>\d+)$'
`

const ovenBus = "[[bus]]\nname = \"bakery\"\nport = \"/dev/ttyUSB7\"\ndriver = \"line\"\nprofile = \"fabrikam-oven\"\nallow = [\"*\"]\n"

// parseWith parses a configuration beside files of the site's own.
func parseWith(t *testing.T, files map[string]string, profiles string) (Config, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := "profiles = " + strings.ReplaceAll(profiles, "DIR", dir) + "\n" + complete + ovenBus
	return Parse(filepath.Join(dir, "gatewayd.toml"), []byte(text))
}

func TestSiteProfile(t *testing.T) {
	for _, profiles := range []string{`["oven.toml"]`, `["DIR/oven.toml"]`} {
		cfg, err := parseWith(t, map[string]string{"oven.toml": oven}, profiles)
		if err != nil {
			t.Fatalf("%s: %v", profiles, err)
		}
		line := cfg.Buses[len(cfg.Buses)-1].Line
		if line.Profile != "fabrikam-oven" || len(line.Profiles) != 1 {
			t.Errorf("%s: got profile %q of %d", profiles, line.Profile, len(line.Profiles))
		}
		if _, err := serialbus.New(line, nil); err != nil {
			t.Errorf("%s: %v", profiles, err)
		}
	}
}

// TestSiteProfileMistakes holds what a person reads for each mistake in a profile.
func TestSiteProfileMistakes(t *testing.T) {
	for _, tc := range []struct{ name, old, new, want string }{
		{"unknown key", "driver =", "drivr =", `oven.toml:2: unknown key "drivr" (did you mean "driver"?)`},
		{"unknown key of a table", "baud =", "bauds =", `oven.toml:6: unknown key "serial.bauds" (did you mean "baud"?)`},
		{"unknown key of a query", "expect =", "expcet =", `oven.toml:15: unknown key "text.query.expcet" (did you mean "expect"?)`},
		{"broken TOML", `"line"`, `"line`, `oven.toml:2:`},
		{"text for a number", "9600", `"fast"`, `oven.toml:6:8: a TOML string stands here; allowed is a whole number without quotes`},
		{"number for a text", `"none"`, `0`, `a TOML integer stands here; allowed is text between quotes`},
		{"name of a built-in one", "fabrikam-oven", "scpi", `oven.toml: name "scpi": there is a built-in profile of this name; choose another`},
		{"no name", `name = "fabrikam-oven"`, ``, `oven.toml: name "": allowed are`},
		{"name with a space", "fabrikam-oven", "oven 7", `oven.toml: name "oven 7": allowed are`},
		{"expression", `(?P<serial>\d+)`, `(?P<serial>\d+`, `oven.toml: text: query 1 ("WHO"): expect: error parsing regexp`},
		{"no terminator", `terminator = "\r"`, ``, `terminator: missing`},
		{"driver", `"line"`, `"lin"`, `oven.toml: driver "lin": allowed are line and modbus-rtu`},
		{"used under another name", `"fabrikam-oven"`, `"fabrikam-ovens"`, `did you mean profile "fabrikam-ovens"?`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := strings.Replace(oven, tc.old, tc.new, 1)
			if text == oven {
				t.Fatal("the change changes nothing")
			}
			_, err := parseWith(t, map[string]string{"oven.toml": text}, `["oven.toml"]`)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got:\n%v\nwant a part:\n%s", err, tc.want)
			}
		})
	}
	for _, tc := range []struct{ name, profiles, want string }{
		{"missing", `["nowhere.toml"]`, "nowhere.toml: no such file"},
		{"twice", `["oven.toml", "copy.toml"]`, `copy.toml both have the name "fabrikam-oven"`},
		{"a folder", `["."]`, "is a directory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := parseWith(t, map[string]string{"oven.toml": oven, "copy.toml": oven}, tc.profiles)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got:\n%v\nwant a part:\n%s", err, tc.want)
			}
		})
	}
}
