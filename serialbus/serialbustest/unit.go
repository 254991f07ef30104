// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Unit is a simulated Modbus RTU unit: what it holds, and how it behaves.
type Unit struct {
	// Address is 1 to 247. Two units of a line may have the same one: they answer at once.
	Address byte
	// Objects are those of Read Device Identification (0x2B/0x0E): 0 vendor, 1 product code, 2 revision, 3 to 6 further
	// texts, 0x80 and above the maker's own. None = it does not know the function.
	Objects map[byte]string
	// Conformity is the level it tells: 1 basic, 2 regular, 3 extended, with 0x80 if single objects can be asked for.
	// 0 = 0x83. More than its level it does not show.
	Conformity byte
	// ServerID is what follows the count in a reply to Report Server ID (0x11). None = it does not know the function.
	ServerID []byte
	// Registers are the holding registers that can be read, with their values.
	Registers map[uint16]uint16
	// Settings are the registers that can be written.
	Settings []Setting
	// Functions are the function codes it knows; none = 0x03 and 0x10, and 0x11 and 0x2B if it has data for them.
	Functions []byte
	// Mute makes it keep silent at a function it does not know, instead of refusing it.
	Mute bool
	// OneValue makes it refuse a write of several registers at once.
	OneValue bool
	// Unlock is a register that must hold a value before others can be written.
	Unlock *Unlock
	// Think is how long it takes to answer, beyond the line's turnaround; Slow says it for some registers.
	Think time.Duration
	Slow  []Slow
	// Deaf is for how long it hears nothing after a request to another unit that nobody answered, as programs do that
	// are built on libmodbus: 0.5 s.
	Deaf time.Duration
}

// Setting is a register that can be written, under the name that a profile gives it.
type Setting struct {
	Name     string
	Register uint16
	Min, Max uint16 // what it accepts; another value is refused with exception 3
	// Words are the names of values, for an enumeration.
	Words map[string]uint16
	// Scale is register units per unit of the setting: 10 = the register counts tenths. 0 = 1.
	Scale int
	// Settle is how long a written value takes to show.
	Settle time.Duration
	// Stuck makes it confirm a write and keep its value.
	Stuck bool
}

// Unlock is a register and the value that opens the others for writing.
type Unlock struct{ Register, Value uint16 }

// Slow are registers whose reading or writing takes longer.
type Slow struct {
	First, Last uint16
	Think       time.Duration
}

// check refuses a unit that could not exist.
func (u Unit) check() error {
	if u.Address < 1 || u.Address > 247 {
		return fmt.Errorf("unit %d is no address; allowed are 1 to 247", u.Address)
	}
	for id, text := range u.Objects {
		if len(text) > 244 {
			return fmt.Errorf("unit %d: object %#02x has %d bytes; a reply holds 244", u.Address, id, len(text))
		}
	}
	if len(u.ServerID) > 251 {
		return fmt.Errorf("unit %d: its server ID has %d bytes; a reply holds 251", u.Address, len(u.ServerID))
	}
	if u.Conformity&^0x83 != 0 || u.Conformity == 0x80 {
		return fmt.Errorf("unit %d: conformity %#02x: allowed are 1, 2, 3, 0x81, 0x82 and 0x83", u.Address, u.Conformity)
	}
	for _, s := range u.Settings {
		if s.Min > s.Max {
			return fmt.Errorf("unit %d: setting %q accepts %d to %d", u.Address, s.Name, s.Min, s.Max)
		}
	}
	return nil
}

// machine is a Unit at work.
type machine struct {
	Unit
	power
	values  map[uint16]uint16
	wears   map[uint16]int // how often each register was written
	written int            // how many writes it took
	coming  []change       // values that were written and do not show yet
	deafTo  time.Time
}

// change is a value on its way into a register.
type change struct {
	at              time.Time
	register, value uint16
}

// newMachine switches a unit on.
func newMachine(u Unit) *machine {
	m := &machine{Unit: u, values: make(map[uint16]uint16), wears: make(map[uint16]int)}
	maps.Copy(m.values, u.Registers)
	for _, s := range u.Settings {
		if _, has := m.values[s.Register]; !has {
			m.values[s.Register] = s.Min
		}
	}
	if u.Unlock != nil {
		if _, has := m.values[u.Unlock.Register]; !has {
			m.values[u.Unlock.Register] = 0
		}
	}
	return m
}

// knows reports whether the unit has a function.
func (m *machine) knows(function byte) bool {
	if m.Functions != nil {
		return slices.Contains(m.Functions, function)
	}
	switch function {
	case 0x03, 0x10:
		return true
	case 0x11:
		return m.ServerID != nil
	case 0x2B:
		return m.Objects != nil
	default:
		return false
	}
}

