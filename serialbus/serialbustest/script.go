// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"bytes"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// scriptFiles holds the built-in scripts, one for each product that package serialbus has a profile of, and named like
// it.
//
//go:embed scripts/*.toml
var scriptFiles embed.FS

// Script describes lines with appliances on them; docs/appliancesim.md explains the file.
type Script struct {
	Seed  uint64       `toml:"seed"` // of all lines that name none
	Lines []ScriptLine `toml:"line"`
	At    []Timed      `toml:"at"`
}

// Timed is a command of appliancesim that is given at a time after the start.
type Timed struct {
	After Duration `toml:"after"`
	Do    string   `toml:"do"`
}

// ScriptLine is one line.
type ScriptLine struct {
	Name         string        `toml:"name"`
	Speaks       string        `toml:"speaks"` // modbus-rtu, alp, text, scpi, at, eva-dts, nothing
	Baud         int           `toml:"baud"`
	Bits         int           `toml:"bits"`
	Turnaround   Duration      `toml:"turnaround"`
	Seed         uint64        `toml:"seed"`
	Echo         bool          `toml:"echo"`
	Chatter      string        `toml:"chatter"` // master, noise
	ChatterUnit  byte          `toml:"chatter_unit"`
	ChatterEvery Duration      `toml:"chatter_every"`
	Units        []ScriptUnit  `toml:"unit"`
	Faults       []ScriptFault `toml:"fault"`
}

// ScriptUnit is one appliance, or with Units several alike. "{unit}" in a text becomes the address.
type ScriptUnit struct {
	Units string `toml:"units"` // addresses, "1" or "1-32,40"

	Objects    map[string]string `toml:"objects"`
	Conformity byte              `toml:"conformity"`
	ServerID   string            `toml:"server_id"` // text; the run indicator 0xFF follows it
	ServerHex  string            `toml:"server_id_hex"`
	Registers  map[string]uint16 `toml:"registers"` // "10" or "0-199"
	Texts      []ScriptText      `toml:"text"`
	SunSpec    *ScriptSunSpec    `toml:"sunspec"`
	Settings   []ScriptSetting   `toml:"setting"`
	Functions  []byte            `toml:"functions"`
	Mute       bool              `toml:"mute"`
	OneValue   bool              `toml:"one_value"`
	Unlock     *Unlock           `toml:"unlock"`
	Think      Duration          `toml:"think"`
	Slow       []ScriptSlow      `toml:"slow"`
	Deaf       Duration          `toml:"deaf"`

	RegistrationID string `toml:"registration_id"`
	Vendor         string `toml:"vendor"`
	Model          string `toml:"model"`
	Serial         string `toml:"serial"`
	Firmware       string `toml:"firmware"`
	Provisioning   string `toml:"provisioning"`

	Answers    map[string]string `toml:"answers"`
	Unknown    string            `toml:"unknown"`
	Terminator string            `toml:"terminator"`
	Says       string            `toml:"says"`
	Every      Duration          `toml:"every"`
}

// ScriptText is a text in registers, two bytes each, filled up with zeros.
type ScriptText struct {
	Register uint16 `toml:"register"`
	Length   int    `toml:"length"` // in registers
	Text     string `toml:"text"`
}

// ScriptSunSpec is a SunSpec common model behind its marker.
type ScriptSunSpec struct {
	Address      uint16 `toml:"address"` // of the marker: 40000, 50000 or 0
	Manufacturer string `toml:"manufacturer"`
	Model        string `toml:"model"`
	Options      string `toml:"options"`
	Version      string `toml:"version"`
	Serial       string `toml:"serial"`
}

// ScriptSetting is a register that can be written, or a setting of an appliance that speaks text.
type ScriptSetting struct {
	Name     string            `toml:"name"`
	Register uint16            `toml:"register"`
	Min      uint16            `toml:"min"`
	Max      uint16            `toml:"max"`
	Words    map[string]uint16 `toml:"words"`
	Scale    int               `toml:"scale"`
	Settle   Duration          `toml:"settle"`
	Stuck    bool              `toml:"stuck"`
	Start    any               `toml:"start"` // a register's number, or a text

	Read    string   `toml:"read"`
	Write   string   `toml:"write"`
	Done    string   `toml:"done"`
	Allowed []string `toml:"allowed"`
}

// ScriptSlow are registers that take longer.
type ScriptSlow struct {
	Registers string   `toml:"registers"` // "1000-1999"
	Think     Duration `toml:"think"`
}

