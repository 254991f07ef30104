// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"math/rand/v2"
	"time"
)

// The delays between two attempts to open a port. The longest is short enough that a technician who plugs an adapter
// in does not have to wait for it.
const (
	firstReopen   = 250 * time.Millisecond
	longestReopen = 5 * time.Second
)

// backoff gives growing delays with jitter, so that many lines of one hub do not open in step.
type backoff struct{ delay time.Duration }

// next returns between half of the delay and all of it, and doubles it for the next time.
func (b *backoff) next() time.Duration {
	delay := max(b.delay, firstReopen)
	b.delay = min(2*delay, longestReopen)
	return delay/2 + rand.N(delay/2+1)
}

// reset starts again with the shortest delay.
func (b *backoff) reset() { b.delay = 0 }
