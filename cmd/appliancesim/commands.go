// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// errQuit ends the program.
var errQuit = errors.New("quit")

// command is one word that the program obeys.
type command struct {
	name, args, does string
	least, most      int // arguments
	do               func(m *sim, args []string) (string, error)
}

// commands are all of them. A TARGET is LINE, LINE/UNIT, or UNIT where only one line has that unit.
var commands = []command{
	{"list", "", "show the ports", 0, 0, (*sim).ports},
	{"unplug", "LINE", "take the adapter away: the port vanishes", 1, 1, (*sim).unplug},
	{"plug", "LINE", "plug it in again: a new port under the same link", 1, 1, (*sim).plug},
	{"fault", "TARGET WHAT[=TIME[-TIME]] [on=KIND] [share=0.01] [skip=N] [times=N]", "let replies go wrong: late, lost, corrupt, cut, foreign, unheard, power-before, power-after", 2, 6, (*sim).fault},
	{"faults", "[LINE]", "show what goes wrong", 0, 1, (*sim).faults},
	{"clear", "TARGET", "end what goes wrong there", 1, 1, (*sim).clear},
	{"set", "TARGET NAME VALUE", "change a setting or a register at the appliance itself", 3, 3, (*sim).set},
	{"get", "TARGET [NAME]", "show a setting or a register, or all settings", 1, 2, (*sim).get},
	{"wear", "TARGET", "show how often each register was written", 1, 1, (*sim).wear},
	{"power", "TARGET on|off", "switch an appliance, or all on the line", 2, 2, (*sim).power},
	{"firmware", "TARGET VERSION", "update an appliance", 2, 2, (*sim).firmware},
	{"echo", "LINE on|off", "let the adapter repeat what the master sends", 2, 2, (*sim).echo},
	{"chatter", "LINE master|noise|off [unit=N] [every=TIME]", "let somebody else talk on the line", 2, 4, (*sim).chatter},
	{"stop", "LINE on|off", "let the port take no more bytes", 2, 2, (*sim).stop},
	{"stats", "[LINE]", "show what was counted", 0, 1, (*sim).stats},
}

// do obeys one line of input. Empty lines and comments do nothing.
func (m *sim) do(ctx context.Context, line string) (string, error) {
	words, err := split(line)
	switch {
	case err != nil:
		return "", err
	case len(words) == 0 || strings.HasPrefix(words[0], "#"):
		return "", nil
	}
	switch words[0] {
	case "quit", "exit":
		return "", errQuit
	case "help":
		return help(), nil
	case "wait":
		return "", wait(ctx, words[1:])
	}
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == words[0] })
	if i < 0 {
		return "", fmt.Errorf("there is no command %q; help lists them", words[0])
	}
	c, args := commands[i], words[1:]
	if len(args) < c.least || len(args) > c.most {
		return "", fmt.Errorf("usage: %s %s", c.name, c.args)
	}
	return c.do(m, args)
}

// help lists the commands.
func help() string {
	var text strings.Builder
	rows := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, c := range commands {
		fmt.Fprintf(rows, "%s\t%s\n", strings.TrimSpace(c.name+" "+c.args), c.does)
	}
	fmt.Fprintln(rows, "wait TIME\ttake no command for so long")
	fmt.Fprintln(rows, "quit\tend all lines")
	_ = rows.Flush() // into memory
	return text.String() + "A TARGET is LINE, LINE/UNIT, or UNIT if only one line has that unit.\n"
}

// wait lets time pass between two commands.
func wait(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: wait TIME")
	}
	d, err := time.ParseDuration(args[0])
	if err != nil {
		return fmt.Errorf("%q is no time; write it like 500ms", args[0])
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return nil
}

// split cuts a line into words; a name with spaces stands between double quotes, alone or as part of a word: "a b"/1.
func split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	begun, quoted := false, false
	for i := range len(line) {
		switch c := line[i]; {
		case c == '"':
			begun, quoted = true, !quoted
		case quoted || c != ' ' && c != '\t':
			begun = true
			word.WriteByte(c)
		case begun:
			words, begun = append(words, word.String()), false
			word.Reset()
		}
	}
	if quoted {
		return nil, errors.New(`a " has no end`)
	}
	if begun {
		words = append(words, word.String())
	}
	return words, nil
}

// typed is a name as it is typed in a command.
func typed(name string) string {
	if strings.ContainsAny(name, " \t") {
		return `"` + name + `"`
	}
	return name
}

// line returns the line of a name.
func (m *sim) line(name string) (*serialbustest.Line, error) {
	var names []string
	for _, l := range m.lines {
		if l.Name() == name {
			return l, nil
		}
		names = append(names, typed(l.Name()))
	}
	return nil, fmt.Errorf("there is no line %q; there are %s", name, strings.Join(names, ", "))
}

