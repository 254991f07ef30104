// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/contoso/gatewayd/allocation"
)

// When a breaker opens, and how long it waits before a probe. The waits double
// from one failed probe to the next; between half and the whole of each is used.
const (
	failureLimit = 3 // unavailabilities in a row; a single one if it cost an appliance the whole timeout
	firstPause   = time.Second
	longestPause = time.Minute
)

// BreakerState is what a [Breaker] lets through.
type BreakerState string

// The states of a breaker.
const (
	Closed   BreakerState = "closed"    // everyone asks the function
	Open     BreakerState = "open"      // nobody does until the next probe
	HalfOpen BreakerState = "half-open" // one request does, the probe
)

// State is a breaker as it is now, for metrics and for whoever looks.
type State struct {
	State BreakerState

	// Since is when the function became unavailable, or when it answered again. A
	// probe does not change it.
	Since time.Time

	// LastReason is why the function was unavailable last, or empty: it never was.
	LastReason string

	// NextProbe is when the next request may probe; zero unless State is Open.
	NextProbe time.Time
}

// MarshalJSON gives {"state","since","lastReason","nextProbe"}, the last two only
// when there is something to say.
func (s State) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		State      BreakerState `json:"state"`
		Since      time.Time    `json:"since"`
		LastReason string       `json:"lastReason,omitempty"`
		NextProbe  time.Time    `json:"nextProbe,omitzero"`
	}{s.State, s.Since.UTC().Truncate(time.Second), s.LastReason, s.NextProbe.UTC().Truncate(time.Second)})
}

// Breaker stands before an [allocation.Upstream] and keeps requests away from it
// while it is unavailable, so that they get their answer elsewhere at once. It
// implements [allocation.Upstream] and is used from any number of goroutines.
//
// It begins closed. After a timeout, or three unavailabilities in a row, it opens.
// Then one request at a time is let through as a probe, after a wait that grows
// from one second to a minute, or as long as the function asked for with
// Retry-After, a minute at the most. The first probe that is answered closes the
// breaker, whatever the answer is: a refusal is an answer too.
type Breaker struct {
	next allocation.Upstream
	log  *slog.Logger

	mu       sync.Mutex // guards what follows
	state    State
	round    int // counts changes of state; what began in an earlier round counts no more
	failures int // in a row, while closed
	pause    time.Duration
}

var _ allocation.Upstream = (*Breaker)(nil)

// NewBreaker makes a closed breaker before next. Changes are logged: a Warn when
// it opens, an Info when it closes.
func NewBreaker(next allocation.Upstream, log *slog.Logger) *Breaker {
	return &Breaker{next: next, log: log, state: State{State: Closed, Since: time.Now()}}
}

// State tells how the breaker stands.
func (b *Breaker) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state
}

// Ask asks the function, or returns an *[allocation.UnavailableError] at once.
func (b *Breaker) Ask(ctx context.Context, body []byte) ([]byte, error) {
	round, err := b.enter()
	if err != nil {
		return nil, err
	}
	end := abandoned // also when what follows panics
	var away *allocation.UnavailableError
	defer func() { b.leave(round, end, away) }()

	response, err := b.next.Ask(ctx, body)
	switch found, ok := errors.AsType[*allocation.UnavailableError](err); {
	case ok:
		end, away = failed, found
	case err == nil || ctx.Err() == nil:
		end = answered
	}
	return response, err
}

// How a request that was let through ended.
type ending int

const (
	abandoned ending = iota // the caller went away
	answered
	failed
)

// enter lets a request through, and tells in which round, or says why not.
func (b *Breaker) enter() (round int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	switch {
	case b.state.State == Closed:
		return b.round, nil
	case b.state.State == Open && !now.Before(b.state.NextProbe):
		b.change(HalfOpen)
		b.log.Debug("probing the cloud function")
		return b.round, nil
	default:
		return 0, &allocation.UnavailableError{Reason: "not asked, because of what it did last: " + b.state.LastReason}
	}
}

// leave takes in how a request ended that began in round.
func (b *Breaker) leave(round int, end ending, away *allocation.UnavailableError) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if round != b.round {
		return // since then the breaker has learned something newer
	}
	now := time.Now()
	if end == failed {
		b.state.LastReason = away.Reason
	}
	switch b.state.State {
	case Closed:
		switch end {
		case answered:
			b.failures = 0
		case failed:
			b.failures++
			if away.Slow || b.failures >= failureLimit {
				b.state.Since = now
				b.open(now, firstPause, away)
			}
		}
	case HalfOpen:
		switch end {
		case answered:
			down := now.Sub(b.state.Since).Round(time.Second)
			b.change(Closed)
			b.state.Since, b.failures = now, 0
			b.log.Info("the cloud function answers again; it decides from now on", "down", down)
		case failed:
			b.open(now, min(2*b.pause, longestPause), away)
		case abandoned:
			b.change(Open)
			b.state.NextProbe = now
		}
	}
}

// open keeps requests away for a while.
func (b *Breaker) open(now time.Time, pause time.Duration, away *allocation.UnavailableError) {
	b.change(Open)
	b.pause = pause
	wait := pause/2 + rand.N(pause/2)
	wait = max(wait, min(away.RetryAfter, longestPause))
	b.state.NextProbe = now.Add(wait)
	b.log.Warn("the cloud function is unavailable; the site's policy decides", "reason", away.Reason, "retry_in", wait.Round(time.Millisecond))
}

func (b *Breaker) change(to BreakerState) {
	b.round++
	b.state.State, b.state.NextProbe = to, time.Time{}
}
