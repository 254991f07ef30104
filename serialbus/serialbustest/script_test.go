// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// startScript makes the lines of a script until the end of the test.
func startScript(t *testing.T, text string) []*Line {
	t.Helper()
	s, err := ParseScript([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	lines, err := s.Start(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		t.Cleanup(func() { _ = l.Close() })
	}
	return lines
}

// TestBuiltinScripts: each of them starts.
func TestBuiltinScripts(t *testing.T) {
	for _, name := range Scripts() {
		text, err := BuiltinScript(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range startScript(t, string(text)) {
			if len(l.Units()) == 0 || l.Name() == "" {
				t.Errorf("%s: units %v on %q", name, l.Units(), l.Name())
			}
		}
	}
	if _, err := BuiltinScript("../script"); err == nil {
		t.Error("a file outside was read")
	}
}

func TestScript(t *testing.T) {
	lines := startScript(t, `
seed = 7
[[line]]
speaks = "modbus-rtu"
baud = 19200
bits = 10
turnaround = "3ms"
echo = true
chatter = "master"
chatter_unit = 9
chatter_every = "1h"
[[line.unit]]
units = "1-2,9"
objects = { 0 = "V", 0x80 = "id{unit}" }
server_id_hex = "B4 FF"
registers = { "0-9" = 1, "5" = 7, "4" = 7, "6" = 7, "7" = 7, "8" = 7 }
functions = [3, 16, 0x2B]
one_value = true
unlock = { register = 138, value = 1 }
think = "500ms"
deaf = "500ms"
slow = [{ registers = "5-6", think = "2100ms" }]
sunspec = { address = 40000, manufacturer = "Contoso", serial = "{unit}" }
[[line.unit.text]]
register = 20
length = 3
text = "abc"
[[line.unit.setting]]
name = "state"
register = 100
max = 1
words = { on = 1 }
settle = "1s"
start = 1
[[line.fault]]
do = "late"
unit = 2
share = 0.5
delay = "25ms"
most_delay = "60ms"
[[line]]
name = "dead"
speaks = "nothing"
`)
	l := lines[0]
	if diff := cmp.Diff([]int{1, 2, 9}, l.Units()); diff != "" || l.Name() != "line1" || lines[1].Name() != "dead" {
		t.Error(l.Name(), lines[1].Name(), diff)
	}
	o := l.opts
	if o.baud != 19200 || o.bits != 10 || o.turnaround != 3*time.Millisecond || o.seed != 7 || !o.echo || o.stranger.Unit != 9 || o.stranger.Every != time.Hour {
		t.Errorf("%+v", o)
	}
	if diff := cmp.Diff([]Rule{{Fault: FaultLate, Unit: 2, Share: 0.5, Delay: 25 * time.Millisecond, MostDelay: 60 * time.Millisecond}}, l.Rules()); diff != "" {
		t.Error(diff)
	}
	m := l.device.appliance(9).(*machine)
	want := Unit{
		Address: 9, Objects: map[byte]string{0: "V", 0x80: "id9"}, ServerID: []byte{0xB4, 0xFF},
		Settings:  []Setting{{Name: "state", Register: 100, Max: 1, Words: map[string]uint16{"on": 1}, Settle: time.Second}},
		Functions: []byte{3, 16, 0x2B}, OneValue: true, Unlock: &Unlock{138, 1}, Think: 500 * time.Millisecond,
		Slow: []Slow{{5, 6, 2100 * time.Millisecond}}, Deaf: 500 * time.Millisecond, Registers: m.Registers,
	}
	if diff := cmp.Diff(want, m.Unit); diff != "" {
		t.Error(diff)
	}
	for register, want := range map[uint16]uint16{
		0: 1, 4: 7, 5: 7, 6: 7, 7: 7, 8: 7, 9: 1, 20: 'a'<<8 | 'b', 21: 'c' << 8, 22: 0, 100: 1,
		40000: 0x5375, 40001: 0x6E53, 40002: 1, 40003: 66, 40004: 'C'<<8 | 'o', 40052: '9' << 8, 40070: 0xFFFF,
	} {
		if got, has := m.values[register]; got != want || !has {
			t.Errorf("register %d holds %#x, want %#x", register, got, want)
		}
	}
	if _, has := m.values[10]; has {
		t.Error("register 10 is there")
	}
}

// TestScriptSettingBounds: a setting that names no bounds takes its words, or anything.
func TestScriptSettingBounds(t *testing.T) {
	for _, tc := range []struct {
		name, keys string
		min, max   uint16
	}{
		{"none", "", 0, 0xFFFF},
		{"words", "words = { off = 0, on = 1, boost = 3 }", 0, 3},
		{"only a maximum", "max = 1", 0, 1},
		{"both", "min = 4\nmax = 9\nwords = { a = 5 }", 4, 9},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lines := startScript(t, "[[line]]\nspeaks = \"modbus-rtu\"\n[[line.unit]]\nunits = \"1\"\n[[line.unit.setting]]\nname = \"s\"\nregister = 7\n"+tc.keys+"\n")
			s := lines[0].device.appliance(1).(*machine).Settings[0]
			if s.Min != tc.min || s.Max != tc.max {
				t.Errorf("takes %d to %d, want %d to %d", s.Min, s.Max, tc.min, tc.max)
			}
		})
	}
}

func TestScriptsRefused(t *testing.T) {
	for name, tc := range map[string]struct{ text, says string }{
		"no TOML":        {"[[line", "no TOML"},
		"an unknown key": {"colour = 1", "unknown keys"},
		"a wrong time":   {"[[line]]\nturnaround = \"soon\"", "soon"},
		"no line":        {"seed = 1", "no [[line]]"},
		"what it speaks": {"[[line]]\nspeaks = \"french\"", "french"},
		"a name twice":   {"[[line]]\nname = \"a\"\nspeaks = \"nothing\"\n[[line]]\nname = \"a\"\nspeaks = \"nothing\"", "two of that name"},
		"no unit":        {"[[line]]\nspeaks = \"alp\"", "has one"},
		"alp settings":   {"[[line]]\nspeaks = \"alp\"\n[[line.unit]]\n[[line.unit.setting]]\nname = \"s\"", "built in"},
		"a unit nowhere": {"[[line]]\nspeaks = \"nothing\"\n[[line.unit]]\n", "no unit"},
		"an address":     {"[[line]]\nspeaks = \"modbus-rtu\"\n[[line.unit]]\nunits = \"240-250\"", "248"},
		"a range":        {"[[line]]\nspeaks = \"modbus-rtu\"\n[[line.unit]]\nunits = \"9-1\"", "9-1"},
		"an object":      {"[[line]]\nspeaks = \"modbus-rtu\"\n[[line.unit]]\nunits = \"1\"\nobjects = { 256 = \"\" }", "256"},
		"a register":     {"[[line]]\nspeaks = \"modbus-rtu\"\n[[line.unit]]\nunits = \"1\"\nregisters = { 65536 = 1 }", "65536"},
		"no hex":         {"[[line]]\nspeaks = \"modbus-rtu\"\n[[line.unit]]\nunits = \"1\"\nserver_id_hex = \"x\"", "server_id_hex"},
		"a start":        {"[[line]]\nspeaks = \"modbus-rtu\"\n[[line.unit]]\nunits = \"1\"\n[[line.unit.setting]]\nname = \"s\"\nstart = \"on\"", "starts with a number"},
		"a fault":        {"[[line]]\nspeaks = \"nothing\"\n[[line.fault]]\ndo = \"explode\"", "explode"},
		"a share":        {"[[line]]\nspeaks = \"nothing\"\n[[line.fault]]\ndo = \"late\"\nshare = 2.0", "share 2"},
		"chatter":        {"[[line]]\nspeaks = \"nothing\"\nchatter = \"ghost\"", "ghost"},
		"bits":           {"[[line]]\nspeaks = \"nothing\"\nbits = 5", "5 bits"},
		"a huge file":    {strings.Repeat("#", 1<<20+1), "allowed are"},
	} {
		s, err := ParseScript([]byte(tc.text))
		if err == nil {
			_, err = s.Start(nil)
		}
		if err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v, want something about %q", name, err, tc.says)
		}
	}
}

// FuzzScript: no text makes the parser panic, or a unit that the simulator does not take.
func FuzzScript(f *testing.F) {
	for _, name := range Scripts() {
		text, err := BuiltinScript(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(_ *testing.T, text []byte) {
		s, err := ParseScript(text)
		if err != nil {
			return
		}
		for _, l := range s.Lines {
			for _, u := range l.Units {
				_, _ = u.modbus()
			}
		}
	})
}
