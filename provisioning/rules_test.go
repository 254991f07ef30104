// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// The bubble's clock begins at midnight on 1 January 2000 and moves only when everything waits, so times are exact.

func TestRule1PollWaitObeysEveryHint(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		date := time.Now().Add(13 * time.Second).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")
		service.script = inOrder(assigning("3"), assigning("7"), assigning(date), assigned(testOp))
		if _, err := service.client(t).Register(t.Context(), request()); err != nil {
			t.Fatal(err)
		}
		// 3 s after the first answer, 7 s after the second, and then at the time that the third one names.
		if got, want := service.story(), "register 0s, poll 3s, poll 10s, poll 13s"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

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

func TestRule1PollWaitWithoutHint(t *testing.T) {
	for _, hint := range []string{"", "soon", "-1"} {
		t.Run(fmt.Sprintf("hint %q", hint), func(t *testing.T) {
			eachTransport(t, func(t *testing.T, service *dps) {
				answers := []said{assigning(hint), assigning(hint), assigning(hint), assigning(hint), assigned(testOp)}
				service.script = inOrder(answers...)
				if _, err := service.client(t).Register(t.Context(), request()); err != nil {
					t.Fatal(err)
				}
				if got, want := service.story(), "register 0s, poll 500ms, poll 1.5s, poll 4s, poll 6.5s"; got != want {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			})
		})
	}
}

func TestRule1PollCapWinsOverAShortHint(t *testing.T) {
	for _, hint := range []string{"0", "1"} {
		t.Run("hint "+hint, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, service *dps) {
				service.script = func(n int, _ asked) said {
					if n < 17 {
						return assigning(hint)
					}
					return assigned(testOp)
				}
				if _, err := service.client(t).Register(t.Context(), request()); err != nil {
					t.Fatal(err)
				}
				polls := service.requests()[1:]
				if len(polls) != 17 {
					t.Fatalf("%d polls, want 17", len(polls))
				}
				for i := 5; i < len(polls); i++ {
					if gap := polls[i].At - polls[i-5].At; gap < 10*time.Second {
						t.Errorf("polls %d to %d came within %v: more than 5 in 10 s", i-5, i, gap)
					}
				}
				if took := polls[len(polls)-1].At; took > 36*time.Second {
					t.Errorf("17 polls took %v, want not much more than the cap asks for", took)
				}
			})
		})
	}
}

// TestRule1PollCapOutlivesTheAttempt has a person who retries again and again: the cap is the device's.
func TestRule1PollCapOutlivesTheAttempt(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.script = inOrder(refusal(400, 400004, ""))
		client := service.client(t)
		for range 7 {
			r := request()
			r.OperationID = testOp
			_, _ = client.Register(t.Context(), r)
		}
		want := "poll 0s, poll 0s, poll 0s, poll 0s, poll 0s, poll 10s, poll 10s"
		if got := service.story(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

func TestRule2RetryWaitsAreTheDocumentedOnes(t *testing.T) {
	for _, status := range []int{429, 500, 503} {
		for _, kind := range []string{"register", "poll"} {
			t.Run(fmt.Sprintf("%d on %s", status, kind), func(t *testing.T) {
				eachTransport(t, func(t *testing.T, service *dps) {
					service.script = busy(kind, 9, refusal(status, 0, ""))
					if _, err := service.client(t).Register(t.Context(), request()); err != nil {
						t.Fatal(err)
					}
					n := 0
					var last asked
					for _, q := range service.requests() {
						if q.Do != kind {
							continue
						}
						if n > 0 {
							wait, least := q.At-last.At, time.Duration(1+(n-1)*9)*time.Second
							if wait < least || wait > least+least/10 {
								t.Errorf("before retry %d: %v, want %v and up to a tenth more", n, wait, least)
							}
						}
						n, last = n+1, q
					}
					if n != 10 {
						t.Errorf("%d requests, want 10: nine failures and a success", n)
					}
				})
			})
		}
	}
}

func TestRule2RetryObeysTheHint(t *testing.T) {
	for _, form := range []string{"seconds", "HTTP date"} {
		for _, kind := range []string{"register", "poll"} {
			t.Run(form+" on "+kind, func(t *testing.T) {
				eachTransport(t, func(t *testing.T, service *dps) {
					first := true
					service.script = func(_ int, q asked) said {
						if q.Do == kind && first {
							first = false
							hint := "40"
							if form != "seconds" {
								hint = time.Now().Add(40 * time.Second).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")
							}
							return refusal(429, 429001, hint)
						}
						if q.Do == "register" {
							return assigning("3")
						}
						return assigned(testOp)
					}
					if _, err := service.client(t).Register(t.Context(), request()); err != nil {
						t.Fatal(err)
					}
					var times []time.Duration
					for _, q := range service.requests() {
						if q.Do == kind {
							times = append(times, q.At)
						}
					}
					if wait := times[1] - times[0]; wait < 40*time.Second || wait > 44*time.Second {
						t.Errorf("waited %v, want 40 s and up to a tenth more", wait)
					}
				})
			})
		}
	}
}

// TestRule2DatesAreMeasuredByTheServersClock has a gateway whose clock is years off.
func TestRule2DatesAreMeasuredByTheServersClock(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		if service.cfg.Transport == TransportMQTT {
			t.Skip("an MQTT answer shows no clock")
		}
		late := refusal(429, 429001, "Sat, 21 Nov 2026 10:00:40 GMT")
		late.Header = map[string][]string{"Date": {"Sat, 21 Nov 2026 10:00:00 GMT"}}
		service.script = inOrder(late, assigned(testOp))
		if _, err := service.client(t).Register(t.Context(), request()); err != nil {
			t.Fatal(err)
		}
		if at := service.requests()[1].At; at < 40*time.Second || at > 44*time.Second {
			t.Errorf("the retry came after %v, want 40 s and up to a tenth more", at)
		}
	})
}

