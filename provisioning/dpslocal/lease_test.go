// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// scriptedShare is a memory store with a lease as the test wants it. There is no
// other instance.
type scriptedShare struct {
	Store

	mu      sync.Mutex
	trouble error // of every call about the lease
	lost    bool  // the next renewal finds the lease ended
	begun   int   // leases
	orphans bool  // all unfinished operations can be taken
}

func (s *scriptedShare) BeginLease(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trouble == nil {
		s.begun++
		s.orphans = true
	}
	return s.trouble
}

func (s *scriptedShare) RenewLease(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost {
		s.lost = false
		return ErrNotOurs
	}
	return s.trouble
}

func (s *scriptedShare) TakeOperations(ctx context.Context) ([]Operation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trouble != nil || !s.orphans {
		return nil, s.trouble
	}
	s.orphans = false
	return s.UnfinishedOperations(ctx)
}

func (s *scriptedShare) Exclusive(_ context.Context, _ string, f func() error) error { return f() }

func (s *scriptedShare) Secret(context.Context, string) (Secret, error) { return "", ErrNotFound }

func (s *scriptedShare) PutSecret(context.Context, string, Secret) error { return nil }

// set changes the script.
func (s *scriptedShare) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *scriptedShare) leases() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun
}

// newShared makes a server on a scripted store that keeps its lease, inside a
// bubble.
func newShared(t *testing.T, hook *scriptedWebhook) (*Server, *scriptedShare) {
	t.Helper()
	memory, err := OpenMemoryStore()
	if err != nil {
		t.Fatal(err)
	}
	share := &scriptedShare{Store: memory}
	s, err := New(testConfig(), Options{
		Dir: t.TempDir(), Store: share, HTTPSListener: newPipeListener(), MQTTListener: newPipeListener(),
		WebhookTransport: hook, Logger: testLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.service.resume(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.service.keepLease(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
		if err := s.Close(); err != nil {
			t.Errorf("closing the server: %v", err)
		}
	})
	return s, share
}

// TestLeaseIsKept: while it is renewed, one lease lasts for as long as a failing
// webhook is retried.
func TestLeaseIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, share := newShared(t, always(503, ""))
		if got := register(t, s, request(RegisterCall, toaster)); got.Status != "failed" {
			t.Errorf("got %+v, want failed after all retries", got)
		}
		if n := share.leases(); n != 1 {
			t.Errorf("%d leases, want one", n)
		}
	})
}

// TestLeaseLost: a webhook call is cut short when the lease is found to have
// ended, and the operation ends with the next lease.
func TestLeaseLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hook := &scriptedWebhook{answers: []webhookAnswer{{status: 503}, {delay: 25 * time.Second, status: 401}, {status: 200, body: goodAnswer}}}
		s, share := newShared(t, hook)
		c := request(RegisterCall, toaster)
		if a := s.service.serve(t.Context(), c); a.status != 202 {
			t.Fatalf("register: %d %s", a.status, a.body)
		}
		time.Sleep(3 * time.Second) // in the second call
		share.set(func() { share.lost = true })
		time.Sleep(leaseRenewal + time.Second)
		r, err := s.store.Registration(t.Context(), toaster)
		if err != nil || r.Status != Assigned || hook.calls() != 3 || share.leases() != 2 {
			t.Errorf("%s after %d calls in %d leases, %v; want assigned by the third call, in the second lease", r.Status, hook.calls(), share.leases(), err)
		}
		if operations := s.Operations(toaster); len(operations) != 1 || operations[0].WebhookCalls != 1 {
			t.Errorf("got %+v, want one operation, its count carried over", operations)
		}
	})
}

// TestLeaseEndsHereFirst: an instance that cannot reach the store stops calling
// webhooks before another one may begin to.
func TestLeaseEndsHereFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hook := &scriptedWebhook{answers: []webhookAnswer{{delay: 25 * time.Second, status: 401}, {status: 200, body: goodAnswer}}}
		s, share := newShared(t, hook)
		begun := time.Now()
		if a := s.service.serve(t.Context(), request(RegisterCall, toaster)); a.status != 202 {
			t.Fatalf("register: %d %s", a.status, a.body)
		}
		ctx := s.service.operationContext()
		share.set(func() { share.trouble = errors.New("no route to the store") })
		<-ctx.Done()
		if held := time.Since(begun); held >= leaseTime || held < leaseTime-leaseMargin-leaseRenewal {
			t.Errorf("went on for %v without a renewal; others may begin after %v", held, leaseTime)
		}
		time.Sleep(time.Minute)
		if n := hook.calls(); n != 1 {
			t.Errorf("%d webhook calls without a lease", n-1)
		}
		share.set(func() { share.trouble = nil })
		time.Sleep(leaseRenewal + time.Second)
		if r, err := s.store.Registration(t.Context(), toaster); err != nil || r.Status != Assigned {
			t.Errorf("%s, %v; want assigned once the store is back", r.Status, err)
		}
	})
}
