// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// FaultRule is one line of the fault script: which calls are answered badly, and
// how. The rules are asked in their order; the first that has something to say
// decides.
type FaultRule struct {
	// Call, Transport and RegistrationID choose the calls; an empty one chooses
	// all. The registration ID is a pattern of path.Match, without case:
	// "breakroom*" or "pump-?".
	Call           CallKind
	Transport      string // "https" or "mqtt"
	RegistrationID string

	// After chosen calls pass first, and then Count are answered badly; with 0 all
	// that follow are.
	After, Count int

	Fault
}

// FaultState is a rule and how often it was applied.
type FaultState struct {
	ID   int // from 1
	Rule FaultRule
	Used int
}

const (
	// maxFaultRules bounds the script: it is searched with every call.
	maxFaultRules = 1000

	// maxFaultTime bounds delays and absences.
	maxFaultTime = time.Hour
)

// ErrTooManyFaults is returned for a rule that does not fit into the script.
var ErrTooManyFaults = fmt.Errorf("the fault script holds %d rules already: remove some", maxFaultRules)

// validate reports everything that is wrong with a rule at once.
func (r FaultRule) validate() error {
	var errs []error
	report := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !slices.Contains([]CallKind{"", RegisterCall, PollCall, LookupCall}, r.Call) {
		report("call %q: use register, poll or lookup, or leave it out for all", r.Call)
	}
	if !slices.Contains([]string{"", "https", "mqtt"}, r.Transport) {
		report("transport %q: use https or mqtt, or leave it out for both", r.Transport)
	}
	if _, err := path.Match(r.RegistrationID, ""); err != nil || len(r.RegistrationID) > 256 {
		report("registration_id %.256q: not a pattern such as breakroom*", r.RegistrationID)
	}
	if r.After < 0 || r.Count < 0 {
		report("after %d, count %d: neither can be negative", r.After, r.Count)
	}
	if r.Status != 0 && (r.Status < 400 || r.Status > 599) {
		report("status %d: give an error, 400 to 599", r.Status)
	}
	if !validHint(r.RetryAfter) {
		report("retry_after %.64q: give up to 64 printable characters, without # and +", r.RetryAfter)
	}
	if r.Delay < 0 || r.Delay > maxFaultTime || r.Away < 0 || r.Away > maxFaultTime {
		report("delay %s, away %s: give up to %s", r.Delay, r.Away, maxFaultTime)
	}
	if r.Fault == (Fault{}) {
		report("it does nothing: give status, retry_after, delay, drop, close, clock_skew or away")
	}
	return errors.Join(errs...)
}

// validHint tells whether a text fits into a header and a topic.
func validHint(text string) bool {
	return len(text) <= 64 && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' || r == '#' || r == '+' })
}

// chooses tells whether a call is one of the rule's.
func (r FaultRule) chooses(p FaultPoint) bool {
	if r.Call != "" && r.Call != p.Call || r.Transport != "" && r.Transport != p.Transport {
		return false
	}
	if r.RegistrationID == "" {
		return true
	}
	matched, _ := path.Match(strings.ToLower(r.RegistrationID), strings.ToLower(p.RegistrationID))
	return matched
}

// faultScript holds the rules in force.
type faultScript struct {
	mu    sync.Mutex
	rules []*scriptedFault
	last  int // the ID given last
}

// scriptedFault is a rule and the calls that it has seen.
type scriptedFault struct {
	id           int
	rule         FaultRule
	passed, used int
}

// add appends a rule and returns its ID.
func (s *faultScript) add(rule FaultRule) (int, error) {
	if err := rule.validate(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rules) >= maxFaultRules {
		return 0, ErrTooManyFaults
	}
	s.last++
	s.rules = append(s.rules, &scriptedFault{id: s.last, rule: rule})
	return s.last, nil
}

// remove takes a rule out of the script, and tells whether it was there.
func (s *faultScript) remove(id int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.rules)
	s.rules = slices.DeleteFunc(s.rules, func(f *scriptedFault) bool { return f.id == id })
	return len(s.rules) < before
}

// clear empties the script.
func (s *faultScript) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = nil
}

