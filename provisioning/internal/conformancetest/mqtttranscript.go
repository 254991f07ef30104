// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// packetNames are the packets that a device may send (MQTT 3.1.1, 2.2.1; dps-protocol 6.6), with the flags of their first
// byte. Those of a PUBLISH are checked by themselves.
var packetNames = map[byte]struct {
	name  string
	flags byte
}{
	1:  {"CONNECT", 0},
	3:  {"PUBLISH", 0},
	4:  {"PUBACK", 0},
	8:  {"SUBSCRIBE", 2},
	10: {"UNSUBSCRIBE", 2},
	12: {"PINGREQ", 0},
	14: {"DISCONNECT", 0},
}

// Keep alives of real clients go from 60 to 240 s (dps-protocol 6.1); the one that sends 0 is never missed when it dies.
const leastKeepAlive, mostKeepAlive = 30, 240

// packets reads a connection of MQTT.
func (r *reader) packets() error {
	c := &mqttChecks{rids: make(map[string]bool)}
	for n := 1; r.offset < len(r.data); n++ {
		start := r.offset
		name, flags, body, err := r.packet()
		if err == nil {
			err = c.packet(name, flags, body, r.at(start))
		}
		if err != nil {
			return fmt.Errorf("packet %d (%s): %w", n, name, err)
		}
		r.note(name, start)
	}
	if c.last != "DISCONNECT" {
		return fmt.Errorf("the connection ends without a DISCONNECT")
	}
	return nil
}

// packet reads one, its head checked.
func (r *reader) packet() (name string, flags byte, body []byte, err error) {
	first := r.data[r.offset]
	kind, known := packetNames[first>>4]
	if !known {
		return fmt.Sprintf("type %d", first>>4), 0, nil, errors.New("a device does not send it")
	}
	if flags = first & 0x0F; flags != kind.flags && kind.name != "PUBLISH" {
		return kind.name, 0, nil, fmt.Errorf("its flags are %X, want %X", flags, kind.flags)
	}
	length, size := 0, 0
	for more := true; more; size++ {
		if size == 4 || r.offset+1+size >= len(r.data) {
			return kind.name, 0, nil, errors.New("it ends in its head")
		}
		digit := r.data[r.offset+1+size]
		if digit == 0 && size > 0 {
			return kind.name, 0, nil, errors.New("its length is written longer than need be")
		}
		length |= int(digit&0x7F) << (7 * size)
		more = digit&0x80 != 0
	}
	begin := r.offset + 1 + size
	if begin+length > len(r.data) {
		return kind.name, 0, nil, fmt.Errorf("it ends before its %d bytes", length)
	}
	r.offset = begin + length
	return kind.name, flags, r.data[begin:r.offset], nil
}

// mqttChecks is what must be remembered from packet to packet.
type mqttChecks struct {
	last       string
	connected  bool
	subscribed bool
	rids       map[string]bool
	publishID  uint16 // of the last PUBLISH
}

func (c *mqttChecks) packet(name string, flags byte, body []byte, at time.Time) error {
	defer func() { c.last = name }()
	b := &fields{rest: body}
	switch {
	case c.last == "DISCONNECT":
		return errors.New("something follows the DISCONNECT")
	case name != "CONNECT" && !c.connected:
		return errors.New("the first packet is not a CONNECT")
	case name == "CONNECT" && c.connected:
		return errors.New("a second CONNECT")
	}
	switch name {
	case "CONNECT":
		c.connected = true
		return checkConnect(b, at)
	case "SUBSCRIBE":
		c.subscribed = true
		return checkFilters(b, true)
	case "UNSUBSCRIBE":
		return checkFilters(b, false)
	case "PUBLISH":
		if !c.subscribed {
			return errors.New("a request without a subscription to its answer")
		}
		return c.checkPublish(b, flags)
	case "PUBACK":
		if b.number() == 0 {
			return errors.New("it acknowledges packet 0")
		}
	}
	return b.end()
}

// usernameShape is dps-protocol 6.1: no question mark, and the user agent escaped.
var usernameShape = regexp.MustCompile(`^([^/?]+)/registrations/([^/?]+)/api-version=([0-9-]+)(&ClientVersion=([A-Za-z0-9._~-]|%[0-9A-F]{2})+)?$`)