// target returns the line of a TARGET, its units that are meant, and whether one was named.
func (m *sim) target(text string) (l *serialbustest.Line, units []int, one bool, err error) {
	if l, err = m.line(text); err == nil {
		units = l.Units()
		return l, units, len(units) == 1, nil
	}
	name, unitText, both := strings.Cut(text, "/")
	if both {
		if l, err = m.line(name); err != nil {
			return nil, nil, false, err
		}
	} else {
		unitText = text
	}
	unit, notNumber := strconv.Atoi(unitText)
	if notNumber != nil {
		return nil, nil, false, err
	}
	if !both {
		for _, candidate := range m.lines {
			if !slices.Contains(candidate.Units(), unit) {
				continue
			}
			if l != nil {
				return nil, nil, false, fmt.Errorf("unit %d is on %s and on %s; write LINE/%d", unit, l.Name(), candidate.Name(), unit)
			}
			l = candidate
		}
		if l == nil {
			return nil, nil, false, fmt.Errorf("no line has a unit %d", unit)
		}
	}
	if !slices.Contains(l.Units(), unit) {
		return nil, nil, false, fmt.Errorf("%s has no unit %d; it has %s", l.Name(), unit, unitsText(l.Units()))
	}
	return l, []int{unit}, true, nil
}

// single is target for commands about one appliance.
func (m *sim) single(text string) (*serialbustest.Line, int, error) {
	l, units, one, err := m.target(text)
	if err == nil && !one {
		err = fmt.Errorf("%s has units %s; write %s/UNIT", l.Name(), unitsText(l.Units()), typed(l.Name()))
	}
	if err != nil {
		return nil, 0, err
	}
	return l, units[0], nil
}

func (m *sim) ports([]string) (string, error) {
	if m.json {
		return "", m.list()
	}
	return m.table(), nil
}

func (m *sim) unplug(args []string) (string, error) {
	l, err := m.line(args[0])
	if err != nil {
		return "", err
	}
	l.Unplug()
	return l.Name() + " is unplugged", nil
}

func (m *sim) plug(args []string) (string, error) {
	l, err := m.line(args[0])
	if err != nil {
		return "", err
	}
	if err := l.Plug(); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s is plugged in at %s", l.Name(), l.Path()), nil
}

func (m *sim) fault(args []string) (string, error) {
	l, units, one, err := m.target(args[0])
	if err != nil {
		return "", err
	}
	rule, err := parseRule(args[1:])
	if err != nil {
		return "", err
	}
	if one {
		rule.Unit = units[0] // 0 on a line with one appliance: all of them
	}
	if err := l.AddRule(rule); err != nil {
		return "", err
	}
	return ruleText(l, rule), nil
}

// parseRule reads WHAT[=TIME[-TIME]] and what follows it.
func parseRule(args []string) (rule serialbustest.Rule, err error) {
	what, times, timed := strings.Cut(args[0], "=")
	if rule.Fault, err = serialbustest.ParseFault(what); err != nil {
		return rule, err
	}
	if timed {
		if rule.Delay, rule.MostDelay, err = parseTimes(times); err != nil {
			return rule, err
		}
	}
	for _, arg := range args[1:] {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "on":
			rule.On = value
		case "share":
			rule.Share, err = strconv.ParseFloat(value, 64)
		case "skip":
			rule.Skip, err = strconv.Atoi(value)
		case "times":
			rule.Times, err = strconv.Atoi(value)
		default:
			return rule, fmt.Errorf("%q: allowed are on=, share=, skip= and times=", arg)
		}
		if err != nil {
			return rule, fmt.Errorf("%q is no number", arg)
		}
	}
	return rule, nil
}

// parseTimes reads a time or a range of times.
func parseTimes(text string) (least, most time.Duration, err error) {
	first, last, isRange := strings.Cut(text, "-")
	least, err = time.ParseDuration(first)
	if err == nil && isRange {
		most, err = time.ParseDuration(last)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("%q is no time; write it like 40ms or 25ms-60ms", text)
	}
	return least, most, nil
}

// ruleText shows where a rule holds and what it does.
func ruleText(l *serialbustest.Line, rule serialbustest.Rule) string {
	if rule.Unit == 0 {
		return l.Name() + " " + rule.String()
	}
	return fmt.Sprintf("%s/%d %s", l.Name(), rule.Unit, rule)
}

// chosen returns one line by name, or all of them.
func (m *sim) chosen(args []string) ([]*serialbustest.Line, error) {
	if len(args) == 0 {
		return m.lines, nil
	}
	l, err := m.line(args[0])
	return []*serialbustest.Line{l}, err
}

func (m *sim) faults(args []string) (string, error) {
	lines, err := m.chosen(args)
	if err != nil {
		return "", err
	}
	text := ""
	for _, l := range lines {
		for _, rule := range l.Rules() {
			text += ruleText(l, rule) + "\n"
		}
	}
	if text == "" {
		return "nothing goes wrong", nil
	}
	return text, nil
}

