// SPDX-License-Identifier: Apache-2.0

package mqttserve

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

func TestReadPacket(t *testing.T) {
	tests := []struct {
		name string
		in   string
		want error // nil, errMalformed, errTooLarge or io.EOF
	}{
		{"ping", "\xc0\x00", nil},
		{"publish", "\x30\x05\x00\x01axy", nil},
		{"publish with QoS 1", "\x32\x07\x00\x01a\x00\x01xy", nil},
		{"subscribe", "\x82\x06\x00\x01\x00\x01a\x01", nil},
		{"nothing", "", io.EOF},
		{"half a header", "\x30", io.EOF},
		{"half a packet", "\x30\x05\x00\x01a", errMalformed},
		{"length of five bytes", "\x30\xff\xff\xff\xff\x01", errMalformed},
		{"256 MiB promised", "\x30\xff\xff\xff\x7f", errTooLarge},
		{"one byte too many promised", "\x30\x81\x80\x10", errTooLarge},
		{"reserved type", "\x00\x00", errMalformed},
		{"server's packet", "\x20\x02\x00\x00", errMalformed},
		{"QoS 2 release", "\x62\x02\x00\x01", errMalformed},
		{"reserved flags of ping", "\xc1\x00", errMalformed},
		{"reserved flags of subscribe", "\x80\x06\x00\x01\x00\x01a\x01", errMalformed},
		{"topic runs over", "\x30\x05\x00\x09axy", errMalformed},
		{"no topic", "\x30\x03\x00\x00x", errMalformed},
		{"wildcard in a topic", "\x30\x03\x00\x01#", errMalformed},
		{"zero in a topic", "\x30\x03\x00\x01\x00", errMalformed},
		{"topic not UTF-8", "\x30\x03\x00\x01\xff", errMalformed},
		{"packet ID 0", "\x32\x05\x00\x01a\x00\x00", errMalformed},
		{"subscribe to nothing", "\x82\x06\x00\x01\x00\x00\x01a", errMalformed},
		{"subscribe with QoS 3", "\x82\x06\x00\x01\x00\x01a\x03", errMalformed},
		{"short puback", "\x40\x01\x00", errMalformed},
		{"short connect", "\x10\x02\x00\x04", errMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			packet, err := readPacket(bufio.NewReader(strings.NewReader(tt.in)), maxPacket)
			if !errors.Is(err, tt.want) || (tt.want == nil) != (packet != nil) {
				t.Errorf("got %v, %v; want %v", packet, err, tt.want)
			}
		})
	}
}

// FuzzReadPacket feeds the reader anything: what it lets through is within its
// limit and holds only texts that the protocol allows.
func FuzzReadPacket(f *testing.F) {
	for _, seed := range []string{
		"\x10\x12\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01d\x00\x01u\x00\x01p", "\x30\x05\x00\x01axy", "\x82\x06\x00\x01\x00\x01a\x01",
		"\xa2\x05\x00\x01\x00\x01a", "\x40\x02\x00\x01", "\xc0\x00", "\xe0\x00", "\x30\xff\xff\xff\x7f", "\x30\x05\x00\x09axy",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 512
		reader := bufio.NewReader(bytes.NewReader(data))
		for {
			packet, err := readPacket(reader, limit)
			if err != nil {
				return
			}
			var texts []string
			switch p := packet.(type) {
			case *packets.ConnectPacket:
				texts = []string{p.ClientIdentifier, p.Username}
			case *packets.PublishPacket:
				texts = []string{p.TopicName}
				if len(p.Payload) > limit {
					t.Errorf("payload of %d bytes", len(p.Payload))
				}
			case *packets.SubscribePacket:
				texts = p.Topics
			case *packets.UnsubscribePacket:
				texts = p.Topics
			}
			for _, text := range texts {
				if !utf8.ValidString(text) || strings.Contains(text, "\x00") || len(text) > limit {
					t.Errorf("text %q let through", text)
				}
			}
		}
	})
}
