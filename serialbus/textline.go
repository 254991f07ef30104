// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"
)

// textTries is how often a query is sent that nobody answered, or that was answered in garbage. Queries for identity
// change nothing.
const textTries = 2

// textDriver asks the one appliance on a line in the words of its profile, or only listens. It belongs to the goroutine
// that owns the port.
type textDriver struct {
	port    port
	timing  timing
	wait    time.Duration
	dialect *textDialect
	log     *slog.Logger
}

var _ driver = (*textDriver)(nil)

// present asks the first query, or waits until the appliance speaks. One that answers in other words is there as well.
func (d *textDriver) present(ctx context.Context, _ byte) error {
	_, err := d.ask(ctx, &d.dialect.Queries[0])
	if errors.Is(err, ErrStrange) {
		return nil
	}
	return err
}

// identify asks all queries in their order. An appliance that refuses all that are optional only answers: it gives an
// Identity without a Source.
func (d *textDriver) identify(ctx context.Context, _ byte) (Identity, error) {
	var id Identity
	for i := range d.dialect.Queries {
		q := &d.dialect.Queries[i]
		line, err := d.ask(ctx, q)
		if err != nil {
			return Identity{}, err
		}
		if line != nil {
			q.fill(&id, line)
		}
	}
	id = id.cleaned()
	if id != (Identity{}) {
		id.Source = SourceText
	}
	return id, nil
}

// apply finds no place for any setting: a text profile says who an appliance is, not how it is set.
func (d *textDriver) apply(_ context.Context, _ byte, s Settings) (Applied, error) {
	return Applied{Unmapped: slices.Sorted(maps.Keys(s.Desired))}, nil
}

// holds is true: it holds all that it has a place for.
func (d *textDriver) holds(context.Context, byte, Settings) (bool, error) { return true, nil }

// ask sends a query until it is answered and returns the line that was expected, with its groups; nil if the appliance
// has none and may do so. Errors are ErrSilent, ErrNoise, ErrStrange, a lost port, and the context's.
func (d *textDriver) ask(ctx context.Context, q *textQuery) ([]string, error) {
	for try := 1; ; try++ {
		line, err := d.try(ctx, q)
		again := errors.Is(err, ErrSilent) || errors.Is(err, ErrNoise)
		if !again || q.Send == "" || try == textTries {
			return line, err
		}
	}
}

// try sends a query once and takes its reply in.
func (d *textDriver) try(ctx context.Context, q *textQuery) ([]string, error) {
	// What is under way from before must not be taken for the reply, nor a record that has lain here for long for a
	// sign of life.
	if err := d.drain(ctx, q); err != nil {
		return nil, err
	}
	h := &textHearing{dialect: d.dialect, query: q}
	firstBy := time.Now().Add(d.wait)
	if q.Send != "" {
		frame := []byte(q.Send + d.dialect.Terminator)
		d.log.Debug("sending", "frame", hexText(frame))
		if err := d.port.Write(frame); err != nil {
			return nil, err
		}
		firstBy = firstBy.Add(time.Duration(len(frame)) * d.timing.char)
	}
	over, err := d.hear(ctx, h, firstBy)
	if err != nil {
		return nil, err
	}
	if err := h.verdict(over); err != nil {
		return nil, err
	}
	if h.refused {
		return nil, nil
	}
	return h.found, nil
}

// hear takes bytes in until the reply is over or has had its time: it must begin by firstBy, and end as soon as the
// longest one can.
func (d *textDriver) hear(ctx context.Context, h *textHearing, firstBy time.Time) (over bool, err error) {
	wholeBy := firstBy.Add(textMaxReply*d.timing.char + 50*time.Millisecond)
	var buf [256]byte
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		deadline := firstBy
		if len(h.line) > 0 || h.query.Send != "" && h.total > 0 {
			deadline = wholeBy
		}
		wait := min(time.Until(deadline), readSlice)
		if wait <= 0 {
			return false, nil
		}
		n, err := d.port.Read(buf[:], wait)
		if errors.Is(err, errTimeout) {
			continue
		}
		if err != nil {
			return false, err
		}
		d.log.Debug("received", "frame", hexText(buf[:n]))
		if h.take(buf[:n]) {
			return true, nil
		}
	}
}

// drain waits until the line is silent, for half a second at the most, and forgets what came.
func (d *textDriver) drain(ctx context.Context, q *textQuery) error {
	if err := d.port.Flush(); err != nil || q.Send == "" {
		return errors.Join(err, ctx.Err())
	}
	var buf [256]byte
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		_, err := d.port.Read(buf[:], d.timing.silence())
		if errors.Is(err, errTimeout) {
			break
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}