func TestRule2ALongHintEndsTheAttempt(t *testing.T) {
	tests := []struct {
		hint string
		want time.Duration
	}{
		{"301", 301 * time.Second},
		{"3600", time.Hour},
		{"Sat, 01 Jan 2000 06:00:00 GMT", 6 * time.Hour},
		{"864000", 24 * time.Hour}, // never longer
		{"99999999999999999999", 24 * time.Hour},
	}
	for _, test := range tests {
		t.Run(test.hint, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, service *dps) {
				service.script = inOrder(refusal(429, 429001, test.hint))
				begun := time.Now()
				_, err := service.client(t).Register(t.Context(), request())
				var throttled *ThrottledError
				if !errors.As(err, &throttled) {
					t.Fatalf("got %v, want a ThrottledError", err)
				}
				if got := throttled.NextAttempt.Sub(begun); got != test.want {
					t.Errorf("next attempt in %v, want %v", got, test.want)
				}
				if took := time.Since(begun); took != 0 {
					t.Errorf("it took %v to say so, want at once", took)
				}
				var answered *ServiceError
				if !errors.As(err, &answered) || answered.Code != 429001 {
					t.Errorf("the cause is not the service's answer: %v", err)
				}
			})
		})
	}
}

func TestRule2TheTenthFailureEndsTheAttempt(t *testing.T) {
	for _, kind := range []string{"register", "poll"} {
		for _, status := range []int{429, 503} {
			t.Run(fmt.Sprintf("%d on %s", status, kind), func(t *testing.T) {
				eachTransport(t, func(t *testing.T, service *dps) {
					service.script = busy(kind, 99, refusal(status, 0, ""))
					_, err := service.client(t).Register(t.Context(), request())

					var throttled *ThrottledError
					var unreachable *UnreachableError
					if status == 429 && !errors.As(err, &throttled) {
						t.Errorf("got %v, want a ThrottledError", err)
					}
					if status == 503 && !errors.As(err, &unreachable) {
						t.Errorf("got %v, want an UnreachableError", err)
					}
					sent := strings.Count(service.story(), kind)
					if sent != 10 {
						t.Errorf("%d requests, want 10", sent)
					}
				})
			})
		}
	}
}

func TestRule2AGoodAnswerResetsTheCount(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.cfg.AttemptLimit = time.Hour
		polls := 0
		service.script = func(_ int, q asked) said {
			if q.Do == "register" {
				return assigning("3")
			}
			polls++
			switch {
			case polls%6 != 0:
				return refusal(503, 0, "")
			case polls < 18:
				return assigning("3")
			}
			return assigned(testOp)
		}
		if _, err := service.client(t).Register(t.Context(), request()); err != nil {
			t.Fatalf("fifteen failures, never more than five in a row: %v", err)
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

func TestRule2ALongHoldBackEndsTheOthersToo(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.script = inOrder(refusal(429, 429001, "7200"))
		client := service.client(t)
		begun := time.Now()
		for _, id := range []string{"first", "second"} {
			r := request()
			r.RegistrationID = id
			_, err := client.Register(t.Context(), r)
			var throttled *ThrottledError
			if !errors.As(err, &throttled) {
				t.Fatalf("%s: got %v, want a ThrottledError", id, err)
			}
			if wait := throttled.NextAttempt.Sub(begun); wait < 2*time.Hour || wait > 132*time.Minute {
				t.Errorf("%s: next attempt in %v, want two hours", id, wait)
			}
		}
		if sent := len(service.requests()); sent != 1 {
			t.Errorf("%d requests, want only the first device's", sent)
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

// TestRule2APollDoesNotHoldBack: polls have a limit of their own (dps-protocol 11.2).
func TestRule2APollDoesNotHoldBack(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.script = func(_ int, q asked) said {
			switch {
			case q.Do == "poll" && q.RegistrationID == "first":
				return refusal(429, 429001, "3600")
			case q.RegistrationID == "first":
				return assigning("1")
			}
			return assigned(testOp)
		}
		client := service.client(t)
		for _, id := range []string{"first", "second"} {
			r := request()
			r.RegistrationID = id
			_, err := client.Register(t.Context(), r)
			if id == "second" && err != nil {
				t.Errorf("the second device's register was held back: %v", err)
			}
		}
	})
}

func TestRule3APollThatFailsKeepsItsOperation(t *testing.T) {
	tests := []struct {
		name   string
		answer said
	}{
		{"429", refusal(429, 429001, "5")},
		{"500", refusal(500, 500001, "")},
		{"503 without a body", said{Status: 503}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, service *dps) {
				service.script = inOrder(assigning("3"), test.answer, test.answer, assigned(testOp))
				if _, err := service.client(t).Register(t.Context(), request()); err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, q := range service.requests() {
					got = append(got, q.Do+" "+q.OperationID)
				}
				want := []string{"register ", "poll " + testOp, "poll " + testOp, "poll " + testOp}
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("got  %v\nwant %v", got, want)
				}
			})
		})
	}
}

