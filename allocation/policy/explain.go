// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/contoso/gatewayd/allocation"
)

// Explanation is a decision with the steps that led to it.
type Explanation struct {
	// Policy is the name of the policy's file.
	Policy string `json:"policy"`

	// RegistrationID is the device's spelling of it; nil when the request has
	// none.
	RegistrationID *string `json:"registrationId,omitempty"`

	// Device is the row of the device directory that the rules saw; nil for a
	// policy that reads none.
	Device *DeviceTrace `json:"device,omitempty"`

	// Rules are those that were tried, in their order. The last one decided.
	Rules []RuleTrace `json:"rules"`

	// NotTried counts the rules behind the one that decided.
	NotTried int `json:"notTried"`

	// Answer is "assigned", "refused", or "retry" for trouble of our own.
	Answer Answer `json:"answer"`

	// Rule names the rule that decided, or is empty.
	Rule string `json:"rule,omitempty"`

	// Hub is the assigned hub, Refusal the sentence of a refusal, and Trouble
	// what stood in the way of an answer. One of them is set.
	Hub     string `json:"hub,omitempty"`
	Refusal string `json:"refusal,omitempty"`
	Trouble string `json:"trouble,omitempty"`

	// Response is the body of the answer, where a hub was assigned.
	Response json.RawMessage `json:"response,omitempty"`

	response allocation.Response
	err      error
}

// Answer is the outcome of a decision.
type Answer string

// The outcomes of a decision.
const (
	Assigned Answer = "assigned"
	Refused  Answer = "refused"
	Retry    Answer = "retry"
)

// DeviceTrace is the row that the rules saw.
type DeviceTrace struct {
	Origin string         `json:"origin"`
	Row    allocation.Row `json:"row"`
}

// RuleTrace tells what became of one rule.
type RuleTrace struct {
	Number int    `json:"number"` // from 1, in the order of the file
	Name   string `json:"name"`
	Line   int    `json:"line"`

	// Conditions are those that were looked at. The first one that does not hold
	// ends its alternative; the rule applies when all of one alternative hold,
	// or when it has none.
	Conditions []ConditionTrace `json:"conditions,omitempty"`
	Applies    bool             `json:"applies"`

	// Hub tells how the rule looked for a hub.
	Hub *HubTrace `json:"hub,omitempty"`

	// WentOn is set where the rule applied, found no hub, and left the device to
	// the next rule.
	WentOn bool `json:"wentOn,omitempty"`
}

// ConditionTrace tells what one condition wanted, what it saw, and whether it
// held.
type ConditionTrace struct {
	Alternative int    `json:"alternative"` // from 1
	Name        string `json:"name"`        // the member, or "cel"
	Wants       string `json:"wants"`
	Saw         string `json:"saw"`
	Holds       bool   `json:"holds"`
	Trouble     string `json:"trouble,omitempty"`
}

// HubTrace tells how a hub was picked.
type HubTrace struct {
	Wants string     `json:"wants"`
	Pick  string     `json:"pick"` // "first", "last", "spread", or "current"
	Hubs  []HubScore `json:"hubs"`
}

// HubScore is one hub that was linked or that the rule names.
type HubScore struct {
	Name   string  `json:"name"`
	Linked bool    `json:"linked"`
	Fits   bool    `json:"fits"`
	Weight float64 `json:"weight,omitempty"`
	Score  float64 `json:"score,omitempty"` // the highest one wins
	Picked bool    `json:"picked,omitempty"`
}

// Chance says in words whether the hub could have been picked.
func (h HubScore) Chance() string {
	switch {
	case !h.Linked:
		return "is not linked"
	case !h.Fits:
		return "does not fit"
	case h.Score != 0:
		return fmt.Sprintf("fits, weight %g, score %.4f", h.Weight, h.Score)
	default:
		return "fits"
	}
}

// Decision gives what [Policy.Decide] gives for the same question.
func (x *Explanation) Decision() (allocation.Response, error) { return x.response, x.err }

// conclude notes the answer.
func (x *Explanation) conclude(response allocation.Response, err error) {
	x.response, x.err = response, err
	if x.Rules == nil {
		x.Rules = []RuleTrace{}
	}
	if refusal, refused := errors.AsType[allocation.Refusal](err); refused {
		x.Answer, x.Rule, x.Refusal = Refused, refusal.Rule, refusal.Message
		return
	}
	if err == nil {
		x.Response, err = response.Encode()
	}
	if err != nil {
		x.Answer, x.Trouble = Retry, err.Error()
		return
	}
	x.Answer, x.Rule, x.Hub = Assigned, response.Rule, response.IoTHubHostName
}

// The methods below note one step each. They are called on nil where nobody asked
// for an explanation.

