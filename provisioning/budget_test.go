// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// disk is where a gateway keeps its budget.
type disk struct{ text []byte }

func (d *disk) write(t *testing.T, b *Budget) {
	t.Helper()
	text, err := json.Marshal(b.State())
	if err != nil {
		t.Fatal(err)
	}
	d.text = text
}

func (d *disk) budget(t *testing.T, registersPerMinute, pollsPerSecond float64) *Budget {
	t.Helper()
	var state BudgetState
	if d.text != nil {
		if err := json.Unmarshal(d.text, &state); err != nil {
			t.Fatal(err)
		}
	}
	b, err := NewBudget(registersPerMinute, pollsPerSecond, state)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// run is one life of a gateway that writes the budget down whenever it should, and is killed when it has sent a
// request of a kind, or at the end of its attempt.
func (d *disk) run(ctx context.Context, t *testing.T, service *dps, id, killedAt string) error {
	t.Helper()
	service.cfg.Budget = d.budget(t, 60, 0.5)
	client, err := New(service.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, kill := context.WithCancel(ctx)
	defer kill()
	if killedAt != "" {
		service.script = func(_ int, q asked) said {
			if q.Do == killedAt {
				kill()
			}
			return said{Hang: true}
		}
	}
	r := request()
	r.RegistrationID = id
	if killedAt == "poll" {
		r.OperationID = testOp
	}
	r.Observe = func(p Progress) error {
		switch p.Step {
		case StepSubmitting, StepLookingUp, StepThrottled:
			d.write(t, service.cfg.Budget)
		}
		return nil
	}
	_, err = client.Register(ctx, r)
	if errors.As(err, new(*ThrottledError)) {
		d.write(t, service.cfg.Budget)
	}
	return err
}

// TestRule4ACrashLoopKeepsTheBudget kills a gateway as soon as it has sent something, and starts it at once.
func TestRule4ACrashLoopKeepsTheBudget(t *testing.T) {
	for kind, every := range map[string]time.Duration{"register": time.Second, "poll": 2 * time.Second} {
		t.Run(kind, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, service *dps) {
				var d disk
				for n := range 20 {
					if err := d.run(t.Context(), t, service, fmt.Sprintf("device-%d", n), kind); err == nil {
						t.Fatal("it was not killed")
					}
					if kind == "poll" {
						d.write(t, service.cfg.Budget) // something else was written: no poll writes
					}
				}
				requests := service.requests()
				for n := 1; n < len(requests); n++ {
					if gap := requests[n].At - requests[n-1].At; gap < every-time.Microsecond {
						t.Errorf("request %d came %v after the one before, want %v", n, gap, every)
					}
				}
				if last := requests[len(requests)-1].At; len(requests) != 20 || last > 20*every+time.Second {
					t.Errorf("%d requests in %v, want 20 and no more waiting than the budget asks for", len(requests), last)
				}
			})
		})
	}
}

// TestRule4TheHoldBackOutlivesARestart: after a 429 nobody registers before its time, whatever is restarted.
func TestRule4TheHoldBackOutlivesARestart(t *testing.T) {
	for _, hint := range []int{30, 3600} {
		t.Run(fmt.Sprint(hint), func(t *testing.T) {
			eachTransport(t, func(t *testing.T, service *dps) {
				var d disk
				service.script = func(n int, q asked) said {
					if q.RegistrationID == "first" {
						return refusal(429, 429001, fmt.Sprint(hint))
					}
					return assigned(testOp)
				}
				ctx, kill := context.WithTimeout(t.Context(), time.Second)
				defer kill()
				if err := d.run(ctx, t, service, "first", ""); err == nil {
					t.Fatal("the first was assigned")
				}
				time.Sleep(time.Second - time.Since(service.begun))
				begun := time.Now()
				err := d.run(t.Context(), t, service, "second", "")
				var throttled *ThrottledError
				if hint == 3600 {
					if !errors.As(err, &throttled) || throttled.NextAttempt.Sub(begun) < 3598*time.Second {
						t.Errorf("got %v, want to be throttled for an hour", err)
					}
				} else if took := time.Since(begun); err != nil || took < 28*time.Second || took > 33*time.Second {
					t.Errorf("assigned after %v, %v; want 29 s and up to a tenth more", took, err)
				}
			})
		})
	}
}

