// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"time"
)

// How the slow looks of a scan are spread over time (serial 5.3). Each takes 600 ms, and whoever wants to set an
// appliance waits for its end.
const (
	slowGap   = 400 * time.Millisecond // between two of the first round: 247 units take four minutes
	slowRound = time.Hour              // how long each further round takes
)

// scanner is a driver of a line with many units, most of whose addresses are silent. They are looked at in three
// steps: fast, then slowly where nobody answered, and who answers is identified at once, since its replies teach how
// long a fast look has to wait (serial 5.3, 5.4).
type scanner interface {
	driver
	// glance asks whether a unit answers soon. Its silence proves little.
	glance(ctx context.Context, unit byte) error
	// stare asks whether a unit answers at all.
	stare(ctx context.Context, unit byte) error
	// rested returns when the line will have been at rest for long enough for a slow look.
	rested() time.Time
	// late returns the units whose reply came too late since the last call.
	late() []byte
}

var _ scanner = (*modbusDriver)(nil)

// seen is how far a scan has got at a place.
type seen int

const (
	seenNever seen = iota
	seenFast       // nobody answered a fast look
	seenWell       // somebody answered, or a slow look settled that nobody does
)

// manner is how a place is looked at.
type manner int

const (
	lookAgain manner = iota // somebody was found there: is it there still, and the same?
	lookKnown               // somebody ought to be there
	lookFast
	lookSlow
)

// look is one look at a place, to be done at a time.
type look struct {
	place *place
	how   manner
	at    time.Time
}

// ask asks for presence in the manner of the look.
func ask(ctx context.Context, d driver, l look) error {
	if s, ok := d.(scanner); ok {
		switch l.how {
		case lookFast:
			return s.glance(ctx, l.place.unit)
		case lookSlow:
			return s.stare(ctx, l.place.unit)
		case lookAgain, lookKnown:
		}
	}
	return d.present(ctx, l.place.unit)
}

// nextLook returns what is to be done next: of what is due the most important, else what is due first. First come the
// appliances that were found, then the places where one ought to be, then those never looked at, then slow looks, and
// last the places that were silent lately: on a line with many of these one is always due, and each costs a time-out.
func (b *Bus) nextLook(d driver, now time.Time) look {
	s, many := d.(scanner)
	var best [4]look // by importance; the slow look is apart
	offer := func(rank int, l look) {
		if best[rank].place == nil || l.at.Before(best[rank].at) {
			best[rank] = l
		}
	}
	var oldest *place // of the silent ones, by its last slow look
	for _, p := range b.places {
		switch {
		case p.found:
			offer(0, look{p, lookAgain, p.due})
		case p.known || !many:
			offer(1, look{p, lookKnown, p.due})
		case p.seen == seenNever:
			offer(2, look{p, lookFast, p.due})
		default:
			offer(3, look{p, lookFast, p.due})
			if (p.seen == seenFast || b.scan.done) && (oldest == nil || p.slow.Before(oldest.slow)) {
				oldest = p
			}
		}
	}
	order := []look{best[0], best[1], best[2]}
	if oldest != nil && !b.scan.fastOnly {
		slow := look{oldest, lookSlow, b.scan.nextSlow}
		if !slow.at.After(now) {
			// Nothing less important may break the rest that the line has to have first.
			if slow.at = s.rested(); slow.at.After(now) {
				return earliest(append(order, slow), now)
			}
		}
		order = append(order, slow)
	}
	if b.scan.done {
		order = append(order, best[3])
	}
	return earliest(order, now)
}

// earliest returns the first look that is due, else the one that is due first.
func earliest(looks []look, now time.Time) look {
	var next look
	for _, l := range looks {
		switch {
		case l.place == nil:
		case !l.at.After(now):
			return l
		case next.place == nil || l.at.Before(next.at):
			next = l
		}
	}
	return next
}
