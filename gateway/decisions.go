// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/allocation/decisionlog"
	"github.com/contoso/gatewayd/gateway/config"
)

// keepDecisions lets the webhook's decisions be counted, and kept where the
// configuration says. It comes before the webhook's Run.
func (g *Gateway) keepDecisions(cfg config.DecisionLog, stateDir string) {
	if cfg.Path != "" {
		if filepath.Dir(cfg.Path) == filepath.Clean(stateDir) {
			_ = os.MkdirAll(stateDir, 0o700) // if it fails the writer says what it misses
		}
		g.decisions = decisionlog.NewWriter(decisionlog.Config{Path: cfg.Path, Limit: cfg.Limit, Logger: g.log})
	}
	g.webhook.shadowed = g.metrics.shadowed
	g.webhook.observe = func(d allocation.Decision) {
		g.metrics.decided(d)
		g.tally.count(d.Status)
		g.health.lookedUp(d.Lookup, d.Time)
		if g.decisions != nil {
			g.decisions.Add(d)
		}
	}
}

// tally counts what the webhook said, for the STATUS line.
type tally struct {
	given                       chan struct{} // has an element when the count has changed
	assigned, refused, troubled *atomic.Uint64
}

func newTally() tally {
	return tally{make(chan struct{}, 1), new(atomic.Uint64), new(atomic.Uint64), new(atomic.Uint64)}
}

func (a tally) count(status int) {
	switch {
	case status == http.StatusOK:
		a.assigned.Add(1)
	case status == http.StatusBadRequest:
		a.refused.Add(1)
	case status >= http.StatusInternalServerError:
		a.troubled.Add(1)
	}
	select {
	case a.given <- struct{}{}:
	default:
	}
}

// String words the counts.
func (a tally) String() string {
	return fmt.Sprintf("%d assigned, %d refused, %d asked to come again", a.assigned.Load(), a.refused.Load(), a.troubled.Load())
}