// TestRule3APollOverABrokenConnection breaks it once: the poll goes on with the same operation.
func TestRule3APollOverABrokenConnection(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.script = inOrder(assigning("3"), said{}, assigned(testOp))
		if _, err := service.client(t).Register(t.Context(), request()); err != nil {
			t.Fatal(err)
		}
		for i, q := range service.requests() {
			if i > 0 && (q.Do != "poll" || q.OperationID != testOp) {
				t.Errorf("request %d is %s %s, want a poll of the same operation", i, q.Do, q.OperationID)
			}
		}
		if got := len(service.requests()); got != 3 {
			t.Errorf("%d requests, want 3", got)
		}
	})
}

// TestRule3AResumedPollOverABrokenConnection breaks the very first connection, which nothing was used on before.
func TestRule3AResumedPollOverABrokenConnection(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.script = inOrder(said{}, assigned(testOp))
		r := request()
		r.OperationID = testOp
		if _, err := service.client(t).Register(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if got := len(service.requests()); got != 2 {
			t.Errorf("%d requests, want 2", got)
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
		if service.cfg.Transport == TransportMQTT {
			want = "[connected restarting submitting assigning]"
		}
		if fmt.Sprint(steps) != want {
			t.Errorf("steps %v, want %s", steps, want)
		}
	})
}

func TestRule3ASecond404IsTheEnd(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.script = func(_ int, q asked) said {
			if q.Do == "register" {
				return assigning("3")
			}
			return refusal(404, 404201, "")
		}
		_, err := service.client(t).Register(t.Context(), request())
		var refused *ServiceError
		if !errors.As(err, &refused) || refused.HTTPStatus != 404 {
			t.Errorf("got %v, want the service's 404", err)
		}
		if got := strings.Count(service.story(), "register"); got != 2 {
			t.Errorf("%d registers, want 2", got)
		}
	})
}

// TestRule3A404OfSomebodyElse: a captive portal's 404 does not begin a new registration.
func TestRule3A404OfSomebodyElse(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		if service.cfg.Transport == TransportMQTT {
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

// TestRule4Budgets checks that the budgets are shared and spread evenly.
func TestRule4Budgets(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.cfg.RegistersPerMinute = 60
		service.cfg.PollsPerSecond = 0.5
		service.script = func(_ int, q asked) said {
			if q.Do == "register" {
				return assigning("0")
			}
			return assigned(testOp)
		}
		client := service.client(t)
		var group sync.WaitGroup
		for i := range 10 {
			group.Go(func() {
				r := request()
				r.RegistrationID = fmt.Sprintf("device-%d", i)
				if _, err := client.Register(t.Context(), r); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		every := map[string]time.Duration{"register": time.Second, "poll": 2 * time.Second}
		last := map[string]time.Duration{}
		for _, q := range service.requests() {
			if before, ok := last[q.Do]; ok && q.At-before < every[q.Do]-time.Microsecond {
				t.Errorf("a %s came %v after the one before, want %v", q.Do, q.At-before, every[q.Do])
			}
			last[q.Do] = q.At
		}
		if took := last["register"]; took > 9*time.Second+time.Millisecond {
			t.Errorf("ten registers took %v, want 9 s", took)
		}
	})
}

// TestRule6SevenMinutesOfAssigningAreNormal has the service retry a broken webhook for as long as it documents.
func TestRule6SevenMinutesOfAssigningAreNormal(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.script = func(int, asked) said {
			if time.Since(service.begun) < 415*time.Second {
				return assigning("3")
			}
			return assigned(testOp)
		}
		if _, err := service.client(t).Register(t.Context(), request()); err != nil {
			t.Fatal(err)
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

// TestRule6TheWaitForItsTurnDoesNotCount: the limit begins with the first request.
func TestRule6TheWaitForItsTurnDoesNotCount(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		service.cfg.RegistersPerMinute = 1.0 / 30 // one in half an hour
		client := service.client(t)
		for range 2 {
			if _, err := client.Register(t.Context(), request()); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := service.requests()[1].At, 30*time.Minute; got != want {
			t.Errorf("the second came after %v, want %v", got, want)
		}
	})
}
