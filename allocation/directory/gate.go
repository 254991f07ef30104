// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A database that failed is left alone for so long; twice as long after each
// further failure.
const (
	firstPause   = 250 * time.Millisecond
	longestPause = 8 * time.Second
)

// gate lets a bounded number of lookups through at a time. After a failure it is
// shut, and those that wait are sent away; when the pause is over one lookup may
// try, and the rest only when that has come back well.
type gate struct {
	slots chan struct{} // holds one value for each lookup under way

	mu      sync.Mutex    // guards what follows
	failure error         // why the gate is shut, or nil
	shut    chan struct{} // closed while the gate is shut
	pause   time.Duration
	until   time.Time // end of the pause
	trying  bool      // a lookup tries whether the database is back
}

func newGate(slots int) *gate {
	return &gate{slots: make(chan struct{}, slots), shut: make(chan struct{})}
}

// restingError says that the database was not asked, because it failed a moment
// ago.
type restingError struct {
	cause error
	until time.Time
}

// Error tells the failure and when the pause ends.
func (e *restingError) Error() string {
	return fmt.Sprintf("not asked again until %s, because it failed: %v", e.until.UTC().Format("15:04:05.000Z"), e.cause)
}

// Unwrap gives the failure.
func (e *restingError) Unwrap() error { return e.cause }

// through runs ask once there is room for it. failed tells which of its errors
// are the database's and not the question's.
func (g *gate) through(ctx context.Context, ask func() error, failed func(error) bool) error {
	trying, err := g.enter(ctx)
	if err != nil {
		return err
	}
	defer func() { <-g.slots }()
	panicked := true
	defer func() {
		if panicked {
			g.leftUnknown(trying) // or nobody would try again
		}
	}()
	err = ask()
	panicked = false
	switch {
	case err != nil && errors.Is(ctx.Err(), context.Canceled): // whoever asked has gone
		g.leftUnknown(trying)
	case err != nil && failed(err):
		g.leftFailed(trying, err)
	default:
		g.leftWell()
	}
	return err
}

// enter waits for a slot. It tells whether the lookup is the one that tries.
func (g *gate) enter(ctx context.Context) (trying bool, err error) {
	g.mu.Lock()
	if g.failure != nil {
		if g.trying || time.Now().Before(g.until) {
			defer g.mu.Unlock()
			return false, &restingError{g.failure, g.until}
		}
		g.trying, trying = true, true
	}
	shut := g.shut
	g.mu.Unlock()
	if trying {
		shut = nil // it was closed before
	}
	select {
	case g.slots <- struct{}{}:
		if err := g.resting(); err != nil && !trying {
			<-g.slots
			return false, err
		}
		return trying, nil
	case <-shut:
		if err := g.resting(); err != nil {
			return false, err
		}
		return g.enter(ctx) // it has opened again already
	case <-ctx.Done():
		// Connections are only busy for so long when the database is slow, but
		// those who have them are the ones that say so.
		g.leftUnknown(trying)
		return false, fmt.Errorf("all %d connections are busy: %w", cap(g.slots), ctx.Err())
	}
}

// resting is the error of a gate that is shut, or nil.
func (g *gate) resting() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failure == nil {
		return nil
	}
	return &restingError{g.failure, g.until}
}

func (g *gate) leftWell() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failure != nil {
		g.failure, g.pause, g.shut = nil, 0, make(chan struct{})
	}
	g.trying = false
}

func (g *gate) leftFailed(trying bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failure != nil && !trying {
		return // one of those that were under way when the gate shut
	}
	if g.failure == nil {
		close(g.shut)
	}
	g.failure = err
	g.pause = min(max(2*g.pause, firstPause), longestPause)
	g.until = time.Now().Add(g.pause)
	g.trying = false
}

func (g *gate) leftUnknown(trying bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if trying {
		g.trying = false
	}
}
