// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/contoso/gatewayd/allocation"
)

// subject is what one decision is about. Members that cost something to read are
// read when a rule first asks for them, and once.
type subject struct {
	request allocation.Request
	device  allocation.Row // the row, or the policy's own in its place, or nil

	payload         lazy[any]
	enrollmentGroup lazy[map[string]any]
	individual      lazy[map[string]any]
	certificate     lazy[certificate]
	variables       lazy[map[string]any]
}

// certificate is the device's certificate and whether there is one.
type certificate struct {
	allocation.Certificate
	found bool
}

// lazy is a value that is read when it is first asked for.
type lazy[T any] struct {
	value T
	read  bool
}

func (l *lazy[T]) get(read func() T) T {
	if !l.read {
		l.value, l.read = read(), true
	}
	return l.value
}

func (s *subject) readPayload() any {
	return s.payload.get(func() any { return decodeJSON(s.request.DeviceRuntimeContext.Payload) })
}

func (s *subject) readEnrollmentGroup() map[string]any {
	return s.enrollmentGroup.get(func() map[string]any { return decodeObject(s.request.EnrollmentGroup) })
}

func (s *subject) readIndividual() map[string]any {
	return s.individual.get(func() map[string]any { return decodeObject(s.request.IndividualEnrollment) })
}

func (s *subject) readCertificate() certificate {
	return s.certificate.get(func() certificate {
		read, found := s.request.DeviceRuntimeContext.Certificate()
		return certificate{read, found}
	})
}

// registrationID gives the device's name as rendezvous hashing takes it: the
// service knows one device by it in any case (dps-protocol 2.2).
func (s *subject) registrationID() string {
	if id := s.request.DeviceRuntimeContext.RegistrationID; id != nil {
		return strings.ToLower(*id)
	}
	return ""
}

// decodeJSON reads a member; numbers stay json.Number, and nothing at all stands
// for a member that is absent, null, or not JSON.
func decodeJSON(raw json.RawMessage) any {
	if len(raw) == 0 {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil
	}
	return value
}

func decodeObject(raw json.RawMessage) map[string]any {
	object, _ := decodeJSON(raw).(map[string]any)
	return object
}
