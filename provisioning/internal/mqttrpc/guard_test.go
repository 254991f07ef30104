// SPDX-License-Identifier: Apache-2.0

package mqttrpc

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

func TestGuard(t *testing.T) {
	long := append([]byte{0x30, 0x80, 0x80, 0x10}, make([]byte, maxPacket)...)
	tests := []struct {
		name string
		data []byte
		want error
	}{
		{"CONNACK", []byte{0x20, 2, 0, 0}, nil},
		{"PINGRESP, PINGRESP, PUBACK", []byte{0xd0, 0, 0xd0, 0, 0x40, 2, 0, 1}, nil},
		{"SUBACK", []byte{0x90, 3, 0, 1, 1}, nil},
		{"SUBACK with two codes", []byte{0x90, 4, 0, 1, 1, 1}, errBadPacket},
		{"SUBACK without a code", []byte{0x90, 2, 0, 1}, errBadPacket},
		{"longest packet, then another", append(slices.Clone(long), 0xd0, 0), nil},
		{"one byte too long", []byte{0x30, 0x81, 0x80, 0x10}, errPacketTooLong},
		{"256 MiB", []byte{0x30, 0xff, 0xff, 0xff, 0x7f}, errPacketTooLong},
		{"length of five bytes", []byte{0x30, 0x80, 0x80, 0x80, 0x80, 0x01}, errBadPacket},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := new(guard).scan(test.data); !errors.Is(got, test.want) {
				t.Errorf("in one piece: got %v, want %v", got, test.want)
			}
			byByte := new(guard)
			var got error
			for i := 0; i < len(test.data) && got == nil; i++ {
				got = byByte.scan(test.data[i : i+1])
			}
			if !errors.Is(got, test.want) {
				t.Errorf("byte by byte: got %v, want %v", got, test.want)
			}
		})
	}
}

// TestGuardFirstPacket: whoever does not begin with a CONNACK is told from a server of MQTT by the first byte.
func TestGuardFirstPacket(t *testing.T) {
	tests := []struct {
		name string
		data []byte
		want error
	}{
		{"CONNACK", []byte{0x20, 2, 0, 0}, nil},
		{"CONNACK, PINGRESP", []byte{0x20, 2, 0, 0, 0xd0, 0}, nil},
		{"HTTP", []byte("HTTP/1.1 400 Bad Request\r\n"), ErrNotMQTT},
		{"SSH", []byte("S"), ErrNotMQTT},
		{"PINGRESP", []byte{0xd0, 0}, ErrNotMQTT},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := (&guard{first: connackType}).scan(test.data); !errors.Is(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// FuzzGuard checks that what the guard lets pass is read by the library without harm.
func FuzzGuard(f *testing.F) {
	f.Add([]byte{0x20, 2, 0, 0})
	f.Add([]byte{0x90, 3, 0, 1, 1})
	f.Add([]byte{0x32, 9, 0, 3, 'a', '/', 'b', 0, 1, 'h', 'i'})
	f.Add([]byte{0x30, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, data []byte) {
		if new(guard).scan(data) != nil {
			return
		}
		for reader := bytes.NewReader(data); ; {
			packet, err := packets.ReadPacket(reader)
			if err != nil {
				return
			}
			if suback, ok := packet.(*packets.SubackPacket); ok && len(suback.ReturnCodes) > 1 {
				t.Errorf("a SUBACK with %d codes was let through", len(suback.ReturnCodes))
			}
		}
	})
}
