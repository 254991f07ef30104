// SPDX-License-Identifier: Apache-2.0

package serialbustest

import "fmt"

// HeatPump is a simulated heat pump: a Modbus RTU unit with the registers of Contoso's HPSD-088.
type HeatPump struct {
	Unit           byte   // Modbus address, 1 to 247
	RegistrationID string // object 0x80; empty = it has none
	Vendor         string
	Model          string
	Serial         string // object 0x81
	Firmware       string
	Provisioning   string // object 0x82
	// Old makes it a model that refuses Read Device Identification and only answers Report Server ID.
	Old bool
}

// The registers of an HPSD-088.
const (
	registers           = 200 // 0 to 199 can be read; the two below can be written
	registerState       = 100 // 0 off, 1 on
	registerTemperature = 101 // tenths of a degree Fahrenheit, 40.0 to 90.0
)

// NewModbusLine is an RS-485 line with heat pumps.
func NewModbusLine(pumps []HeatPump, opts ...Option) (*Line, error) {
	seen := make(map[byte]bool, len(pumps))
	units := make([]Unit, 0, len(pumps))
	for _, p := range pumps {
		if seen[p.Unit] {
			return nil, fmt.Errorf("simulating heat pumps: unit %d is there twice; NewUnitsLine takes that", p.Unit)
		}
		seen[p.Unit] = true
		for _, text := range []string{p.Vendor, p.Model, p.Firmware, p.RegistrationID, p.Serial, p.Provisioning} {
			if len(text) > 200 {
				return nil, fmt.Errorf("simulating heat pumps: unit %d has a text of %d bytes; an object holds 200", p.Unit, len(text))
			}
		}
		units = append(units, p.asUnit())
	}
	return NewUnitsLine(units, opts...)
}

// asUnit describes the heat pump as a unit.
func (p HeatPump) asUnit() Unit {
	u := Unit{
		Address:   p.Unit,
		ServerID:  append([]byte(p.Vendor+"-"+p.Model+"-"+p.Firmware), running),
		Registers: make(map[uint16]uint16, registers),
		Settings: []Setting{
			{Name: "state", Register: registerState, Max: 1, Words: map[string]uint16{"off": 0, "on": 1}},
			{Name: "temperatureSetting", Register: registerTemperature, Min: 400, Max: 900, Scale: 10},
		},
	}
	for register := range uint16(registers) {
		u.Registers[register] = 0
	}
	u.Registers[registerTemperature] = 600
	if p.Old {
		return u
	}
	u.Objects = map[byte]string{0: p.Vendor, 1: p.Model, 2: p.Firmware}
	for id, value := range map[byte]string{0x80: p.RegistrationID, 0x81: p.Serial, 0x82: p.Provisioning} {
		if value != "" {
			u.Objects[id] = value
		}
	}
	return u
}
