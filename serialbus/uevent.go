// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"bytes"
	"encoding/binary"
)

// A message of udev begins with a header of 40 bytes: the text "libudev" with a zero byte, a magic number in network
// order, and in the machine's order the sizes of the header, where the properties begin and how long they are; hashes
// for filters follow. A property is NAME=VALUE and a zero byte.
const (
	udevMark       = "libudev\x00"
	udevMagic      = 0xfeedcafe
	udevHeaderSize = 40
)

// parseUevent reads a message of udev; ok is false for anything else. It keeps nothing of the message but the three
// values, and looks at every byte once.
func parseUevent(message []byte) (event uevent, ok bool) {
	if len(message) < udevHeaderSize || !bytes.HasPrefix(message, []byte(udevMark)) || binary.BigEndian.Uint32(message[8:]) != udevMagic {
		return uevent{}, false
	}
	begin := uint64(binary.NativeEndian.Uint32(message[16:]))
	end := begin + uint64(binary.NativeEndian.Uint32(message[20:]))
	if begin < udevHeaderSize || end > uint64(len(message)) {
		return uevent{}, false
	}
	for property := range bytes.SplitSeq(message[begin:end], []byte{0}) {
		name, value, _ := bytes.Cut(property, []byte("="))
		switch string(name) {
		case "ACTION":
			event.action = string(value)
		case "SUBSYSTEM":
			event.subsystem = string(value)
		case "DEVNAME":
			event.name = string(value)
		}
	}
	return event, event.action != "" && event.subsystem != ""
}
