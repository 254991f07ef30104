// SPDX-License-Identifier: Apache-2.0

package serialbus_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/contoso/gatewayd/serialbus"
	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// TestDiagnosesOfSimulatedLines: each trouble of a line as the simulator makes it, by its name.
func TestDiagnosesOfSimulatedLines(t *testing.T) {
	unit := func(address byte, serial string) serialbustest.Unit {
		return serialbustest.Unit{Address: address, Registers: map[uint16]uint16{0: uint16(address)}, Objects: map[byte]string{0: "Acme", 1: "H1", 2: serial}}
	}
	street := []serialbustest.Unit{unit(1, "1.0"), unit(2, "1.0"), unit(3, "1.0"), unit(5, "1.0")}
	plain := serialbustest.Unit{Address: 4, Registers: map[uint16]uint16{0: 1}, Mute: true}
	line := func(units []serialbustest.Unit, opts ...serialbustest.Option) func() (*serialbustest.Line, error) {
		return func() (*serialbustest.Line, error) { return serialbustest.NewUnitsLine(units, opts...) }
	}
	stranger := func(s serialbustest.Stranger) serialbustest.Option { return serialbustest.WithStranger(s) }
	for _, tc := range []struct {
		name  string
		line  func() (*serialbustest.Line, error)
		want  []serialbus.DiagnosisKind
		units []int // of the first
		fails error
	}{
		{"well", line(street), nil, nil, nil},
		{"well with echo", line(street, serialbustest.WithEcho()), nil, nil, nil},
		{"empty", line(nil), []serialbus.DiagnosisKind{serialbus.SilentLine}, nil, nil},
		{"empty with echo", line(nil, serialbustest.WithEcho()), []serialbus.DiagnosisKind{serialbus.SilentLine}, nil, nil},
		{"wrong speed", line(street, serialbustest.WithBaud(9600)), []serialbus.DiagnosisKind{serialbus.WrongSpeed}, nil, nil},
		{"duplicate address", line(append(slices.Clone(street), unit(2, "22.7-other"))), []serialbus.DiagnosisKind{serialbus.AddressClash}, []int{2}, nil},
		{"another master", line(street, stranger(serialbustest.Stranger{Kind: serialbustest.AnotherMaster, Unit: 9, Every: 20 * time.Millisecond})), []serialbus.DiagnosisKind{serialbus.AnotherMaster}, nil, serialbus.ErrAnotherMaster},
		{"babble and nobody else", func() (*serialbustest.Line, error) { return serialbustest.NewNoiseLine() }, []serialbus.DiagnosisKind{serialbus.BadWiring}, nil, nil},
		{"damaged now and then", line(street, serialbustest.WithSeed(3), serialbustest.WithRules(serialbustest.Rule{Fault: serialbustest.FaultCorrupt, Share: 0.4})), []serialbus.DiagnosisKind{serialbus.NoisyLine}, nil, nil},
		{"answers some functions only", line(append(slices.Clone(street), plain)), []serialbus.DiagnosisKind{serialbus.PartialUnit}, []int{4}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			again(t, func() error {
				l, err := tc.line()
				if err != nil {
					return err
				}
				defer l.Close()
				cfg := serialbus.Config{Port: l.Path(), Driver: serialbus.DriverModbusRTU, Units: []byte{1, 2, 3, 4, 5, 6}, ReplyTimeout: 300 * time.Millisecond}
				result, err := serialbus.Scan(t.Context(), cfg, serialbus.ScanOptions{Fast: true}, nil)
				if !errors.Is(err, tc.fails) || tc.fails == nil && err != nil {
					return fmt.Errorf("it ended with %w", err)
				}
				var kinds []serialbus.DiagnosisKind
				for _, d := range result.Diagnoses {
					kinds = append(kinds, d.Kind)
					t.Log(d.Error())
				}
				if !slices.Equal(kinds, tc.want) {
					return fmt.Errorf("got %v, want %v", kinds, tc.want)
				}
				if len(result.Diagnoses) > 0 && !slices.Equal(result.Diagnoses[0].Units, tc.units) {
					return fmt.Errorf("it is about units %v, want %v", result.Diagnoses[0].Units, tc.units)
				}
				return nil
			})
		})
	}
}
