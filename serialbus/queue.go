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
	reply    chan reply // room for one, so that the owner never waits for a caller who left
}

// reply is what became of a request.
type reply struct {
	applied Applied
	err     error
}

// answer sends the reply; it never blocks, since there is room for the one reply.
func (r *request) answer(applied Applied, err error) { r.reply <- reply{applied, err} }

// Apply brings the appliance at unit (0 on a line with one appliance) to the settings: read, compare, write only on
// difference, read back (serial 7). It is idempotent and safe to repeat, also after the process was killed at any
// point. It first makes sure that the appliance there is still the one that was found.
//
// Errors: one *RejectedError or several joined when properties were refused for good, and then Applied tells of the
// others; ErrNotFound and ErrChanged when there is nobody to set; the line's trouble when it is down; ErrSilent or
// ErrNoise when the appliance stopped answering, with the outcome unknown until the next Apply. All but RejectedError
// are worth another try. It waits its turn on the line until ctx ends; before Run is called it waits too.
func (b *Bus) Apply(ctx context.Context, unit int, s Settings) (Applied, error) {
	r := &request{ctx: ctx, unit: unit, settings: s, reply: make(chan reply, 1)}
	fail := func(err error) (Applied, error) {
		return Applied{}, fmt.Errorf("applying settings to unit %d on %s: %w", unit, b.cfg.Port, err)
	}
	select {
	case b.requests <- r:
	case <-ctx.Done():
		return fail(ctx.Err())
	case <-b.done:
		return fail(ErrLineStopped)
	}
	select {
	case answer := <-r.reply:
		if answer.err != nil {
			return answer.applied, fmt.Errorf("applying settings to unit %d on %s: %w", unit, b.cfg.Port, answer.err)
		}
		return answer.applied, nil
	case <-ctx.Done():
		return fail(ctx.Err())
	}
}

// serve does one request on the owner's goroutine. Its error ends the port.
func (b *Bus) serve(run context.Context, d driver, r *request) error {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	defer context.AfterFunc(run, cancel)()
	applied, err := b.applyAt(ctx, d, r)
	if run.Err() != nil {
		r.answer(applied, ErrLineStopped)
		return run.Err()
	}
	r.answer(applied, err)
	if isLost(err) {
		return err
	}
	return nil
}

// applyAt sets the appliance at a place, if it is still the one that was found there: settings are meant for an
// identity, not for a position on the line.
func (b *Bus) applyAt(ctx context.Context, d driver, r *request) (Applied, error) {
	i := slices.IndexFunc(b.places, func(p *place) bool { return int(p.unit) == r.unit })
	if i < 0 || !b.places[i].found {
		return Applied{}, ErrNotFound
	}
	p := b.places[i]
	if err := d.present(ctx, p.unit); err != nil {
		return Applied{}, err
	}
	is, err := d.identify(ctx, p.unit)
	if err != nil {
		return Applied{}, err
	}
	if is != p.is {
		// The watch decides what is there now, with the readings that this takes, and at once.
		p.due, p.read = time.Time{}, time.Time{}
		return Applied{}, ErrChanged
	}
	return d.apply(ctx, p.unit, r.settings)
}
