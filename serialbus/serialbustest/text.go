// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Text is a simulated appliance that is alone on its line and answers lines of text.
type Text struct {
	// Answers are what it says to a command, whose case does not matter.
	Answers map[string]string
	// Unknown is what it says to everything else; empty = nothing.
	Unknown string
	// Modem gives it the manners of V.250: it repeats each command until ATE0, puts a line break before and behind each
	// answer, and ends with OK, or with ERROR if it does not know the command.
	Modem bool
	// Terminator ends each of its lines; empty = CR LF. A command may end in CR, in LF or in both.
	Terminator string
	// Says is what it sends unasked, after every pause of Every (0 = 2 s); empty = nothing.
	Says  string
	Every time.Duration
	// Settings can be read and written.
	Settings []TextSetting
	// Think is how long it takes to answer, beyond the line's turnaround.
	Think time.Duration
}

// TextSetting is something that a [Text] can be set to.
type TextSetting struct {
	Name  string
	Read  string   // the command that reads it, "DARK?"
	Write string   // how the command begins that writes it; the value follows: "DARK "
	Done  string   // what it says to a write; empty = nothing
	Words []string // the values it takes, none = any; another one is an unknown command
	Start string
}

// Instrument answers *IDN? (IEEE 488.2).
func Instrument(vendor, model, serial, firmware string) Text {
	return Text{Answers: map[string]string{"*IDN?": strings.Join([]string{vendor, model, serial, firmware}, ",")}}
}

// Modem answers AT commands that ask who it is (V.250).
func Modem(vendor, model, firmware, serial string) Text {
	return Text{Modem: true, Answers: map[string]string{
		"AT+GMI": vendor, "AT+GMM": model, "AT+GMR": firmware, "AT+GSN": serial, "ATI": vendor + " " + model,
	}}
}

// Vending says its EVA-DTS record ID1 by itself.
func Vending(machine, model, software string) Text {
	return Text{Says: "ID1*" + machine + "*" + model + "*" + software}
}

// NewTextLine is an RS-232 or USB line with one appliance that speaks text.
func NewTextLine(t Text, opts ...Option) (*Line, error) {
	a := &talkative{Text: t, values: make(map[string]string)}
	for _, s := range t.Settings {
		a.values[s.Name] = s.Start
	}
	if t.Says != "" {
		every := t.Every
		if every == 0 {
			every = 2 * time.Second
		}
		opts = append([]Option{WithStranger(Stranger{Kind: ownWords, Every: every, words: a.line(t.Says)})}, opts...)
	}
	return start(a, false, opts)
}

// talkative is a Text at work.
type talkative struct {
	Text
	power
	buf     []byte
	noEcho  bool
	values  map[string]string
	written int
}

func (t *talkative) silence()                    {}
func (t *talkative) units() []int                { return []int{0} }
func (t *talkative) stray([]byte) []byte         { return t.line("nobody asked") }
func (t *talkative) settings() map[string]string { return maps.Clone(t.values) }
func (t *talkative) writes() int                 { return t.written }

// setFirmware changes the revision wherever the usual commands show one.
func (t *talkative) setFirmware(version string) {
	t.Answers = maps.Clone(t.Answers)
	if fields := strings.Split(t.Answers["*IDN?"], ","); len(fields) == 4 {
		fields[3] = version
		t.Answers["*IDN?"] = strings.Join(fields, ",")
	}
	if _, has := t.Answers["AT+GMR"]; has {
		t.Answers["AT+GMR"] = version
	}
}

func (t *talkative) appliance(unit int) appliance {
	if unit == 0 {
		return t
	}
	return nil
}

func (t *talkative) set(name, value string) error {
	for _, s := range t.Settings {
		if s.Name != name {
			continue
		}
		if !s.takes(value) {
			return fmt.Errorf("%s cannot be %q", name, value)
		}
		t.values[name] = value
		return nil
	}
	return errNoSetting(name)
}

