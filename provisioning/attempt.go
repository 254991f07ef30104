// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
)

// session is one registration's way to the service, over either transport. Its methods are called one at a time.
// An error means that there is no answer, whatever the reason; an answer of any status is a reply.
type session interface {
	// connect makes the session ready to send and tells whether it made a new connection of its own. A refusal by
	// the service at this point comes as a *ServiceError.
	connect(ctx context.Context) (fresh bool, err error)

	// register sends the register request. It is sent at most once: if it may have reached the service and no answer
	// came, that is an error (rule 12).
	register(ctx context.Context, body []byte) (reply, error)

	// poll asks for the status of an operation.
	poll(ctx context.Context, operationID string) (reply, error)

	// reset makes the next connect and the next request show the credential as it is then.
	reset()

	close()
}

// lookuper is a session whose transport may have the registration status lookup (dps-protocol 3.1): HTTPS has it.
type lookuper interface {
	canLookUp() bool
	lookup(ctx context.Context, body []byte) (reply, error)
}

// lookUpOf is the session's lookup; nil if its transport has none.
func lookUpOf(s session) lookuper {
	if session, can := s.(lookuper); can && session.canLookUp() {
		return session
	}
	return nil
}

// codeRunning says that a registration of the same ID is running already (dps-protocol 4).
const codeRunning = 409203

// What an attempt is doing, for errors.
const (
	opSubmitting = "submitting"
	opPolling    = "polling operation"
	opLookingUp  = "looking up"
)

// attempt is one run of one registration. It knows no transport. Only the goroutine that called Register uses it.
type attempt struct {
	request    Request
	body       []byte
	credential *credential
	session    session
	pace       *pace
	worked     *atomic.Int64 // which key was accepted last, for the client's next attempt
	limit      time.Duration // of the whole, from the first request on
	spread     time.Duration // rule 2's T
	log        *slog.Logger

	deadline    time.Time // zero until the first request
	status      Status    // what the service said last
	operationID string    // "" until known
	tried       map[string]*remedies
	sent        bool // a register may have reached the service
}

// run goes from nothing, or from what an earlier attempt left, to the end.
func (a *attempt) run(ctx context.Context) (Assignment, error) {
	a.operationID = a.request.OperationID
	uncertain := a.request.Interrupted

	// Twice at the most: an operation that is forgotten again and again will not end well by a third registration.
	for restarted := false; ; restarted = true {
		op, answer := operation{id: a.operationID, status: StatusAssigning}, reply{}
		if op.id == "" {
			var err error
			if op, answer, err = a.start(ctx, uncertain); err != nil {
				return Assignment{}, err
			}
		}
		op, err := a.follow(ctx, op, answer)
		if isUnknownOperation(err) && !restarted {
			// Rule 3: this, and nothing else, is a reason to begin again.
			if err := a.observe(Progress{Step: StepRestarting, Err: err}); err != nil {
				return Assignment{}, err
			}
			a.operationID, a.status, uncertain = "", "", false
			continue
		}
		if err != nil {
			return Assignment{}, err
		}
		assignment, err := op.assignment(a.request.RegistrationID)
		assignment.Key = a.credential.using
		a.credential.clock.passed(assignment.LastUpdatedDateTimeUTC, time.Now())
		return assignment, err
	}
}

// start begins a registration. If an earlier attempt may have done so already, or the service says that one is
// running, it looks for that one first, where the transport can.
func (a *attempt) start(ctx context.Context, uncertain bool) (operation, reply, error) {
	for n := 1; ; n++ {
		if uncertain {
			// Failed, disabled and unassigned are what an earlier attempt came to; this one asks anew.
			found, err := a.lookUp(ctx)
			if err != nil || found.status == StatusAssigned {
				return found, reply{}, err
			}
		}
		answer, err := a.ask(ctx, question{
			op:       opSubmitting,
			step:     StepSubmitting,
			register: true,
			turn:     a.registerTurn,
			send:     func(ctx context.Context) (reply, error) { return a.session.register(ctx, a.body) },
		})
		if refusal := running(err); refusal != nil {
			if err := a.postpone(ctx, opSubmitting, n, refusal, false); err != nil {
				return operation{}, reply{}, err
			}
			uncertain = true
			continue
		}
		if err != nil {
			return operation{}, reply{}, err
		}
		op, err := parseOperation(answer.body, a.request.RegistrationID)
		if err == nil && op.id == "" && !op.final() {
			err = fmt.Errorf("%w: it names no operation", ErrNotService)
		}
		if err != nil {
			return operation{}, reply{}, &UnreachableError{Op: opSubmitting, Cause: err}
		}
		return op, answer, nil
	}
}

