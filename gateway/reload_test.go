// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestReloadsAreSpaced: of a storm of signals a reload a second is left, the first
// at once, and the last signal is never lost.
func TestReloadsAreSpaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		signals, reloads, start := make(chan struct{}, 1), 0, time.Now()
		var first, last time.Duration
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for range spaced(ctx, signals, reloadInterval) {
				last = time.Since(start)
				if reloads++; reloads == 1 {
					first = last
				}
			}
		}()
		for range 1000 { // 10 seconds
			select {
			case signals <- struct{}{}:
			default: // as signal.Notify does
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		cancel()
		<-ended
		if reloads != 11 || first != 0 || last != 10*time.Second {
			t.Errorf("got %d reloads, the first after %v and the last after %v, want 11, 0s and 10s", reloads, first, last)
		}
	})
}
