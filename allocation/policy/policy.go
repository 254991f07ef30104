// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/contoso/gatewayd/allocation"
)

// Policy is a policy file that was read and checked. It is an
// [allocation.Policy] and an [allocation.DirectoryUser], keeps no state, and may
// be asked from many goroutines at once.
type Policy struct {
	name    string
	source  []byte // of the file, for the places of troubles
	rules   []rule
	use     allocation.DirectoryUse
	columns []string // of use, sorted, so that of two troubles always the same is told

	thinking time.Duration // what the expressions of one decision may take
}

// rule is one [[rule]] of the file.
type rule struct {
	number int // from 1
	name   string
	named  bool
	at     span
	line   int

	conditioned bool // it has a when
	always      bool // it is known to take every device

	when   []alternative
	refuse *sentence  // or
	hub    *selection // with the three below

	tags, desired, payload *value // nil: not given
}

var (
	_ allocation.Policy        = (*Policy)(nil)
	_ allocation.DirectoryUser = (*Policy)(nil)
)

// Name gives the name of the policy's file.
func (p *Policy) Name() string { return p.name }

// DirectoryUse tells what the policy wants of a device directory.
func (p *Policy) DirectoryUse() allocation.DirectoryUse { return p.use }

// Rules gives the names of the rules in their order, as records and metrics show
// them.
func (p *Policy) Rules() []string {
	names := make([]string, len(p.rules))
	for i, r := range p.rules {
		names[i] = r.name
	}
	return names
}

// Decide answers by the first rule that applies. The error is an
// [allocation.Refusal] where the policy refuses the device; any other error is
// trouble of our own and names file, line, column and rule.
//
// A question without a row gets what [directory] says of a missing one: whoever
// asks passes nil for a device that the directory does not have.
func (p *Policy) Decide(ctx context.Context, question allocation.Question) (allocation.Response, error) {
	return p.evaluate(ctx, question, nil)
}

// Explain decides like [Policy.Decide], by the same steps, and tells them.
func (p *Policy) Explain(ctx context.Context, question allocation.Question) Explanation {
	x := Explanation{Policy: p.name, RegistrationID: question.Request.DeviceRuntimeContext.RegistrationID}
	x.conclude(p.evaluate(ctx, question, &x))
	x.NotTried = len(p.rules) - len(x.Rules)
	return x
}

// evaluation is one decision under way.
type evaluation struct {
	subject
	ctx    context.Context
	policy *Policy
	rule   *rule
	trace  *Explanation // nil: nobody asked how
	think  thinking
}

func (p *Policy) evaluate(ctx context.Context, question allocation.Question, trace *Explanation) (allocation.Response, error) {
	e := &evaluation{ctx: ctx, policy: p, trace: trace}
	e.request, e.device = question.Request, question.Device
	defer e.think.end()
	if err := e.openDirectory(); err != nil {
		return allocation.Response{}, err
	}
	for i := range p.rules {
		e.rule = &p.rules[i]
		answered, response, err := e.try()
		if answered || err != nil {
			return response, err
		}
	}
	// A policy whose last rule does not take every device is refused at load.
	return allocation.Response{}, fmt.Errorf("%s: no rule applies", p.name)
}

// openDirectory settles which row the rules see.
func (e *evaluation) openDirectory() error {
	use := &e.policy.use
	if !use.Used {
		e.device = nil
		return nil
	}
	origin := "the directory's row"
	if e.device == nil {
		switch use.Missing {
		case allocation.DirectoryRefuse:
			return allocation.Refusal{Message: use.Refusal, Rule: "[directory] missing"}
		case allocation.DirectoryDefault:
			e.device, origin = use.Default, "the policy's default row"
		default:
			return fmt.Errorf(`%s: the device directory has no row for the device, and missing = "retry"`, e.policy.name)
		}
	}
	e.trace.sawDevice(origin, e.device)
	for _, column := range e.policy.columns {
		if value := e.device[column]; value != nil && !fitsColumn(value, use.Columns[column]) {
			return fmt.Errorf("%s: column %q of the device directory holds a %T where the policy expects %s", e.policy.name, column, value, use.Columns[column])
		}
	}
	return nil
}

func fitsColumn(value any, holds allocation.ColumnType) bool {
	switch value.(type) {
	case string:
		return holds == allocation.ColumnText
	case int64, float64:
		return holds == allocation.ColumnNumber
	case bool:
		return holds == allocation.ColumnBool
	default:
		return false
	}
}

// try asks one rule. It is answered when the rule applies and has an answer.
func (e *evaluation) try() (answered bool, response allocation.Response, err error) {
	e.trace.triedRule(e.rule)
	applies, err := e.applies()
	if err != nil || !applies {
		return false, response, err
	}
	e.trace.ruleApplies()
	if e.rule.refuse != nil {
		return true, response, e.refuse(*e.rule.refuse)
	}
	hub, err := e.hub()
	if err != nil || hub == "" {
		return false, response, err
	}
	response, err = e.respond(hub)
	return true, response, err
}

// applies tells whether one alternative of the rule holds.
func (e *evaluation) applies() (bool, error) {
	if len(e.rule.when) == 0 {
		return true, e.stopped(e.rule.at)
	}
	for i, all := range e.rule.when {
		held, err := e.allHold(all, i)
		if held || err != nil {
			return held, err
		}
	}
	return false, nil
}