// ScriptFault is a [Rule].
type ScriptFault struct {
	Do        string   `toml:"do"`
	Unit      int      `toml:"unit"`
	On        string   `toml:"on"`
	Share     float64  `toml:"share"`
	Skip      int      `toml:"skip"`
	Times     int      `toml:"times"`
	Delay     Duration `toml:"delay"`
	MostDelay Duration `toml:"most_delay"`
}

// Duration is a time as Go writes it, "500ms".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	value, err := time.ParseDuration(string(text))
	if err != nil || value < 0 || value > time.Hour {
		return fmt.Errorf("%q is no time; write it like 500ms, at most 1h", text)
	}
	*d = Duration(value)
	return nil
}

// Scripts returns the names of the built-in scripts, sorted.
func Scripts() []string {
	files, err := scriptFiles.ReadDir("scripts")
	if err != nil {
		return nil // cannot happen: the folder is part of the binary
	}
	names := make([]string, 0, len(files))
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), ".toml"))
	}
	return names
}

// BuiltinScript returns the text of a built-in script.
func BuiltinScript(name string) ([]byte, error) {
	if !slices.Contains(Scripts(), name) {
		return nil, fmt.Errorf("script %q: unknown; known are %s", name, strings.Join(Scripts(), ", "))
	}
	return scriptFiles.ReadFile(path.Join("scripts", name+".toml"))
}

// ParseScript reads a script; unknown keys are refused. What it describes is checked when it starts.
func ParseScript(text []byte) (*Script, error) {
	const longest = 1 << 20
	if len(text) > longest {
		return nil, fmt.Errorf("the script has %d bytes; allowed are %d", len(text), longest)
	}
	s := new(Script)
	decoder := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := decoder.Decode(s); err != nil {
		var unknown *toml.StrictMissingError
		var wrong *toml.DecodeError
		switch {
		case errors.As(err, &unknown):
			return nil, fmt.Errorf("unknown keys:\n%s", unknown.String())
		case errors.As(err, &wrong):
			return nil, fmt.Errorf("it is no TOML for a script:\n%s", wrong.String())
		default:
			return nil, err
		}
	}
	return s, nil
}

// Start makes the lines of the script. The options are added to what it says of each line; name is what a line
// without one is called after its number.
func (s *Script) Start(more func(name string) []Option) (lines []*Line, err error) {
	defer func() {
		if err != nil {
			for _, l := range lines {
				_ = l.Close()
			}
			lines = nil
		}
	}()
	if len(s.Lines) == 0 {
		return nil, errors.New("the script has no [[line]]")
	}
	seen := make(map[string]bool)
	for i, described := range s.Lines {
		if described.Name == "" {
			described.Name = fmt.Sprintf("line%d", i+1)
		}
		if described.Seed == 0 {
			described.Seed = s.Seed
		}
		name := described.Name
		if seen[name] {
			return lines, fmt.Errorf("line %q: there are two of that name", name)
		}
		seen[name] = true
		opts := []Option{WithName(name), WithSeed(described.Seed)}
		if more != nil {
			opts = append(opts, more(name)...)
		}
		l, err := described.start(opts)
		if err != nil {
			return lines, fmt.Errorf("line %q: %w", name, err)
		}
		lines = append(lines, l)
	}
	return lines, nil
}

// start makes one line.
func (s ScriptLine) start(opts []Option) (*Line, error) {
	described, err := s.options()
	if err != nil {
		return nil, err
	}
	opts = append(described, opts...)
	switch s.Speaks {
	case "modbus-rtu":
		var units []Unit
		for _, u := range s.Units {
			some, err := u.modbus()
			if err != nil {
				return nil, err
			}
			units = append(units, some...)
		}
		return NewUnitsLine(units, opts...)
	case "nothing":
		if len(s.Units) > 0 {
			return nil, errors.New("speaks: where nothing speaks there is no unit")
		}
		return start(nobody{}, true, opts)
	case "alp", "text", "scpi", "at", "eva-dts":
	default:
		return nil, fmt.Errorf("speaks %q: allowed are modbus-rtu, alp, text, scpi, at, eva-dts and nothing", s.Speaks)
	}
	if len(s.Units) != 1 || s.Units[0].Units != "" {
		return nil, fmt.Errorf("unit: a line that speaks %s has one, without an address", s.Speaks)
	}
	u := s.Units[0]
	if s.Speaks == "alp" {
		if len(u.Settings) > 0 {
			return nil, errors.New("setting: those of an appliance that speaks alp are built in")
		}
		return NewToasterLine(Toaster{
			RegistrationID: u.RegistrationID, Vendor: u.Vendor, Model: u.Model, Serial: u.Serial,
			Firmware: u.Firmware, Provisioning: u.Provisioning,
		}, opts...)
	}
	return NewTextLine(u.text(s.Speaks), opts...)
}

