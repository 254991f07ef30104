// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"testing"
	"time"
)

// TestBackoff: the delay doubles up to its cap, half of it is drawn, and it starts again when it is told to.
func TestBackoff(t *testing.T) {
	var b backoff
	for round := range 2 {
		longest := firstReopen
		drawn := make(map[time.Duration]bool)
		for n := range 50 {
			delay := b.next()
			if delay < longest/2 || delay > longest {
				t.Errorf("round %d, delay %d: %v, want %v to %v", round, n, delay, longest/2, longest)
			}
			longest = min(2*longest, longestReopen)
			drawn[delay] = true
		}
		if len(drawn) < 40 {
			t.Errorf("round %d: only %d different delays in 50: lines would open in step", round, len(drawn))
		}
		b.reset()
	}
}