func (x *Explanation) sawDevice(origin string, row allocation.Row) {
	if x != nil {
		x.Device = &DeviceTrace{origin, row}
	}
}

func (x *Explanation) triedRule(r *rule) {
	if x != nil {
		x.Rules = append(x.Rules, RuleTrace{Number: r.number, Name: r.name, Line: r.line})
	}
}

func (x *Explanation) last() *RuleTrace { return &x.Rules[len(x.Rules)-1] }

func (x *Explanation) ruleApplies() {
	if x != nil {
		x.last().Applies = true
	}
}

func (x *Explanation) sawCondition(c *condition, alternative int, held bool, err error, saw string) {
	trace := ConditionTrace{Alternative: alternative + 1, Name: c.name, Wants: c.want, Saw: saw, Holds: held}
	if err != nil {
		trace.Trouble = err.Error()
	}
	x.last().Conditions = append(x.last().Conditions, trace)
}

func (x *Explanation) noHub() {
	if x != nil {
		x.last().WentOn = true
	}
}

// sawHubs notes the linked hubs and those that the rule names.
func (x *Explanation) sawHubs(rule, picker *selection, linked []string, candidates []candidate, picked string, kept bool) {
	if x == nil {
		return
	}
	trace := &HubTrace{Wants: rule.want, Pick: picker.pick}
	if kept {
		trace.Pick = "current"
	}
	for _, hub := range linked {
		shown := HubScore{Name: hub, Linked: true}
		if i := slices.IndexFunc(candidates, func(c candidate) bool { return c.name == hub }); i >= 0 {
			shown.Fits, shown.Weight, shown.Score = true, candidates[i].weight, candidates[i].score
			shown.Picked = hub == picked
		}
		trace.Hubs = append(trace.Hubs, shown)
	}
	for _, named := range picker.weights {
		if !slices.ContainsFunc(linked, func(hub string) bool { return strings.EqualFold(hub, named.name) }) {
			trace.Hubs = append(trace.Hubs, HubScore{Name: named.name, Weight: named.weight})
		}
	}
	x.last().Hub = trace
}

// String tells the steps as text of several lines, for a person at a terminal.
func (x Explanation) String() string {
	var out strings.Builder
	id := "no registration ID"
	if x.RegistrationID != nil {
		id = fmt.Sprintf("registration ID %q", clip(*x.RegistrationID))
	}
	fmt.Fprintf(&out, "%s, %s\n", x.Policy, id)
	if x.Device != nil {
		row, err := json.Marshal(x.Device.Row)
		if err != nil {
			row = []byte("cannot be shown")
		}
		fmt.Fprintf(&out, "device: %s %s\n", x.Device.Origin, row)
	}
	for i := range x.Rules {
		x.Rules[i].write(&out)
	}
	if x.NotTried > 0 {
		fmt.Fprintf(&out, "  not tried: %d more\n", x.NotTried)
	}
	switch x.Answer {
	case Assigned:
		fmt.Fprintf(&out, "assigned to %s by rule %q\n%s\n", x.Hub, x.Rule, x.Response)
	case Refused:
		fmt.Fprintf(&out, "refused by rule %q: %s\n", x.Rule, x.Refusal)
	default:
		fmt.Fprintf(&out, "no answer, so the service asks again: %s\n", x.Trouble)
	}
	return out.String()
}

func (r *RuleTrace) write(out *strings.Builder) {
	outcome := "does not apply"
	switch {
	case r.WentOn:
		outcome = "applies, but finds no hub and leaves the device to the next rule"
	case r.Applies:
		outcome = "applies"
	case len(r.Conditions) > 0 && r.Conditions[len(r.Conditions)-1].Trouble != "":
		outcome = "cannot be told"
	}
	fmt.Fprintf(out, "  %d %s (line %d): %s\n", r.Number, r.Name, r.Line, outcome)
	for i, c := range r.Conditions {
		if i > 0 && c.Alternative != r.Conditions[i-1].Alternative {
			fmt.Fprintf(out, "    or\n")
		}
		mark := map[bool]string{true: "yes", false: "no "}[c.Holds]
		if c.Trouble != "" {
			mark = "?  "
		}
		fmt.Fprintf(out, "    %s %s wants %s, saw %s\n", mark, c.Name, c.Wants, c.Saw)
	}
	if r.Hub == nil {
		return
	}
	fmt.Fprintf(out, "    hub: %s, pick %s\n", r.Hub.Wants, r.Hub.Pick)
	for _, hub := range r.Hub.Hubs {
		mark := " "
		if hub.Picked {
			mark = "*"
		}
		fmt.Fprintf(out, "    %s %s %s\n", mark, hub.Name, hub.Chance())
	}
}
