// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/contoso/gatewayd/provisioning"
)

// The outer schedule of design section 5, rules 2 and 8: how long an appliance
// waits before a whole new attempt.
const (
	outerFirst    = 15 * time.Minute
	outerMost     = 6 * time.Hour
	outerLeast    = time.Minute // full jitter may not come down to a second
	disabledCheck = 24 * time.Hour
	hintAttempt   = 5 * time.Minute // a longer hint ends the client's attempt
	hintMost      = 24 * time.Hour
)

// register runs one attempt: the intent goes to disk, then DPS is asked, and
// each thing learned is on disk before the next step (design section 4).
func (a *appliance) register(ctx context.Context) {
	keys, err := a.world.keys.DeviceKeys(a.id)
	if err != nil {
		a.keyless(ctx, err)
		return
	}
	asking, end := context.WithCancelCause(ctx)
	defer end(nil)
	if !a.world.reach.begin(a, end, time.Now()) {
		return
	}
	request, ok := a.intend(ctx)
	if !ok {
		a.world.reach.ended(a, errNotSaved, time.Now())
		a.rest(ctx, 10*time.Second) // the disk refused; update has said so
		return
	}
	a.log.Info("device key derived", "device_key", keys[0].Fingerprint())
	request.Keys = keys
	request.Observe = func(p provisioning.Progress) error { return a.observe(ctx, p) }
	result, err := a.world.registrar.Register(asking, request)
	if ctx.Err() != nil {
		return // shutting down: what is known is on disk
	}
	away := a.world.reach.ended(a, err, time.Now())
	switch {
	case errors.Is(err, errConflict): // goes on when one place is left
	case err == nil:
		a.assigned(ctx, result, request)
	default:
		a.failed(ctx, err, away)
	}
}

// intend writes the intent and returns the request that it stands for. What the
// last run left decides how it begins: a known operation is polled on, a
// register without an answer is looked up first.
func (a *appliance) intend(ctx context.Context) (provisioning.Request, bool) {
	var request provisioning.Request
	saved := a.update(ctx, func(r *record) {
		a.facts.doubt = r.Registration != nil && r.Registration.InDoubt
		if r.Registration == nil {
			r.Registration = &registration{Reason: "never assigned", Since: time.Now()}
		}
		g := r.Registration
		request = provisioning.Request{
			RegistrationID: r.RegistrationID,
			Payload:        a.facts.payload,
			OperationID:    g.OperationID,
			// Of an appliance that holds an assignment the lookup would tell
			// the old one, so only a first registration is looked up.
			Interrupted: g.InDoubt && g.OperationID == "" && r.Assignment == nil,
		}
		g.Attempts++
		g.NextAttempt = time.Time{}
		a.facts.registered, a.facts.away = true, false
	})
	return request, saved
}

// errNotSaved ends an attempt whose next step could not be put on disk, and
// errConflict one whose appliance has come to answer at two places.
var (
	errNotSaved = errors.New("the state could not be saved")
	errConflict = errors.New("the appliance answers at two places")
)

// observe takes in a step of the attempt before the client acts on it.
func (a *appliance) observe(ctx context.Context, p provisioning.Progress) error {
	begun := false
	// What is about to be sent counts in the budget, also when the record knows of it.
	counts := p.Step == provisioning.StepSubmitting || p.Step == provisioning.StepLookingUp || p.Step == provisioning.StepThrottled
	saved := a.write(ctx, counts, func(r *record) {
		g := r.Registration
		begun = p.OperationID != "" && g.OperationID != p.OperationID
		g.OperationID, g.NextAttempt = p.OperationID, time.Time{}
		// Of an appliance with an assignment in force state tells that one, not the asking.
		first := r.Assignment == nil
		switch p.Step {
		case provisioning.StepWaiting, provisioning.StepConnected: // nothing has been asked yet
		case provisioning.StepThrottled:
			g.NextAttempt = time.Now().Add(p.Wait)
			if first {
				r.State, r.Error = StateThrottled, trouble(p.Err)
			}
		default:
			g.InDoubt = g.InDoubt || p.Step == provisioning.StepSubmitting
			if first {
				r.State, r.Error = StateRegistering, nil
			}
		}
	})
	if !saved {
		return errNotSaved
	}
	if a.conflicting() {
		return errConflict
	}
	if begun {
		a.log.Info("registration begun", "operation_id", p.OperationID)
	}
	if err := a.world.reach.progress(a, p, time.Now()); err != nil {
		return fmt.Errorf("%w: %w", err, p.Err)
	}
	return nil
}

