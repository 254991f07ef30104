// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Budget is what all devices behind one gateway share so that together they stay within the service's limits: the
// turns of registers and of polls, spread evenly over time (rule 4), and the pause of all registers after a 429 (rule
// 2). It belongs to its owner, who keeps its [Budget.State] across restarts. It may be used from any number of
// goroutines.
type Budget struct {
	registers *turns // register requests and status lookups, which count alike (dps-protocol 2.4)
	polls     *turns

	mu        sync.Mutex // guards what follows
	last      time.Time  // register or lookup
	heldUntil time.Time  // no register before this (rule 2)
}

// BudgetState is what a budget remembers. The time to write it down is within [Request.Observe], at StepSubmitting
// and StepLookingUp, which come before the request is sent, and at StepThrottled; and when an attempt ends throttled.
//
// Polls are not in it, because they would cost a write each: a budget that begins with a state lets the first poll
// wait for one interval instead.
type BudgetState struct {
	Taken        time.Time `json:"taken"`                 // by the system's clock, as are the others
	LastRegister time.Time `json:"lastRegister,omitzero"` // zero if none was sent
	HeldUntil    time.Time `json:"heldUntil,omitzero"`    // zero if registers are not held back
}

// NewBudget makes a budget that goes on from a state; the zero state is that of one that nothing was taken from. Times
// of a system whose clock was set back meanwhile do no harm: a turn waits for one interval at the most, and the
// hold-back for as long as it had to when the state was taken, at most a day. The
// error is a *[ConfigError].
func NewBudget(registersPerMinute, pollsPerSecond float64, from BudgetState) (*Budget, error) {
	for _, budget := range []struct {
		field, unit string
		value       float64
	}{
		{"RegistersPerMinute", "registers per minute", registersPerMinute},
		{"PollsPerSecond", "polls per second", pollsPerSecond},
	} {
		if !(budget.value > 0) || math.IsInf(budget.value, 0) {
			problem := fmt.Sprintf("a budget of %v %s makes no sense; give a number above 0", budget.value, budget.unit)
			return nil, &ConfigError{Field: budget.field, Problem: problem}
		}
	}
	// A burst of one spreads N appliances evenly over N / rate, also after a power cut.
	b := &Budget{
		registers: newTurns(registersPerMinute / 60),
		polls:     newTurns(pollsPerSecond),
	}
	if from == (BudgetState{}) {
		return b, nil
	}
	now := time.Now()
	passed := max(now.Sub(from.Taken), 0)
	if !from.LastRegister.IsZero() {
		b.last = now.Add(-max(from.Taken.Sub(from.LastRegister), 0) - passed)
		b.registers.AllowN(b.last, 1)
	}
	if !from.HeldUntil.IsZero() {
		held := min(from.HeldUntil.Sub(from.Taken), longestNextTry)
		b.heldUntil = now.Add(max(held, 0) - passed)
	}
	b.polls.AllowN(now, 1)
	return b, nil
}

// State is the budget as it is now.
func (b *Budget) State() BudgetState {
	b.mu.Lock()
	defer b.mu.Unlock()
	state := BudgetState{Taken: time.Now().Round(0), LastRegister: b.last.Round(0)}
	if b.heldUntil.After(state.Taken) {
		state.HeldUntil = b.heldUntil.Round(0)
	}
	return state
}

// perMinute is the budget of registers.
func (b *Budget) perMinute() float64 { return float64(b.registers.Limit()) * 60 }

// registering notes that a register or a lookup is about to be sent.
func (b *Budget) registering() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = time.Now()
}

// holdBack keeps every register waiting until then, because the limit that was met is the service instance's and not
// the one device's.
func (b *Budget) holdBack(until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if until.After(b.heldUntil) {
		b.heldUntil = until
	}
}

// held says how long registers are held back from now on.
func (b *Budget) held(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(b.heldUntil.Sub(now), 0)
}

// turns are moments that lie evenly apart, and each is for one request.
type turns struct {
	*rate.Limiter

	mu   sync.Mutex
	free []time.Time // given back and still to come; guarded by mu
}

func newTurns(perSecond float64) *turns {
	return &turns{Limiter: rate.NewLimiter(rate.Limit(perSecond), 1)}
}

// reserve takes the next turn of a budget. The caller waits for delay, and gives the turn back by cancel if it does
// not come to use it.
//
// What is given back is kept here, because the limiter takes back only the last of its reservations: of a fleet that is
// called off it would keep the others waiting for turns that nobody uses.
func reserve(budget *turns) (delay time.Duration, cancel func()) {
	budget.mu.Lock()
	defer budget.mu.Unlock()
	now := time.Now()
	budget.free = slices.DeleteFunc(budget.free, now.After)
	var turn time.Time
	if len(budget.free) > 0 {
		turn = slices.MinFunc(budget.free, time.Time.Compare)
		budget.free = slices.DeleteFunc(budget.free, turn.Equal)
	} else {
		turn = now.Add(budget.ReserveN(now, 1).DelayFrom(now))
	}
	return turn.Sub(now), func() {
		budget.mu.Lock()
		defer budget.mu.Unlock()
		budget.free = append(budget.free, turn)
	}
}
