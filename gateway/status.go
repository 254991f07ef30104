// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Status is one appliance as programs see it: the document of design section 4,
// the same in the demo's output and every later view. Members are absent when unknown.
type Status struct {
	RegistrationID string `json:"registrationId"`
	Place
	Present  bool     `json:"present"`
	Identity Identity `json:"identity"`
	State    State    `json:"state"`
	// Registered says whether this run asked DPS.
	Registered        bool                       `json:"registered"`
	AssignedHub       string                     `json:"assignedHub,omitempty"`
	DeviceID          string                     `json:"deviceId,omitempty"`
	Substatus         string                     `json:"substatus,omitempty"`
	Payload           json.RawMessage            `json:"payload,omitempty"`
	AssignmentPayload json.RawMessage            `json:"assignmentPayload,omitempty"`
	HubConnected      bool                       `json:"hubConnected"`
	Desired           map[string]json.RawMessage `json:"desired,omitempty"`
	Reported          map[string]json.RawMessage `json:"reported,omitempty"`
	// Unmapped lists desired properties that the appliance has no place for.
	Unmapped     []string      `json:"unmapped,omitempty"`
	Error        *Trouble      `json:"error,omitempty"`
	Registration *Registration `json:"registration,omitempty"`
	Updated      time.Time     `json:"updated"`
}

// Registration tells of asking DPS: why, since when, and when next.
type Registration struct {
	Reason      string     `json:"reason"`
	Since       time.Time  `json:"since"`
	Attempts    int        `json:"attempts"`
	NextAttempt *time.Time `json:"nextAttempt,omitempty"`
}

// status fills the document; the appliance's lock is held.
func (a *appliance) status() Status {
	r := a.rec
	s := Status{
		RegistrationID: r.RegistrationID, Place: r.Place, Identity: r.Identity, State: r.State, Error: r.Error,
		Present: len(a.spots) > 0, Registered: a.facts.registered, HubConnected: a.facts.hubConnected,
		Payload: a.facts.payload, Desired: a.facts.desired, Reported: a.facts.reported, Unmapped: a.facts.unmapped,
		Updated: r.Updated.UTC().Truncate(time.Second),
	}
	if r.Assignment != nil {
		s.AssignedHub, s.DeviceID, s.Substatus = r.Assignment.AssignedHub, r.Assignment.DeviceID, string(r.Assignment.Substatus)
		s.AssignmentPayload = r.Assignment.Payload
		if s.Payload == nil {
			s.Payload = r.Assignment.SentPayload
		}
	}
	if g := r.Registration; g != nil {
		s.Registration = &Registration{Reason: g.Reason, Since: g.Since.UTC().Truncate(time.Second), Attempts: g.Attempts}
		next := g.NextAttempt
		if a.facts.away {
			next, _, _ = a.world.reach.stands()
		}
		if !next.IsZero() {
			next = next.UTC().Truncate(time.Second)
			s.Registration.NextAttempt = &next
		}
	}
	return s
}

// Summary words a snapshot in one line for systemctl's STATUS.
func Summary(appliances []Status) string {
	if len(appliances) == 0 {
		return "no appliance found yet"
	}
	counts := map[State]int{}
	absent := 0
	for _, a := range appliances {
		counts[a.State]++
		if !a.Present {
			absent++
		}
	}
	states := make([]State, 0, len(counts))
	for state := range counts {
		states = append(states, state)
	}
	slices.SortFunc(states, func(a, b State) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	var parts []string
	for _, state := range states {
		parts = append(parts, fmt.Sprintf("%d %s", counts[state], state))
	}
	if absent > 0 {
		parts = append(parts, fmt.Sprintf("%d not answering on the line", absent))
	}
	noun := "appliances"
	if len(appliances) == 1 {
		noun = "appliance"
	}
	return fmt.Sprintf("%d %s: %s", len(appliances), noun, strings.Join(parts, ", "))
}

// sameJSON compares two values by meaning, not by spelling.
func sameJSON(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	left, errLeft := json.Marshal(x)
	right, errRight := json.Marshal(y)
	return errLeft == nil && errRight == nil && bytes.Equal(left, right)
}
