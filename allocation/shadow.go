// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Bounds of a shadow.
const (
	shadowQueue    = 256         // decisions that may wait for it
	maxShadowQueue = 8 << 20     // bytes, about, that they may take
	shadowTime     = time.Second // for one decision, looking the device up included
	shadowLogBurst = 10          // disagreements that are logged at once; then one a second
	maxShadowLog   = 1 << 10     // bytes of what one log record tells of them
)

// ShadowResult is what came of putting one decision to a shadow.
type ShadowResult string

// The results.
const (
	ShadowSame       ShadowResult = "same"
	ShadowDifferent  ShadowResult = "different"
	ShadowUnanswered ShadowResult = "unanswered" // the shadow has trouble with it
	ShadowDropped    ShadowResult = "dropped"    // too many were waiting
)

// Shadow asks another policy what was decided already, and counts and logs where
// it would have answered differently. It acts on nothing and delays nothing: a
// decision waits in a bounded queue for one worker, and is dropped when that is
// full.
//
// It sees what a [Decision] shows: a policy that reads a secret in a request sees
// the mask. Like gatewayctl allocate --replay it compares what both say to that.
type Shadow struct {
	asked  atomic.Pointer[shadowed]
	queue  chan Decision
	queued atomic.Int64 // bytes of what waits, about
	logger *slog.Logger
	limit  *rate.Limiter
	silent int // disagreements that were not logged; of Run's goroutine
	count  func(ShadowResult)
}

// shadowed is who is asked.
type shadowed struct {
	policy    Policy
	directory Directory
}

// NewShadow makes a shadow without a policy, which does nothing. count is told
// each result, from several goroutines.
func NewShadow(logger *slog.Logger, count func(ShadowResult)) *Shadow {
	return &Shadow{queue: make(chan Decision, shadowQueue), logger: logger, limit: rate.NewLimiter(1, shadowLogBurst), count: count}
}

// Replace puts a policy in the place of the one that was asked until now; nil is
// none. directory, which may be nil, has the rows of devices that were decided
// without one.
func (s *Shadow) Replace(policy Policy, directory Directory) {
	if policy == nil {
		s.asked.Store(nil)
		return
	}
	s.asked.Store(&shadowed{policy, directory})
}

// Add puts a decision to the shadow. It returns at once.
func (s *Shadow) Add(d Decision) {
	if s.asked.Load() == nil || d.Request == nil || d.Status != http.StatusOK && d.Status != http.StatusBadRequest {
		return
	}
	size := int64(d.Size())
	if s.queued.Add(size) <= maxShadowQueue {
		select {
		case s.queue <- d:
			return
		default:
		}
	}
	s.queued.Add(-size)
	s.count(ShadowDropped)
}

// Run asks the shadow until ctx ends; what waits then is dropped.
func (s *Shadow) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-s.queue:
			s.queued.Add(-int64(d.Size()))
			if asked := s.asked.Load(); asked != nil {
				s.count(s.compare(ctx, asked, d))
			}
		}
	}
}

// compare asks about one decision.
func (s *Shadow) compare(ctx context.Context, asked *shadowed, d Decision) ShadowResult {
	ctx, cancel := context.WithTimeout(ctx, shadowTime)
	defer cancel()
	request, err := ParseRequest(d.Request)
	if err != nil {
		return ShadowSame // nobody's policy was asked
	}
	answer, err := asked.ask(ctx, request, d)
	if err != nil {
		s.log(d, Answer{}, slog.String("err", loggable(err.Error(), maxShadowLog)))
		return ShadowUnanswered
	}
	was := Answer{Status: d.Status, Rule: d.Rule, Response: d.Response, Refusal: d.Refusal}
	differences := Compare(was, answer.Redacted())
	if len(differences) == 0 {
		return ShadowSame
	}
	var texts []string
	for _, difference := range differences {
		texts = append(texts, difference.String())
	}
	s.log(d, answer, slog.String("differences", loggable(strings.Join(texts, "; "), maxShadowLog)))
	return ShadowDifferent
}

// ask asks the shadow on the row that the device has in the directory, as it was at
// the decision where that looked. The row of a decision that found none is the other
// policy's own.
func (s *shadowed) ask(ctx context.Context, request Request, d Decision) (Answer, error) {
	switch {
	case d.Lookup == LookupFound:
		return Ask(ctx, s.policy, Question{Request: request, Device: d.Device})
	case d.Lookup == LookupMissing || s.directory == nil:
		return Ask(ctx, s.policy, Question{Request: request})
	default:
		return AskWith(ctx, s.policy, s.directory, request)
	}
}

// log tells of a disagreement, but not of all of many.
func (s *Shadow) log(d Decision, answer Answer, what slog.Attr) {
	if !s.limit.Allow() {
		s.silent++
		return
	}
	attrs := []slog.Attr{slog.String("registration_id", loggable(d.RegistrationID, maxLoggedID)), slog.String("source", string(d.Source)), slog.String("rule", loggable(d.Rule, maxLoggedID))}
	if answer.Rule != "" {
		attrs = append(attrs, slog.String("shadow_rule", loggable(answer.Rule, maxLoggedID)))
	}
	attrs = append(attrs, what)
	if s.silent > 0 {
		attrs = append(attrs, slog.Int("not_logged", s.silent))
		s.silent = 0
	}
	s.logger.LogAttrs(context.Background(), slog.LevelInfo, "shadow policy disagrees; nothing is done about it", attrs...)
}
