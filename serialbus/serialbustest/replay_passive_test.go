// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"testing"
	"time"
)

// TestPassiveReplayTakesNothingForRequests: what a passive replay says itself is no question of a master.
func TestPassiveReplayTakesNothingForRequests(t *testing.T) {
	var p player
	if got := p.hear([]byte{1, 3, 0, 0, 0, 1, 0x84, 0x0A}, time.Now(), nil); len(got) != 0 || p.told.Strange != 0 || len(p.buf) != 0 {
		t.Errorf("got %d replies, %d strange requests and %d bytes kept; want none", len(got), p.told.Strange, len(p.buf))
	}
}
