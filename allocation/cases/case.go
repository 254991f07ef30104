// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"encoding/json"
	"net/http"

	"github.com/contoso/gatewayd/allocation"
)

// File is a file of cases.
type File struct {
	// Name is the file's path, for messages.
	Name string

	// Cases are in the order of the file; their names differ.
	Cases []Case
}

// Case is one request and what it should get.
type Case struct {
	// Name says what the case is about.
	Name string

	// Line is where the case begins in its file, or 0.
	Line int

	// Request is the AllocationRequest.
	Request json.RawMessage

	// Device is the row of the device directory, or nil for none.
	Device allocation.Row

	// Want is what the answer is held to.
	Want Want
}

// Want is what an answer is held to. What is zero is not looked at.
type Want struct {
	// Status is the HTTP status: 200, 400 or 503. [Load] always sets it, except
	// where only the rule is given.
	Status int

	// Rule is the name of the rule that decides.
	Rule string

	// Hub is the hub that is assigned.
	Hub string

	// Refused is the sentence of a refusal.
	Refused string

	// Tags, Desired and Payload are JSON that the answer's tags, desired
	// properties and payload contain.
	Tags, Desired, Payload json.RawMessage

	// Exact says that the answer has nothing in Tags, Desired and Payload but what
	// is given.
	Exact bool

	// Response is the whole AllocationResponse.
	Response json.RawMessage
}

// assigns tells whether the case wants a hub assigned, going by what it gives.
func (w *Want) assigns() bool {
	return w.Hub != "" || w.Tags != nil || w.Desired != nil || w.Payload != nil || w.Response != nil || w.Exact
}

// status is what follows from what the case gives, or 0.
func (w *Want) status() int {
	switch {
	case w.assigns():
		return http.StatusOK
	case w.Refused != "":
		return http.StatusBadRequest
	default:
		return 0
	}
}
