// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"encoding/json"
	"time"
)

// CallKind is what a device asks for.
type CallKind string

// The calls of the device API.
const (
	RegisterCall CallKind = "register"
	PollCall     CallKind = "poll"   // operation status
	LookupCall   CallKind = "lookup" // registration status, HTTPS only
)

// FaultPoint is the moment at which Options.Fault and the fault script are asked:
// a device's call has arrived and nothing has been done about it.
type FaultPoint struct {
	Transport      string // "https" or "mqtt"
	Call           CallKind
	RegistrationID string // as presented
}

// Fault is how the service answers badly. The zero value answers well.
type Fault struct {
	// Status, when not 0, is answered with an error body, and the call has no
	// effect: 429 begins no operation.
	Status int

	// RetryAfter, when not "", is sent as the retry-after hint as it stands, with
	// an error or in place of the hint of a good answer.
	RetryAfter string

	// Delay holds back the answer, whatever it is, after the call took effect.
	Delay time.Duration

	// Drop lets the call take effect and closes the connection instead of
	// answering, as a line that breaks at the worst moment does.
	Drop bool

	// Close closes the connection, and the call has no effect.
	Close bool

	// ClockSkew is added to the time that the answer tells: the Date header over
	// HTTPS, and the timestampUtc of an error.
	ClockSkew time.Duration

	// Away closes every connection of devices, to hubs too, and for so long each
	// new one as soon as it is accepted. The call has no effect.
	Away time.Duration
}

// faultAt asks the program and then the script how to answer a call.
func (s *service) faultAt(c call) Fault {
	point := FaultPoint{Transport: c.transport, Call: c.kind, RegistrationID: c.registrationID}
	if s.fault != nil {
		if fault := s.fault(point); fault != (Fault{}) {
			return fault
		}
	}
	fault, rule := s.script.at(point)
	if rule != 0 {
		s.logger.Info("answering badly, as the fault script says", "fault", rule,
			"call", string(c.kind), "registration_id", c.registrationID)
	}
	return fault
}

// serveBadly answers a call as a fault says.
func (s *service) serveBadly(ctx context.Context, c call, fault Fault) answer {
	if fault.Away > 0 {
		s.gate.shut(fault.Away)
		return answer{drop: true}
	}
	if fault.Close {
		return answer{drop: true, delay: fault.Delay}
	}
	var a answer
	if fault.Status != 0 {
		a = refuse(fault.Status, fault.Status*1000+1, "The service was told to answer like this.")
	} else {
		a = s.judge(ctx, c)
	}
	if fault.RetryAfter != "" {
		a.retryAfter = fault.RetryAfter
	}
	if fault.ClockSkew != 0 {
		a.skew = fault.ClockSkew
		a.body = skewed(a.body, a.skew)
	}
	a.drop, a.delay = fault.Drop, fault.Delay
	return a
}

// skewed moves the time in an error body, and leaves any other document alone.
func skewed(body []byte, skew time.Duration) []byte {
	var e errorBody
	if err := json.Unmarshal(body, &e); err != nil || e.TimestampUTC == "" {
		return body
	}
	e.TimestampUTC = utcTime(time.Now().Add(skew))
	return encodeJSON(e)
}

// holdBack waits for as long as an answer is to be late. It returns false when
// the device or the server has gone in the meantime.
func (s *service) holdBack(ctx context.Context, delay time.Duration) bool {
	if delay <= 0 {
		return true
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
	return false
}