// TestRule4TimesThatMakeNoSense: a clock that was set back, or ahead, stops nobody for longer than was asked for.
func TestRule4TimesThatMakeNoSense(t *testing.T) {
	const far = 26 * 365 * 24 * time.Hour
	tests := []struct {
		name     string
		taken    time.Duration // from now
		last     time.Duration // from taken
		held     time.Duration // from taken; 0: not held
		wantTurn time.Duration
		wantHeld time.Duration
	}{
		{"just now", 0, 0, 0, time.Second, 0},
		{"half an interval ago", -500 * time.Millisecond, 0, 0, 500 * time.Millisecond, 0},
		{"long ago", -far, 0, time.Hour, 0, 0},
		{"a hold-back that goes on", -time.Minute, -time.Second, 3 * time.Minute, 0, 2 * time.Minute},
		{"the clock was set back", far, -300 * time.Millisecond, 3 * time.Minute, 700 * time.Millisecond, 3 * time.Minute},
		{"a register to come", 0, far, 0, time.Second, 0},
		{"held for ever", 0, -time.Second, far, 0, 24 * time.Hour},
		{"held until before", 0, -time.Second, -far, 0, 0},
		{"held until centuries ago", -time.Minute, -time.Second, math.MinInt64 + time.Second, 0, 0},
		{"held for ever, long ago", -far, -time.Second, far, 0, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				taken := time.Now().Add(test.taken)
				state := BudgetState{Taken: taken, LastRegister: taken.Add(test.last)}
				if test.held != 0 {
					state.HeldUntil = taken.Add(test.held)
				}
				b, err := NewBudget(60, 20, state)
				if err != nil {
					t.Fatal(err)
				}
				if got := b.held(time.Now()); got != test.wantHeld {
					t.Errorf("held back for %v, want %v", got, test.wantHeld)
				}
				if got, _ := reserve(b.registers); (got - test.wantTurn).Abs() > time.Microsecond {
					t.Errorf("the next turn is in %v, want %v", got, test.wantTurn)
				}
			})
		})
	}
}

// TestRule4TurnsThatAreGivenBack go to those who come next: a fleet that was called off, in whatever order, holds nobody up.
func TestRule4TurnsThatAreGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := NewBudget(100, 20, BudgetState{})
		if err != nil {
			t.Fatal(err)
		}
		const interval = 600 * time.Millisecond
		last, _ := reserve(b.registers)
		var cancels []func()
		for range 246 {
			delay, cancel := reserve(b.registers)
			if gap := delay - last; (gap - interval).Abs() > time.Microsecond {
				t.Fatalf("a turn came %v after the one before, want %v", gap, interval)
			}
			last, cancels = delay, append(cancels, cancel)
		}
		time.Sleep(time.Second)
		for _, cancel := range cancels {
			cancel()
		}
		last = -interval
		for n := range 300 {
			delay, _ := reserve(b.registers)
			if gap := delay - last; gap < interval-time.Microsecond || delay > time.Duration(n+1)*interval {
				t.Fatalf("turn %d is in %v, %v after the one before; want one each %v", n, delay, gap, interval)
			}
			last = delay
		}
	})
}

func TestNewBudgetRefuses(t *testing.T) {
	for _, rates := range [][2]float64{{0, 1}, {1, -1}} {
		if _, err := NewBudget(rates[0], rates[1], BudgetState{}); err == nil {
			t.Errorf("%v was taken", rates)
		}
	}
}