func (t *talkative) get(name string) (string, error) {
	value, has := t.values[name]
	if !has {
		return "", errNoSetting(name)
	}
	return value, nil
}

func (s TextSetting) takes(value string) bool {
	return len(s.Words) == 0 || slices.Contains(s.Words, value)
}

// cut implements appliance: half a command is lost with the power, and a modem repeats commands again.
func (t *talkative) cut(until time.Time) {
	t.buf, t.noEcho = nil, false
	t.power.cut(until)
}

// hear cuts commands out of the bytes.
func (t *talkative) hear(data []byte, at time.Time, decide decision) []exchange {
	const longest = 2048
	t.buf = append(t.buf, data...)
	var done []exchange
	for {
		end := bytes.IndexAny(t.buf, "\r\n")
		if end < 0 {
			break
		}
		command := strings.TrimSpace(string(t.buf[:end]))
		t.buf = t.buf[end+1:]
		if command == "" || !t.on(at) {
			continue
		}
		kind := "query"
		if t.writing(command) != nil {
			kind = "write"
		}
		is := decide(0, kind)
		if reply := t.meet(command, at, is); len(reply) > 0 {
			done = append(done, exchange{kind: kind, request: []byte(command), reply: reply, think: t.Think, fate: is})
		}
	}
	if len(t.buf) > longest {
		t.buf = nil
	}
	return done
}

// meet lets a command take effect, unless its fate is another.
func (t *talkative) meet(command string, at time.Time, is fate) []byte {
	switch is.fault {
	case FaultUnheard:
		return nil
	case FaultPowerBefore:
		t.cut(at.Add(is.delay))
		return nil
	case FaultPowerAfter:
		t.answer(command)
		t.cut(at.Add(is.delay))
		return nil
	default:
		return t.answer(command)
	}
}

// writing returns the setting that a command writes, nil if it writes none.
func (t *talkative) writing(command string) *TextSetting {
	for i, s := range t.Settings {
		if s.Write != "" && len(command) > len(s.Write) && strings.EqualFold(command[:len(s.Write)], s.Write) {
			return &t.Settings[i]
		}
	}
	return nil
}

// answer returns what goes over the wire for a command.
func (t *talkative) answer(command string) []byte {
	said, known := t.reply(command)
	if !t.Modem {
		if !known {
			said = t.Unknown
		}
		return t.line(said)
	}
	var out []byte
	if !t.noEcho {
		out = append(out, command+"\r"...)
	}
	switch {
	case strings.EqualFold(command, "ATE0"), strings.EqualFold(command, "ATE1"):
		t.noEcho, known = strings.HasSuffix(command, "0"), true
	case strings.EqualFold(command, "AT"):
		known = true
	}
	if said != "" {
		out = append(out, "\r\n"+said+"\r\n"...)
	}
	if known {
		return append(out, "\r\nOK\r\n"...)
	}
	return append(out, "\r\nERROR\r\n"...)
}

// reply returns what it has to say to a command, and whether it knows it.
func (t *talkative) reply(command string) (said string, known bool) {
	for _, s := range t.Settings {
		if s.Read != "" && strings.EqualFold(command, s.Read) {
			return t.values[s.Name], true
		}
	}
	if s := t.writing(command); s != nil {
		value := strings.TrimSpace(command[len(s.Write):])
		if !s.takes(value) {
			return "", false
		}
		t.values[s.Name] = value
		t.written++
		return s.Done, true
	}
	for name, said := range t.Answers {
		if strings.EqualFold(command, name) {
			return said, true
		}
	}
	return "", false
}

// line ends each line of a text; nothing stays nothing.
func (t *talkative) line(text string) []byte {
	if text == "" {
		return nil
	}
	end := t.Terminator
	if end == "" {
		end = "\r\n"
	}
	return []byte(strings.ReplaceAll(text, "\n", end) + end)
}
