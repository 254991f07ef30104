// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"sync"
	"time"
)

// pace is what keeps the attempts of one client from going too fast: the budget that they share, and each device's
// last polls. Safe for concurrent use.
type pace struct {
	*Budget

	mu     sync.Mutex
	recent map[string][]time.Time // guarded by mu
}

func newPace(budget *Budget) *pace {
	return &pace{Budget: budget, recent: make(map[string][]time.Time)}
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
