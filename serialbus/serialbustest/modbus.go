// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"slices"
	"time"
)

// The exception codes that the simulated units use.
const (
	illegalFunction = 1
	illegalAddress  = 2
	illegalValue    = 3
	wrongMEI        = 4
)

// running is the run indicator at the end of a server ID.
const running = 0xFF

// modbusLine is the slaves' end of an RS-485 line. It is written from the protocol documents, apart from the master.
type modbusLine struct {
	machines []*machine
	buf      []byte // received and not yet a request
}

// silence implements device. A slave frames by silence too: half a request is forgotten.
func (l *modbusLine) silence() { l.buf = nil }

func (l *modbusLine) appliance(unit int) appliance {
	for _, m := range l.machines {
		if int(m.Address) == unit {
			return m
		}
	}
	return nil
}

func (l *modbusLine) units() []int {
	all := make([]int, 0, len(l.machines))
	for _, m := range l.machines {
		all = append(all, int(m.Address))
	}
	slices.Sort(all)
	return all
}

// stray makes the reply one of the next unit.
func (l *modbusLine) stray(reply []byte) []byte {
	other := append([]byte(nil), reply[:len(reply)-2]...)
	other[0]++
	return withChecksum(other)
}

// hear cuts requests out of the bytes. A byte that no request starts with is skipped, as is one whose request has a
// wrong checksum.
func (l *modbusLine) hear(data []byte, at time.Time, decide decision) []exchange {
	l.buf = append(l.buf, data...)
	var done []exchange
	for len(l.buf) > 0 {
		size := requestSize(l.buf)
		if size == 0 || size > len(l.buf) {
			break
		}
		if size < 0 || checksum(l.buf[:size]) != 0 {
			l.buf = l.buf[1:]
			continue
		}
		request := append([]byte(nil), l.buf[:size]...)
		l.buf = l.buf[size:]
		done = append(done, l.serve(request, at, decide)...)
	}
	return done
}

// serve hands an intact request to the units.
func (l *modbusLine) serve(request []byte, at time.Time, decide decision) []exchange {
	var done []exchange
	for _, m := range l.machines {
		if m.Address != request[0] || !m.on(at) || at.Before(m.deafTo) {
			continue
		}
		is := decide(int(m.Address), kindOf(request[1]))
		reply := m.meet(request, at, is)
		if reply != nil {
			done = append(done, exchange{
				unit: int(m.Address), kind: kindOf(request[1]), request: request,
				reply: withChecksum(reply), think: m.takes(request), fate: is,
			})
		}
	}
	if len(done) == 0 {
		for _, m := range l.machines {
			if m.Address != request[0] && m.Deaf > 0 {
				m.deafTo = at.Add(m.Deaf)
			}
		}
	}
	return done
}

// meet lets a request take effect, unless its fate is another, and returns the reply without its checksum.
func (m *machine) meet(request []byte, at time.Time, is fate) []byte {
	switch is.fault {
	case FaultUnheard:
		return nil
	case FaultPowerBefore:
		m.cut(at.Add(is.delay))
		return nil
	case FaultPowerAfter:
		m.answer(request, at)
		m.cut(at.Add(is.delay))
		return nil
	default:
		return m.answer(request, at)
	}
}

// kindOf names a function for rules.
func kindOf(function byte) string {
	switch function {
	case 0x11, 0x2B:
		return "identify"
	case 0x05, 0x06, 0x0F, 0x10, 0x17:
		return "write"
	default:
		return "read"
	}
}

// requestSize is the length of the request that b starts with; 0 = not known yet, -1 = none starts like this.
func requestSize(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case 0x01, 0x02, 0x03, 0x04, 0x05, 0x06:
		return 8
	case 0x0F, 0x10:
		if len(b) < 7 {
			return 0
		}
		if b[6] > 246 {
			return -1
		}
		return 9 + int(b[6])
	case 0x07, 0x11:
		return 4
	case 0x2B:
		return 7
	default:
		return -1
	}
}

// takes is how long the unit thinks about a request.
func (m *machine) takes(q []byte) time.Duration {
	switch q[1] {
	case 0x03, 0x04, 0x10:
		return m.thinking(int(q[2])<<8|int(q[3]), int(q[4])<<8|int(q[5]))
	case 0x06:
		return m.thinking(int(q[2])<<8|int(q[3]), 1)
	default:
		return m.Think
	}
}

