// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/contoso/gatewayd/provisioning"
)

// Keys of the store's memory.
const (
	memoryTime   = "time"   // the latest time that is known to have passed
	memoryBudget = "budget" // a provisioning.BudgetState
)

// timeKept is how often the time is remembered when nothing else is written:
// one sync an hour of the sixty that design section 12 allows.
const timeKept = time.Hour

// newClock makes the clock for tokens and certificates. Its floor is the later
// of the build's date and of the time in the state directory (rule 5).
func newClock(ctx context.Context, s *store, log *slog.Logger) *provisioning.Clock {
	floor := buildDate()
	var kept time.Time
	if err := s.recall(ctx, memoryTime, &kept); err != nil {
		log.Warn("the clock goes without the time of the last run", "err", err)
	}
	if kept.After(floor) {
		floor = kept
	}
	return provisioning.NewClock(floor, log)
}

// buildDate is that of the commit that was built; zero if the build did not
// record it.
func buildDate() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.time" {
			return unstamp(setting.Value)
		}
	}
	return time.Time{}
}

// newBudget takes the registers and polls up where the last run left them.
func newBudget(ctx context.Context, s *store, cfg provisioning.Config, log *slog.Logger) (*provisioning.Budget, error) {
	var state provisioning.BudgetState
	if err := s.recall(ctx, memoryBudget, &state); err != nil {
		log.Warn("the budget of registrations begins anew", "err", err)
		state = provisioning.BudgetState{Taken: time.Now(), LastRegister: time.Now()}
	}
	return provisioning.NewBudget(cfg.RegistersPerMinute, cfg.PollsPerSecond, state)
}

// memory is what is written beside each change of an appliance, in the same
// transaction: it costs no sync of its own.
func (w *world) memory() map[string]any {
	all := map[string]any{memoryBudget: w.budget.State()}
	if floor := w.clock.Floor(); !floor.IsZero() {
		all[memoryTime] = floor.UTC()
	}
	return all
}

// keepTime remembers the time while nothing else is written, and once more at
// the end.
func (g *Gateway) keepTime(ctx context.Context) {
	ticker := time.NewTicker(timeKept)
	defer ticker.Stop()
	for {
		ended := false
		select {
		case <-ctx.Done():
			ended = true
		case <-ticker.C:
		}
		if floor := g.clock.Floor(); !floor.IsZero() {
			if err := g.store.remember(ctx, memoryTime, floor.UTC()); err != nil {
				g.log.Error("the time was not kept; check the disk of the state directory", "err", err)
			}
		}
		if ended {
			return
		}
	}
}
