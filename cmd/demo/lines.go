// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// unitsPerLine is how many heat pumps share an RS-485 line.
const unitsPerLine = 32

// bus is a [[bus]] of the configuration that the demo writes.
type bus struct{ Name, Place, Port, Driver, Profile, Units, Allow string }

// connectLines starts the simulated appliances. The first toaster and the first
// heat pump are the tutorial's.
func (p *site) connectLines(s settings) ([]bus, error) {
	var buses []bus
	for i := range s.toasters {
		room := 499 + i
		toaster := serialbustest.Toaster{
			RegistrationID: fmt.Sprintf("breakroom%d-contoso-tstrsd-007", room),
			Vendor:         "Contoso", Model: "TSTRSD-007", Serial: fmt.Sprint(room), Firmware: "12.0.2.5", Provisioning: "1.0.0.0",
		}
		line, err := serialbustest.NewToasterLine(toaster)
		if err != nil {
			return nil, fmt.Errorf("connecting toaster %d: %w", i+1, err)
		}
		p.lines = append(p.lines, line)
		p.expected = append(p.expected, toaster.RegistrationID)
		buses = append(buses, bus{
			Name: numbered("kitchen", i), Place: fmt.Sprintf("Break room %d", room), Port: line.Path(),
			Driver: "line", Profile: "contoso-tstrsd-007", Allow: "*-contoso-tstrsd-007",
		})
	}
	for first := 0; first < s.heatPumps; first += unitsPerLine {
		var units []serialbustest.HeatPump
		for i := first; i < min(first+unitsPerLine, s.heatPumps); i++ {
			pump := serialbustest.HeatPump{
				Unit:           byte(i - first + 1),
				RegistrationID: fmt.Sprintf("mainbuilding%d-contoso-hpsd-088", 167+i),
				Vendor:         "Contoso", Model: "HPSD-088", Serial: fmt.Sprint(167 + i), Firmware: "12.0.2.5", Provisioning: "1.0.0.0",
			}
			units = append(units, pump)
			p.expected = append(p.expected, pump.RegistrationID)
		}
		line, err := serialbustest.NewModbusLine(units)
		if err != nil {
			return nil, fmt.Errorf("connecting the heat pumps from number %d: %w", first+1, err)
		}
		p.lines = append(p.lines, line)
		buses = append(buses, bus{
			Name: numbered("boiler room", first/unitsPerLine), Place: "Main building, basement", Port: line.Path(),
			Driver: "modbus-rtu", Profile: "contoso-hpsd-088", Units: fmt.Sprintf("1-%d", len(units)), Allow: "*-contoso-hpsd-088",
		})
	}
	return buses, nil
}

// numbered keeps the plain name for the first of its kind.
func numbered(name string, index int) string {
	if index == 0 {
		return name
	}
	return fmt.Sprintf("%s %d", name, index+1)
}