// lookUp asks for the registration status until it is not assigning. The zero operation means that there is nothing
// to be found, or no way to look.
func (a *attempt) lookUp(ctx context.Context) (operation, error) {
	session := lookUpOf(a.session)
	if session == nil {
		return operation{}, nil
	}
	for n := 1; ; n++ {
		answer, err := a.ask(ctx, question{
			op:       opLookingUp,
			step:     StepLookingUp,
			register: true, // it counts as one (dps-protocol 2.4)
			turn:     a.registerTurn,
			send:     func(ctx context.Context) (reply, error) { return session.lookup(ctx, a.body) },
		})
		var refused *ServiceError
		if errors.As(err, &refused) && refused.HTTPStatus == http.StatusNotFound || errors.Is(err, errNoLookup) {
			return operation{}, nil
		}
		if err != nil {
			return operation{}, err
		}
		found, err := parseLookup(answer.body, a.request.RegistrationID)
		if err != nil {
			return operation{}, &UnreachableError{Op: opLookingUp, Cause: err}
		}
		a.status = found.status
		if found.status != StatusAssigning {
			return found, nil
		}
		// Each look costs as much as a register, so the pace is that of rule 2 and not that of polls.
		wait, hinted := answer.hint()
		if !hinted {
			wait = documentedDelay(n)
		}
		if err := a.pause(ctx, opLookingUp, answer.at.Add(wait), Progress{Step: StepAssigning}); err != nil {
			return operation{}, err
		}
	}
}

// follow polls an operation until it is final (rules 1, 2, 3). Without an answer to begin with it polls at once.
func (a *attempt) follow(ctx context.Context, op operation, answer reply) (operation, error) {
	for n := 1; ; n++ {
		a.status, a.operationID = op.status, op.id
		if op.final() {
			return op, nil
		}
		if !answer.at.IsZero() {
			hint, hinted := answer.hint()
			due := later(answer.at.Add(pollDelay(n, hint, hinted)), a.pace.pollAllowedAt(a.request.RegistrationID))
			if err := a.pause(ctx, opPolling, due, Progress{Step: StepAssigning}); err != nil {
				return operation{}, err
			}
		}
		var err error
		answer, err = a.ask(ctx, question{
			op:   opPolling,
			turn: a.pollTurn,
			send: func(ctx context.Context) (reply, error) { return a.session.poll(ctx, op.id) },
		})
		if err != nil {
			return operation{}, err
		}
		id := op.id
		if op, err = parseOperation(answer.body, a.request.RegistrationID); err != nil {
			return operation{}, &UnreachableError{Op: opPolling, Cause: err}
		}
		op.id = id // some answers leave it out (dps-protocol 6.5)
	}
}

// question is one request to the service, to be repeated until it is answered.
type question struct {
	op       string // for errors
	step     Step   // reported before each sending; "" reports nothing
	register bool   // a 429 to it holds back the other registers
	turn     func(ctx context.Context) error
	send     func(ctx context.Context) (reply, error)
}

