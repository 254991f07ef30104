// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/allocation"
)

// function is what a breaker stands before, as each test wants it.
type function func(ctx context.Context) ([]byte, error)

func (f function) Ask(ctx context.Context, _ []byte) ([]byte, error) { return f(ctx) }

func dead(context.Context) ([]byte, error) {
	return nil, &allocation.UnavailableError{Reason: "connection refused"}
}

func slow(ctx context.Context) ([]byte, error) {
	time.Sleep(5 * time.Second)
	return nil, &allocation.UnavailableError{Reason: "no answer in time", Slow: true}
}

func alive(context.Context) ([]byte, error) { return []byte("{}"), nil }

func refusing(context.Context) ([]byte, error) { return nil, allocation.Refusal{Message: "no"} }

func wrong(context.Context) ([]byte, error) { return nil, errors.New("it answers 204") }

const notAsked = "away: not asked, because of what it did last: "

// ask tells what a breaker lets its caller see.
func ask(ctx context.Context, b *Breaker) string { return outcome(b.Ask(ctx, nil)) }

// TestBreakerOpens: what opens a breaker, and what does not.
func TestBreakerOpens(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		steps []function
		want  BreakerState
	}{
		{"nothing happened", nil, Closed},
		{"one that was slow", []function{slow}, Open},
		{"two that failed", []function{dead, dead}, Closed},
		{"three that failed", []function{dead, dead, dead}, Open},
		{"four, but not in a row", []function{dead, dead, alive, dead, dead}, Closed},
		{"a refusal is an answer", []function{dead, dead, refusing, dead, dead}, Closed},
		{"a wrong answer is one too", []function{dead, dead, wrong, dead, dead}, Closed},
		{"many refusals", []function{refusing, refusing, refusing, refusing}, Closed},
		{"many wrong answers", []function{wrong, wrong, wrong, wrong}, Closed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				next := 0
				breaker := NewBreaker(function(func(ctx context.Context) ([]byte, error) {
					next++
					return test.steps[next-1](ctx)
				}), slog.New(slog.DiscardHandler))
				for range test.steps {
					ask(t.Context(), breaker)
				}
				if got := breaker.State(); got.State != test.want || got.NextProbe.IsZero() != (test.want == Closed) {
					t.Errorf("got %+v, want %s", got, test.want)
				}
			})
		})
	}
}

// TestBreakerProbes: while the function is away one request at a time goes there,
// after waits that grow to a minute; the first answer ends that.
func TestBreakerProbes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		now, calls := function(slow), 0
		breaker := NewBreaker(function(func(ctx context.Context) ([]byte, error) {
			calls++
			return now(ctx)
		}), slog.New(slog.NewTextHandler(&log, nil)))
		began := time.Now()

		if got, want := ask(t.Context(), breaker), "slow: no answer in time"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		since := time.Now()
		now = dead
		for n, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
			want *= time.Second
			state := breaker.State()
			wait := time.Until(state.NextProbe)
			if wait < want/2 || wait >= want {
				t.Errorf("wait %d is %v, want %v to %v", n, wait, want/2, want)
			}
			if state.State != Open || !state.Since.Equal(since) {
				t.Errorf("got %+v, want it open since %v", state, since)
			}
			time.Sleep(wait - time.Millisecond)
			before := calls
			if got := ask(t.Context(), breaker); !strings.HasPrefix(got, notAsked) || calls != before {
				t.Errorf("before its time: got %q and %d requests", got, calls-before)
			}
			time.Sleep(time.Millisecond)
			if got, want := ask(t.Context(), breaker), "away: connection refused"; got != want {
				t.Errorf("the probe got %q, want %q", got, want)
			}
		}
		now = refusing
		time.Sleep(longestPause)
		if got, want := ask(t.Context(), breaker), "refused: no"; got != want {
			t.Errorf("the last probe got %q, want %q", got, want)
		}
		if diff := cmp.Diff(State{State: Closed, Since: time.Now(), LastReason: "connection refused"}, breaker.State()); diff != "" {
			t.Errorf("state (-want +got):\n%s", diff)
		}
		if want := 1 + 9 + 1; calls != want {
			t.Errorf("the function was asked %d times, want %d", calls, want)
		}
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 1+9+1 || strings.Count(log.String(), "level=WARN") != 10 ||
			!strings.Contains(lines[0], `level=WARN msg="the cloud function is unavailable; the site's policy decides" reason="no answer in time" retry_in=`) ||
			!strings.HasSuffix(lines[10], `level=INFO msg="the cloud function answers again; it decides from now on" down=`+time.Since(began.Add(5*time.Second)).Round(time.Second).String()) {
			t.Errorf("got the log\n%s", log.String())
		}

		// And from the beginning, with three failures and short waits again.
		now = dead
		for range failureLimit - 1 {
			ask(t.Context(), breaker)
		}
		if got := breaker.State().State; got != Closed {
			t.Errorf("after a recovery and %d failures: got %s", failureLimit-1, got)
		}
		now = slow
		ask(t.Context(), breaker)
		if wait := time.Until(breaker.State().NextProbe); wait >= firstPause {
			t.Errorf("after a recovery the first wait is %v", wait)
		}
	})
}

