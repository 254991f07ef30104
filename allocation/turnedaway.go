// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// turnedAwayEvery spaces the records of requests beyond a limit: a flood that
// was turned away should not become a flood of the log.
const turnedAwayEvery = time.Second

// turnedAway counts requests beyond a limit between two records.
type turnedAway struct {
	mu    sync.Mutex // guards both
	count int
	next  time.Time // of a record
}

// log counts a request that was turned away, and writes a record if the last one
// is long enough ago.
func (t *turnedAway) log(ctx context.Context, logger *slog.Logger, limit string, from netip.Addr, now time.Time) {
	t.mu.Lock()
	t.count++
	count := t.count
	due := !now.Before(t.next)
	if due {
		t.count, t.next = 0, now.Add(turnedAwayEvery)
	}
	t.mu.Unlock()
	if due {
		logger.LogAttrs(ctx, slog.LevelWarn, "webhook turned requests away; the service asks again",
			slog.String("limit", limit), slog.String("caller", from.String()), slog.Int("count", count))
	}
}
