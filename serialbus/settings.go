// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// unlock is a register that must hold a value before the unit lets others be written.
type unlock struct {
	Register uint16 `toml:"register"`
	Value    uint16 `toml:"value"`
}

// checkWrites refuses rules for writing that do not fit the driver, and registers that two properties share.
func (p profile) checkWrites() error {
	if p.WritesPerDay < 0 || p.WritesPerDay > maxWritesPerDay {
		return fmt.Errorf("writes_per_day %d: allowed are 1 to %d", p.WritesPerDay, maxWritesPerDay)
	}
	if p.Driver != DriverModbusRTU {
		if p.WriteRanges || p.WritesPerDay != 0 || p.Unlock != nil || p.FirmwareRegister != nil {
			return errors.New("write_ranges, writes_per_day, unlock, firmware_register: only the driver modbus-rtu has registers")
		}
		return nil
	}
	taken := make(map[int]string)
	if p.Unlock != nil {
		taken[int(p.Unlock.Register)] = "unlock"
	}
	for _, prop := range p.Properties {
		if prop.Register == nil {
			continue // refused with the property
		}
		for r := int(*prop.Register); r < prop.end(); r++ {
			if other, is := taken[r]; is {
				return fmt.Errorf("property %q: register %d belongs to %s", prop.Name, r, other)
			}
			taken[r] = fmt.Sprintf("property %q", prop.Name)
		}
	}
	return nil
}

// writesPerDay is how often a property's registers may be written in a day.
func (p profile) writesPerDay(prop property) int {
	for _, n := range []int{prop.WritesPerDay, p.WritesPerDay} {
		if n > 0 {
			return n
		}
	}
	return defaultWritesPerDay
}

// setting is a property with the value that is wanted of it.
type setting struct {
	property
	value json.RawMessage // as the twin has it
	want  []uint16        // its registers
}

// settings returns what is wanted in the order of the registers.
func (p profile) settings(wanted map[string]json.RawMessage) []setting {
	all := make([]setting, 0, len(wanted))
	for name, value := range wanted {
		prop, _ := p.property(name)
		all = append(all, setting{prop, value, prop.encode(value)})
	}
	slices.SortFunc(all, func(a, b setting) int { return int(*a.Register) - int(*b.Register) })
	return all
}

// block is settings whose registers lie side by side, in order.
type block []setting

// blocks joins settings into blocks of at most so many registers, where the registers lie side by side; without join
// each is a block of its own.
func blocks(all []setting, join bool) []block {
	var out []block
	for _, s := range all {
		last := len(out) - 1
		if join && last >= 0 && out[last].end() == int(*s.Register) && out[last].size()+s.size() <= maxWrite {
			out[last] = append(out[last], s)
			continue
		}
		out = append(out, block{s})
	}
	return out
}

func (b block) first() uint16 { return *b[0].Register }
func (b block) end() int      { return b[len(b)-1].end() }
func (b block) size() int     { return b.end() - int(b.first()) }

// want is what all the registers of the block are to hold.
func (b block) want() []uint16 {
	all := make([]uint16, 0, b.size())
	for _, s := range b {
		all = append(all, s.want...)
	}
	return all
}

// of returns the part of the block's registers that belongs to its i-th setting.
func (b block) of(i int, registers []uint16) []uint16 {
	from := *b[i].Register - b.first()
	return registers[from : int(from)+b[i].size()]
}

// differing returns the settings whose registers hold something else.
func (b block) differing(is []uint16) []setting {
	var all []setting
	for i, s := range b {
		if !slices.Equal(b.of(i, is), s.want) {
			all = append(all, s)
		}
	}
	return all
}

// cells are the registers of the block, with their limits.
func (b block) cells(p profile) []Cell {
	var all []Cell
	for _, s := range b {
		for r := int(*s.Register); r < s.end(); r++ {
			all = append(all, Cell{Property: s.Name, Register: uint16(r), PerDay: p.writesPerDay(s.property)})
		}
	}
	return all
}