// list returns the rules in their order.
func (s *faultScript) list() []FaultState {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := make([]FaultState, 0, len(s.rules))
	for _, f := range s.rules {
		states = append(states, FaultState{ID: f.id, Rule: f.rule, Used: f.used})
	}
	return states
}

// at counts a call in and returns how to answer it, with the ID of the rule that
// says so, or 0.
func (s *faultScript) at(p FaultPoint) (Fault, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.rules {
		switch {
		case !f.rule.chooses(p):
		case f.passed < f.rule.After:
			f.passed++
		case f.rule.Count == 0 || f.used < f.rule.Count:
			f.used++
			return f.rule.Fault, f.id
		}
	}
	return Fault{}, 0
}

// AddFault appends a rule to the fault script and returns its ID. Options.Fault
// is asked before the script.
func (s *Server) AddFault(rule FaultRule) (id int, err error) { return s.service.script.add(rule) }

// Faults returns the fault script, rules that are used up included.
func (s *Server) Faults() []FaultState { return s.service.script.list() }

// ClearFaults empties the fault script.
func (s *Server) ClearFaults() { s.service.script.clear() }

// GoAway closes every connection of devices now, and for a while each new one as
// soon as it is accepted. The admin port stays.
func (s *Server) GoAway(d time.Duration) { s.service.gate.shut(d) }

// rawFault is a rule as written in a [[fault]] and as JSON on the admin port;
// durations are such as "2s".
type rawFault struct {
	Call           string `toml:"call" json:"call,omitempty"`
	Transport      string `toml:"transport" json:"transport,omitempty"`
	RegistrationID string `toml:"registration_id" json:"registration_id,omitempty"`
	After          int    `toml:"after" json:"after,omitempty"`
	Count          int    `toml:"count" json:"count,omitempty"`
	Status         int    `toml:"status" json:"status,omitempty"`
	RetryAfter     string `toml:"retry_after" json:"retry_after,omitempty"`
	Delay          string `toml:"delay" json:"delay,omitempty"`
	Drop           bool   `toml:"drop" json:"drop,omitempty"`
	Close          bool   `toml:"close" json:"close,omitempty"`
	ClockSkew      string `toml:"clock_skew" json:"clock_skew,omitempty"`
	Away           string `toml:"away" json:"away,omitempty"`
}

// rule is what the text means; it is not validated yet.
func (raw rawFault) rule() (FaultRule, error) {
	rule := FaultRule{
		Call:           CallKind(raw.Call),
		Transport:      raw.Transport,
		RegistrationID: raw.RegistrationID,
		After:          raw.After,
		Count:          raw.Count,
		Fault:          Fault{Status: raw.Status, RetryAfter: raw.RetryAfter, Drop: raw.Drop, Close: raw.Close},
	}
	var errs []error
	for _, field := range []struct {
		key, text string
		value     *time.Duration
	}{
		{"delay", raw.Delay, &rule.Delay},
		{"clock_skew", raw.ClockSkew, &rule.ClockSkew},
		{"away", raw.Away, &rule.Away},
	} {
		if field.text == "" {
			continue
		}
		d, err := time.ParseDuration(field.text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %.64q: write a duration, such as \"2s\"", field.key, field.text))
		}
		*field.value = d
	}
	return rule, errors.Join(errs...)
}

// text writes a rule the way it is read.
func (r FaultRule) text() rawFault {
	duration := func(d time.Duration) string {
		if d == 0 {
			return ""
		}
		return d.String()
	}
	return rawFault{
		Call:           string(r.Call),
		Transport:      r.Transport,
		RegistrationID: r.RegistrationID,
		After:          r.After,
		Count:          r.Count,
		Status:         r.Status,
		RetryAfter:     r.RetryAfter,
		Delay:          duration(r.Delay),
		Drop:           r.Drop,
		Close:          r.Close,
		ClockSkew:      duration(r.ClockSkew),
		Away:           duration(r.Away),
	}
}

// dateHeader is a Date header that lies.
func dateHeader(skew time.Duration) string {
	return time.Now().Add(skew).UTC().Format(http.TimeFormat)
}
