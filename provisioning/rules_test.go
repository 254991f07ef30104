// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// What the rules ask of any client is in the conformance suite (conformancetest.Cases, run by TestConformance). Here is
// what only this client has: its steps, its errors and the arithmetic within.
//
// The bubble's clock begins at midnight on 1 January 2000 and moves only when everything waits, so times are exact.

func TestRule1PollWaitCountsFromTheAnswer(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.script = func(n int, _ asked) said {
			if n == 0 {
				time.Sleep(2 * time.Second) // the service takes its time, the hint begins after it
				return assigning("3")
			}
			return assigned(testOp)
		}
		r := request()
		r.Observe = func(p Progress) error {
			if p.Step == StepAssigning {
				time.Sleep(time.Second) // a slow disk, which does not add to the wait
			}
			return nil
		}
		if _, err := service.client(t).Register(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if got, want := service.story(), "register 0s, poll 5s"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

func TestRule2ALongHintEndsTheAttemptWithItsCause(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.script = inOrder(refusal(429, 429001, "301"))
		_, err := service.client(t).Register(t.Context(), request())
		var throttled *ThrottledError
		var answered *ServiceError
		if !errors.As(err, &throttled) || !errors.As(err, &answered) || answered.Code != 429001 {
			t.Errorf("got %v, want a ThrottledError because of the service's answer", err)
		}
	})
}

// TestRule2RetriesAreSpread checks the spread T = N / rate that the scale guide asks for.
func TestRule2RetriesAreSpread(t *testing.T) {
	const spread = 60 * time.Second // 100 devices at 100 a minute
	if got := fleetSpread(100, 100); got != spread {
		t.Fatalf("T is %v, want %v", got, spread)
	}
	var least, most time.Duration = time.Hour, 0
	for range 1000 {
		wait := retryDelay(1, 0, spread)
		least, most = min(least, wait), max(most, wait)
	}
	if least < time.Second || least > 5*time.Second || most > 61*time.Second || most < 55*time.Second {
		t.Errorf("a thousand waits lie from %v to %v, want them all over 1 s to 61 s", least, most)
	}
}

// TestRule2HintsAreSpread checks that devices with the same hint do not come back in step, and never too early.
func TestRule2HintsAreSpread(t *testing.T) {
	const hint = 100 * time.Second
	var least, most time.Duration = time.Hour, 0
	for range 1000 {
		wait := retryDelay(1, hint, time.Hour)
		least, most = min(least, wait), max(most, wait)
	}
	if least < hint || least > 101*time.Second || most > 110*time.Second || most < 109*time.Second {
		t.Errorf("a thousand waits lie from %v to %v, want them all over 100 s to 110 s", least, most)
	}
}

// TestRule2HoldBack has one device meet the limit: all other registers of the client wait as long.
func TestRule2HoldBack(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.script = func(n int, q asked) said {
			if q.RegistrationID == "first" && n == 0 {
				return refusal(429, 429001, "30")
			}
			return assigned(testOp)
		}
		client := service.client(t)
		steps := make(chan Progress, 10)
		register := func(id string, observe func(Progress) error) {
			r := request()
			r.RegistrationID, r.Observe = id, observe
			if _, err := client.Register(t.Context(), r); err != nil {
				t.Error(err)
			}
		}
		var group sync.WaitGroup
		group.Go(func() { register("first", nil) })
		time.Sleep(time.Second)
		group.Go(func() { register("second", func(p Progress) error { steps <- p; return nil }) })
		group.Wait()

		for _, q := range service.requests()[1:] {
			if q.At < 30*time.Second || q.At > 33*time.Second+time.Millisecond {
				t.Errorf("%s came after %v, want 30 s and up to a tenth more", q.RegistrationID, q.At)
			}
		}
		if p := <-steps; p.Step != StepWaiting || p.Wait < 29*time.Second || p.Wait > 32*time.Second {
			t.Errorf("the second device was told %+v, want to be waiting for 29 s and a little", p)
		}
	})
}

// TestRule2AHoldBackPastTheLimitIsThrottling: the attempt ran out of time because of the throttling, and says so.
func TestRule2AHoldBackPastTheLimitIsThrottling(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.cfg.AttemptLimit = time.Minute
		service.script = inOrder(refusal(503, 0, "30"))
		client := service.client(t)
		time.AfterFunc(10*time.Second, func() { client.pace.holdBack(time.Now().Add(100 * time.Second)) })
		_, err := client.Register(t.Context(), request())
		var throttled *ThrottledError
		if !errors.As(err, &throttled) {
			t.Fatalf("got %v, want a ThrottledError", err)
		}
		if at := throttled.NextAttempt.Sub(service.begun); at != 110*time.Second {
			t.Errorf("next attempt after %v, want when the hold-back ends", at)
		}
	})
}

func TestRule3OnlyA404BeginsAgain(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.script = func(n int, q asked) said {
			switch {
			case q.OperationID == "old":
				return refusal(404, 404201, "")
			case q.Do == "register":
				return assigning("3")
			}
			return assigned(testOp)
		}
		r := request()
		r.OperationID = "old"
		var steps []Step
		r.Observe = func(p Progress) error {
			steps = append(steps, p.Step)
			return nil
		}
		got, err := service.client(t).Register(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if got.OperationID != testOp {
			t.Errorf("the assignment is of operation %q, want the new one", got.OperationID)
		}
		if got, want := service.story(), "poll 0s, register 0s, poll 3s"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		want := "[restarting submitting assigning]"
		if service.cfg.Transport != TransportHTTPS {
			want = "[connected restarting submitting assigning]"
		}
		if fmt.Sprint(steps) != want {
			t.Errorf("steps %v, want %s", steps, want)
		}
	})
}

// TestRule3A404OfSomebodyElse: a captive portal's 404 does not begin a new registration.
func TestRule3A404OfSomebodyElse(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		if service.cfg.Transport != TransportHTTPS {
			t.Skip("nothing else answers on the service's topics")
		}
		service.script = inOrder(assigning("3"), said{Status: 404, Body: "<html>Not found</html>"})
		_, err := service.client(t).Register(t.Context(), request())
		var unreachable *UnreachableError
		if !errors.As(err, &unreachable) || !errors.Is(err, ErrNotService) {
			t.Errorf("got %v, want an UnreachableError because of an answer that is not the service's", err)
		}
		if got, want := service.story(), "register 0s, poll 3s"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestRule6TheAttemptHasALimit(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.script = inOrder(assigning("3"))
		begun := time.Now()
		_, err := service.client(t).Register(t.Context(), request())
		var unreachable *UnreachableError
		if !errors.As(err, &unreachable) || !errors.Is(err, ErrAttemptLimit) {
			t.Fatalf("got %v, want an UnreachableError because of the limit", err)
		}
		if took := time.Since(begun); took > 10*time.Minute || took < 10*time.Minute-3*time.Second {
			t.Errorf("the attempt took %v, want ten minutes", took)
		}
	})
}
