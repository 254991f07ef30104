// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"encoding/json"
	"time"

	"github.com/contoso/gatewayd/provisioning"
)

// State is where an appliance stands in its life; the words are those of
// design section 4 and appear in JSON, in logs and in the status line.
type State string

// The states of design section 4 that this version reaches.
const (
	// StateIdentified: read twice alike and allowed, waiting for its turn.
	StateIdentified State = "identified"
	// StateRegistering: the first registration is under way.
	StateRegistering State = "registering"
	// StateThrottled: DPS answered 429; nextAttempt says when it is asked again.
	StateThrottled State = "throttled"
	// StateUnreachable: no answer of DPS; nextAttempt says when it is asked again.
	StateUnreachable State = "unreachable"
	// StateRefused: DPS ended the registration; the error says why and who can mend it.
	StateRefused State = "refused"
	// StateDisabled: the enrollment is disabled; asked again once a day.
	StateDisabled State = "disabled"
	// StateAssigned: hub and device ID are known and on disk.
	StateAssigned State = "assigned"
	// StateConnected: the hub accepted the device and its twin was read.
	StateConnected State = "connected"
	// StateConfigured: the desired properties were written, read back equal and reported.
	StateConfigured State = "configured"
	// StateConflict: one identity answers at two places.
	StateConflict State = "conflict"
)

// allStates lists the states, from the first to the best and then the bad ones.
func allStates() []State {
	return []State{
		StateIdentified, StateRegistering, StateAssigned, StateConnected, StateConfigured,
		StateThrottled, StateUnreachable, StateRefused, StateDisabled, StateConflict,
	}
}

// Place says where an appliance answers.
type Place struct {
	Bus    string `json:"bus"`
	Port   string `json:"port"`
	Driver string `json:"driver"`
	Unit   int    `json:"unit"`
	// Place is the bus's place in a person's words.
	Place string `json:"place,omitempty"`
}

// Identity is what an appliance said of itself; Source names the mechanism.
type Identity struct {
	Vendor       string `json:"vendor,omitempty"`
	Model        string `json:"model,omitempty"`
	Serial       string `json:"serial,omitempty"`
	Firmware     string `json:"firmware,omitempty"`
	Provisioning string `json:"provisioning,omitempty"`
	Source       string `json:"source,omitempty"`
}

// Trouble is what keeps an appliance from its next state, in words for the
// person who can mend it.
type Trouble struct {
	Kind string `json:"kind"`
	// Code is the service's six-digit code, 0 when the trouble is not the service's.
	Code    int    `json:"code,omitempty"`
	Verdict string `json:"verdict"`
	Owner   string `json:"owner"`
	Next    string `json:"next"`
}

// assignment is the outcome of a registration, in force until the next one is
// swapped in.
type assignment struct {
	AssignedHub, DeviceID string
	Substatus             provisioning.Substatus
	Payload               json.RawMessage // what the policy sent back; nil = nothing
	SentPayload           json.RawMessage // what the device had told it
	AssignedAt            time.Time
}

// registration is one that is wanted or under way.
type registration struct {
	Reason      string
	Since       time.Time
	Attempts    int
	NextAttempt time.Time // zero = now
	OperationID string    // running operation, polled after a restart
	InDoubt     bool      // a register may have reached the service unanswered
}

// record is all that the store keeps of one appliance.
type record struct {
	RegistrationID string
	Place          Place
	Identity       Identity
	State          State
	Error          *Trouble
	Assignment     *assignment
	Registration   *registration
	Updated        time.Time
}