// options are what the script says of the line itself.
func (s ScriptLine) options() ([]Option, error) {
	opts := []Option{WithBaud(s.Baud)}
	if s.Bits != 0 {
		opts = append(opts, WithBits(s.Bits))
	}
	if s.Turnaround != 0 {
		opts = append(opts, WithTurnaround(time.Duration(s.Turnaround)))
	}
	if s.Echo {
		opts = append(opts, WithEcho())
	}
	if s.Chatter != "" {
		kind, err := ParseStranger(s.Chatter)
		if err != nil {
			return nil, err
		}
		opts = append(opts, WithStranger(Stranger{Kind: kind, Unit: s.ChatterUnit, Every: time.Duration(s.ChatterEvery)}))
	}
	for _, f := range s.Faults {
		fault, err := ParseFault(f.Do)
		if err != nil {
			return nil, err
		}
		opts = append(opts, WithRules(Rule{
			Fault: fault, Unit: f.Unit, On: f.On, Share: f.Share, Skip: f.Skip, Times: f.Times,
			Delay: time.Duration(f.Delay), MostDelay: time.Duration(f.MostDelay),
		}))
	}
	return opts, nil
}

// text describes an appliance that speaks text.
func (u ScriptUnit) text(speaks string) Text {
	var t Text
	switch speaks {
	case "scpi":
		t = Instrument(u.Vendor, u.Model, u.Serial, u.Firmware)
	case "at":
		t = Modem(u.Vendor, u.Model, u.Firmware, u.Serial)
	case "eva-dts":
		t = Vending(u.Serial, u.Model, u.Firmware)
	default:
		t.Answers = make(map[string]string)
	}
	for command, answer := range u.Answers {
		if t.Answers == nil {
			t.Answers = make(map[string]string)
		}
		t.Answers[command] = answer
	}
	t.Unknown, t.Terminator, t.Every, t.Think = u.Unknown, u.Terminator, time.Duration(u.Every), time.Duration(u.Think)
	if u.Says != "" {
		t.Says = u.Says
	}
	for _, s := range u.Settings {
		value, _ := s.Start.(string)
		t.Settings = append(t.Settings, TextSetting{Name: s.Name, Read: s.Read, Write: s.Write, Done: s.Done, Words: s.Allowed, Start: value})
	}
	return t
}

// modbus describes the units of a bus.
func (u ScriptUnit) modbus() ([]Unit, error) {
	addresses, err := ranges(u.Units)
	if err != nil {
		return nil, fmt.Errorf("units: %w", err)
	}
	var units []Unit
	for _, r := range addresses {
		for address := r[0]; address <= r[1]; address++ {
			if address > 247 {
				return nil, fmt.Errorf("units: %d is no address; allowed are 1 to 247", address)
			}
			one, err := u.at(byte(address))
			if err != nil {
				return nil, fmt.Errorf("unit %d: %w", address, err)
			}
			units = append(units, one)
		}
	}
	return units, nil
}