func (m *sim) clear(args []string) (string, error) {
	l, units, one, err := m.target(args[0])
	if err != nil {
		return "", err
	}
	unit := 0
	if one {
		unit = units[0]
	}
	return fmt.Sprintf("%d ended", l.ClearRules(unit)), nil
}

func (m *sim) set(args []string) (string, error) {
	l, unit, err := m.single(args[0])
	if err != nil {
		return "", err
	}
	if err := l.Set(unit, args[1], args[2]); err != nil {
		return "", err
	}
	return m.get(args[:2])
}

func (m *sim) get(args []string) (string, error) {
	l, unit, err := m.single(args[0])
	if err != nil {
		return "", err
	}
	if len(args) == 2 {
		value, err := l.Get(unit, args[1])
		if err != nil {
			return "", err
		}
		return args[1] + "=" + value, nil
	}
	text, all := "", l.Settings(unit)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		text += name + "=" + all[name] + "\n"
	}
	return text + fmt.Sprintf("%d writes", l.Writes(unit)), nil
}

func (m *sim) wear(args []string) (string, error) {
	l, unit, err := m.single(args[0])
	if err != nil {
		return "", err
	}
	text, wear := "", l.Wear(unit)
	for _, register := range slices.Sorted(maps.Keys(wear)) {
		text += fmt.Sprintf("register %d: %d\n", register, wear[register])
	}
	if text == "" {
		return "nothing was written", nil
	}
	return text, nil
}

func (m *sim) power(args []string) (string, error) {
	l, units, _, err := m.target(args[0])
	if err != nil {
		return "", err
	}
	on, err := parseSwitch(args[1])
	if err != nil {
		return "", err
	}
	for _, unit := range units {
		l.Power(unit, on)
	}
	return fmt.Sprintf("%s is %s", args[0], args[1]), nil
}

func (m *sim) firmware(args []string) (string, error) {
	l, unit, err := m.single(args[0])
	if err != nil {
		return "", err
	}
	l.SetFirmware(unit, args[1])
	return fmt.Sprintf("%s has firmware %s", args[0], args[1]), nil
}

func (m *sim) echo(args []string) (string, error) {
	l, err := m.line(args[0])
	if err != nil {
		return "", err
	}
	on, err := parseSwitch(args[1])
	if err != nil {
		return "", err
	}
	l.SetEcho(on)
	return fmt.Sprintf("the echo on %s is %s", l.Name(), args[1]), nil
}

func (m *sim) chatter(args []string) (string, error) {
	l, err := m.line(args[0])
	if err != nil {
		return "", err
	}
	if args[1] == "off" {
		l.SetStranger(nil)
		return "nobody else talks on " + l.Name(), nil
	}
	word := args[1]
	if word == "on" {
		word = string(serialbustest.AnotherMaster)
	}
	stranger := serialbustest.Stranger{}
	if stranger.Kind, err = serialbustest.ParseStranger(word); err != nil {
		return "", err
	}
	for _, arg := range args[2:] {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "unit":
			unit, err := strconv.ParseUint(value, 10, 8)
			if err != nil {
				return "", fmt.Errorf("%q is no address", arg)
			}
			stranger.Unit = byte(unit)
		case "every":
			if stranger.Every, err = time.ParseDuration(value); err != nil || stranger.Every <= 0 {
				return "", fmt.Errorf("%q is no time; write it like every=200ms", arg)
			}
		default:
			return "", fmt.Errorf("%q: allowed are unit= and every=", arg)
		}
	}
	l.SetStranger(&stranger)
	return fmt.Sprintf("%s talks on %s", word, l.Name()), nil
}

func (m *sim) stop(args []string) (string, error) {
	l, err := m.line(args[0])
	if err != nil {
		return "", err
	}
	on, err := parseSwitch(args[1])
	if err != nil {
		return "", err
	}
	if err := l.Stop(on); err != nil {
		return "", err
	}
	if on {
		return l.Name() + " takes no more bytes", nil
	}
	return l.Name() + " takes bytes again", nil
}

func (m *sim) stats(args []string) (string, error) {
	lines, err := m.chosen(args)
	if err != nil {
		return "", err
	}
	text := ""
	for _, l := range lines {
		s := l.Stats()
		text += fmt.Sprintf("%s: requests=%d replies=%d bytes_in=%d bytes_out=%d dropped=%d wrong_baud=%d",
			l.Name(), s.Requests, s.Replies, s.BytesIn, s.BytesOut, s.Dropped, s.WrongBaud)
		for _, fault := range slices.Sorted(maps.Keys(s.Faults)) {
			text += fmt.Sprintf(" %s=%d", fault, s.Faults[fault])
		}
		text += "\n"
	}
	return text, nil
}

// parseSwitch reads on or off.
func parseSwitch(word string) (bool, error) {
	switch word {
	case "on":
		return true, nil
	case "off":
		return false, nil
	default:
		return false, fmt.Errorf("%q: allowed are on and off", word)
	}
}
