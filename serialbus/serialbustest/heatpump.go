// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"fmt"
	"strconv"
)

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

// pump is a HeatPump at work.
type pump struct {
	HeatPump
	off       bool
	registers [registers]uint16
	written   int
}

// NewModbusLine is an RS-485 line with heat pumps.
func NewModbusLine(units []HeatPump, opts ...Option) (*Line, error) {
	line := &modbusLine{pumps: make(map[byte]*pump, len(units))}
	for _, u := range units {
		if u.Unit < 1 || u.Unit > 247 {
			return nil, fmt.Errorf("simulating heat pumps: unit %d is no address; allowed are 1 to 247", u.Unit)
		}
		if line.pumps[u.Unit] != nil {
			return nil, fmt.Errorf("simulating heat pumps: unit %d is there twice", u.Unit)
		}
		for _, text := range []string{u.Vendor, u.Model, u.Firmware, u.RegistrationID, u.Serial, u.Provisioning} {
			if len(text) > 200 {
				return nil, fmt.Errorf("simulating heat pumps: unit %d has a text of %d bytes; an object holds 200", u.Unit, len(text))
			}
		}
		p := &pump{HeatPump: u}
		p.registers[registerTemperature] = 600
		line.pumps[u.Unit] = p
	}
	return start(line, opts)
}

// settings shows the two registers in the words of the profile.
func (p *pump) settings() map[string]string {
	state := "off"
	if p.registers[registerState] == 1 {
		state = "on"
	}
	degrees := strconv.FormatFloat(float64(p.registers[registerTemperature])/10, 'f', -1, 64)
	return map[string]string{"state": state, "temperatureSetting": degrees}
}

func (p *pump) writes() int                { return p.written }
func (p *pump) power(on bool)              { p.off = !on }
func (p *pump) setFirmware(version string) { p.Firmware = version }

// write sets a register, or returns the exception code that refuses it.
func (p *pump) write(register int, value uint16) byte {
	switch {
	case register == registerState && value <= 1:
	case register == registerTemperature && value >= 400 && value <= 900:
	case register == registerState || register == registerTemperature:
		return illegalValue
	default:
		return illegalAddress
	}
	p.registers[register] = value
	return 0
}

// objects returns the identification objects: id to value.
func (p *pump) objects() map[int]string {
	all := map[int]string{0: p.Vendor, 1: p.Model, 2: p.Firmware}
	for id, value := range map[int]string{0x80: p.RegistrationID, 0x81: p.Serial, 0x82: p.Provisioning} {
		if value != "" {
			all[id] = value
		}
	}
	return all
}
