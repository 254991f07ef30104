// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// speed is how fast and in which shape characters go over a line. They have 8 data bits.
type speed struct {
	baud     int
	parity   Parity
	stopBits int
}

// String returns the speed as people write it: 19200 8E1.
func (s speed) String() string {
	parity := map[Parity]string{ParityNone: "N", ParityEven: "E", ParityOdd: "O"}[s.parity]
	return fmt.Sprintf("%d 8%s%d", s.baud, parity, s.stopBits)
}

// usualSpeeds are those that a search tries, in this order (serial 5.3).
func usualSpeeds() []speed {
	return []speed{
		{19200, ParityEven, 1}, {9600, ParityNone, 1}, {9600, ParityEven, 1}, {19200, ParityNone, 1}, {115200, ParityNone, 1},
	}
}

const (
	// quickSearch bounds the wait at each address in the first round of a search; later ones wait as long as configured,
	// and so does the first where somebody was heard.
	quickSearch = 100 * time.Millisecond
	// slowProduct is that bound for products whose profile says that they think for long.
	slowProduct = afterUnanswered
	// searchAfter is how long a line must have been silent until its speed is searched again.
	searchAfter = 10 * time.Minute
)

// search is what is known of a line's speed. It belongs to the goroutine that owns the port.
type search struct {
	sure bool          // the speed is configured, or a unit has answered at it
	left time.Duration // about how long the round that is under way will still take
}

// doubtful reports whether a speed that was found is to be searched again: nobody is there, and nobody was for long.
func (b *Bus) doubtful() bool {
	return b.cfg.AutoBaud && time.Since(b.habits.answered) > searchAfter &&
		!slices.ContainsFunc(b.places, func(p *place) bool { return p.found })
}

// findSpeed tries the usual speeds, the last one that worked first, until a unit answers with a valid checksum. It
// tries for ever, and tells after the first round that nobody answered.
func (b *Bus) findSpeed(ctx context.Context, p port) error {
	tries := usualSpeeds()
	if i := slices.Index(tries, b.speed); i > 0 {
		tries = slices.Insert(slices.Delete(tries, i, i+1), 0, b.speed)
	}
	quick := quickSearch
	if b.profile.replyTimeout > quickSearch {
		quick = slowProduct
	}
	for wait := min(quick, b.cfg.ReplyTimeout); ; wait = b.cfg.ReplyTimeout {
		s := speedSearch{bus: b, port: p, wait: wait, tries: tries}
		first, err := s.round(ctx)
		if err != nil {
			return err
		}
		if first != nil {
			b.speedFound(first)
			return nil
		}
		b.nobodyAtAnySpeed(s.garbage != nil)
		b.diagnoseInTime()
		if err := b.rest(ctx, p, b.cfg.Rescan); err != nil {
			return err
		}
	}
}

// rest leaves an open port alone for a while, in which nobody is known to be there to be set.
func (b *Bus) rest(ctx context.Context, p port, wait time.Duration) error {
	timer, watch := time.NewTimer(wait), time.NewTicker(watchEvery)
	defer timer.Stop()
	defer watch.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return nil
		case r := <-b.requests:
			r.answer(ErrNotFound)
			continue
		case <-watch.C:
		case <-b.nudge:
		}
		if err := p.Check(); err != nil {
			return err
		}
	}
}

// speedSearch is one round of a search: every place at every speed.
type speedSearch struct {
	bus     *Bus
	port    port
	wait    time.Duration // for the first byte of a reply
	tries   []speed
	garbage []*place // where bytes without a valid checksum came back
}

