// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"
)

// Heard is what a scan found at one place, as one word.
type Heard string

// What can be found at a place.
const (
	// HeardIdentity: an appliance named itself, twice alike.
	HeardIdentity Heard = "identity"
	// HeardNameless: a unit answers, but not to any question for its name.
	HeardNameless Heard = "nameless"
	// HeardRefusals: a unit is there and refuses every question.
	HeardRefusals Heard = "refusals"
	// HeardSilence: nobody answered.
	HeardSilence Heard = "silence"
	// HeardNoise: bytes without a valid checksum came back, three times in a row.
	HeardNoise Heard = "noise"
	// HeardUnsteady: somebody answers, and says something else each time: perhaps two units on one address.
	HeardUnsteady Heard = "unsteady"
	// HeardTrouble: somebody answers and could not be identified this time, being busy for instance; Err says why.
	HeardTrouble Heard = "trouble"
)

// FunctionReply is what a unit made of a Modbus function.
type FunctionReply struct {
	Function byte
	// Answer is "data", "refusal", "silence" or "noise".
	Answer string
	// Exception is the code of a refusal, else 0.
	Exception byte
}

// replyOf sorts what came of a request.
func replyOf(function byte, reply []byte, err error) FunctionReply {
	f := FunctionReply{Function: function, Answer: "data"}
	switch {
	case errors.Is(err, ErrNoise):
		f.Answer = "noise"
	case err != nil || reply == nil:
		f.Answer = "silence"
	case reply[1]&exceptionBit != 0:
		f.Answer, f.Exception = "refusal", reply[2]
	}
	return f
}

// Finding is what a scan found at one place.
type Finding struct {
	Unit     int // Modbus address; 0 on a line with one appliance
	Heard    Heard
	Identity Identity // HeardIdentity
	// Functions is what the unit made of each Modbus function that it was asked, sorted by function. A unit that
	// knows some only is no fault.
	Functions []FunctionReply
	// Delay is the longest time until the first byte of one of its replies; Modbus only.
	Delay time.Duration
	// Slow is true if only a slow look found it, or, with HeardSilence, if one was made.
	Slow bool
	// Err says in words what is wrong and what to do next; nil with HeardIdentity. It wraps one of the errors of this
	// package where one applies.
	Err error
}

// ScanOptions are the choices of [Scan].
type ScanOptions struct {
	// Fast leaves the slow looks out. They take 0.6 s for each silent place, and find units that are deaf for half a
	// second after a request to somebody else, which many simple ones are.
	Fast bool
	// Resume is what an earlier Scan of the same line returned when it was stopped: its places are not asked again,
	// except silent ones that had no slow look.
	Resume []Finding
	// Log takes frames at Debug; nil discards.
	Log *slog.Logger
}

// ScanResult is what a [Scan] has heard.
type ScanResult struct {
	Findings []Finding // by unit; a place that was not looked at is missing
	// Diagnoses say what is wrong with the line, the worst first; none = nothing.
	Diagnoses []Diagnosis
}

// Scan looks once at every place of a line and says what is there: no daemon is needed, and nothing is written to any
// appliance. Where another master talks, it ends at once, with ErrAnotherMaster. report may be nil; it is called before each look and at the end, on the
// calling goroutine, and must not block for long. [Progress].Finding tells what is new.
//
// An error comes with what was found until then: the configuration's, the port's (it could not be opened or went away),
// or the context's. A scan that was stopped goes on where it was with [ScanOptions].Resume.
func Scan(ctx context.Context, cfg Config, opts ScanOptions, report func(Progress)) (ScanResult, error) {
	cfg.Recheck, cfg.Rescan = maxTimeout, maxTimeout // one look at each place
	b, err := New(cfg, opts.Log)
	if err != nil {
		return ScanResult{}, err
	}
	return b.survey(ctx, opts, report)
}

