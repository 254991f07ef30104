// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"unicode/utf8"
)

// Lengths of ALP/1 lines, in bytes (serial 6).
const (
	alpMaxLine = 1024 // a longer line is dropped; counted with the trailer, without the line feed
	alpTrailer = 9    // "*" and eight hex digits
)

// alpChecksum is the CRC-32 (IEEE 802.3, as in gzip) of data as ALP/1 writes it: eight upper-case hex digits.
func alpChecksum(data []byte) string { return fmt.Sprintf("%08X", crc32.ChecksumIEEE(data)) }

// alpEncode returns a message as one line: the message, its trailer, a line feed.
func alpEncode(message []byte) []byte {
	return fmt.Appendf(nil, "%s*%s\n", message, alpChecksum(message))
}

// alpDecode returns the message in a line, which may still end in CR. ok is false for a line that a receiver must
// drop without answering: too long, wrong checksum, not UTF-8.
func alpDecode(line []byte) (message []byte, ok bool) {
	line = bytes.TrimSuffix(line, []byte("\r"))
	cut := len(line) - alpTrailer
	if cut < 0 || len(line) > alpMaxLine || line[cut] != '*' {
		return nil, false
	}
	message = line[:cut]
	return message, string(line[cut+1:]) == alpChecksum(message) && utf8.Valid(message)
}

// lineReader cuts lines out of received bytes and keeps at most one line's worth of them.
type lineReader struct {
	buf      []byte
	overlong bool // the line under way is too long: skip to its end
}

// take adds received bytes and returns the lines that are whole now, without their line feeds.
func (r *lineReader) take(received []byte) [][]byte {
	var lines [][]byte
	for len(received) > 0 {
		part, rest, ended := bytes.Cut(received, []byte("\n"))
		received = rest
		if !r.overlong {
			r.buf = append(r.buf, part...)
		}
		if len(r.buf) > alpMaxLine+1 { // one more for a CR
			r.buf, r.overlong = nil, true
		}
		if !ended {
			break
		}
		if !r.overlong && len(r.buf) > 0 {
			lines = append(lines, r.buf)
		}
		r.buf, r.overlong = nil, false
	}
	return lines
}
