// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/contoso/gatewayd/provisioning"
)

// outcome is what became of one registration.
type outcome struct {
	registrationID string
	status         provisioning.Status     // the last one that the service told
	operationID    string                  // empty until the service gave one
	assignment     provisioning.Assignment // zero unless err is nil
	elapsed        time.Duration           // from the first request to the end, waits included
	err            error
}

// observe keeps what a step tells that an error will not.
func (o *outcome) observe(progress provisioning.Progress) {
	if progress.Status != "" {
		o.status = progress.Status
	}
	if progress.OperationID != "" {
		o.operationID = progress.OperationID
	}
}

// settle takes the final status from the end of the registration.
func (o *outcome) settle() {
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
}

// textReporter shows one registration in the form of the C SDK's sample, and
// several as lines that each name their device.
type textReporter struct {
	out, errOut io.Writer
	many        bool // more than one device

	mu sync.Mutex // keeps lines whole, and an error together
}

// begin announces a single device; of several, each line names its own.
func (r *textReporter) begin(registrationID string) {
	if !r.many {
		r.printf("Registering %s\n\n", registrationID)
	}
}

// progress prints the step, and how long it waits where that is news.
func (r *textReporter) progress(registrationID string, progress provisioning.Progress) {
	status := string(progress.Step)
	switch progress.Step {
	case provisioning.StepThrottled, provisioning.StepRetrying, provisioning.StepWaiting:
		status += fmt.Sprintf(", %s", progress.Wait.Round(100*time.Millisecond))
	}
	r.status(registrationID, status)
}

// end prints the assignment in the words of the sample, or the error.
func (r *textReporter) end(o outcome) {
	switch {
	case o.err != nil:
		r.status(o.registrationID, o.ending())
		r.mu.Lock()
		defer r.mu.Unlock()
		printRegistrationError(r.errOut, o.err)
	case r.many:
		r.status(o.registrationID, fmt.Sprintf("assigned to %s, deviceId: %s", o.assignment.AssignedHub, o.assignment.DeviceID))
	default:
		r.printf("\nRegistration information received from service: %s, deviceId: %s\n", o.assignment.AssignedHub, o.assignment.DeviceID)
	}
}

// status prints one status as it comes.
func (r *textReporter) status(registrationID, status string) {
	if r.many {
		r.printf("%s: %s\n", registrationID, status)
		return
	}
	r.printf("Provisioning status: %s\n", status)
}

// printf writes to standard output as a whole.
func (r *textReporter) printf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, format, args...)
}

// jsonReporter prints one object a line, when a registration has ended.
type jsonReporter struct {
	out, errOut io.Writer
	mu          sync.Mutex // keeps lines whole
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
	r.mu.Lock()
	defer r.mu.Unlock()
	if o.err != nil {
		d := diagnose(o.err)
		object.Error = &jsonError{Kind: d.Kind, Code: d.Code, Verdict: d.Verdict, Owner: d.Owner, Next: d.Next}
		printRegistrationError(r.errOut, o.err)
	}
	encoder := json.NewEncoder(r.out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(object); err != nil {
		fmt.Fprintf(r.errOut, "gatewayctl: writing the outcome of %s: %v\n", o.registrationID, err)
	}
}
