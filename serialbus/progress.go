// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"slices"
	"time"
)

// ScanStep is one of the steps of a scan.
type ScanStep string

// The steps of a scan, in their order. StepSpeed comes only where the speed is searched. Appliances are identified as soon as they answer.
const (
	StepSpeed ScanStep = "speed" // all places at one speed after the other, until somebody answers
	StepKnown ScanStep = "known" // places where an appliance is known to be
	StepFast  ScanStep = "fast"  // all others, with the shortest wait that this line allows
	StepSlow  ScanStep = "slow"  // those that were silent, with 600 ms each
	StepDone  ScanStep = "done"
)

// Progress is how far a scan has got.
type Progress struct {
	Percent int           // of the time that it takes; never falls, 100 at the end only
	Step    ScanStep      // what is being done
	Unit    int           // where: the place that is looked at now, or was looked at last
	Left    time.Duration // about how long it will still take
	Found   int           // places where somebody was identified
	Units   int           // places in all
	Speed   string        // of the line, as tried now or found: "19200 8E1"
	// Finding is what was found since the last report of a [Scan], nil if nothing new. A [Bus] leaves it nil: there it
	// is an event of its own.
	Finding *Finding
}

// progressStep is the time between two reports of progress on a line that is being run.
const progressStep = time.Second

// scan is the first round of looks at all places of a line. It belongs to the goroutine that owns the port; losing the
// port interrupts it, and it goes on where it was.
type scan struct {
	fastOnly bool          // leave the slow looks out
	gap      time.Duration // between two slow looks of the first round
	step     time.Duration // the least time between two reports

	nextSlow time.Time     // when the next slow look may begin
	worked   time.Duration // time spent before the last interruption
	began    time.Time     // when this stretch of it began; zero = interrupted
	reported time.Time
	last     Progress // as last reported
	done     bool
}

// interrupt stops the clock.
func (s *scan) interrupt() {
	if !s.began.IsZero() {
		s.worked += time.Since(s.began)
		s.began = time.Time{}
	}
}

// beginLook tells of a look that is about to be done.
func (b *Bus) beginLook(l look) {
	if b.scan.done || l.how == lookAgain {
		return
	}
	if b.scan.began.IsZero() {
		b.scan.began = time.Now()
	}
	step := map[manner]ScanStep{lookKnown: StepKnown, lookFast: StepFast, lookSlow: StepSlow}[l.how]
	if l.how == lookKnown && (b.scan.last.Step == StepFast || b.scan.last.Step == StepSlow) {
		step = b.scan.last.Step // one that answered late is looked at again, whatever the step
	}
	b.report(step, int(l.place.unit))
}

// endLook takes in what a look has shown beside the answer, and when the next slow one may come.
func (b *Bus) endLook(d driver, l look) {
	if s, many := d.(scanner); many {
		now, late := time.Now(), s.late()
		for _, p := range b.places {
			if !p.found && slices.Contains(late, p.unit) {
				p.known, p.due = true, now.Add(afterUnanswered)
			}
		}
		if l.how == lookSlow {
			l.place.slow = now
			b.scan.nextSlow = now.Add(b.slowGap())
		}
	}
	if !b.scan.done && b.scanned() {
		b.scan.done = true
		b.report(StepDone, int(l.place.unit))
	}
}

// scanned reports whether every place was looked at as well as the scan does it.
func (b *Bus) scanned() bool {
	return !slices.ContainsFunc(b.places, func(p *place) bool {
		return !p.found && (p.known || p.seen == seenNever || p.seen == seenFast && !b.scan.fastOnly)
	})
}

// slowGap returns the time until the next slow look: short as long as a place has had none, long afterwards.
func (b *Bus) slowGap() time.Duration {
	silent := 0
	for _, p := range b.places {
		if p.found {
			continue
		}
		if p.seen == seenFast {
			return b.scan.gap
		}
		silent++
	}
	return max(slowRound/time.Duration(max(silent, 1)), b.scan.gap)
}

// report tells how far the scan has got: at once when a step begins or ends, else from time to time.
func (b *Bus) report(step ScanStep, unit int) {
	s := &b.scan
	now := time.Now()
	if step == s.last.Step && now.Sub(s.reported) < s.step {
		return
	}
	left, worked := b.scanLeft(), s.worked
	if !s.began.IsZero() {
		worked += now.Sub(s.began)
	}
	percent := min(int(100*worked/max(worked+left, 1)), 99)
	switch step {
	case StepSpeed:
		percent, left = 0, b.search.left
	case StepDone:
		percent, left = 100, 0
	case StepKnown, StepFast, StepSlow:
	}
	found := 0
	for _, p := range b.places {
		if p.found {
			found++
		}
	}
	s.reported = now
	s.last = Progress{
		Percent: max(percent, s.last.Percent), Step: step, Unit: unit, Left: left.Round(100 * time.Millisecond),
		Found: found, Units: len(b.places), Speed: b.speed.String(),
	}
	b.events(Event{Kind: Scanning, Unit: unit, Progress: s.last})
}

// scanLeft estimates how long the scan will still take. A place that was never looked at may need a fast look, a slow
// one, or an identification; how often which is taken from those that were looked at.
func (b *Bus) scanLeft() time.Duration {
	var known, never, silent, seen int
	for _, p := range b.places {
		switch {
		case p.found:
			seen++
		case p.known:
			known++
		case p.seen == seenNever:
			never++
		case p.seen == seenFast:
			silent++
			seen++
		default:
			seen++
		}
	}
	const identify = 200 * time.Millisecond
	slow := max(b.cfg.ReplyTimeout, afterUnanswered) + b.scan.gap
	if b.scan.fastOnly {
		slow = 0
	}
	left := time.Duration(known)*identify + time.Duration(silent)*slow
	willBeSilent := never * (silent + 1) / (seen + 1)
	left += time.Duration(willBeSilent) * (b.habits.waits.wait + slow)
	return left + time.Duration(never-willBeSilent)*identify
}