// ask sends q until the service gives another answer than "later", which rule 2 governs, or than a 401 that rule 5
// mends. A refusal below 429 is a *ServiceError.
func (a *attempt) ask(ctx context.Context, q question) (reply, error) {
	for n := 1; ; {
		if err := q.turn(ctx); err != nil {
			return reply{}, err
		}
		answer, err := a.send(ctx, q)
		// 200 and 202 differ in nothing that the body does not say better (dps-protocol 1).
		if err == nil && answer.status >= 300 {
			err = answer.serviceError()
		}
		if err == nil {
			if len(a.credential.keys) > 1 {
				a.worked.Store(int64(a.credential.using))
			}
			a.credential.clock.passed(answer.clock(), answer.at)
			return answer, nil
		}
		if err = a.mend(q, answer, err); err == nil {
			continue
		}
		refused, err := a.judge(ctx, q, err)
		if err != nil {
			return reply{}, err
		}
		if err := a.postpone(ctx, q.op, n, refused, q.register); err != nil {
			return reply{}, err
		}
		n++
	}
}

// judge tells the error answers that mean "later", which it returns, from all other ends.
func (a *attempt) judge(ctx context.Context, q question, err error) (later *ServiceError, end error) {
	var refused *ServiceError
	var observed *observeError
	switch {
	case errors.As(err, &observed):
		return nil, observed.err
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s: %w", q.op, context.Cause(ctx))
	case !errors.As(err, &refused):
		return nil, &UnreachableError{Op: q.op, Cause: err, Unsent: !a.sent}
	case refused.HTTPStatus < statusLater: // it means what it says; asking again would not change it
		return nil, fmt.Errorf("%s: %w", q.op, err)
	default:
		return refused, nil
	}
}

// send sends, over the next transport too if the session goes on to one.
func (a *attempt) send(ctx context.Context, q question) (reply, error) {
	if a.deadline.IsZero() {
		a.deadline = time.Now().Add(a.limit)
		a.credential.begin(int(a.worked.Load())) // not sooner: a neighbour may have learned it meanwhile
	}
	for {
		answer, err := a.sendOnce(ctx, q)
		if !errors.Is(err, errNextRung) {
			return answer, err
		}
	}
}

// sendOnce connects if need be, reports the steps and sends.
func (a *attempt) sendOnce(ctx context.Context, q question) (reply, error) {
	fresh, err := a.session.connect(ctx)
	if err != nil {
		return reply{}, err
	}
	if fresh {
		if err := a.observe(Progress{Step: StepConnected}); err != nil {
			return reply{}, &observeError{err}
		}
	}
	if q.register {
		a.pace.registering()
	}
	if q.step != "" {
		if err := a.observe(Progress{Step: q.step}); err != nil {
			return reply{}, &observeError{err}
		}
	}
	answer, err := q.send(ctx)
	if q.op == opSubmitting && !errors.Is(err, errNextRung) && !errors.As(err, new(*unsentError)) {
		a.sent = true
	}
	if err == nil {
		a.log.Debug("the provisioning service answered", "doing", q.op, "status", answer.status, "operation_id", a.operationID)
	}
	return answer, err
}

// observeError marks an error of Observe, which is no fault of the connection.
type observeError struct{ err error }

func (e *observeError) Error() string { return e.err.Error() }

// postpone waits before retry n as rule 2 says, or ends the attempt.
func (a *attempt) postpone(ctx context.Context, op string, n int, why *ServiceError, holdBack bool) error {
	now := time.Now()
	next := now.Add(retryDelay(n, why.RetryAfter, a.spread))
	throttled := why.HTTPStatus == http.StatusTooManyRequests
	if throttled && holdBack { // polls have a limit of their own (dps-protocol 11.2)
		a.pace.holdBack(next)
	}
	if why.RetryAfter > longestHint {
		a.log.Warn("the provisioning service asks for a long pause; the attempt ends", "doing", op, "retry_in", why.RetryAfter, "err", why)
		return &ThrottledError{NextAttempt: now.Add(why.RetryAfter), Cause: why}
	}
	if n >= maxFailures {
		return giveUp(op, next, why)
	}
	step := StepRetrying
	if throttled {
		step = StepThrottled
	}
	a.log.Warn("the provisioning service asks to come again later", "doing", op, "attempt", n, "retry_in", next.Sub(now), "operation_id", a.operationID, "err", why)
	return a.pause(ctx, op, next, Progress{Step: step, Attempt: n, Err: why})
}