// answer returns the reply to an intact request, without its checksum; nil = the unit keeps silent.
func (m *machine) answer(q []byte, at time.Time) []byte {
	if !m.knows(q[1]) && m.Mute {
		return nil
	}
	m.settled(at)
	var reply []byte
	var exception byte = illegalFunction
	if m.knows(q[1]) {
		switch q[1] {
		case 0x03, 0x04:
			reply, exception = m.answerRead(q)
		case 0x06:
			exception = m.write(int(q[2])<<8|int(q[3]), [][2]byte{{q[4], q[5]}}, at)
			reply = append(reply, q[:6]...)
		case 0x10:
			reply, exception = m.answerWrite(q, at)
		case 0x11:
			exception = 0
			reply = append([]byte{q[0], q[1], byte(len(m.ServerID))}, m.ServerID...)
		case 0x2B:
			reply, exception = m.answerIdentification(q)
		}
	}
	if exception != 0 {
		return []byte{q[0], q[1] | 0x80, exception}
	}
	return reply
}

// answerRead is function 0x03: first register, count; 1 to 125 of them.
func (m *machine) answerRead(q []byte) (reply []byte, exception byte) {
	first, count := int(q[2])<<8|int(q[3]), int(q[4])<<8|int(q[5])
	if count < 1 || count > 125 {
		return nil, illegalValue
	}
	reply = []byte{q[0], q[1], byte(2 * count)}
	for register := first; register < first+count; register++ {
		value, has := m.values[uint16(register)]
		if !has || register > 0xFFFF {
			return nil, illegalAddress
		}
		reply = append(reply, byte(value>>8), byte(value))
	}
	return reply, 0
}

// answerWrite is function 0x10: first register, count, bytes, values.
func (m *machine) answerWrite(q []byte, at time.Time) (reply []byte, exception byte) {
	first, count := int(q[2])<<8|int(q[3]), int(q[4])<<8|int(q[5])
	if count < 1 || count > 123 || int(q[6]) != 2*count || m.OneValue && count > 1 {
		return nil, illegalValue
	}
	values := make([][2]byte, count)
	for i := range values {
		values[i] = [2]byte(q[7+2*i:])
	}
	return append([]byte(nil), q[:6]...), m.write(first, values, at)
}

// write sets registers from the first one on: all of them or, with an exception, none.
func (m *machine) write(first int, values [][2]byte, at time.Time) (exception byte) {
	word := func(v [2]byte) uint16 { return uint16(v[0])<<8 | uint16(v[1]) }
	for i, v := range values {
		if first+i > 0xFFFF {
			return illegalAddress
		}
		if exception := m.refuse(uint16(first+i), word(v)); exception != 0 {
			return exception
		}
	}
	for i, v := range values {
		m.put(uint16(first+i), word(v), at)
	}
	m.written++
	return 0
}

// answerIdentification is Read Device Identification: codes 1, 2 and 3 stream the objects of a category, code 4 names
// one. A reply holds what fits into a frame and says where to go on. Asked for more than its level, the unit answers
// at its level.
func (m *machine) answerIdentification(q []byte) (reply []byte, exception byte) {
	if q[2] != 0x0E {
		return nil, wrongMEI
	}
	code, object := q[3], int(q[4])
	conformity := m.Conformity
	if conformity == 0 {
		conformity = 0x83
	}
	level, single := conformity&0x03, conformity&0x80 != 0
	first, last := 0, 2
	switch {
	case code >= 1 && code <= 3:
		switch min(code, level) {
		case 2:
			last = 6
		case 3:
			first, last = 0x80, 0xFF
		}
	case code == 4 && single:
		if _, has := m.Objects[byte(object)]; !has || !shown(object, level) {
			return nil, illegalAddress
		}
		first, last = object, object
	default:
		return nil, illegalValue
	}
	if object >= first && object <= last {
		first = object
	}
	reply = []byte{q[0], q[1], q[2], code, conformity, 0, 0, 0}
	for id := first; id <= last; id++ {
		value, has := m.Objects[byte(id)]
		if !has {
			continue
		}
		if len(reply)+2+len(value)+2 > 256 {
			reply[5], reply[6] = 0xFF, byte(id)
			break
		}
		reply = append(append(reply, byte(id), byte(len(value))), value...)
		reply[7]++
	}
	return reply, 0
}

// shown reports whether a unit of a conformity level has objects of that number.
func shown(object int, level byte) bool {
	switch level {
	case 1:
		return object <= 2
	case 2:
		return object <= 6
	default:
		return true
	}
}

// withChecksum appends the CRC, low byte first.
func withChecksum(frame []byte) []byte {
	crc := checksum(frame)
	return append(frame, byte(crc&0xFF), byte(crc>>8))
}

// checksum divides the frame, as a polynomial over GF(2), by x^16 + x^15 + x^2 + 1, one bit at a time, lowest bit
// first. Over a frame with its checksum the remainder is 0.
func checksum(frame []byte) uint16 {
	remainder := uint32(0xFFFF)
	for i := range 8 * len(frame) {
		bit := uint32(frame[i/8]>>(i%8)) & 1
		if (remainder^bit)&1 == 1 {
			remainder = remainder>>1 ^ 0xA001
		} else {
			remainder >>= 1
		}
	}
	return uint16(remainder)
}
