// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/allocation/upstream"
)

// Check is one line of /readyz.
type Check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`

	// Required checks make the gateway not ready. The others are shown: a balancer
	// must not take an instance out because something is away that it does without.
	Required bool `json:"required"`

	// Detail says how it stands, in words.
	Detail string `json:"detail,omitempty"`

	// Since is when it came to stand so, where that is known.
	Since time.Time `json:"since,omitzero"`
}

// Readiness is the document of /readyz.
type Readiness struct {
	Ready  bool    `json:"ready"`
	Checks []Check `json:"checks"`
}

// health is what the gateway remembers of itself for those who ask.
type health struct {
	mu       sync.Mutex // guards what follows
	ready    bool       // all tasks have begun
	stopping bool
	reloads  map[string]reload // by part; the last of each
	lookup   lookup
}

// lookup is the last look into the device directory.
type lookup struct {
	outcome allocation.Lookup // LookupNone before the first
	since   time.Time         // since when it ends well, or does not
}

type reload struct {
	at  time.Time
	err error
}

func (h *health) begun() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready = true
}

func (h *health) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
}

// reloaded remembers how the last reload of a part ended.
func (h *health) reloaded(part string, err error, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reloads == nil {
		h.reloads = map[string]reload{}
	}
	h.reloads[part] = reload{now, err}
}

// service is the one check that is required: the gateway is at work, and not on
// its way out.
func (h *health) service(what string) Check {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.stopping:
		return Check{Name: "service", Required: true, Detail: "stopping"}
	case !h.ready:
		return Check{Name: "service", Required: true, Detail: "starting"}
	default:
		return Check{Name: "service", OK: true, Required: true, Detail: what}
	}
}

// reloadChecks has one for each part that was ever reloaded.
func (h *health) reloadChecks() []Check {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []Check
	for _, part := range slices.Sorted(maps.Keys(h.reloads)) {
		last := h.reloads[part]
		c := Check{Name: "reload of " + part, OK: last.err == nil, Detail: "done", Since: last.at.UTC().Truncate(time.Second)}
		if last.err != nil {
			c.Detail = "failed, what was loaded before is in force: " + last.err.Error()
		}
		all = append(all, c)
	}
	return all
}

// lookedUp remembers what became of a look into the device directory.
func (h *health) lookedUp(outcome allocation.Lookup, now time.Time) {
	if outcome == allocation.LookupNone {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	failed := outcome == allocation.LookupFailed
	if h.lookup.outcome == allocation.LookupNone || failed != (h.lookup.outcome == allocation.LookupFailed) {
		h.lookup.since = now
	}
	h.lookup.outcome = outcome
}

// directoryChecks has one once a policy has looked into the device directory.
func (h *health) directoryChecks() []Check {
	h.mu.Lock()
	defer h.mu.Unlock()
	since := h.lookup.since.UTC().Truncate(time.Second)
	switch h.lookup.outcome {
	case allocation.LookupNone:
		return nil
	case allocation.LookupFailed:
		return []Check{{Name: "device directory", Detail: "the last look into it failed; the log says why", Since: since}}
	default:
		return []Check{{Name: "device directory", OK: true, Detail: "answers", Since: since}}
	}
}

// Readiness tells whether requests should be sent here, and how everything stands
// that an answer may depend on.
func (g *Gateway) Readiness() Readiness {
	checks := []Check{g.health.service(g.summary())}
	checks = append(checks, g.health.reloadChecks()...)
	if g.webhook != nil {
		checks = append(checks, Check{Name: "policy", OK: true, Detail: g.webhook.policy.Load().String()})
		if state, fronting := g.webhook.upstreamState(); fronting {
			c := Check{Name: "cloud function", OK: state.State == upstream.Closed, Detail: "answers", Since: state.Since.UTC().Truncate(time.Second)}
			if !c.OK {
				c.Detail = "the site's policy answers in its place: " + state.LastReason
			}
			checks = append(checks, c)
		}
	}
	checks = append(checks, g.health.directoryChecks()...)
	if g.decisions != nil {
		c := Check{Name: "decision log", OK: true, Detail: "written"}
		if err := g.decisions.Stats().Err; err != nil {
			c.OK, c.Detail = false, err.Error()
		}
		checks = append(checks, c)
	}
	if g.supervisor != nil {
		c := Check{Name: "provisioning service", OK: true, Detail: "reached, or not asked yet"}
		if _, why, away := g.supervisor.world.reach.stands(); away {
			c.OK, c.Detail = false, "away"
			if why != nil {
				c.Detail = why.Verdict
			}
		}
		checks = append(checks, c)
	}
	ready := Readiness{Ready: true, Checks: checks}
	for _, c := range checks {
		ready.Ready = ready.Ready && (c.OK || !c.Required)
	}
	return ready
}

// aliveTime bounds the look at the gateway's loops and its disk.
const aliveTime = 5 * time.Second

// lives tells whether the process does its work, as the watchdog asks it too.
func (g *Gateway) lives(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, aliveTime)
	defer cancel()
	return g.alive(ctx)
}
