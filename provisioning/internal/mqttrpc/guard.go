// SPDX-License-Identifier: Apache-2.0

package mqttrpc

import (
	"errors"
	"net"
)

// maxPacket bounds a received packet. A twin is at most 64 KB and an answer of the provisioning service as much, so
// this leaves room; MQTT itself would allow 256 MiB, which the library allocates as soon as a header announces it.
const maxPacket = 256 << 10

// ErrNotMQTT says that what answered does not speak MQTT: its first bytes are no CONNACK.
var ErrNotMQTT = errors.New("what answered does not speak MQTT")

var (
	errPacketTooLong = errors.New("the server announced an MQTT packet of more than 256 KiB")
	errBadPacket     = errors.New("the server sent a malformed MQTT packet")
)

// connackType is the packet type of CONNACK, which a server's first packet is.
const connackType = 2

// subackType is the packet type of SUBACK. The library indexes its list of filters by the codes in it without
// looking whether there are as many, and would crash the process.
const subackType = 9

// guard watches the bytes that the library reads and ends the connection before a packet that would hurt is
// handed over. Only the library's reading goroutine calls Read.
type guard struct {
	net.Conn
	first  byte // the type that the next packet must have; 0 for any
	kind   byte // packet type, valid from state length on
	state  guardState
	length int // of the packet's rest, while it is being read
	shift  int // bits of length that are known
}

type guardState int

const (
	atType   guardState = iota // the next byte is a packet's first
	atLength                   // the next byte belongs to the length
	atBody                     // length bytes are still to come
)

// Read reads from the connection and looks at what came.
func (g *guard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if fault := g.scan(p[:n]); fault != nil {
		_ = g.Conn.Close()
		return 0, fault
	}
	return n, err
}

// scan follows the packets' framing: a type, a length of one to four bytes with seven bits each, the rest.
func (g *guard) scan(data []byte) error {
	for len(data) > 0 {
		switch g.state {
		case atType:
			g.kind, g.length, g.shift, g.state = data[0]>>4, 0, 0, atLength
			data = data[1:]
			if g.first != 0 && g.kind != g.first {
				return ErrNotMQTT
			}
			g.first = 0
		case atLength:
			digit := data[0]
			data = data[1:]
			g.length |= int(digit&0x7f) << g.shift
			g.shift += 7
			switch {
			case digit&0x80 != 0 && g.shift >= 28:
				return errBadPacket
			case digit&0x80 != 0:
				continue
			case g.length > maxPacket:
				return errPacketTooLong
			case g.kind == subackType && g.length != 3: // packet ID and one code: we subscribe to one filter at a time
				return errBadPacket
			}
			g.state = atBody
			if g.length == 0 {
				g.state = atType
			}
		case atBody:
			taken := min(g.length, len(data))
			data = data[taken:]
			g.length -= taken
			if g.length == 0 {
				g.state = atType
			}
		}
	}
	return nil
}