// round returns the first place that answers, nil if none does.
func (s *speedSearch) round(ctx context.Context) (*place, error) {
	order := slices.Clone(s.bus.places)
	slices.SortStableFunc(order, func(x, y *place) int { return rankKnown(x) - rankKnown(y) })
	for i, at := range s.tries {
		m, err := s.master(at)
		if err != nil {
			return nil, err
		}
		for j, p := range order {
			s.bus.search.left = time.Duration((len(s.tries)-i)*len(order)-j) * s.wait
			answers, err := s.ask(ctx, m, p, s.wait)
			if err != nil {
				return nil, err
			}
			if answers {
				return p, nil
			}
			if n := len(s.garbage); n == 0 || s.garbage[n-1] != p {
				continue
			}
			// Somebody is there and waits for its speed.
			if answers, err = s.allSpeeds(ctx, p); err != nil {
				return nil, err
			}
			if answers {
				return p, nil
			}
			if m, err = s.master(at); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

// allSpeeds asks one place at each speed, with all the patience there is.
func (s *speedSearch) allSpeeds(ctx context.Context, p *place) (bool, error) {
	for _, at := range s.tries {
		m, err := s.master(at)
		if err != nil {
			return false, err
		}
		if answers, err := s.ask(ctx, m, p, s.bus.cfg.ReplyTimeout); answers || err != nil {
			return answers, err
		}
	}
	return false, nil
}

// master sets the port to a speed and returns a master for it.
func (s *speedSearch) master(at speed) (*rtu, error) {
	s.bus.speed = at
	if err := s.port.SetSpeed(at); err != nil {
		return nil, err
	}
	if err := s.port.Flush(); err != nil {
		return nil, err
	}
	return newRTU(s.port, at.timing(), &s.bus.habits, s.bus.log), nil
}

// ask asks one place for presence; an error ends the search. The first few places that answer in garbage are noted.
func (s *speedSearch) ask(ctx context.Context, m *rtu, p *place, wait time.Duration) (answers bool, err error) {
	select {
	case r := <-s.bus.requests:
		r.answer(ErrNotFound)
	default:
	}
	if err := s.bus.giveWay(ctx, s.port); err != nil {
		return false, err
	}
	s.bus.report(StepSpeed, int(p.unit))
	_, err = m.askWithin(ctx, readRequest(p.unit, 0, 1), wait)
	const few = 3 // on a noisy line everybody does
	switch {
	case unlessRefused(err) == nil:
		return true, nil
	case ctx.Err() != nil || isLost(err):
		return false, err
	case errors.Is(err, ErrNoise) && len(s.garbage) < few && !slices.Contains(s.garbage, p):
		s.garbage = append(s.garbage, p)
	}
	return false, nil
}

// rankKnown sorts places where somebody is known to be before the others.
func rankKnown(p *place) int {
	if p.known {
		return 0
	}
	return 1
}

// speedFound begins the scan of a line whose speed is known now.
func (b *Bus) speedFound(first *place) {
	b.log.Info("the speed of the line is found", "speed", b.speed.String(), "appliance", first.unit)
	b.search.sure = true
	b.habits.answered = time.Now()
	b.forgetTraffic() // what was heard at other speeds tells nothing
	for _, p := range b.places {
		p.seen, p.due = seenNever, time.Time{}
	}
	first.known = true
	b.scan = scan{fastOnly: b.scan.fastOnly, gap: b.scan.gap, step: b.scan.step}
}

// nobodyAtAnySpeed ends a round of the search that found nobody, but perhaps garbage.
func (b *Bus) nobodyAtAnySpeed(garbage bool) {
	var tried []string
	for _, s := range usualSpeeds() {
		tried = append(tried, s.String())
	}
	heard, check := ErrSilent, "check that the appliances are switched on, their addresses, and the wires A and B"
	if garbage {
		heard, check = ErrNoise, "configure the speed and parity of the appliances' manual"
	}
	for _, p := range b.places {
		p.known, p.seen = false, seenWell
		b.lose(p, fmt.Errorf("%s: unit %d: %w at any of the usual speeds (%s); %s", b.cfg.Port, p.unit, heard, strings.Join(tried, ", "), check))
	}
	if !b.scan.done {
		b.scan.done = true
		b.report(StepDone, int(b.places[len(b.places)-1].unit))
	}
}