// at describes the unit at one address.
func (u ScriptUnit) at(address byte) (Unit, error) {
	fill := func(text string) string { return strings.ReplaceAll(text, "{unit}", strconv.Itoa(int(address))) }
	unit := Unit{
		Address: address, Conformity: u.Conformity, Functions: u.Functions, Mute: u.Mute, OneValue: u.OneValue,
		Unlock: u.Unlock, Think: time.Duration(u.Think), Deaf: time.Duration(u.Deaf), Registers: make(map[uint16]uint16),
	}
	for key, text := range u.Objects {
		id, err := strconv.ParseUint(key, 0, 8)
		if err != nil {
			return unit, fmt.Errorf(`object %q: allowed are 0 to 0xFF`, key)
		}
		if unit.Objects == nil {
			unit.Objects = make(map[byte]string)
		}
		unit.Objects[byte(id)] = fill(text)
	}
	if u.ServerID != "" {
		unit.ServerID = append([]byte(fill(u.ServerID)), running)
	}
	if u.ServerHex != "" {
		data, err := hex.DecodeString(strings.ReplaceAll(u.ServerHex, " ", ""))
		if err != nil {
			return unit, fmt.Errorf("server_id_hex: %w", err)
		}
		unit.ServerID = data
	}
	for key, value := range u.Registers {
		all, err := ranges(key)
		if err != nil {
			return unit, fmt.Errorf("registers: %w", err)
		}
		for _, r := range all {
			for register := int(r[0]); register <= int(r[1]); register++ {
				// A single register says more than a range it is in.
				if _, has := unit.Registers[uint16(register)]; !has || r[0] == r[1] {
					unit.Registers[uint16(register)] = value
				}
			}
		}
	}
	for _, text := range u.Texts {
		unit.putText(text.Register, text.Length, fill(text.Text))
	}
	if s := u.SunSpec; s != nil {
		unit.putSunSpec(*s, fill)
	}
	for _, slow := range u.Slow {
		all, err := ranges(slow.Registers)
		if err != nil {
			return unit, fmt.Errorf("slow: %w", err)
		}
		for _, r := range all {
			unit.Slow = append(unit.Slow, Slow{r[0], r[1], time.Duration(slow.Think)})
		}
	}
	return unit, unit.putSettings(u.Settings)
}

// putSettings adds the registers that can be written.
func (u *Unit) putSettings(all []ScriptSetting) error {
	for _, s := range all {
		if s.Min == 0 && s.Max == 0 {
			s.Max = 0xFFFF // or the greatest of its words
			if len(s.Words) > 0 {
				s.Max = slices.Max(slices.Collect(maps.Values(s.Words)))
			}
		}
		u.Settings = append(u.Settings, Setting{
			Name: s.Name, Register: s.Register, Min: s.Min, Max: s.Max, Words: s.Words, Scale: s.Scale,
			Settle: time.Duration(s.Settle), Stuck: s.Stuck,
		})
		switch value := s.Start.(type) {
		case nil:
			u.Registers[s.Register] = s.Min
		case int64:
			if value < 0 || value > 0xFFFF {
				return fmt.Errorf("setting %q: start %d: a register holds 0 to 65535", s.Name, value)
			}
			u.Registers[s.Register] = uint16(value)
		default:
			return fmt.Errorf("setting %q: start: a register starts with a number", s.Name)
		}
	}
	return nil
}

// putText writes a text into registers, the first character into the high byte; length 0 = as long as it is.
func (u *Unit) putText(first uint16, length int, text string) {
	if length == 0 {
		length = (len(text) + 1) / 2
	}
	padded := make([]byte, 2*max(length, (len(text)+1)/2))
	copy(padded, text)
	for i := range length {
		u.Registers[first+uint16(i)] = uint16(padded[2*i])<<8 | uint16(padded[2*i+1])
	}
}

// putSunSpec writes the marker, the common model (model 1, 66 registers) and the end of the list of models.
func (u *Unit) putSunSpec(s ScriptSunSpec, fill func(string) string) {
	at := s.Address
	u.putText(at, 2, "SunS")
	u.Registers[at+2], u.Registers[at+3] = 1, 66
	for _, field := range []struct {
		offset uint16
		length int
		text   string
	}{{4, 16, s.Manufacturer}, {20, 16, s.Model}, {36, 8, s.Options}, {44, 8, s.Version}, {52, 16, s.Serial}} {
		u.putText(at+field.offset, field.length, fill(field.text))
	}
	u.Registers[at+68], u.Registers[at+69] = 1, 0 // the unit's own address, and padding
	u.Registers[at+70], u.Registers[at+71] = 0xFFFF, 0
}

// ranges reads numbers and ranges between commas, "1-32,40".
func ranges(text string) ([][2]uint16, error) {
	var all [][2]uint16
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		from, err := strconv.ParseUint(strings.TrimSpace(first), 0, 16)
		to := from
		if err == nil && isRange {
			to, err = strconv.ParseUint(strings.TrimSpace(last), 0, 16)
		}
		if err != nil || to < from {
			return nil, fmt.Errorf(`%q: allowed are numbers and ranges, "1-32,40"`, text)
		}
		all = append(all, [2]uint16{uint16(from), uint16(to)})
	}
	return all, nil
}