func (e *evaluation) allHold(all alternative, number int) (bool, error) {
	for i := range all {
		c := &all[i]
		if err := e.stopped(c.at); err != nil {
			return false, err
		}
		held, err := e.holds(c, number)
		if err != nil || !held {
			return false, err
		}
	}
	return true, nil
}

func (e *evaluation) holds(c *condition, alternative int) (held bool, err error) {
	if c.expr != nil {
		held, err = c.expr.isTrue(e)
		if e.trace != nil {
			e.trace.sawCondition(c, alternative, held, err, c.expr.saw(e))
		}
		return held, err
	}
	value := c.read(&e.subject)
	held, err = c.match.holds(value)
	if err != nil {
		err = e.trouble(c.at, fmt.Errorf("%s: %w", c.name, err))
	}
	if e.trace != nil {
		e.trace.sawCondition(c, alternative, held, err, value.String())
	}
	return held, err
}

// refuse gives the rule's refusal.
func (e *evaluation) refuse(s sentence) error {
	message := s.text
	if s.expr != nil {
		var err error
		if message, _, err = s.expr.text(e); err != nil {
			return err
		}
		if strings.TrimSpace(message) == "" {
			return e.trouble(s.expr.at, errors.New("the refusal has no text"))
		}
	}
	return allocation.Refusal{Message: message, Rule: e.rule.name}
}

// hub gives the hub that the rule picks, or none where the next rule is to be
// asked.
func (e *evaluation) hub() (string, error) {
	s := e.rule.hub
	current := e.request.DeviceRuntimeContext.CurrentIoTHubHostName
	picker := s
	if s.expr != nil {
		named, err := e.namedHub(s.expr)
		if err != nil {
			return "", err
		}
		picker = named
	}
	candidates, err := picker.candidates(e.request.LinkedHubs)
	if err != nil {
		return "", e.trouble(e.rule.at, fmt.Errorf("hub: %w", err))
	}
	hub, kept, found := picker.choose(candidates, current, e.registrationID())
	e.trace.sawHubs(s, picker, e.request.LinkedHubs, candidates, hub, kept)
	switch {
	case found:
		return hub, nil
	case s.none == noneNext:
		e.trace.noHub()
		return "", nil
	case s.none == noneRefuse:
		return "", e.refuse(s.refusal)
	default:
		return "", e.trouble(e.rule.at, fmt.Errorf("no linked hub fits (wanted %s; linked: %s); link the hub to the enrollment, or say with none what should happen without it", picker.want, quoteList(e.request.LinkedHubs)))
	}
}

// namedHub is the selection of the hub that an expression names.
func (e *evaluation) namedHub(x *expression) (*selection, error) {
	name, present, err := x.text(e)
	if err != nil {
		return nil, err
	}
	named := &selection{weights: []weightedName{}, pick: pickSpread, want: "none, says the expression"}
	if present {
		named.weights = append(named.weights, weightedName{name, 1})
		named.want = namesOf(named.weights)
	}
	return named, nil
}

// respond puts the answer together.
func (e *evaluation) respond(hub string) (allocation.Response, error) {
	r := e.rule
	response := allocation.Response{Rule: r.name, IoTHubHostName: hub}
	if r.desired != nil || r.tags != nil {
		twin := &allocation.InitialTwin{Properties: allocation.InitialProperties{Desired: json.RawMessage("{}")}}
		if err := errors.Join(e.fill(&twin.Properties.Desired, r.desired), e.fill(&twin.Tags, r.tags)); err != nil {
			return allocation.Response{}, err
		}
		response.InitialTwin = twin
	}
	if err := e.fill(&response.Payload, r.payload); err != nil {
		return allocation.Response{}, err
	}
	size := len(hub) + len(response.Payload)
	if response.InitialTwin != nil {
		size += len(response.InitialTwin.Properties.Desired) + len(response.InitialTwin.Tags)
	}
	if size > maxResponse {
		return allocation.Response{}, e.trouble(r.at, fmt.Errorf("the answer has %d bytes; the most is %d KiB", size, maxResponse>>10))
	}
	return response, nil
}

// fill writes a value that the rule gives, and leaves alone what it does not.
func (e *evaluation) fill(target *json.RawMessage, v *value) error {
	if v == nil {
		return nil
	}
	if v.static != nil {
		*target = v.static
		return nil
	}
	document, err := v.append(nil, e)
	if err == nil {
		*target = document
	}
	return err
}

// stopped tells whether nobody waits for the answer any more.
func (e *evaluation) stopped(at span) error {
	if err := e.ctx.Err(); err != nil {
		return e.trouble(at, err)
	}
	return nil
}

// trouble says where in the policy something went wrong.
func (e *evaluation) trouble(at span, err error) error {
	line, column := position(e.policy.source, at.start)
	return fmt.Errorf("%s:%d:%d: %s: %w", e.policy.name, line, column, e.rule.label(), err)
}

// label is how messages name the rule.
func (r *rule) label() string {
	if r.named {
		return fmt.Sprintf("rule %q", r.name)
	}
	return r.name
}
