// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
)

// ladder is [TransportAuto]: the transports from the top down, and which of them worked. All sessions share it.
type ladder struct {
	rungs []rung
	log   *slog.Logger

	mu     sync.Mutex // guards what follows
	worked Transport  // where the service answered last; "" after it failed there
	next   int        // where the next attempt starts while nothing is known to work
}

// rung is one transport.
type rung struct {
	name Transport
	open func(registrationID string, shown *credential) session
}

func newLadder(prefer Transport, log *slog.Logger, rungs ...rung) *ladder {
	l := &ladder{rungs: rungs, log: log}
	if l.index(prefer) >= 0 {
		l.worked = prefer
	}
	return l
}

// session begins where it worked before, and goes on from the top.
func (l *ladder) session(registrationID string, shown *credential) session {
	s := &ladderSession{ladder: l, registrationID: registrationID, credential: shown, way: l.way()}
	s.session = s.way[0].open(registrationID, shown)
	return s
}

// way is the order in which one attempt tries the rungs.
func (l *ladder) way() []rung {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known := l.index(l.worked); known >= 0 {
		return append([]rung{l.rungs[known]}, slices.Delete(slices.Clone(l.rungs), known, known+1)...)
	}
	return append(slices.Clone(l.rungs[l.next:]), l.rungs[:l.next]...)
}

// index of a transport; -1 for none.
func (l *ladder) index(name Transport) int {
	return slices.IndexFunc(l.rungs, func(r rung) bool { return r.name == name })
}

// known is where the service answered last, or what was preferred; "" for nowhere.
func (l *ladder) known() Transport {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.worked
}

// answered notes that the service answered on a rung.
func (l *ladder) answered(name Transport) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.worked != name {
		l.log.Info("the provisioning service answers", "transport", name)
	}
	l.worked, l.next = name, 0
}

// failed notes that a rung failed, for the attempts to come. If it was known to work they start from the top again; if
// not, they start below it, because not every failure lets an attempt go on by itself.
func (l *ladder) failed(name Transport) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch l.worked {
	case name:
		l.worked, l.next = "", 0
	case "":
		l.next = (l.index(name) + 1) % len(l.rungs)
	}
}

// exhausted has the next attempt start from the top, unless another has found a way meanwhile.
func (l *ladder) exhausted() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.worked == "" {
		l.next = 0
	}
}

// errNextRung says that a request was not sent, or that sending it again does no harm, and that the session stands on
// the next rung: connect and send.
var errNextRung = errors.New("another transport is tried")

// errNoLookup says that the transport has no registration status lookup.
var errNoLookup = errors.New("the transport has no registration status lookup")

// ladderSession is one registration's way down the ladder.
type ladderSession struct {
	session // on way[0]

	ladder         *ladder
	registrationID string
	credential     *credential
	way            []rung // the one in use, and those that are left
	left           []error
}

// connect goes down by itself: nothing of a request is on its way.
func (s *ladderSession) connect(ctx context.Context) (fresh bool, err error) {
	for {
		fresh, err := s.session.connect(ctx)
		if err == nil {
			return fresh, nil
		}
		if err = s.leave(ctx, err, true); !errors.Is(err, errNextRung) {
			return false, err
		}
	}
}

// register leaves a rung only while nothing was written (rule 12).
func (s *ladderSession) register(ctx context.Context, body []byte) (reply, error) {
	answer, err := s.session.register(ctx, body)
	_, unsent := errors.AsType[*unsentError](err)
	answer, err = s.judge(ctx, answer, err, unsent, parseOperation)
	if unsent && !errors.Is(err, errNextRung) {
		err = &unsentError{err} // the rungs above were left with nothing written, too
	}
	return answer, err
}

// poll may go on anywhere: an operation ID is good on any connection.
func (s *ladderSession) poll(ctx context.Context, operationID string) (reply, error) {
	answer, err := s.session.poll(ctx, operationID)
	return s.judge(ctx, answer, err, true, parseOperation)
}

func (s *ladderSession) canLookUp() bool { return lookUpOf(s.session) != nil }

func (s *ladderSession) lookup(ctx context.Context, body []byte) (reply, error) {
	session := lookUpOf(s.session)
	if session == nil {
		return reply{}, errNoLookup
	}
	answer, err := session.lookup(ctx, body)
	return s.judge(ctx, answer, err, true, parseLookup)
}

func (s *ladderSession) close() { s.session.close() }

// judge tells the service's answers from those of somebody else and from none.
func (s *ladderSession) judge(ctx context.Context, answer reply, err error, movable bool, parse func([]byte, string) (operation, error)) (reply, error) {
	if err == nil {
		err = foreign(answer, func(body []byte) error {
			_, err := parse(body, s.registrationID)
			return err
		})
		if err == nil {
			if answer.marked || answer.status < statusLater {
				s.ladder.answered(s.way[0].name)
			}
			return answer, nil
		}
	}
	return reply{}, s.leave(ctx, err, movable)
}

// foreign is what is wrong with an answer that is not the service's.
func foreign(answer reply, parse func(body []byte) error) error {
	err := parse
	if answer.status >= 300 {
		err = func([]byte) error { return answer.serviceError() }
	}
	if fault := err(answer.body); errors.Is(fault, ErrNotService) {
		return fault
	}
	return nil
}

// leave goes to the next rung because of err, if there is one and it may help, and returns errNextRung; or returns what
// the attempt ends with.
func (s *ladderSession) leave(ctx context.Context, err error, movable bool) error {
	if ctx.Err() != nil || !isRungs(err) {
		return err
	}
	if unsent, is := errors.AsType[*unsentError](err); is {
		err = unsent.err // of this rung alone: the next may write
	}
	name := s.way[0].name
	s.ladder.failed(name)
	s.left = append(s.left, fmt.Errorf("over %s: %w", name, err))
	if movable && len(s.way) == 1 {
		s.ladder.exhausted()
	}
	if !movable || len(s.way) == 1 {
		return &ladderError{s.left}
	}
	s.session.close()
	s.way = s.way[1:]
	s.session = s.way[0].open(s.registrationID, s.credential)
	s.ladder.log.Info("the provisioning service is not reached; another transport is tried",
		"registration_id", s.registrationID, "transport", name, "next", s.way[0].name, "err", err)
	return errNextRung
}

// isRungs tells whether a failure is the rung's own, so that another may do better. The service's answers are not, nor
// is what all rungs have in common: the service's name, and a proxy that is not there or takes no credentials of ours.
func isRungs(err error) bool {
	if _, answered := errors.AsType[*ServiceError](err); answered || errors.Is(err, errNoLookup) {
		return false
	}
	if proxy, refused := errors.AsType[*ProxyError](err); refused {
		return proxy.Status != 0 && !proxy.Credentials()
	}
	_, unknown := errors.AsType[*net.DNSError](err)
	return !unknown
}

// ladderError is why each transport failed, in the order in which they were tried.
type ladderError struct{ tried []error }

// Error gives a line for each.
func (e *ladderError) Error() string {
	lines := make([]string, len(e.tried))
	for i, err := range e.tried {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns them all.
func (e *ladderError) Unwrap() []error { return e.tried }
