// SPDX-License-Identifier: Apache-2.0

package mqttserve

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	// maxPacket is the largest packet taken: a hub message may have 256 KB.
	maxPacket = 256 << 10

	// maxConnectPacket is the largest packet taken from someone who has not
	// said who he is.
	maxConnectPacket = 16 << 10
)

var (
	// What is wrong with a packet. Either one ends the connection.
	errTooLarge  = errors.New("packet too large")
	errMalformed = errors.New("malformed packet")
)

// readPacket reads one packet of at most limit bytes. The codec allocates what
// the header promises and checks nothing of what it decodes, so the header is
// looked at before and the fields after.
func readPacket(r *bufio.Reader, limit int) (packets.ControlPacket, error) {
	kind, size, err := peekHeader(r)
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%w: %s of %d bytes, at most %d are allowed", errTooLarge, packets.PacketNames[kind], size, limit)
	}
	if err := checkSize(kind, size); err != nil {
		return nil, err
	}
	packet, err := packets.ReadPacket(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	if err := checkFields(packet); err != nil {
		return nil, err
	}
	return packet, nil
}

// peekHeader reads the fixed header without taking it: the packet's type and
// the length that it declares.
func peekHeader(r *bufio.Reader) (kind byte, size int, err error) {
	for n := 2; n <= 5; n++ {
		header, err := r.Peek(n)
		if err != nil {
			return 0, 0, err
		}
		kind = header[0] >> 4
		digit := int(header[n-1])
		size |= (digit & 0x7f) << (7 * (n - 2))
		if digit < 0x80 {
			return kind, size, checkFlags(kind, header[0]&0x0f)
		}
	}
	return 0, 0, fmt.Errorf("%w: length of more than four bytes", errMalformed)
}

// checkFlags holds the reserved bits of MQTT 3.1.1 section 2.2.2.
func checkFlags(kind, flags byte) error {
	switch kind {
	case packets.Publish:
		return nil
	case packets.Subscribe, packets.Unsubscribe, packets.Pubrel:
		if flags != 2 {
			return fmt.Errorf("%w: reserved flags", errMalformed)
		}
	default:
		if flags != 0 {
			return fmt.Errorf("%w: reserved flags", errMalformed)
		}
	}
	return nil
}

// checkSize refuses what is too short to hold its fields; the codec would pad
// it with zeros.
func checkSize(kind byte, size int) error {
	var least int
	switch kind {
	case packets.Connect:
		least = 12
	case packets.Publish:
		least = 3
	case packets.Subscribe:
		least = 6
	case packets.Unsubscribe:
		least = 5
	case packets.Puback:
		least = 2
	case packets.Pingreq, packets.Disconnect:
		least = 0
	default:
		// Whatever only a server sends, and QoS 2 which nobody was granted.
		return fmt.Errorf("%w: unexpected packet of type %d", errMalformed, kind)
	}
	if size < least {
		return fmt.Errorf("%w: %s of %d bytes", errMalformed, packets.PacketNames[kind], size)
	}
	return nil
}

// checkFields holds the rules for texts and packet IDs. A text that ran over
// the packet's end was padded with zeros by the codec and fails here.
func checkFields(packet packets.ControlPacket) error {
	switch p := packet.(type) {
	case *packets.ConnectPacket:
		if !validText(p.ProtocolName) || !validText(p.ClientIdentifier) || !validText(p.Username) || strings.ContainsRune(string(p.Password), 0) {
			return fmt.Errorf("%w: text in CONNECT", errMalformed)
		}
	case *packets.PublishPacket:
		if p.TopicName == "" || !validText(p.TopicName) || strings.ContainsAny(p.TopicName, "+#") {
			return fmt.Errorf("%w: topic", errMalformed)
		}
		if p.Qos > 0 && p.MessageID == 0 {
			return fmt.Errorf("%w: packet ID 0", errMalformed)
		}
	case *packets.SubscribePacket:
		if p.MessageID == 0 || len(p.Topics) == 0 || len(p.Topics) != len(p.Qoss) {
			return fmt.Errorf("%w: SUBSCRIBE", errMalformed)
		}
		for i, filter := range p.Topics {
			if filter == "" || !validText(filter) || p.Qoss[i] > 2 {
				return fmt.Errorf("%w: topic filter", errMalformed)
			}
		}
	case *packets.UnsubscribePacket:
		if p.MessageID == 0 || len(p.Topics) == 0 {
			return fmt.Errorf("%w: UNSUBSCRIBE", errMalformed)
		}
		for _, filter := range p.Topics {
			if !validText(filter) {
				return fmt.Errorf("%w: topic filter", errMalformed)
			}
		}
	}
	return nil
}

// validText is the rule of MQTT 3.1.1 section 1.5.3: UTF-8 without U+0000.
func validText(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsRune(text, 0)
}
