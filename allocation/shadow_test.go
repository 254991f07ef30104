// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

// questionFunc is a policy made of a function.
type questionFunc func(Question) (Response, error)

func (f questionFunc) Decide(_ context.Context, q Question) (Response, error) { return f(q) }

type panickingDirectory struct{}

func (panickingDirectory) Lookup(context.Context, string) (Row, bool, error) {
	panic("at the bookshop")
}

// shadowTest runs a shadow in a bubble; its results and log are there when wait
// returns.
type shadowTest struct {
	*Shadow
	results map[ShadowResult]int
	log     bytes.Buffer
}

func startShadow(t *testing.T) *shadowTest {
	t.Helper()
	s := &shadowTest{results: map[ShadowResult]int{}}
	s.Shadow = NewShadow(slog.New(slog.NewTextHandler(&s.log, nil)), func(r ShadowResult) { s.results[r]++ })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return s
}

func toasterDecision(t *testing.T) Decision {
	t.Helper()
	return Decision{
		RegistrationID: "breakroom499-contoso-tstrsd-007", Source: SourcePolicy, Rule: "toasters", Status: 200,
		Request: golden(t, "tutorial-toaster.request.json"), Response: golden(t, "tutorial-toaster.response.json"),
	}
}

func TestShadow(t *testing.T) {
	t.Parallel()
	elsewhere := questionFunc(func(Question) (Response, error) {
		return Response{Rule: "lab", IoTHubHostName: heatPumpsHub}, nil
	})
	refused := Decision{Status: 400, Request: []byte(`{}`), Refusal: "Registration ID not provided for the device."}
	tests := []struct {
		name      string
		policy    Policy
		directory Directory
		decision  func(*testing.T) Decision
		want      map[ShadowResult]int
		log       string // in it, unless empty
	}{
		{"agreed", Tutorial(), nil, toasterDecision, map[ShadowResult]int{ShadowSame: 1}, ""},
		{"agreed on a refusal", Tutorial(), nil, func(*testing.T) Decision { return refused }, map[ShadowResult]int{ShadowSame: 1}, ""},
		{"no policy", nil, nil, toasterDecision, map[ShadowResult]int{}, ""},
		{"disagreed", elsewhere, nil, toasterDecision, map[ShadowResult]int{ShadowDifferent: 1}, `rule=toasters shadow_rule=lab differences="iotHubHostName: \"contoso-toasters`},
		{"trouble", questionFunc(func(Question) (Response, error) { return Response{}, errors.New("out of luck") }), nil, toasterDecision, map[ShadowResult]int{ShadowUnanswered: 1}, `err="out of luck"`},
		{"panic", questionFunc(func(Question) (Response, error) { panic("at the disco") }), nil, toasterDecision, map[ShadowResult]int{ShadowUnanswered: 1}, `at the disco`},
		{"panic of the directory", rowPolicy{}, panickingDirectory{}, toasterDecision, map[ShadowResult]int{ShadowUnanswered: 1}, `the device directory panicked: at the bookshop`},
		{"the row of the decision", rowPolicy{}, onlyRow{Row{"hub": heatPumpsHub}}, func(t *testing.T) Decision {
			d := toasterDecision(t)
			d.Device, d.Lookup, d.Response = Row{"hub": toastersHub}, LookupFound, []byte(`{"iotHubHostName":"`+toastersHub+`"}`)
			return d
		}, map[ShadowResult]int{ShadowSame: 1}, ""},
		{"the default row of the other policy", rowPolicy{}, onlyRow{Row{"hub": heatPumpsHub}}, func(t *testing.T) Decision {
			d := toasterDecision(t)
			d.Device, d.Lookup = Row{"hub": toastersHub}, LookupMissing
			return d
		}, map[ShadowResult]int{ShadowUnanswered: 1}, `has no row for`},
		{"a default row for want of a directory", rowPolicy{}, onlyRow{Row{"hub": heatPumpsHub}}, func(t *testing.T) Decision {
			d := toasterDecision(t)
			d.Device, d.Lookup, d.DirectoryTrouble = Row{"hub": toastersHub}, LookupFailed, "away"
			return d
		}, map[ShadowResult]int{ShadowDifferent: 1}, `shadow_rule="by row"`},
		{"an ID that hides", elsewhere, nil, func(t *testing.T) Decision {
			d := toasterDecision(t)
			d.RegistrationID = "a\u202eb"
			return d
		}, map[ShadowResult]int{ShadowDifferent: 1}, `registration_id=a\u202eb `},
		{"the row of the directory", rowPolicy{}, onlyRow{Row{"hub": heatPumpsHub}}, toasterDecision, map[ShadowResult]int{ShadowDifferent: 1}, `shadow_rule="by row"`},
		{"what was not decided", Tutorial(), nil, func(*testing.T) Decision { return Decision{Status: 503, Request: []byte(`{}`)} }, map[ShadowResult]int{}, ""},
		{"what was not read", Tutorial(), nil, func(*testing.T) Decision { return Decision{Status: 400} }, map[ShadowResult]int{}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := startShadow(t)
				s.Replace(test.policy, test.directory)
				s.Add(test.decision(t))
				synctest.Wait()
				if diff := cmp.Diff(test.want, s.results); diff != "" {
					t.Errorf("results (-want +got):\n%s", diff)
				}
				if got := s.log.String(); !strings.Contains(got, test.log) || (test.log == "") != (got == "") {
					t.Errorf("got log %q, want %q in it", got, test.log)
				}
			})
		})
	}
}