// TestDeadFunctionCostsOneProbe: of 256 requests at once one asks, and the others
// do not wait for it.
func TestDeadFunctionCostsOneProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		breaker := NewBreaker(function(func(ctx context.Context) ([]byte, error) {
			calls.Add(1)
			return slow(ctx)
		}), slog.New(slog.DiscardHandler))
		ask(t.Context(), breaker)
		for round := range int32(3) {
			time.Sleep(time.Until(breaker.State().NextProbe))
			start := time.Now()
			var group sync.WaitGroup
			var waited atomic.Int32
			for range 256 {
				group.Go(func() {
					ask(t.Context(), breaker)
					if time.Since(start) > 0 {
						waited.Add(1)
					}
				})
			}
			synctest.Wait()
			if got := breaker.State().State; got != HalfOpen {
				t.Errorf("during the probe: got %s", got)
			}
			group.Wait()
			if got := calls.Load(); got != round+2 || waited.Load() != 1 {
				t.Errorf("round %d: %d asked in all and %d waited, want %d and 1", round, got, waited.Load(), round+2)
			}
		}
	})
}

// TestBreakerObeysRetryAfter: a function that asks to be left alone is, but for a
// minute at the most.
func TestBreakerObeysRetryAfter(t *testing.T) {
	t.Parallel()
	for wish, want := range map[time.Duration]time.Duration{30 * time.Second: 30 * time.Second, 24 * time.Hour: time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			breaker := NewBreaker(function(func(context.Context) ([]byte, error) {
				return nil, &allocation.UnavailableError{Reason: "it answers 429", RetryAfter: wish}
			}), slog.New(slog.DiscardHandler))
			for range failureLimit {
				ask(t.Context(), breaker)
			}
			if got := time.Until(breaker.State().NextProbe); got != want {
				t.Errorf("a wish of %v: got a wait of %v, want %v", wish, got, want)
			}
		})
	}
}

// TestProbeIsLeft: a probe whose caller goes away, or that panics, proves nothing;
// the next request probes.
func TestProbeIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := function(slow)
		breaker := NewBreaker(function(func(ctx context.Context) ([]byte, error) { return now(ctx) }), slog.New(slog.DiscardHandler))
		ask(t.Context(), breaker)
		opened := breaker.State()
		time.Sleep(time.Until(opened.NextProbe))

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		now = func(ctx context.Context) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }
		if got, want := ask(ctx, breaker), "error: context canceled"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if diff := cmp.Diff(State{State: Open, Since: opened.Since, LastReason: "no answer in time", NextProbe: time.Now()}, breaker.State()); diff != "" {
			t.Errorf("state (-want +got):\n%s", diff)
		}

		now = func(context.Context) ([]byte, error) { panic("oops") }
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was swallowed")
				}
			}()
			ask(t.Context(), breaker)
		}()
		now = alive
		if got, want := ask(t.Context(), breaker), "answer: {}"; got != want || breaker.State().State != Closed {
			t.Errorf("got %q and %+v, want %q and a closed breaker", got, breaker.State(), want)
		}
	})
}

// TestLateAnswersDoNotCount: what was asked before the breaker opened says nothing
// about a probe, and neither what was asked before it closed.
func TestLateAnswersDoNotCount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var nth atomic.Int32
		steps := []function{
			func(ctx context.Context) ([]byte, error) { time.Sleep(20 * time.Second); return alive(ctx) },
			func(ctx context.Context) ([]byte, error) { time.Sleep(40 * time.Second); return slow(ctx) },
			slow, // opens it
			alive,
		}
		breaker := NewBreaker(function(func(ctx context.Context) ([]byte, error) { return steps[nth.Add(1)-1](ctx) }), slog.New(slog.DiscardHandler))
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() { ask(t.Context(), breaker) })
			synctest.Wait()
		}
		time.Sleep(21 * time.Second) // the first has answered by now
		if got := breaker.State().State; got != Open {
			t.Errorf("after a late answer: got %s", got)
		}
		ask(t.Context(), breaker)
		group.Wait() // the second has failed by now
		if got := breaker.State().State; got != Closed {
			t.Errorf("after a late failure: got %s", got)
		}
	})
}

func TestStateJSON(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 10, 0, 0, 5, time.FixedZone("", 3600))
	tests := []struct {
		state State
		want  string
	}{
		{State{State: Closed, Since: at}, `{"state":"closed","since":"2026-11-22T09:00:00Z"}`},
		{State{State: HalfOpen, Since: at, LastReason: "no answer in time"}, `{"state":"half-open","since":"2026-11-22T09:00:00Z","lastReason":"no answer in time"}`},
		{State{State: Open, Since: at, LastReason: "no answer in time", NextProbe: at.Add(time.Minute)}, `{"state":"open","since":"2026-11-22T09:00:00Z","lastReason":"no answer in time","nextProbe":"2026-11-22T09:01:00Z"}`},
	}
	for _, test := range tests {
		got, err := json.Marshal(test.state)
		if err != nil || string(got) != test.want {
			t.Errorf("got %s, %v; want %s", got, err, test.want)
		}
	}
}
