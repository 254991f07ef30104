// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"errors"
	"fmt"
)

// Read Device Identification: categories and objects (serial 4.2).
const (
	codeBasic    = 1 // objects 0 to 2, a stream
	codeExtended = 3 // objects 0x80 to 0xFF, a stream
	codeOne      = 4 // one object

	objectVendor   = 0x00
	objectProduct  = 0x01
	objectRevision = 0x02

	firstExtendedObject = 0x80

	// conformityOne is set by a unit that answers code 4; the low bits name its highest category.
	conformityOne = 0x80

	// maxContinuations ends an identification that never says it is complete.
	maxContinuations = 16
)

// deviceIDReply is one Read Device Identification reply, taken apart.
type deviceIDReply struct {
	conformity byte
	more       bool // ask again, from object next on
	next       byte
	objects    []object
}

// object is one of the objects of an identification.
type object struct {
	id    byte
	value string
}

// parseDeviceID takes an intact reply apart. replyLength has walked it already, so its lengths are sound.
func parseDeviceID(frame []byte) (deviceIDReply, error) {
	if n := replyLength(frame); len(frame) < 10 || n != len(frame) {
		return deviceIDReply{}, fmt.Errorf("device identification: %d bytes where %d belong", len(frame), n)
	}
	reply := deviceIDReply{
		conformity: frame[4],
		more:       frame[5] == 0xFF,
		next:       frame[6],
		objects:    make([]object, 0, frame[7]),
	}
	rest := frame[8 : len(frame)-2]
	for len(rest) >= 2 {
		id, length := rest[0], int(rest[1])
		reply.objects = append(reply.objects, object{id, string(rest[2 : 2+length])})
		rest = rest[2+length:]
	}
	return reply, nil
}

// readObjects reads the objects of a category, first to last, asking on while the unit has more. The guards are for
// units that ignore the asked range and start again at 0, which would never end (serial 4.2).
func (m *rtu) readObjects(ctx context.Context, unit, code, first, last byte) (conformity byte, objects map[byte]string, err error) {
	objects = make(map[byte]string)
	from := first
	for range maxContinuations {
		frame, err := m.askPatiently(ctx, deviceIDRequest(unit, code, from))
		if err != nil {
			return 0, nil, err
		}
		reply, err := parseDeviceID(frame)
		if err != nil {
			return 0, nil, err
		}
		conformity = reply.conformity
		for _, o := range reply.objects {
			if o.id >= first && o.id <= last {
				objects[o.id] = o.value
			}
		}
		if !reply.more || reply.next <= from || reply.next > last {
			break
		}
		from = reply.next
	}
	return conformity, objects, nil
}

// readDeviceID is the first rung of the identity ladder: function 0x2B/0x0E, the basic objects and the extended ones
// that the profile names.
func (m *rtu) readDeviceID(ctx context.Context, unit byte, where identityObjects) (Identity, error) {
	conformity, basic, err := m.readObjects(ctx, unit, codeBasic, objectVendor, objectRevision)
	if err != nil {
		return Identity{}, err
	}
	id := Identity{
		Vendor:   basic[objectVendor],
		Model:    basic[objectProduct],
		Firmware: basic[objectRevision],
		Source:   SourceDeviceIdentification,
	}
	extended, err := m.readExtended(ctx, unit, conformity, where)
	if err != nil {
		return Identity{}, err
	}
	id.RegistrationID = extended[where.RegistrationID]
	id.Serial = extended[where.Serial]
	id.Provisioning = extended[where.Provisioning]
	return id.cleaned(), nil
}

// readExtended reads the extended objects that the profile names, one by one where the unit can do that, as a stream
// where it can only do that. An object that the unit does not have is absent from the result.
func (m *rtu) readExtended(ctx context.Context, unit, conformity byte, where identityObjects) (map[byte]string, error) {
	if conformity&conformityOne == 0 {
		if conformity < codeExtended {
			return nil, nil
		}
		_, objects, err := m.readObjects(ctx, unit, codeExtended, firstExtendedObject, 0xFF)
		return objects, unlessLacking(err)
	}
	found := make(map[byte]string)
	for _, object := range []byte{where.RegistrationID, where.Serial, where.Provisioning} {
		if object == 0 {
			continue
		}
		_, one, err := m.readObjects(ctx, unit, codeOne, object, object)
		if unlessLacking(err) != nil {
			return nil, err
		}
		if value, ok := one[object]; ok {
			found[object] = value
		}
	}
	return found, nil
}

// unlessRefused drops an exception: the unit is there, it only does not have what was asked for.
func unlessRefused(err error) error {
	var refused *exceptionError
	if errors.As(err, &refused) {
		return nil
	}
	return err
}

// unlessLacking drops an exception by which the unit says that it does not have what was asked for. One that is busy
// may have it, and without it would be taken for another appliance.
func unlessLacking(err error) error {
	var refused *exceptionError
	if errors.As(err, &refused) && refused.lacks() {
		return nil
	}
	return err
}

// readServerID is the second rung: function 0x11. Its layout is the maker's own, with a run indicator of 0x00 or 0xFF
// before or after the text, so the longest readable run of at least three characters is taken for the model.
func (m *rtu) readServerID(ctx context.Context, unit byte) (Identity, error) {
	frame, err := m.askPatiently(ctx, serverIDRequest(unit))
	if err != nil {
		return Identity{}, err
	}
	model := longestText(frame[3 : len(frame)-2])
	if model == "" {
		return Identity{}, nil
	}
	return Identity{Model: model, Source: SourceServerID}.cleaned(), nil
}

// longestText returns the longest run of printable ASCII, "" if none has three characters.
func longestText(data []byte) string {
	var longest string
	start := 0
	for i := 0; i <= len(data); i++ {
		if i < len(data) && data[i] >= ' ' && data[i] < 0x7F {
			continue
		}
		if run := string(data[start:i]); len(run) > len(longest) {
			longest = run
		}
		start = i + 1
	}
	if len(longest) < 3 {
		return ""
	}
	return longest
}
