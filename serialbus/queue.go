// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// request is one call of Apply on its way to the goroutine that owns the port.
type request struct {
	ctx      context.Context
	unit     int
	settings Settings
	look     bool       // only whether the settings are held: [Bus.Holds]
	reply    chan reply // room for one, so that the owner never waits for a caller who left
}

// reply is what became of a request.
type reply struct {
	applied Applied
	holds   bool
	err     error
}

// answer refuses the request; it never blocks, since there is room for the one reply.
func (r *request) answer(err error) { r.reply <- reply{err: err} }

// Apply brings the appliance at unit (0 on a line with one appliance) to the settings: read, compare, write only on
// difference, read back (serial 7). It is idempotent and safe to repeat, also after the process was killed at any
// point. It first makes sure that the appliance there is still the one that was found.
//
// Errors: one *RejectedError or several joined when properties were refused for good, and then Applied tells of the
// others; ErrNotFound and ErrChanged when there is nobody to set; the line's trouble when it is down; ErrSilent or
// ErrNoise when the appliance stopped answering, with the outcome unknown until the next Apply. All but RejectedError
// are worth another try. It waits its turn on the line until ctx ends; before Run is called it waits too.
func (b *Bus) Apply(ctx context.Context, unit int, s Settings) (Applied, error) {
	answer := b.ask(&request{ctx: ctx, unit: unit, settings: s, reply: make(chan reply, 1)})
	if answer.err != nil {
		return answer.applied, fmt.Errorf("applying settings to unit %d on %s: %w", unit, b.cfg.Port, answer.err)
	}
	return answer.applied, nil
}

// Holds reads whether the appliance at unit holds the settings, as far as the profile has a place for them, and writes
// nothing. It is for what a journal holds that is not verified, and waits for the profile's settle time first: a write
// that was cut off may show only then. Errors are those of [Bus.Apply] but for RejectedError.
func (b *Bus) Holds(ctx context.Context, unit int, s Settings) (bool, error) {
	answer := b.ask(&request{ctx: ctx, unit: unit, settings: s, look: true, reply: make(chan reply, 1)})
	if answer.err != nil {
		return false, fmt.Errorf("reading the settings of unit %d on %s: %w", unit, b.cfg.Port, answer.err)
	}
	return answer.holds, nil
}

// ask hands a request to the owner of the port and waits for what comes of it.
func (b *Bus) ask(r *request) reply {
	select {
	case b.requests <- r:
	case <-r.ctx.Done():
		return reply{err: r.ctx.Err()}
	case <-b.done:
		return reply{err: ErrLineStopped}
	}
	select {
	case answer := <-r.reply:
		return answer
	case <-r.ctx.Done():
		return reply{err: r.ctx.Err()}
	}
}

// serve does one request on the owner's goroutine. Its error ends the port.
func (b *Bus) serve(run context.Context, d driver, r *request) error {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	defer context.AfterFunc(run, cancel)()
	answer := b.applyAt(ctx, d, r)
	if run.Err() != nil {
		answer.err = ErrLineStopped
		r.reply <- answer
		return run.Err()
	}
	r.reply <- answer // there is room for it
	if isLost(answer.err) {
		return answer.err
	}
	return nil
}

// applyAt sets the appliance at a place, if it is still the one that was found there: settings are meant for an
// identity, not for a position on the line.
func (b *Bus) applyAt(ctx context.Context, d driver, r *request) reply {
	i := slices.IndexFunc(b.places, func(p *place) bool { return int(p.unit) == r.unit })
	if i < 0 || !b.places[i].found {
		return reply{err: ErrNotFound}
	}
	p := b.places[i]
	if err := d.present(ctx, p.unit); err != nil {
		return reply{err: err}
	}
	is, err := d.identify(ctx, p.unit)
	if err != nil {
		return reply{err: err}
	}
	if is != p.is {
		// The watch decides what is there now, with the readings that this takes, and at once.
		p.due, p.read = time.Time{}, time.Time{}
		return reply{err: ErrChanged}
	}
	if r.look {
		holds, err := d.holds(ctx, p.unit, r.settings)
		return reply{holds: holds, err: err}
	}
	applied, err := d.apply(ctx, p.unit, r.settings)
	return reply{applied: applied, err: err}
}
