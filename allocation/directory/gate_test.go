// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/contoso/gatewayd/allocation"
)

// slowSource is a database for tests with a clock.
type slowSource struct {
	takes atomic.Int64 // nanoseconds of a lookup
	fails atomic.Bool
	asked atomic.Int64
	now   atomic.Int64 // lookups under way
	most  atomic.Int64
}

var errAway = errors.New("connection refused")

func (s *slowSource) lookup(ctx context.Context, id string) (allocation.Row, bool, error) {
	s.asked.Add(1)
	s.most.Store(max(s.most.Load(), s.now.Add(1)))
	defer s.now.Add(-1)
	select {
	case <-time.After(time.Duration(s.takes.Load())):
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	switch {
	case s.fails.Load():
		return nil, false, errAway
	case id == "panic":
		panic("at the bookshop")
	case id == "twice":
		return nil, false, errTwice(id)
	}
	return allocation.Row{"registration_id": id}, true, nil
}
func (s *slowSource) columns(context.Context) ([]Column, error) { return nil, errAway }
func (s *slowSource) each(context.Context, []Column, func([]any) error) error {
	return errAway
}
func (s *slowSource) connections() int { return 4 }
func (s *slowSource) close() error     { return nil }

func newSlow() (*slowSource, *Directory) {
	s := &slowSource{}
	return s, &Directory{source: s, gate: newGate(s.connections())}
}

// lookUp asks with a time limit and tells how long it took.
func lookUp(t *testing.T, d *Directory, id string, limit time.Duration) (took time.Duration, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	start := time.Now()
	_, _, err = d.Lookup(ctx, id)
	return time.Since(start), err
}

// TestSilentDatabase: of many requests at once those that are asking cost their
// time, and the others are sent away with them; from then on one at a time tries.
func TestSilentDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, d := newSlow()
		s.takes.Store(int64(time.Hour))
		var all sync.WaitGroup
		for range 500 {
			all.Go(func() {
				if took, err := lookUp(t, d, "a", 2*time.Second); err == nil || took > 2*time.Second {
					t.Errorf("%v after %v", err, took)
				}
			})
		}
		all.Wait()
		if asked, most := s.asked.Load(), s.most.Load(); asked != 4 || most != 4 {
			t.Errorf("%d lookups, %d at once; want 4, since there are 4 connections", asked, most)
		}
		took, err := lookUp(t, d, "a", 2*time.Second)
		if took != 0 || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "not asked again until") {
			t.Errorf("in the pause: %v after %v", err, took)
		}

		// One lookup a millisecond for a minute.
		s.asked.Store(0)
		s.most.Store(0)
		for range 60_000 {
			all.Go(func() { _, _ = lookUp(t, d, "a", 2*time.Second) })
			time.Sleep(time.Millisecond)
		}
		all.Wait()
		if asked, most := s.asked.Load(), s.most.Load(); most != 1 || asked < 6 || asked > 12 {
			t.Errorf("%d lookups in a minute, %d at once; want about 8, one at a time", asked, most)
		}

		// It is back: the next try finds out, at the latest after the longest pause.
		s.takes.Store(0)
		time.Sleep(longestPause)
		for range 100 {
			if took, err := lookUp(t, d, "a", 2*time.Second); err != nil || took != 0 {
				t.Fatalf("after its return: %v after %v", err, took)
			}
		}
	})
}

// TestAbsentDatabase: what refuses at once is asked at growing intervals.
func TestAbsentDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, d := newSlow()
		s.fails.Store(true)
		start := time.Now()
		var at []time.Duration
		for range 20_000 {
			before := s.asked.Load()
			if _, err := lookUp(t, d, "a", time.Second); !errors.Is(err, errAway) {
				t.Fatalf("got %v", err)
			}
			if s.asked.Load() != before {
				at = append(at, time.Since(start))
			}
			time.Sleep(time.Millisecond)
		}
		want := []time.Duration{0, 250, 750, 1750, 3750, 7750, 15750}
		if len(at) != len(want) {
			t.Fatalf("asked at %v", at)
		}
		for i, w := range want {
			if at[i] != w*time.Millisecond {
				t.Errorf("asked at %v; want %v ms", at, want)
			}
		}
		s.fails.Store(false)
		time.Sleep(longestPause)
		if _, err := lookUp(t, d, "a", time.Second); err != nil {
			t.Errorf("after its return: %v", err)
		}
		s.fails.Store(true)
		_, _ = lookUp(t, d, "a", time.Second)
		time.Sleep(firstPause)
		before := s.asked.Load()
		if _, _ = lookUp(t, d, "a", time.Second); s.asked.Load() != before+1 {
			t.Error("after a good time the first pause is not the shortest")
		}
	})
}

// TestQuestionsDoNotShutTheGate: a row that is wrong and a caller that goes away
// say nothing about the database.
func TestQuestionsDoNotShutTheGate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, d := newSlow()
		if _, err := lookUp(t, d, "twice", time.Second); err == nil {
			t.Error("two rows are no error")
		}
		s.takes.Store(int64(time.Second))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		if _, _, err := d.Lookup(ctx, "a"); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if _, err := lookUp(t, d, "a", 2*time.Second); err != nil {
			t.Errorf("the gate is shut: %v", err)
		}
		// The one that tries goes away: the next one tries.
		s.fails.Store(true)
		_, _ = lookUp(t, d, "a", 2*time.Second)
		s.fails.Store(false)
		time.Sleep(firstPause)
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		_, _, _ = d.Lookup(ctx, "a")
		if _, err := lookUp(t, d, "a", 2*time.Second); err != nil {
			t.Errorf("the gate stays shut: %v", err)
		}
		// So it is after a panic of the one that tries.
		s.fails.Store(true)
		_, _ = lookUp(t, d, "a", 2*time.Second)
		s.fails.Store(false)
		time.Sleep(firstPause)
		func() {
			defer func() { _ = recover() }()
			_, _, _ = d.Lookup(t.Context(), "panic")
			t.Error("no panic")
		}()
		if _, err := lookUp(t, d, "a", 2*time.Second); err != nil {
			t.Errorf("the gate stays shut after a panic: %v", err)
		}
	})
}