// survey is the body of Scan on a new bus.
func (b *Bus) survey(ctx context.Context, opts ScanOptions, report func(Progress)) (ScanResult, error) {
	b.scan = scan{fastOnly: opts.Fast}
	s := survey{bus: b, found: make(map[int]Finding)}
	for _, f := range opts.Resume {
		s.resume(f)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if b.scanned() {
		return s.result(), nil
	}
	ended := errors.New("the scan has ended")
	_ = b.Run(ctx, func(e Event) { // its only error is nil
		switch e.Kind {
		case Found, Lost:
			s.take(e)
		case LineDown:
			cancel(e.Err)
		case Scanning:
			if report != nil {
				e.Progress.Found, e.Progress.Finding, s.news = s.answered(), s.news, nil
				report(e.Progress)
			}
			if e.Progress.Step == StepDone {
				cancel(ended)
			}
		case Diagnosed:
			s.diagnoses = e.Diagnoses
			if len(e.Diagnoses) > 0 && e.Diagnoses[0].Kind == AnotherMaster {
				cancel(&e.Diagnoses[0])
			}
		case LineUp:
		}
	})
	err := context.Cause(ctx)
	if errors.Is(err, ended) {
		err = nil
	}
	if d := Diagnose(err); d != nil && s.diagnoses == nil {
		s.diagnoses = []Diagnosis{*d}
	}
	return s.result(), err
}

// survey collects the findings of a scan.
type survey struct {
	bus   *Bus
	found map[int]Finding
	news  *Finding // not yet reported

	diagnoses []Diagnosis // as told, nil = nothing was told
}

// result returns what was found, and what is wrong.
func (s *survey) result() ScanResult {
	r := ScanResult{Findings: s.findings(), Diagnoses: s.diagnoses}
	if s.diagnoses == nil {
		r.Diagnoses = s.bus.judgement()
	}
	r.Diagnoses = append(r.Diagnoses, partial(r.Findings)...)
	return r
}

// resume takes over an earlier finding.
func (s *survey) resume(f Finding) {
	i := slices.IndexFunc(s.bus.places, func(p *place) bool { return int(p.unit) == f.Unit })
	if i < 0 {
		return
	}
	s.found[f.Unit] = f
	p := s.bus.places[i]
	p.known, p.seen, p.due = false, seenWell, time.Now().Add(maxTimeout)
	if f.Heard == HeardSilence && !f.Slow {
		p.seen = seenFast
	}
}

// answered returns at how many places somebody is known by now.
func (s *survey) answered() int {
	n := 0
	for _, f := range s.found {
		if f.Heard == HeardIdentity || f.Heard == HeardNameless || f.Heard == HeardRefusals {
			n++
		}
	}
	return n
}

// take turns an event into a finding.
func (s *survey) take(e Event) {
	if isLost(e.Err) {
		return // the port went away, not the appliance
	}
	f := Finding{Unit: e.Unit, Identity: e.Identity, Err: e.Err}
	switch {
	case e.Kind == Found && e.Identity.Source != "":
		f.Heard = HeardIdentity
	case e.Kind == Found:
		f.Heard, f.Err = HeardNameless, s.bus.nameless(e.Unit)
	case errors.Is(e.Err, ErrSilent):
		f.Heard = HeardSilence
	case errors.Is(e.Err, ErrNoise):
		f.Heard = HeardNoise
	case errors.Is(e.Err, errUnsteady):
		f.Heard = HeardUnsteady
	default:
		f.Heard = HeardTrouble
	}
	f.Slow = s.bus.scan.last.Step == StepSlow
	if n := s.bus.habits.notes[byte(e.Unit)]; n != nil {
		f.Delay = n.slowest
		refusals := 0
		for _, reply := range n.functions {
			f.Functions = append(f.Functions, reply)
			if reply.Answer == "refusal" {
				refusals++
			}
		}
		slices.SortFunc(f.Functions, func(a, b FunctionReply) int { return cmp.Compare(a.Function, b.Function) })
		if f.Heard == HeardNameless && refusals == len(n.functions) {
			f.Heard = HeardRefusals
		}
	}
	s.found[e.Unit], s.news = f, &f
}

// findings returns what was found, by unit. A place that had only a fast look is silent as far as anybody knows.
func (s *survey) findings() []Finding {
	all := make([]Finding, 0, len(s.bus.places))
	for _, p := range s.bus.places {
		f, told := s.found[int(p.unit)]
		if !told && p.seen == seenFast {
			f = Finding{Unit: int(p.unit), Heard: HeardSilence, Err: s.bus.inWords(p, ErrSilent)}
		} else if !told {
			continue // never looked at
		}
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b Finding) int { return cmp.Compare(a.Unit, b.Unit) })
	return all
}
