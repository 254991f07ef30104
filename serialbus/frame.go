// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"encoding/binary"
	"fmt"
)

// The function codes that the master sends (serial 4.2).
const (
	fcReadRegisters  = 0x03
	fcWriteRegisters = 0x10
	fcServerID       = 0x11
	fcEncapsulated   = 0x2B // with meiDeviceID: Read Device Identification
	meiDeviceID      = 0x0E
	exceptionBit     = 0x80 // set in the function code of a refusal
)

// Sizes of frames, in bytes.
const (
	maxFrame       = 256
	exceptionFrame = 5
	maxRead        = 125 // registers in one 0x03
	maxWrite       = 123 // registers in one 0x10
	maxJunk        = 3   // bytes that a transceiver may make up when the line turns round
)

// readRequest asks for count holding registers from the first one on.
func readRequest(unit byte, first, count uint16) []byte {
	frame := binary.BigEndian.AppendUint16([]byte{unit, fcReadRegisters}, first)
	return sealed(binary.BigEndian.AppendUint16(frame, count))
}

// writeRequest sets holding registers by 0x10, at most 123 from the first one on. Its reply repeats address and quantity
// only: it proves nothing.
func writeRequest(unit byte, first uint16, values []uint16) []byte {
	frame := binary.BigEndian.AppendUint16([]byte{unit, fcWriteRegisters}, first)
	frame = append(frame, 0, byte(len(values)), byte(2*len(values)))
	for _, value := range values {
		frame = binary.BigEndian.AppendUint16(frame, value)
	}
	return sealed(frame)
}

// serverIDRequest asks for the free-form description of a unit.
func serverIDRequest(unit byte) []byte { return sealed([]byte{unit, fcServerID}) }

// deviceIDRequest asks for identification objects: all of the category code, from object on.
func deviceIDRequest(unit, code, object byte) []byte {
	return sealed([]byte{unit, fcEncapsulated, meiDeviceID, code, object})
}

// replyLength returns how long the reply is that starts with head: 0 if head is too short to tell, -1 if no reply
// starts like this or it would be longer than a frame may be.
func replyLength(head []byte) int {
	if len(head) < 2 {
		return 0
	}
	function := head[1]
	if function > exceptionBit {
		return exceptionFrame
	}
	switch function {
	case fcReadRegisters, fcServerID:
		if len(head) < 3 {
			return 0
		}
		if n := 5 + int(head[2]); n <= maxFrame {
			return n
		}
		return -1
	case fcWriteRegisters:
		return 8
	case fcEncapsulated:
		return deviceIDLength(head)
	default:
		return -1
	}
}

// deviceIDLength walks the objects of a Read Device Identification reply: a header of 8 bytes (unit, 0x2B, 0x0E, code,
// conformity, more, next, count), then id, length and value of each object (serial 4.2).
func deviceIDLength(head []byte) int {
	if len(head) > 2 && head[2] != meiDeviceID {
		return -1
	}
	if len(head) < 8 {
		return 0
	}
	n := 8
	for range head[7] {
		if n+2 > maxFrame-2 {
			return -1
		}
		if len(head) < n+2 {
			return 0
		}
		n += 2 + int(head[n+1])
	}
	if n+2 > maxFrame {
		return -1
	}
	return n + 2
}

// answers reports whether an intact frame is a reply to the request, as far as a reply shows it: unit, function, and
// what the function repeats of the request. A late reply to an equal request cannot be told apart (serial 5.4).
func answers(request, frame []byte) bool {
	if frame[0] != request[0] || frame[1]&^exceptionBit != request[1] {
		return false
	}
	if frame[1]&exceptionBit != 0 {
		return true
	}
	switch frame[1] {
	case fcReadRegisters:
		return int(frame[2]) == 2*int(binary.BigEndian.Uint16(request[4:6]))
	case fcWriteRegisters:
		return [4]byte(frame[2:6]) == [4]byte(request[2:6])
	case fcEncapsulated:
		return frame[3] == request[3]
	default:
		return true
	}
}

// exceptionError is a unit's refusal of a request. Any refusal proves that the unit is there.
type exceptionError struct {
	unit, function, code byte
}

// The exception codes (serial 4.2).
const (
	exceptionFunction    = 0x01
	exceptionAddress     = 0x02
	exceptionValue       = 0x03
	exceptionFailure     = 0x04
	exceptionSlow        = 0x05 // accepted, will take long: ask again
	exceptionBusy        = 0x06 // ask again later
	exceptionNegative    = 0x07
	exceptionMemory      = 0x08
	exceptionGatewayPath = 0x0A
	exceptionGatewayMute = 0x0B
)

// Error explains the code in the words of the protocol document.
func (e *exceptionError) Error() string {
	return fmt.Sprintf("unit %d refused function 0x%02x with exception %d: %s", e.unit, e.function, e.code, e.meaning())
}

func (e *exceptionError) meaning() string {
	switch e.code {
	case exceptionFunction:
		return "it does not know the function"
	case exceptionAddress:
		return "it has no such register or object"
	case exceptionValue:
		return "it does not take the value"
	case exceptionFailure:
		return "it failed while doing it"
	case exceptionSlow:
		return "it accepted and needs long"
	case exceptionBusy:
		return "it is busy, ask again later"
	case exceptionNegative:
		return "it cannot do it in the state it is in"
	case exceptionMemory:
		return "its memory is damaged"
	case exceptionGatewayPath:
		return "the gateway before it has no path to it"
	case exceptionGatewayMute:
		return "the gateway before it got no answer from it"
	default:
		return "it does not say why"
	}
}

// passing reports whether the unit may do later what it refuses now.
func (e *exceptionError) passing() bool {
	return e.code == exceptionSlow || e.code == exceptionBusy
}

// lacks reports whether the unit says that it does not have what was asked for. Every other refusal leaves that open.
func (e *exceptionError) lacks() bool {
	return e.code == exceptionFunction || e.code == exceptionAddress || e.code == exceptionValue
}

// provesEcho reports whether its own bytes at the head of what comes back can only be the request itself, sent back by
// a two-wire adapter: the reply to a 0x03 or 0x2B differs from its request within the first bytes, that to others may
// not (serial 5.4).
func provesEcho(request []byte) bool {
	switch request[1] {
	case fcReadRegisters:
		count := 2 * int(binary.BigEndian.Uint16(request[4:6]))
		return int(request[2]) != count // here a reply has the number of bytes that follow
	case fcEncapsulated:
		conformity := request[4] &^ conformityOne // here a reply has the conformity level, 1 to 3
		return conformity < codeBasic || conformity > codeExtended
	default:
		return false
	}
}