// giveUp is the end of an attempt that would have to wait until next.
func giveUp(op string, next time.Time, why error) error {
	var answered *ServiceError
	switch {
	case errors.As(why, &answered) && answered.HTTPStatus == http.StatusTooManyRequests:
		return &ThrottledError{NextAttempt: next, Cause: why}
	case errors.As(why, &answered) && answered.HTTPStatus < statusLater:
		return fmt.Errorf("%s: %w", op, why)
	default:
		return &UnreachableError{Op: op, Cause: why, NextAttempt: next}
	}
}

// pause reports p with its wait and sleeps until then. A wait that would pass the attempt's limit ends it at once:
// the appliance's owner learns what is going on, and nothing sleeps for no purpose.
func (a *attempt) pause(ctx context.Context, op string, until time.Time, p Progress) error {
	if a.pastLimit(until) {
		why := p.Err
		if why == nil {
			why = ErrAttemptLimit
		}
		return giveUp(op, until, why)
	}
	p.Wait = max(time.Until(until), 0)
	if err := a.observe(p); err != nil {
		return err
	}
	if err := sleep(ctx, time.Until(until)); err != nil {
		return fmt.Errorf("%s: %w", op, context.Cause(ctx))
	}
	return nil
}

// pastLimit tells whether the attempt must have ended by then. Before its first request it has no limit, because
// the wait for its turn is the fleet's doing and not the service's.
func (a *attempt) pastLimit(then time.Time) bool {
	return !a.deadline.IsZero() && then.After(a.deadline)
}

// registerTurn waits until a register may be sent: the hold-back is over and the budget has room.
func (a *attempt) registerTurn(ctx context.Context) error {
	for {
		now := time.Now()
		held := a.pace.held(now)
		if held > longestHint || a.pastLimit(now.Add(held)) {
			// What would end the attempt that met the limit ends those that it holds back.
			return &ThrottledError{NextAttempt: now.Add(held)}
		}
		if held > 0 {
			if err := a.pause(ctx, opSubmitting, now.Add(held), Progress{Step: StepWaiting}); err != nil {
				return err
			}
		}
		delay, giveBack := reserve(a.pace.registers)
		if delay > 0 {
			if err := a.pause(ctx, opSubmitting, time.Now().Add(delay), Progress{Step: StepWaiting}); err != nil {
				giveBack()
				return err
			}
		}
		if a.pace.held(time.Now()) == 0 { // a neighbour may have met the limit meanwhile
			return nil
		}
	}
}

// pollTurn waits until the device may be polled: its own cap and the budget both have room.
func (a *attempt) pollTurn(ctx context.Context) error {
	id := a.request.RegistrationID
	if err := sleep(ctx, time.Until(a.pace.pollAllowedAt(id))); err != nil {
		return fmt.Errorf("%s: %w", opPolling, context.Cause(ctx))
	}
	delay, giveBack := reserve(a.pace.polls)
	if err := sleep(ctx, delay); err != nil {
		giveBack()
		return fmt.Errorf("%s: %w", opPolling, context.Cause(ctx))
	}
	a.pace.polled(id, time.Now())
	return nil
}

// observe completes p and hands it on.
func (a *attempt) observe(p Progress) error {
	if a.request.Observe == nil {
		return nil
	}
	p.Status, p.OperationID = a.status, a.operationID
	if err := a.request.Observe(p); err != nil {
		return fmt.Errorf("recording the step %q: %w", p.Step, err)
	}
	return nil
}

// final tells whether there is nothing to wait for any more.
func (op *operation) final() bool {
	return op.status == StatusAssigned || op.status == StatusFailed || op.status == StatusDisabled
}

// running returns the refusal that says that a registration of this ID is running, or nil.
func running(err error) *ServiceError {
	var refused *ServiceError
	if errors.As(err, &refused) && refused.Code == codeRunning {
		return refused
	}
	return nil
}

// isUnknownOperation tells whether a poll ended because the service does not know the operation.
func isUnknownOperation(err error) bool {
	var refused *ServiceError
	return errors.As(err, &refused) && refused.HTTPStatus == http.StatusNotFound
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
