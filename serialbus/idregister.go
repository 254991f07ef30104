// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// The types of an [identityRegister].
const typeText = "text" // beside typeNumber

// identityRegister says where a product keeps one text of its identity, in holding registers.
type identityRegister struct {
	// Tells is the field: vendor, model, serial, firmware, provisioning or registration_id.
	Tells    string  `toml:"tells"`
	Register *uint16 `toml:"register"` // the first one
	Count    uint16  `toml:"count"`    // how many; 0 = 1
	// Type is "text", two characters a register, or "number", of up to four registers.
	Type string `toml:"type"`
	// Swapped is for a text whose registers hold the first character in the low byte, and for a number whose first
	// register is the low one.
	Swapped bool `toml:"swapped"`
}

// check refuses a description that cannot be followed.
func (r identityRegister) check() error {
	last := 0
	if r.Register != nil {
		last = int(*r.Register) + int(r.count()) - 1
	}
	switch {
	case identityGroups[r.Tells] == nil:
		return fmt.Errorf("tells %q: allowed are %s", r.Tells, identityGroupNames)
	case r.Register == nil:
		return errors.New("register: missing")
	case last > math.MaxUint16:
		return fmt.Errorf("register, count: the last register would be %d; %d is the highest", last, math.MaxUint16)
	case r.Type == typeText && r.count() > maxIdentityText/2:
		return fmt.Errorf("count %d: a text has up to %d registers", r.Count, maxIdentityText/2)
	case r.Type == typeNumber && r.count() > 4:
		return fmt.Errorf("count %d: a number has up to 4 registers", r.Count)
	case r.Type != typeText && r.Type != typeNumber:
		return fmt.Errorf("type %q: allowed are %s and %s", r.Type, typeText, typeNumber)
	}
	return nil
}

// checkIdentityRegisters refuses registers that no driver would read, and two for one field.
func (p profile) checkIdentityRegisters() error {
	if len(p.Identity.Registers) > 0 && p.Driver != DriverModbusRTU {
		return fmt.Errorf("only the driver %s reads registers", DriverModbusRTU)
	}
	told := make(map[string]bool)
	for _, r := range p.Identity.Registers {
		if err := r.check(); err != nil {
			return err
		}
		if told[r.Tells] {
			return fmt.Errorf("%s is told twice", r.Tells)
		}
		told[r.Tells] = true
	}
	return nil
}

// count is how many registers are read; absent means one.
func (r identityRegister) count() uint16 { return max(r.Count, 1) }

// decode returns the text in the registers' bytes; "" = the appliance does not know it. A number of nothing but zeros
// or ones is what products hold that were never given one.
func (r identityRegister) decode(data []byte) string {
	data = slices.Clone(data)
	if r.Type == typeText {
		if r.Swapped {
			for i := 0; i+1 < len(data); i += 2 {
				data[i], data[i+1] = data[i+1], data[i]
			}
		}
		if !slices.ContainsFunc(data, func(c byte) bool { return c != 0xFF }) {
			return ""
		}
		return paddedText(data)
	}
	if r.Swapped {
		slices.Reverse(data)
		for i := 0; i+1 < len(data); i += 2 {
			data[i], data[i+1] = data[i+1], data[i]
		}
	}
	var number uint64
	for _, c := range data {
		number = number<<8 | uint64(c)
	}
	if ones := uint64(math.MaxUint64) >> (64 - 8*len(data)); number == 0 || number == ones {
		return ""
	}
	return strconv.FormatUint(number, 10)
}

// readIdentityRegisters is the last rung: registers that the profile names. They fill what the rungs before left empty.
func (m *rtu) readIdentityRegisters(ctx context.Context, unit byte, where []identityRegister, id Identity) (Identity, error) {
	var told Identity
	for _, r := range where {
		data, err := m.readRegisters(ctx, unit, *r.Register, r.count())
		if cannotRead(err) && !errors.Is(err, ErrSilent) {
			continue // the profile is for a product that has it, this one is older perhaps
		}
		if err != nil {
			return Identity{}, fmt.Errorf("reading register %d for %s: %w", *r.Register, r.Tells, err)
		}
		if field := identityGroups[r.Tells]; *field(&id) == "" {
			*field(&told) = r.decode(data)
		}
	}
	told = told.cleaned()
	if told == (Identity{}) {
		return id, nil
	}
	for _, field := range identityGroups {
		if text := *field(&told); text != "" {
			*field(&id) = text
		}
	}
	if id.Source != "" {
		id.Source += "+"
	}
	id.Source += SourceRegisters
	return id, nil
}
