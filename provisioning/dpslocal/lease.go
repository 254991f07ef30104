// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// leaseRenewal is how often an instance renews its lease, and with it looks for
	// operations and enrollments of others.
	leaseRenewal = 2 * time.Second

	// leaseMargin is how long before others may take its operations over an
	// instance that cannot renew its lease stops working on them.
	leaseMargin = time.Second

	// holdInterval is how often a poll that is held looks for the end of an
	// operation of another instance.
	holdInterval = 100 * time.Millisecond
)

// lease is the right of this instance to work on operations of a shared store.
// Its time is measured here from before the store was asked, so it ends here
// before it ends there, whatever the two clocks show. The zero lease has ended.
type lease struct {
	mu    sync.Mutex
	ctx   context.Context // ends with the lease
	end   context.CancelFunc
	timer *time.Timer
}

// context returns what an operation runs under.
func (l *lease) context() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx == nil {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		return ended
	}
	return l.ctx
}

// begin starts a lease that was granted at or after asked.
func (l *lease) begin(parent context.Context, asked time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ctx, l.end = context.WithCancel(parent)
	l.timer = time.AfterFunc(time.Until(asked.Add(leaseTime-leaseMargin)), l.end)
}

// extend lets the lease go on from asked. It does nothing when it has ended.
func (l *lease) extend(asked time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer.Stop() {
		l.timer.Reset(time.Until(asked.Add(leaseTime - leaseMargin)))
	}
}

// lose ends the lease before its time.
func (l *lease) lose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end != nil {
		l.end()
		l.timer.Stop()
	}
}

// operationContext is what the operations run under that are started now.
func (s *service) operationContext() context.Context {
	if s.shared == nil {
		return s.ctx
	}
	return s.lease.context()
}

// keepLease sees to the lease until ctx ends.
func (s *service) keepLease(ctx context.Context) {
	defer s.lease.lose()
	for {
		if err := sleepUntil(ctx, time.Now().Add(leaseRenewal)); err != nil {
			return
		}
		if err := s.seeToLease(ctx); err != nil && ctx.Err() == nil {
			s.logger.Warn("shared store out of reach", "retry_in", leaseRenewal, "err", err)
		}
	}
}

// seeToLease renews the lease or begins one, and takes up what other instances
// have left: operations whose owner is gone, and changes of enrollments.
func (s *service) seeToLease(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	asked := time.Now()
	if s.lease.context().Err() == nil {
		err := s.shared.RenewLease(ctx)
		switch {
		case err == nil:
			s.lease.extend(asked)
		case errors.Is(err, ErrNotOurs):
			s.lease.lose()
			s.logger.Warn("lease lost: operations of this instance go to whoever takes them first")
		default:
			return fmt.Errorf("renewing the lease: %w", err)
		}
	}
	if s.lease.context().Err() != nil {
		asked = time.Now()
		if err := s.shared.BeginLease(ctx); err != nil {
			return fmt.Errorf("beginning a lease: %w", err)
		}
		s.lease.begin(s.ctx, asked)
	}
	records, err := s.shared.TakeOperations(ctx)
	if err == nil {
		s.enrollments.writing.Lock()
		err = s.reload(ctx)
		s.enrollments.writing.Unlock()
	}
	if err != nil {
		s.lease.lose() // with what may have been taken and is not started
		return fmt.Errorf("taking operations over: %w", err)
	}
	for _, record := range records {
		s.logger.Info("registration taken over", "registration_id", record.RegistrationID, "operation_id", record.ID,
			"attempt", record.WebhookCalls)
		s.start(record)
	}
	return nil
}

// reload reads the enrollments again, which another instance may have changed. It
// needs s.enrollments.writing.
func (s *service) reload(ctx context.Context) error {
	stored, err := s.store.Enrollments(ctx)
	if err != nil {
		return fmt.Errorf("reading enrollments: %w", err)
	}
	s.enrollments.replace(stored)
	return nil
}

// insist repeats what is asked of a shared store until it is done: the store can
// be away for a while, and the outcome of a webhook call should not be lost with
// it. In a store of our own a failure is final, and so are our two errors.
func (s *service) insist(ctx context.Context, doing string, f func() error) error {
	for wait := time.Second; ; wait = min(2*wait, leaseTime) {
		err := f()
		if err == nil || s.shared == nil || ctx.Err() != nil || errors.Is(err, ErrNotOurs) || errors.Is(err, ErrNotFound) {
			return err
		}
		s.logger.Warn(doing, "retry_in", wait, "err", err)
		if err := sleepUntil(ctx, time.Now().Add(wait)); err != nil {
			return err
		}
	}
}

// holdElsewhere waits until an operation of another instance ends, but not long.
func (s *service) holdElsewhere(ctx context.Context, c call) {
	for deadline := time.Now().Add(holdPoll); time.Now().Before(deadline); {
		record, err := s.store.Operation(ctx, c.registrationID, c.operationID)
		if err != nil || record.Status != Assigning || sleepUntil(ctx, time.Now().Add(holdInterval)) != nil {
			return
		}
	}
}