// thinking is how long an answer about registers takes.
func (m *machine) thinking(first, count int) time.Duration {
	longest := m.Think
	for _, s := range m.Slow {
		if first <= int(s.Last) && first+count > int(s.First) {
			longest = max(longest, s.Think)
		}
	}
	return longest
}

// settled puts the values in force that were written long enough ago.
func (m *machine) settled(at time.Time) {
	m.coming = slices.DeleteFunc(m.coming, func(c change) bool {
		if at.Before(c.at) {
			return false
		}
		m.values[c.register] = c.value
		return true
	})
}

// setting returns the description of a register that can be written.
func (m *machine) setting(register uint16) (Setting, bool) {
	i := slices.IndexFunc(m.Settings, func(s Setting) bool { return s.Register == register })
	if i < 0 {
		return Setting{}, false
	}
	return m.Settings[i], true
}

// refuse returns the exception code with which a write of a value is refused, 0 if it is not.
func (m *machine) refuse(register, value uint16) byte {
	if m.Unlock != nil && register == m.Unlock.Register {
		return 0
	}
	s, has := m.setting(register)
	switch {
	case !has:
		return illegalAddress
	case m.Unlock != nil && m.values[m.Unlock.Register] != m.Unlock.Value:
		return illegalAddress
	case value < s.Min || value > s.Max:
		return illegalValue
	}
	return 0
}

// put writes a register.
func (m *machine) put(register, value uint16, at time.Time) {
	m.wears[register]++
	s, has := m.setting(register)
	switch {
	case has && s.Stuck:
	case has && s.Settle > 0:
		m.coming = append(m.coming, change{at.Add(s.Settle), register, value})
	default:
		m.values[register] = value
	}
}

// cut implements appliance: what has not settled is lost with the power.
func (m *machine) cut(until time.Time) {
	m.coming = nil
	m.power.cut(until)
}

func (m *machine) writes() int { return m.written }

// settings shows the named registers in the words of the profile.
func (m *machine) settings() map[string]string {
	shown := make(map[string]string, len(m.Settings))
	for _, s := range m.Settings {
		shown[s.Name] = s.show(m.values[s.Register])
	}
	return shown
}

// show writes a register's value as the profile does.
func (s Setting) show(value uint16) string {
	for _, word := range slices.Sorted(maps.Keys(s.Words)) {
		if s.Words[word] == value {
			return word
		}
	}
	return strconv.FormatFloat(float64(value)/float64(max(s.Scale, 1)), 'f', -1, 64)
}

// read is the opposite of show.
func (s Setting) read(text string) (uint16, error) {
	if value, known := s.Words[text]; known {
		return value, nil
	}
	number, err := strconv.ParseFloat(text, 64)
	scaled := number * float64(max(s.Scale, 1))
	if err != nil || scaled < 0 || scaled > 0xFFFF || scaled != float64(uint16(scaled)) {
		return 0, fmt.Errorf("%s cannot be %q", s.Name, text)
	}
	return uint16(scaled), nil
}

// find returns the register that a person names: by its setting or its number.
func (m *machine) find(name string) (uint16, Setting, error) {
	for _, s := range m.Settings {
		if s.Name == name {
			return s.Register, s, nil
		}
	}
	number, err := strconv.ParseUint(name, 0, 16)
	if err != nil {
		return 0, Setting{}, errNoSetting(name)
	}
	if _, has := m.values[uint16(number)]; !has {
		return 0, Setting{}, errNoSetting(name)
	}
	return uint16(number), Setting{Name: name}, nil
}

func (m *machine) set(name, value string) error {
	register, s, err := m.find(name)
	if err != nil {
		return err
	}
	number, err := s.read(value)
	if err != nil {
		return err
	}
	m.values[register] = number
	return nil
}

func (m *machine) get(name string) (string, error) {
	register, s, err := m.find(name)
	if err != nil {
		return "", err
	}
	return s.show(m.values[register]), nil
}

func (m *machine) setFirmware(version string) {
	if m.Objects == nil {
		return
	}
	m.Objects = maps.Clone(m.Objects)
	m.Objects[2] = version
}

// NewUnitsLine is an RS-485 line with Modbus RTU units.
func NewUnitsLine(units []Unit, opts ...Option) (*Line, error) {
	bus := &modbusLine{}
	for _, u := range units {
		if err := u.check(); err != nil {
			return nil, fmt.Errorf("simulating a bus: %w", err)
		}
		bus.machines = append(bus.machines, newMachine(u))
	}
	return start(bus, true, opts)
}
