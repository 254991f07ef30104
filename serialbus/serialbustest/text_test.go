// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTexts(t *testing.T) {
	settings := []TextSetting{{Name: "dark", Read: "DARK?", Write: "DARK ", Words: []string{"light", "dark"}, Start: "light", Done: "done"}}
	instrument := Instrument("Contoso", "TSTRSD-007", "499", "12.0.2.5")
	instrument.Settings = settings
	for _, tc := range []struct {
		name  string
		text  Text
		steps [][2]string
	}{
		{"scpi", instrument, [][2]string{
			{"*IDN?\n", "Contoso,TSTRSD-007,499,12.0.2.5\r\n"},
			{"*idn?\r\n\r\n", "Contoso,TSTRSD-007,499,12.0.2.5\r\n"},
			{"*RST\n", ""},
			{"dark?\n", "light\r\n"},
			{"DARK dark\n", "done\r\n"},
			{"DARK black\n", ""},
			{"DARK?\n", "dark\r\n"},
		}},
		{"at", Modem("Contoso", "TSTRSD-007", "12.0.2.5", "499"), [][2]string{
			{"AT+GMI\r", "AT+GMI\r\r\nContoso\r\n\r\nOK\r\n"},
			{"ATE0\r", "ATE0\r\r\nOK\r\n"},
			{"AT+GMM\r", "\r\nTSTRSD-007\r\n\r\nOK\r\n"},
			{"AT\r", "\r\nOK\r\n"},
			{"AT+TOAST\r", "\r\nERROR\r\n"},
			{"ATE1\r", "\r\nOK\r\n"},
			{"AT+GSN\r", "AT+GSN\r\r\n499\r\n\r\nOK\r\n"},
		}},
		{"others", Text{Answers: map[string]string{"v": "1\n2"}, Unknown: "?", Terminator: "\n"}, [][2]string{
			{"V", ""}, {"\n", "1\n2\n"}, {"w\n", "?\n"},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := &talkative{Text: tc.text, values: map[string]string{"dark": "light"}}
			for _, step := range tc.steps {
				got := ""
				for _, e := range a.hear([]byte(step[0]), time.Time{}, spare) {
					got += string(e.reply)
				}
				if got != step[1] {
					t.Errorf("%q: got %q, want %q", step[0], got, step[1])
				}
			}
		})
	}
}

func TestTextLine(t *testing.T) {
	text := Vending("12345", "LAV OCS", "v1.00")
	text.Every = time.Millisecond
	text.Settings = []TextSetting{{Name: "dark", Words: []string{"light", "dark"}, Start: "light"}}
	l, err := NewTextLine(text)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	defer l.Close()
	if got := string(exchangeRaw(t, openRaw(t, l, 115200), nil, 27)[:27]); got != "ID1*12345*LAV OCS*v1.00\r\nID" {
		t.Errorf("heard %q", got)
	}
	if err := l.Set(0, "dark", "dark"); err != nil {
		t.Error(err)
	}
	if got := fmt.Sprint(l.Set(0, "dark", "black"), l.Set(0, "colour", "red"), l.Set(7, "dark", "dark")); got !=
		`unit 0: dark cannot be "black" unit 0: it has no setting or register "colour" there is no unit 7 on this line; there are [0]` {
		t.Error(got)
	}
	if diff := cmp.Diff(map[string]string{"dark": "dark"}, l.Settings(0)); diff != "" || l.Writes(0) != 0 {
		t.Error(diff)
	}
}

// TestTextLosesPower: it says nothing then, and has forgotten what a modem forgets.
func TestTextLosesPower(t *testing.T) {
	a := &talkative{Text: Modem("Contoso", "M", "1", "2"), values: map[string]string{}}
	now := time.Unix(0, 0)
	ask := func(command string, at time.Time, decide decision) (got string) {
		for _, e := range a.hear([]byte(command), at, decide) {
			got += string(e.reply)
		}
		return got
	}
	ask("ATE0\r", now, spare)
	fails := func(int, string) fate { return fate{FaultPowerAfter, time.Second} }
	if got := ask("AT\r", now, fails) + ask("AT\r", now, spare); got != "" {
		t.Errorf("without power it said %q", got)
	}
	if got := ask("AT\r", now.Add(time.Second), spare); got != "AT\r\r\nOK\r\n" {
		t.Errorf("with power it said %q", got)
	}
	a.setFirmware("2.0")
	if a.Answers["AT+GMR"] != "2.0" {
		t.Error("it tells the old firmware")
	}
}
