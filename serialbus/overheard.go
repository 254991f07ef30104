// SPDX-License-Identifier: Apache-2.0

package serialbus

import "encoding/binary"

// overheard is an intact frame that was no answer to us.
type overheard struct {
	unit, function byte
	request        bool   // a master sent it
	bytes          []byte // all of it
}

// overhearIn finds the intact frames in bytes that were no answer, whoever sent them, and counts the bytes between
// them. Unlike cutFrame it knows requests as well, and functions that this master never uses.
func overhearIn(run []byte) (frames []overheard, garbage int) {
	for len(run) > 0 {
		if n := requestLength(run); n > 0 && n <= len(run) && intact(run[:n]) {
			frames = append(frames, overheard{run[0], run[1], true, run[:n]})
			run = run[n:]
			continue
		}
		if n := anyReplyLength(run); n > 0 && n <= len(run) && intact(run[:n]) {
			frames = append(frames, overheard{run[0], run[1] &^ exceptionBit, false, run[:n]})
			run = run[n:]
			continue
		}
		garbage++
		run = run[1:]
	}
	return frames, garbage
}

// requestLength returns how long the request is that starts with head; 0 if none does or head is too short to tell.
func requestLength(head []byte) int {
	if len(head) < 4 || head[0] > maxUnit {
		return 0
	}
	switch head[1] {
	case 0x01, 0x02, 0x04, 0x05, 0x06:
		return 8
	case fcReadRegisters:
		// A reply has a count of bytes here, which is never odd; a request has an address and a small quantity.
		if len(head) < 6 || binary.BigEndian.Uint16(head[4:6]) > maxRead {
			return 0
		}
		return 8
	case 0x07, 0x0B, 0x0C, fcServerID:
		return 4
	case 0x0F, fcWriteRegisters:
		if len(head) < 7 {
			return 0
		}
		return 9 + int(head[6])
	case 0x16:
		return 10
	case 0x17:
		if len(head) < 11 {
			return 0
		}
		return 13 + int(head[10])
	case fcEncapsulated:
		if head[2] != meiDeviceID {
			return 0
		}
		return 7
	default:
		return 0
	}
}

// anyReplyLength is replyLength for more functions than this master uses.
func anyReplyLength(head []byte) int {
	if len(head) < 3 || head[0] > maxUnit {
		return 0
	}
	switch head[1] {
	case 0x01, 0x02, 0x04, 0x17:
		return 5 + int(head[2])
	case 0x05, 0x06, 0x0F:
		return 8
	default:
		return replyLength(head)
	}
}
