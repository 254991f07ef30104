// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/contoso/gatewayd/provisioning"
)

// TestRule5TheFloorIsKept: what has passed is written beside other changes, and
// once an hour and at the end when nothing else is.
func TestRule5TheFloorIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		s := openTestStore(t, t.TempDir())
		built := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC) // the bubble's clock says 2000
		kept := func() time.Duration { return newClock(t.Context(), s, log).Floor().Sub(built) }

		w := &world{clock: provisioning.NewClock(built, log)}
		var err error
		if w.budget, err = provisioning.NewBudget(100, 20, provisioning.BudgetState{}); err != nil {
			t.Fatal(err)
		}
		if err := s.save(t.Context(), full(), w.memory); err != nil {
			t.Fatal(err)
		}
		if got := kept(); got != 0 {
			t.Errorf("beside an appliance: %v after the build, want 0", got)
		}

		ctx, stop := context.WithCancel(t.Context())
		g := &Gateway{store: s, log: log, clock: w.clock}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			g.keepTime(ctx)
		}()
		time.Sleep(150 * time.Minute)
		synctest.Wait()
		if got := kept(); got != 2*time.Hour {
			t.Errorf("after 150 minutes: %v after the build, want 2 h", got)
		}
		stop()
		<-ended
		if got := kept(); got != 150*time.Minute {
			t.Errorf("at the end: %v after the build, want 150 min", got)
		}
	})
}