// TestShadowNeverWaits: a shadow that thinks holds nobody up; what it has no room
// for is dropped and counted.
func TestShadowNeverWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startShadow(t)
		think := make(chan struct{})
		s.Replace(questionFunc(func(q Question) (Response, error) {
			<-think
			return Tutorial().Decide(t.Context(), q)
		}), nil)
		d := toasterDecision(t)
		s.Add(d)
		synctest.Wait() // the worker has it
		for range shadowQueue + 3 {
			s.Add(d)
		}
		if diff := cmp.Diff(map[ShadowResult]int{ShadowDropped: 3}, s.results); diff != "" {
			t.Errorf("results (-want +got):\n%s", diff)
		}
		close(think)
		synctest.Wait()
		if got := s.results[ShadowSame]; got != shadowQueue+1 {
			t.Errorf("got %d the same, want %d", got, shadowQueue+1)
		}
	})
}

// TestShadowQueueIsBounded: a few large decisions take as much memory as many small
// ones.
func TestShadowQueueIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startShadow(t)
		think := make(chan struct{})
		s.Replace(questionFunc(func(q Question) (Response, error) {
			<-think
			return Tutorial().Decide(t.Context(), q)
		}), nil)
		d := toasterDecision(t)
		d.Lookup, d.Device = LookupFound, Row{"note": strings.Repeat("x", 1<<20)}
		for range 2 { // also when it was empty again
			s.Add(d)
			synctest.Wait() // the worker has it
			for range 10 {
				s.Add(d)
			}
			if diff := cmp.Diff(map[ShadowResult]int{ShadowDropped: 3}, s.results); diff != "" {
				t.Errorf("results (-want +got):\n%s", diff)
			}
			clear(s.results)
			for range 8 {
				think <- struct{}{}
			}
			synctest.Wait()
			clear(s.results)
		}
	})
}

// TestShadowLogIsBounded: a policy that disagrees with everything is counted, and
// logged now and then.
func TestShadowLogIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startShadow(t)
		s.Replace(questionFunc(func(Question) (Response, error) { return Response{}, Refusal{Message: "No."} }), nil)
		for range 100 {
			s.Add(toasterDecision(t))
		}
		synctest.Wait()
		if got := strings.Count(s.log.String(), "\n"); got != shadowLogBurst {
			t.Errorf("got %d log records, want %d", got, shadowLogBurst)
		}
		if got := s.results[ShadowDifferent]; got != 100 {
			t.Errorf("got %d different, want 100", got)
		}
	})
}
