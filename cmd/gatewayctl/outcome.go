// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/contoso/gatewayd/provisioning"
)

// outcome is what became of one registration.
type outcome struct {
	registrationID string
	status         provisioning.Status     // the last one that the service told
	operationID    string                  // empty until the service gave one
	assignment     provisioning.Assignment // zero unless err is nil
	began          time.Time               // when the first request was due
	requested      bool                    // it was sent, or is about to be
	elapsed        time.Duration           // from the first request to the end, waits included
	err            error
}

// observe keeps what a step tells that an error will not.
func (o *outcome) observe(progress provisioning.Progress) {
	switch {
	case progress.Step != provisioning.StepWaiting:
		o.requested = true
	case !o.requested:
		o.began = time.Now().Add(progress.Wait)
	}
	if progress.Status != "" {
		o.status = progress.Status
	}
	if progress.OperationID != "" {
		o.operationID = progress.OperationID
	}
}

// settle takes the final status from the end of the registration.
func (o *outcome) settle() {
	o.elapsed = max(time.Since(o.began), 0)
	failed, ended := errors.AsType[*provisioning.FailedError](o.err)
	switch {
	case o.err == nil:
		o.status = provisioning.StatusAssigned
	case ended:
		o.status = failed.Status
	}
}

// ending is the last status of a registration without an assignment: the
// service's word, if it has ended the registration.
func (o *outcome) ending() string {
	if _, ended := errors.AsType[*provisioning.FailedError](o.err); ended {
		return string(o.status)
	}
	return "not assigned"
}

// reporter shows registrations to a person or to a program. Its methods are
// called from many goroutines.
type reporter interface {
	// begin is called once for each device, before anything is sent.
	begin(registrationID string)
	// progress is called for every step, before it is taken.
	progress(registrationID string, progress provisioning.Progress)
	// end is called once for each device, with everything that is known.
	end(outcome outcome)
	// summary is called once, after all.
	summary()
}

// textReporter shows one registration in the form of the C SDK's sample, and
// several as lines that each name their device.
type textReporter struct {
	*screen
	many bool // more than one device
}

// begin announces a single device; of several, each line names its own.
func (r *textReporter) begin(registrationID string) {
	if !r.many {
		r.show(func() { fmt.Fprintf(r.out, "Registering %s\n\n", registrationID) })
	}
}

// progress prints the step, and how long it waits where that is news. Beside a
// progress line only what does not go smoothly is news.
func (r *textReporter) progress(registrationID string, progress provisioning.Progress) {
	text := string(progress.Step)
	switch progress.Step {
	case provisioning.StepThrottled, provisioning.StepRetrying:
		if progress.Wait > 0 { // else it is at once, with another key or time
			text += fmt.Sprintf(", again in %s", progress.Wait.Round(100*time.Millisecond))
		}
	case provisioning.StepRestarting:
	default:
		if r.line != nil {
			return
		}
		if progress.Step == provisioning.StepWaiting {
			text += fmt.Sprintf(" for %s", max(progress.Wait.Round(100*time.Millisecond), 100*time.Millisecond))
		}
	}
	r.show(func() { r.status(registrationID, text) })
}

// end prints the assignment in the words of the sample, or the error.
func (r *textReporter) end(o outcome) {
	r.ended(o, func() {
		switch {
		case o.err != nil:
			r.status(o.registrationID, o.ending())
			r.printFailure(o.err)
		case r.many:
			r.status(o.registrationID, fmt.Sprintf("assigned to %s, deviceId: %s", o.assignment.AssignedHub, o.assignment.DeviceID))
		default:
			fmt.Fprintf(r.out, "\nRegistration Information received from service: %s, deviceId: %s\n", o.assignment.AssignedHub, o.assignment.DeviceID)
			if o.assignment.Payload != nil {
				fmt.Fprintf(r.out, "Payload received from service: %s\n", shownJSON(o.assignment.Payload))
			}
		}
	})
}

// summary counts several devices up.
func (r *textReporter) summary() {
	r.finish()
	if r.many {
		fmt.Fprintf(r.out, "\n%s\n", r.tally.text())
	}
}

// status prints one status as it comes; the screen is held.
func (r *textReporter) status(registrationID, status string) {
	if r.many {
		fmt.Fprintf(r.out, "%s: %s\n", registrationID, status)
		return
	}
	fmt.Fprintf(r.out, "Provisioning Status: %s\n", status)
}

// shownJSON writes a document of the service down so that a terminal shows it
// and does nothing else: on one line, other than printable characters escaped.
func shownJSON(document json.RawMessage) string {
	var compact bytes.Buffer
	if err := json.Compact(&compact, document); err != nil {
		return "(not JSON)"
	}
	var shown strings.Builder
	for _, r := range compact.String() {
		switch {
		case unicode.IsPrint(r):
			shown.WriteRune(r)
		case r > 0xffff: // as JSON escapes it
			r -= 0x10000
			fmt.Fprintf(&shown, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(&shown, `\u%04x`, r)
		}
	}
	return shown.String()
}

// jsonReporter prints one object a line, when a registration has ended.
type jsonReporter struct {
	*screen
}

// jsonOutcome is the object of -o json. Members are absent when unknown.
type jsonOutcome struct {
	RegistrationID string                 `json:"registrationId"`
	Status         provisioning.Status    `json:"status"`
	AssignedHub    string                 `json:"assignedHub,omitempty"`
	DeviceID       string                 `json:"deviceId,omitempty"`
	Substatus      provisioning.Substatus `json:"substatus,omitempty"`
	Payload        json.RawMessage        `json:"payload,omitempty"` // what the policy sent back
	OperationID    string                 `json:"operationId,omitempty"`
	ElapsedMs      int64                  `json:"elapsedMs"`
	Error          *jsonError             `json:"error,omitempty"`
}

// jsonError is a diagnosis in the form that an appliance's error has everywhere.
type jsonError struct {
	Kind    string `json:"kind"`
	Code    int    `json:"code,omitempty"` // only the service's
	Verdict string `json:"verdict"`
	Owner   string `json:"owner"`
	Next    string `json:"next"`
}

// begin prints nothing: an object is complete or not there.
func (r *jsonReporter) begin(string) {}

// progress prints nothing, for the same reason.
func (r *jsonReporter) progress(string, provisioning.Progress) {}

// end prints the object, and an error to standard error as well, for the person
// who watches.
func (r *jsonReporter) end(o outcome) {
	object := jsonOutcome{
		RegistrationID: o.registrationID,
		Status:         o.status,
		AssignedHub:    o.assignment.AssignedHub,
		DeviceID:       o.assignment.DeviceID,
		Substatus:      o.assignment.Substatus,
		Payload:        o.assignment.Payload,
		OperationID:    o.operationID,
		ElapsedMs:      o.elapsed.Milliseconds(),
	}
	if o.err != nil {
		d := provisioning.Verdict(o.err)
		object.Error = &jsonError{Kind: d.Kind, Code: d.Code, Verdict: d.Verdict, Owner: d.Owner, Next: d.Next}
	}
	r.ended(o, func() {
		if o.err != nil {
			r.printFailure(o.err)
		}
		encoder := json.NewEncoder(r.out)
		encoder.SetEscapeHTML(false)
		_ = encoder.Encode(object) // the screen remembers what fails
	})
}

// summary goes to standard error, and only if there is bad news: standard output
// is objects alone.
func (r *jsonReporter) summary() {
	r.finish()
	if r.tally.total > 1 && r.tally.failed > 0 {
		fmt.Fprintf(r.errOut, "gatewayctl: %s\n", r.tally.text())
	}
}
