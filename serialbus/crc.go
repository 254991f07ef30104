// SPDX-License-Identifier: Apache-2.0

package serialbus

// crc16 is the checksum of Modbus RTU: polynomial 0xA001 reflected, start 0xFFFF, sent low byte first; "123456789"
// gives 0x4B37 (serial 4.2). A frame has at most 256 bytes, so no table is worth its state.
func crc16(data []byte) uint16 {
	crc := uint16(0xFFFF)
	for _, b := range data {
		crc ^= uint16(b)
		for range 8 {
			carry := crc & 1
			crc >>= 1
			if carry != 0 {
				crc ^= 0xA001
			}
		}
	}
	return crc
}

// sealed returns the frame with its checksum at the end.
func sealed(frame []byte) []byte {
	crc := crc16(frame)
	return append(frame, byte(crc), byte(crc>>8))
}

// intact reports whether a whole frame ends in its own checksum.
func intact(frame []byte) bool {
	n := len(frame) - 2
	if n < 2 {
		return false
	}
	crc := crc16(frame[:n])
	return frame[n] == byte(crc) && frame[n+1] == byte(crc>>8)
}
