// SPDX-License-Identifier: Apache-2.0

package serialbustest

// The exception codes that the simulated units use.
const (
	illegalFunction = 1
	illegalAddress  = 2
	illegalValue    = 3
	wrongMEI        = 4
)

// modbusLine is the slaves' end of an RS-485 line. It is written from the protocol documents, apart from the master.
type modbusLine struct {
	pumps map[byte]*pump
	buf   []byte // received and not yet a request
}

// pending, silence and appliance implement device. A slave frames by silence too: half a request is forgotten.
func (l *modbusLine) pending() bool { return len(l.buf) > 0 }
func (l *modbusLine) silence()      { l.buf = nil }

func (l *modbusLine) appliance(unit int) appliance {
	if p := l.pumps[byte(unit)]; p != nil && unit == int(p.Unit) {
		return p
	}
	return nil
}

// stray makes the reply one of the next unit.
func (l *modbusLine) stray(reply []byte) []byte {
	other := append([]byte(nil), reply[:len(reply)-2]...)
	other[0]++
	return withChecksum(other)
}

// receive cuts requests out of the bytes. A byte that no request starts with is skipped, as is one whose request has a
// wrong checksum.
func (l *modbusLine) receive(data []byte) []exchange {
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
		p := l.pumps[request[0]]
		if p == nil || p.off {
			continue
		}
		done = append(done, exchange{int(p.Unit), request, withChecksum(p.answer(request))})
	}
	return done
}

// requestSize is the length of the request that b starts with; 0 = not known yet, -1 = none starts like this.
func requestSize(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case 0x03, 0x04, 0x06:
		return 8
	case 0x10:
		if len(b) < 7 {
			return 0
		}
		if b[6] > 246 {
			return -1
		}
		return 9 + int(b[6])
	case 0x11:
		return 4
	case 0x2B:
		return 7
	default:
		return -1
	}
}

// answer returns the reply to an intact request, without its checksum.
func (p *pump) answer(q []byte) []byte {
	var reply []byte
	var exception byte
	switch q[1] {
	case 0x03:
		reply, exception = p.answerRead(q)
	case 0x10:
		reply, exception = p.answerWrite(q)
	case 0x11:
		text := p.Vendor + "-" + p.Model + "-" + p.Firmware
		reply = append([]byte{q[0], q[1], byte(len(text) + 1)}, text...)
		reply = append(reply, 0xFF) // running
	case 0x2B:
		reply, exception = p.answerIdentification(q)
	default:
		exception = illegalFunction
	}
	if exception != 0 {
		return []byte{q[0], q[1] | 0x80, exception}
	}
	return reply
}

// answerRead is function 0x03: first register, count; 1 to 125 of them.
func (p *pump) answerRead(q []byte) (reply []byte, exception byte) {
	first, count := int(q[2])<<8|int(q[3]), int(q[4])<<8|int(q[5])
	if count < 1 || count > 125 {
		return nil, illegalValue
	}
	if first+count > registers {
		return nil, illegalAddress
	}
	reply = []byte{q[0], q[1], byte(2 * count)}
	for _, value := range p.registers[first : first+count] {
		reply = append(reply, byte(value>>8), byte(value))
	}
	return reply, 0
}

// answerWrite is function 0x10: first register, count, bytes, values. All registers are written or none.
func (p *pump) answerWrite(q []byte) (reply []byte, exception byte) {
	first, count := int(q[2])<<8|int(q[3]), int(q[4])<<8|int(q[5])
	if count < 1 || count > 123 || int(q[6]) != 2*count {
		return nil, illegalValue
	}
	if first+count > registers {
		return nil, illegalAddress
	}
	before := p.registers
	for i := range count {
		value := uint16(q[7+2*i])<<8 | uint16(q[8+2*i])
		if exception := p.write(first+i, value); exception != 0 {
			p.registers = before
			return nil, exception
		}
	}
	p.written++
	return append([]byte(nil), q[:6]...), 0
}

// answerIdentification is Read Device Identification: code 1 and 2 stream the objects 0 to 2, code 3 all from 0x80 on,
// code 4 names one. A reply holds what fits into a frame and says where to go on.
func (p *pump) answerIdentification(q []byte) (reply []byte, exception byte) {
	if p.Old {
		return nil, illegalFunction
	}
	if q[2] != 0x0E {
		return nil, wrongMEI
	}
	code, object := q[3], int(q[4])
	objects := p.objects()
	first, last := 0, 2
	switch code {
	case 1, 2:
	case 3:
		first, last = 0x80, 0xFF
	case 4:
		if _, ok := objects[object]; !ok {
			return nil, illegalAddress
		}
		first, last = object, object
	default:
		return nil, illegalValue
	}
	if object >= first && object <= last {
		first = object
	}
	const conformity = 0x83 // all categories, streams and single objects
	reply = []byte{q[0], q[1], q[2], code, conformity, 0, 0, 0}
	for id := first; id <= last; id++ {
		value, ok := objects[id]
		if !ok {
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
