// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
)

// The SunSpec common model, which energy equipment has (serial 4.2). The registers from one of three addresses on hold
//
//	"SunS" | 1 | length 65 or 66 | Mn 16 | Md 16 | Opt 8 | Vr 8 | SN 16 | …
//
// with the numbers of registers behind the names of the texts: maker, model, options, version and serial number.
const (
	sunSpecMarker    = "SunS"
	sunSpecCommon    = 1  // the model's number
	sunSpecHeader    = 4  // registers before the texts
	sunSpecTexts     = 64 // registers of the texts
	sunSpecModelAt   = 16
	sunSpecVersionAt = 40
	sunSpecSerialAt  = 48
)

// sunSpecBases are the addresses where the marker may be.
var sunSpecBases = [...]uint16{40000, 50000, 0}

// readSunSpec is the third rung: the common model. A unit that has none gives an Identity without a Source.
func (m *rtu) readSunSpec(ctx context.Context, unit byte) (Identity, error) {
	for _, base := range sunSpecBases {
		marker, err := m.readRegisters(ctx, unit, base, 2)
		if errors.Is(err, ErrSilent) {
			return Identity{}, nil // silence at the next address would cost as much
		}
		if cannotRead(err) {
			continue
		}
		if err != nil {
			return Identity{}, err
		}
		if string(marker) != sunSpecMarker {
			continue
		}
		header, err := m.readRegisters(ctx, unit, base+2, 2)
		if err != nil {
			return Identity{}, err
		}
		length := binary.BigEndian.Uint16(header[2:])
		if binary.BigEndian.Uint16(header) != sunSpecCommon || length != 65 && length != 66 {
			continue
		}
		texts, err := m.readRegisters(ctx, unit, base+sunSpecHeader, sunSpecTexts)
		if err != nil {
			return Identity{}, err
		}
		return sunSpecIdentity(texts), nil
	}
	return Identity{}, nil
}

// sunSpecIdentity takes the texts of a common model apart; they are 64 registers long.
func sunSpecIdentity(texts []byte) Identity {
	id := Identity{
		Vendor:   paddedText(texts[:2*sunSpecModelAt]),
		Model:    paddedText(texts[2*sunSpecModelAt : 2*(sunSpecModelAt+16)]),
		Firmware: paddedText(texts[2*sunSpecVersionAt : 2*sunSpecSerialAt]),
		Serial:   paddedText(texts[2*sunSpecSerialAt:]),
	}.cleaned()
	if id != (Identity{}) {
		id.Source = SourceSunSpec
	}
	return id
}

// paddedText is the text in a block of bytes: it ends at the first NUL, behind which there may be anything.
func paddedText(block []byte) string {
	text, _, _ := bytes.Cut(block, []byte{0})
	return string(text)
}

// readRegisters reads holding registers and returns their bytes, two each. Reading changes nothing, so it may be repeated.
func (m *rtu) readRegisters(ctx context.Context, unit byte, first, count uint16) ([]byte, error) {
	reply, err := m.askPatiently(ctx, readRequest(unit, first, count))
	if err != nil {
		return nil, err
	}
	return reply[3 : len(reply)-2], nil
}

// cannotRead reports whether a unit does not have registers: most refuse them by address, some by value.
func cannotRead(err error) bool { return cannot(err) || isException(err, exceptionValue) }
