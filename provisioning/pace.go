// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// pace is what all appliances of one client share so that together they stay within the service's limits: the two
// budgets, the hold-back after a 429, and each device's last polls. Safe for concurrent use.
type pace struct {
	registers *rate.Limiter // register requests and status lookups, which count alike (dps-protocol 2.4)
	polls     *rate.Limiter

	mu        sync.Mutex // guards what follows
	heldUntil time.Time  // no register before this (rule 2)
	recent    map[string][]time.Time
}

func newPace(registersPerMinute, pollsPerSecond float64) *pace {
	// A burst of one spreads N appliances evenly over N / rate, also after a power cut.
	return &pace{
		registers: rate.NewLimiter(rate.Limit(registersPerMinute/60), 1),
		polls:     rate.NewLimiter(rate.Limit(pollsPerSecond), 1),
		recent:    make(map[string][]time.Time),
	}
}

// holdBack keeps every register of this client waiting until then, because the limit that was met is the service
// instance's and not the one device's.
func (p *pace) holdBack(until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until.After(p.heldUntil) {
		p.heldUntil = until
	}
}

// held says how long registers are held back from now on.
func (p *pace) held(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.heldUntil.Sub(now), 0)
}

// pollAllowedAt is the earliest time at which a device may be polled so that no ten seconds hold more than five
// polls. The cap wins over a shorter hint (rule 1).
func (p *pace) pollAllowedAt(registrationID string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	times := p.recent[registrationID]
	if len(times) < pollsInIt {
		return time.Time{}
	}
	return times[len(times)-pollsInIt].Add(pollWindow)
}

// polled notes that a device is polled now, and forgets devices whose polls have left the window.
func (p *pace) polled(registrationID string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, times := range p.recent {
		if now.Sub(times[len(times)-1]) > pollWindow {
			delete(p.recent, id)
		}
	}
	times := append(p.recent[registrationID], now)
	p.recent[registrationID] = times[max(len(times)-pollsInIt, 0):]
}

// reserve takes the next turn of a budget. The caller waits for delay, and gives the turn back by cancel if it does
// not come to use it.
func reserve(budget *rate.Limiter) (delay time.Duration, cancel func()) {
	turn := budget.Reserve()
	return turn.Delay(), turn.Cancel
}

// sleep waits for d or until ctx ends, whichever is first.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
