// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/contoso/gatewayd/provisioning"
)

// How often a service that is away is tried, by one appliance for all of the
// gateway (rule 8).
const (
	probeLeast = 30 * time.Second
	probeMost  = 60 * time.Second
	// lastWord is how recent an answer must be for a failure soon after it to be
	// one appliance's own.
	lastWord = 10 * time.Second
	// claimTime is how long an appliance may take to end its hub session before
	// it asks for all.
	claimTime = 10 * time.Second
)

// errStillAway ends a probe that was answered with a 5xx, because the next is due
// sooner than the client would ask again, and attempts that have not come to ask
// when the service turns out to be away.
var errStillAway = errors.New("the provisioning service is still away")

// reach is whether the provisioning service can be reached, which is one fact
// for the whole gateway (rule 8). When an attempt ends without its answer the
// service is away, and the appliances that wait to be registered wait here. One
// at a time is let through, as the probe; it is a whole attempt and not a
// question of its own, so that a good answer is not wasted. The first answer of
// the service lets everybody through, and the budget spreads them.
//
// What a person asks for does not come here: it may be tried at any time.
type reach struct {
	log *slog.Logger

	mu       sync.Mutex                             // guards what follows
	away     bool                                   // since an attempt ended without an answer
	next     time.Time                              // when the next probe is due
	probe    *appliance                             // whose attempt is under way for all; nil = nobody's
	claimed  *appliance                             // whose probe the next is to be, unless it takes too long; nil = anybody's
	waiting  map[*appliance]bool                    // to be woken when the service is back
	turns    map[*appliance]context.CancelCauseFunc // ends attempts that wait for their turn in the budget
	answered time.Time                              // when the service answered last
	trouble  *Trouble                               // why it is away
}

func newReach(log *slog.Logger) *reach {
	return &reach{log: log, waiting: map[*appliance]bool{}, turns: map[*appliance]context.CancelCauseFunc{}}
}

// wait is how long an appliance has to wait before it may ask; zero means now.
// It is woken when the service is back.
func (g *reach) wait(a *appliance, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.away || g.probe == a || g.claimed == a {
		return 0
	}
	g.waiting[a] = true
	if g.probe != nil {
		return probeLeast // by then the next probe's time is known
	}
	return max(g.next.Sub(now), 0)
}

// claim tells whether an appliance is to ask now, and if the service is away has
// the others wait for a while: it has a hub session to end first, which one for
// all is enough to do.
func (g *reach) claim(a *appliance, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.away || g.claimed == a {
		return true
	}
	if g.probe != nil || now.Before(g.next) {
		return false
	}
	g.claimed, g.next = a, now.Add(claimTime)
	return true
}

// begin lets an appliance ask, or tells it to wait after all because another
// was quicker. end is for as long as the attempt waits for its turn in the
// budget. [reach.ended] belongs to it.
func (g *reach) begin(a *appliance, end context.CancelCauseFunc, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.away {
		g.turns[a] = end
		return true
	}
	if g.probe != nil || g.claimed != a && now.Before(g.next) {
		return false
	}
	g.probe, g.claimed, g.next = a, nil, now.Add(probe())
	return true
}

// stands tells since when it is known that the service is away: the next time
// at which it is tried, and why.
func (g *reach) stands() (next time.Time, why *Trouble, away bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.trouble != nil {
		t := *g.trouble
		why = &t
	}
	return g.next, why, g.away
}

// progress takes in a step of an attempt. It returns errStillAway to a probe
// that learned that nothing has changed.
func (g *reach) progress(a *appliance, p provisioning.Progress, now time.Time) error {
	var answer *provisioning.ServiceError
	failed := errors.As(p.Err, &answer) && answer.HTTPStatus >= http.StatusInternalServerError
	switch {
	case failed:
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.probe == a {
			return errStillAway
		}
	case answer != nil, p.Step == provisioning.StepAssigning:
		g.back(now)
	case p.Step != provisioning.StepWaiting:
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.turns, a)
	}
	return nil
}

// ended takes in the end of an attempt and tells whether the appliance is to
// wait until the service is back.
func (g *reach) ended(a *appliance, err error, now time.Time) (away bool) {
	hint, unanswered := unanswered(err)
	if !unanswered && isAnswer(err) {
		g.back(now)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.turns, a)
	probing := g.probe == a
	if probing {
		g.probe = nil
	}
	if !unanswered {
		if probing { // it came to ask nothing
			g.next = now
		}
		return false
	}
	if !g.away && now.Sub(g.answered) < lastWord {
		return false
	}
	if !g.away {
		g.away, g.next = true, now.Add(probe())
		g.log.Warn("the provisioning service is away; one appliance asks for all until it is back", "retry_in", g.next.Sub(now).Round(time.Second), "err", err)
		for _, end := range g.turns {
			end(errStillAway)
		}
		clear(g.turns)
	}
	if hint.After(g.next) {
		g.next = hint
	}
	if answer := new(provisioning.ServiceError); errors.As(err, &answer) || !errors.Is(err, errStillAway) {
		g.trouble = trouble(err)
	}
	return true
}

// back notes an answer of the service and lets everybody through.
func (g *reach) back(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answered = now
	if !g.away {
		return
	}
	g.log.Info("the provisioning service is back", "waiting", len(g.waiting))
	g.away, g.probe, g.claimed, g.trouble = false, nil, nil, nil
	for a := range g.waiting {
		a.wakeUp()
	}
	clear(g.waiting)
}

// unanswered tells the ends that say that the service is away, and the time
// before which it asked not to be tried, if it did.
func unanswered(err error) (hint time.Time, away bool) {
	var unreachable *provisioning.UnreachableError
	var throttled *provisioning.ThrottledError
	var answer *provisioning.ServiceError
	answered := errors.As(err, &answer)
	switch {
	case errors.As(err, &throttled) && answered && answer.HTTPStatus >= http.StatusInternalServerError:
		return throttled.NextAttempt, true // a 5xx that asks for a long pause is one all the same
	case errors.Is(err, errStillAway):
		if answered && answer.RetryAfter > 0 {
			hint = time.Now().Add(min(answer.RetryAfter, hintMost))
		}
		return hint, true
	case errors.As(err, &unreachable) && !errors.Is(err, provisioning.ErrAttemptLimit):
		return unreachable.NextAttempt, true
	default:
		return time.Time{}, false
	}
}

// isAnswer tells whether the service had a word in this end of an attempt.
func isAnswer(err error) bool {
	var answer *provisioning.ServiceError
	var final *provisioning.FailedError
	return err == nil || errors.As(err, &answer) || errors.As(err, &final) || errors.Is(err, provisioning.ErrAttemptLimit)
}