func checkConnect(b *fields, at time.Time) error {
	if name := b.text(); name != "MQTT" {
		return fmt.Errorf("the protocol is %q", name)
	}
	if level := b.octet(); level != 4 {
		return fmt.Errorf("the protocol level is %d, want 4", level)
	}
	flags := b.octet()
	if flags != 0xC2 && flags != 0x82 {
		return fmt.Errorf("the flags are 0x%02X, want 0xC2 with a token or 0x82 with a certificate", flags)
	}
	if keep := b.number(); keep < leastKeepAlive || keep > mostKeepAlive {
		return fmt.Errorf("the keep alive is %d s, want %d to %d", keep, leastKeepAlive, mostKeepAlive)
	}
	if id := b.text(); id != toaster {
		return fmt.Errorf("the client ID is %q, want the registration ID", id)
	}
	username := b.text()
	parts := usernameShape.FindStringSubmatch(username)
	if parts == nil || parts[1] != IDScope || parts[2] != toaster || !slices.Contains(apiVersions, parts[3]) {
		return fmt.Errorf("the user name is %q, want SCOPE/registrations/ID/api-version=V&ClientVersion=…", username)
	}
	if flags == 0xC2 {
		if wrong := CheckToken(b.text(), toaster, deviceKey, at); wrong != "" {
			return errors.New(wrong)
		}
	}
	return b.end()
}

// checkFilters is dps-protocol 6.3: one filter, at QoS 1.
func checkFilters(b *fields, quality bool) error {
	if b.number() == 0 {
		return errors.New("its packet ID is 0")
	}
	if filter := b.text(); filter != "$dps/registrations/res/#" {
		return fmt.Errorf("the filter is %q, want $dps/registrations/res/#", filter)
	}
	if quality {
		if qos := b.octet(); qos != 1 {
			return fmt.Errorf("it asks for QoS %d, want 1", qos)
		}
	}
	return b.end()
}

// topicShape is dps-protocol 6.4.
var topicShape = regexp.MustCompile(`^\$dps/registrations/(PUT/iotdps-register/|GET/iotdps-get-operationstatus/)\?\$rid=([A-Za-z0-9-]{1,128})(&operationId=([A-Za-z0-9._-]{1,256}))?$`)

func (c *mqttChecks) checkPublish(b *fields, flags byte) error {
	switch {
	case flags&1 != 0:
		return errors.New("it is to be retained")
	case flags&8 != 0:
		return errors.New("it says that it is sent again")
	case flags>>1 > 1:
		return fmt.Errorf("its QoS is %d", flags>>1)
	}
	topic := b.text()
	parts := topicShape.FindStringSubmatch(topic)
	if parts == nil {
		return fmt.Errorf("no document names the topic %q", topic)
	}
	if flags>>1 == 1 {
		id := b.number()
		if id == 0 || id == c.publishID {
			return fmt.Errorf("its packet ID is %d", id)
		}
		c.publishID = id
	}
	if c.rids[parts[2]] {
		return fmt.Errorf("the request ID %s is used again", parts[2])
	}
	c.rids[parts[2]] = true

	body := b.rest
	if b.short {
		return errors.New("it ends too early")
	}
	if strings.HasPrefix(parts[1], "PUT") {
		if parts[3] != "" {
			return errors.New("a register names an operation")
		}
		return checkBody(body)
	}
	if parts[4] != Operation {
		return fmt.Errorf("it polls operation %q, want the one of the answer", parts[4])
	}
	if text := string(body); text != "" && text != " " {
		return checkBody(body) // one client sends the register's body again
	}
	return nil
}

// fields reads the parts of a packet.
type fields struct {
	rest  []byte
	short bool
}

func (f *fields) take(n int) []byte {
	if n > len(f.rest) {
		f.short, f.rest = true, nil
		return make([]byte, n)
	}
	taken := f.rest[:n]
	f.rest = f.rest[n:]
	return taken
}

func (f *fields) octet() byte { return f.take(1)[0] }

func (f *fields) number() uint16 {
	two := f.take(2)
	return uint16(two[0])<<8 | uint16(two[1])
}

func (f *fields) text() string { return string(f.take(int(f.number()))) }

func (f *fields) end() error {
	switch {
	case f.short:
		return errors.New("it ends too early")
	case len(f.rest) > 0:
		return fmt.Errorf("%d bytes too many", len(f.rest))
	}
	return nil
}