// assigned swaps the new assignment in and ends the registration, in one
// transaction.
func (a *appliance) assigned(ctx context.Context, result provisioning.Assignment, request provisioning.Request) {
	a.update(ctx, func(r *record) {
		r.Assignment = &assignment{
			AssignedHub: result.AssignedHub, DeviceID: result.DeviceID, Substatus: result.Substatus,
			Payload: result.Payload, SentPayload: request.Payload, AssignedAt: time.Now(),
		}
		r.Registration = nil
		r.State, r.Error = StateAssigned, nil
		a.facts.version = 0
	})
	a.opened(result.Key)
}

// failed turns the end of an attempt into a state and the time of the next;
// away says that this is when the service is back.
func (a *appliance) failed(ctx context.Context, err error, away bool) {
	held := errors.As(err, new(*provisioning.ThrottledError)) // the others too, which the memory tells
	a.write(ctx, held, func(r *record) {
		g := r.Registration
		state, wait := outcome(err, g.Attempts, time.Now())
		if state == StateRefused || state == StateDisabled {
			// The service has ended it. Any other end may leave an operation
			// behind: a neighbour's 429 says nothing of our register.
			g.OperationID, g.InDoubt = "", false
		}
		if unreachable := new(provisioning.UnreachableError); errors.As(err, &unreachable) && unreachable.Unsent {
			g.InDoubt = a.facts.doubt
		}
		g.NextAttempt = time.Now().Add(wait)
		r.Error = trouble(err)
		if a.facts.away = away; away {
			state = StateUnreachable
			next, why, still := a.world.reach.stands()
			if g.NextAttempt = next; still {
				r.Error = why
			}
		}
		if r.Assignment == nil {
			r.State = state
		}
	})
	a.log.Warn("registration attempt ended", "err", err)
}

// outcome maps the client's error to a state and the wait before the next
// attempt (design sections 4 and 5). What the service asked for is never undercut.
func outcome(err error, attempts int, now time.Time) (State, time.Duration) {
	var throttled *provisioning.ThrottledError
	var unreachable *provisioning.UnreachableError
	var final *provisioning.FailedError
	switch {
	case errors.As(err, &throttled):
		asked := throttled.NextAttempt.Sub(now)
		if longHint(err) || throttled.Cause == nil { // nil: a neighbour drew the 429
			return StateThrottled, min(asked, hintMost)
		}
		return StateThrottled, max(asked, outerWait(attempts))
	case errors.As(err, &unreachable):
		return StateUnreachable, min(max(unreachable.NextAttempt.Sub(now), probe()), hintMost)
	case errors.Is(err, errNotSaved), errors.Is(err, errStillAway):
		return StateUnreachable, probe()
	case errors.As(err, &final) && final.Status == provisioning.StatusDisabled:
		return StateDisabled, disabledCheck
	default:
		return StateRefused, outerWait(attempts)
	}
}

// longHint tells whether the service itself named the time of the next attempt.
func longHint(err error) bool {
	var answer *provisioning.ServiceError
	return errors.As(err, &answer) && answer.RetryAfter > hintAttempt
}

// probe is the wait before a service that did not answer is tried again, by
// whom it did not answer or for all.
func probe() time.Duration { return probeLeast + rand.N(probeMost-probeLeast) }

// shutOut says of an appliance that has not been asked for yet that the service
// is away.
func (a *appliance) shutOut(ctx context.Context) {
	next, why, away := a.world.reach.stands()
	if !away || a.state() != StateIdentified {
		return
	}
	a.update(ctx, func(r *record) {
		if r.Registration == nil {
			r.Registration = &registration{Reason: "never assigned", Since: time.Now()}
		}
		r.Registration.NextAttempt = next
		r.State, r.Error, a.facts.away = StateUnreachable, why, true
	})
}

// outerWait grows from a quarter of an hour to six hours, with full jitter so
// that the appliances of many gateways do not come back in step.
func outerWait(attempts int) time.Duration {
	most := outerFirst
	for range attempts - 1 {
		most = min(2*most, outerMost)
	}
	return outerLeast + rand.N(most-outerLeast)
}

// trouble words a provisioning error for people.
func trouble(err error) *Trouble {
	if err == nil {
		return nil
	}
	d := provisioning.Verdict(err)
	return &Trouble{Kind: d.Kind, Code: d.Code, Verdict: d.Verdict, Owner: d.Owner, Next: d.Next}
}
