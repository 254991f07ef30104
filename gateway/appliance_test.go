// SPDX-License-Identifier: Apache-2.0

package gateway

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

	"github.com/contoso/gatewayd/gateway/config"
	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/hub"
	"github.com/contoso/gatewayd/serialbus"
)

const (
	toasterID = "breakroom499-contoso-tstrsd-007"
	// testGroupKey is the published synthetic key, bytes 0x00..0x3f.
	testGroupKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
)

var toaster = serialbus.Identity{
	Vendor: "Contoso", Model: "TSTRSD-007", Serial: "499", Firmware: "12.0.2.5", Provisioning: "1.0.0.0",
	RegistrationID: toasterID, Source: "alp",
}

// registrarFunc stands in for DPS where a real one cannot be made to fail in
// just this way.
type registrarFunc func(context.Context, provisioning.Request) (provisioning.Assignment, error)

func (f registrarFunc) Register(ctx context.Context, r provisioning.Request) (provisioning.Assignment, error) {
	return f(ctx, r)
}

// busFunc stands in for a line.
type busFunc func(serialbus.Settings) (serialbus.Applied, error)

func (f busFunc) Apply(_ context.Context, _ int, s serialbus.Settings) (serialbus.Applied, error) {
	return f(s)
}

// Holds says that the appliance has all of it.
func (f busFunc) Holds(context.Context, int, serialbus.Settings) (bool, error) { return true, nil }

// fakeSession is a hub that answers at once.
type fakeSession struct {
	mu      sync.Mutex
	twin    hub.Twin
	desired chan hub.Properties
	done    chan struct{}
	err     error
	// reportTakes is how long Report takes.
	reportTakes time.Duration
}

func newFakeSession(desired map[string]json.RawMessage) *fakeSession {
	return &fakeSession{
		twin:    hub.Twin{Desired: hub.Properties{Values: desired, Version: 1}, Reported: hub.Properties{Version: 1}},
		desired: make(chan hub.Properties, 1), done: make(chan struct{}),
	}
}

func (s *fakeSession) Twin(context.Context) (hub.Twin, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.twin, nil
}

func (s *fakeSession) Report(_ context.Context, patch map[string]json.RawMessage) (int64, error) {
	time.Sleep(s.reportTakes)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.twin.Reported = hub.Properties{Values: patch, Version: s.twin.Reported.Version + 1}
	return s.twin.Reported.Version, nil
}

func (s *fakeSession) set(desired map[string]json.RawMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.twin.Desired = hub.Properties{Values: desired, Version: s.twin.Desired.Version + 1}
	s.desired <- s.twin.Desired
}

func (s *fakeSession) Desired() <-chan hub.Properties { return s.desired }
func (s *fakeSession) Done() <-chan struct{}          { return s.done }
func (s *fakeSession) Err() error                     { return s.err }
func (s *fakeSession) Close()                         {}

// ready is the tutorial's desired state of a toaster.
var ready = map[string]json.RawMessage{"state": json.RawMessage(`"ready"`), "darknessSetting": json.RawMessage(`"medium"`)}

// agreeable is an appliance that takes every setting.
func agreeable(s serialbus.Settings) (serialbus.Applied, error) {
	return serialbus.Applied{Reported: s.Desired, Wrote: true}, nil
}

// assign is a DPS that assigns at once.
func assign(_ context.Context, r provisioning.Request) (provisioning.Assignment, error) {
	return provisioning.Assignment{RegistrationID: r.RegistrationID, AssignedHub: "toasters.example", DeviceID: r.RegistrationID, Substatus: "initialAssignment"}, nil
}

// rig is one appliance on one line with replaceable surroundings. It must be
// made inside the bubble.
type rig struct {
	supervisor *supervisor
	world      *world
	line       *line
	session    *fakeSession
	connects   atomic.Int32
	hubErr     atomic.Pointer[error] // of every connection; nil = none
	stop       func()
}

func newRig(t *testing.T, directory string, register registrarFunc, apply busFunc) *rig {
	t.Helper()
	s, err := openStore(t.Context(), directory)
	if err != nil {
		t.Fatal(err)
	}
	key, err := provisioning.ParseGroupKey(testGroupKey)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := config.ParsePayload(`{"MyDeviceFirmwareVersion":{{.Firmware}}}`)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{session: newFakeSession(ready)}
	budget, err := newBudget(t.Context(), s, provisioning.Config{RegistersPerMinute: 100, PollsPerSecond: 20}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r.world = &world{
		clock: newClock(t.Context(), s, slog.New(slog.DiscardHandler)), budget: budget, reach: newReach(slog.New(slog.DiscardHandler)),
		store: s, journal: newWriteJournal(s, time.Now), registrar: register, keys: provisioning.GroupKeys{key}, payload: payload, hubMode: config.HubStay,
		log: slog.New(slog.DiscardHandler), changed: func() {},
		openHub: func(context.Context, *assignment, provisioning.DeviceKey) (hubSession, error) {
			r.connects.Add(1)
			if err := r.hubErr.Load(); err != nil {
				return nil, *err
			}
			return r.session, nil
		},
	}
	r.line = &line{Bus: config.Bus{Line: serialbus.Config{Name: "kitchen", Port: "/dev/ttyUSB0", Driver: serialbus.DriverLine}}, bus: apply}
	known, err := s.load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.supervisor = newSupervisor(r.world, "site", known)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := r.supervisor.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	r.stop = func() {
		cancel()
		<-ended
		s.close()
		synctest.Wait()
	}
	return r
}

func (r *rig) plugIn(t *testing.T) {
	r.supervisor.heard(t.Context(), r.line, serialbus.Event{Kind: serialbus.Found, Unit: 0, Identity: toaster})
	synctest.Wait()
}

func (r *rig) state(t *testing.T) Status {
	t.Helper()
	synctest.Wait()
	all := r.supervisor.snapshot()
	if len(all) != 1 {
		t.Fatalf("got %d appliances, want 1", len(all))
	}
	return all[0]
}

func (r *rig) wantState(t *testing.T, want State) Status {
	t.Helper()
	got := r.state(t)
	if got.State != want {
		t.Fatalf("state: got %s (%+v), want %s", got.State, got.Error, want)
	}
	return got
}

func TestLifeToConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.TempDir(), assign, agreeable)
		defer r.stop()
		r.plugIn(t)
		got := r.wantState(t, StateConfigured)
		if diff := cmp.Diff(ready, got.Reported); diff != "" {
			t.Errorf("reported: %s", diff)
		}
		if !got.Present || !got.HubConnected || !got.Registered || got.AssignedHub != "toasters.example" {
			t.Errorf("got %+v", got)
		}
		if want := `{"MyDeviceFirmwareVersion":"12.0.2.5"}`; string(got.Payload) != want {
			t.Errorf("payload: got %s, want %s", got.Payload, want)
		}
	})
}

// TestBootDoesNotRegister is rule 7: a stored assignment is used.
func TestBootDoesNotRegister(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		directory := t.TempDir()
		first := newRig(t, directory, assign, agreeable)
		first.plugIn(t)
		first.wantState(t, StateConfigured)
		first.stop()

		second := newRig(t, directory, func(context.Context, provisioning.Request) (provisioning.Assignment, error) {
			t.Error("DPS was asked although an assignment is stored")
			return provisioning.Assignment{}, errors.New("asked")
		}, agreeable)
		defer second.stop()
		second.wantState(t, StateAssigned) // nothing is proven before the appliance answers
		second.plugIn(t)
		if got := second.wantState(t, StateConfigured); got.Registered {
			t.Error("registered is true although this run did not ask DPS")
		}
	})
}

// TestFirmwareUpdateAsksAgain is rule 7's other half: a new payload is told.
func TestFirmwareUpdateAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var payloads []string
		r := newRig(t, t.TempDir(), func(ctx context.Context, request provisioning.Request) (provisioning.Assignment, error) {
			payloads = append(payloads, string(request.Payload))
			return assign(ctx, request)
		}, agreeable)
		defer r.stop()
		r.plugIn(t)
		r.wantState(t, StateConfigured)
		updated := toaster
		updated.Firmware = "13.0.0.0"
		r.supervisor.heard(t.Context(), r.line, serialbus.Event{Kind: serialbus.Lost})
		r.supervisor.heard(t.Context(), r.line, serialbus.Event{Kind: serialbus.Found, Identity: updated})
		r.wantState(t, StateConfigured)
		want := []string{`{"MyDeviceFirmwareVersion":"12.0.2.5"}`, `{"MyDeviceFirmwareVersion":"13.0.0.0"}`}
		if diff := cmp.Diff(want, payloads); diff != "" {
			t.Error(diff)
		}
	})
}

// throttled is the end of an attempt by 429 answers with this hint.
func throttled(hint time.Duration) error {
	return &provisioning.ThrottledError{
		NextAttempt: time.Now().Add(hint),
		Cause:       &provisioning.ServiceError{HTTPStatus: 429, RetryAfter: hint},
	}
}

// TestEndingsOfAnAttempt maps each kind of end to its state and checks that the
// appliance is asked for again in the documented time.
func TestEndingsOfAnAttempt(t *testing.T) {
	tests := []struct {
		name        string
		err         func() error // of the first attempt
		want        State
		least, most time.Duration // until the next attempt
	}{
		{"unreachable", func() error {
			return &provisioning.UnreachableError{Op: "submitting", Cause: errors.New("connection refused")}
		}, StateUnreachable, 30 * time.Second, 60 * time.Second},
		{"unreachable with a hint", func() error {
			return &provisioning.UnreachableError{Op: "submitting", Cause: errors.New("503"), NextAttempt: time.Now().Add(10 * time.Minute)}
		}, StateUnreachable, 10 * time.Minute, 10 * time.Minute},
		{"throttled with a long hint", func() error { return throttled(20 * time.Minute) }, StateThrottled, 20 * time.Minute, 20 * time.Minute},
		{"throttled ten times", func() error { return throttled(10 * time.Second) }, StateThrottled, time.Minute, 15 * time.Minute},
		{"throttled by a neighbour", func() error { return &provisioning.ThrottledError{NextAttempt: time.Now().Add(7 * time.Minute)} }, StateThrottled, 7 * time.Minute, 7 * time.Minute},
		{"a day is the most", func() error { return throttled(1000 * time.Hour) }, StateThrottled, 24 * time.Hour, 24 * time.Hour},
		{"refused by the policy", func() error { return &provisioning.FailedError{Status: provisioning.StatusFailed, Code: 400207} }, StateRefused, time.Minute, 15 * time.Minute},
		{"disabled", func() error { return &provisioning.FailedError{Status: provisioning.StatusDisabled} }, StateDisabled, 24 * time.Hour, 24 * time.Hour},
		{"wrong key", func() error { return &provisioning.ServiceError{HTTPStatus: 401, Code: 401002} }, StateRefused, time.Minute, 15 * time.Minute},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked []time.Time
				r := newRig(t, t.TempDir(), func(ctx context.Context, request provisioning.Request) (provisioning.Assignment, error) {
					asked = append(asked, time.Now())
					if len(asked) == 1 {
						return provisioning.Assignment{}, test.err()
					}
					return assign(ctx, request)
				}, agreeable)
				defer r.stop()
				r.plugIn(t)
				got := r.wantState(t, test.want)
				if got.Error == nil || got.Error.Verdict == "" || got.Error.Next == "" {
					t.Errorf("error: got %+v, want words for a person", got.Error)
				}
				if got.Registration == nil || got.Registration.NextAttempt == nil {
					t.Fatalf("registration: got %+v, want a next attempt", got.Registration)
				}
				time.Sleep(test.most + time.Second)
				r.wantState(t, StateConfigured)
				if wait := asked[1].Sub(asked[0]); wait < test.least || wait > test.most+time.Second {
					t.Errorf("asked again after %s, want %s to %s", wait, test.least, test.most)
				}
			})
		})
	}
}

// TestOperationIDBeforeTheNextStep: what Observe is told is on disk when it returns.
func TestOperationIDBeforeTheNextStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		directory := t.TempDir()
		onDisk := func(r *rig) *registration {
			records, err := r.world.store.load(t.Context())
			if err != nil || len(records) != 1 {
				t.Fatalf("got %d records, %v", len(records), err)
			}
			return records[0].Registration
		}
		var r *rig
		r = newRig(t, directory, func(ctx context.Context, request provisioning.Request) (provisioning.Assignment, error) {
			if got := onDisk(r); got == nil || got.InDoubt {
				t.Errorf("before anything: got %+v, want an intent that is not in doubt", got)
			}
			if err := request.Observe(provisioning.Progress{Step: provisioning.StepSubmitting}); err != nil {
				t.Error(err)
			}
			if got := onDisk(r); got == nil || !got.InDoubt || got.OperationID != "" {
				t.Errorf("before the PUT: got %+v, want an intent in doubt", got)
			}
			if err := request.Observe(provisioning.Progress{Step: provisioning.StepAssigning, OperationID: "5.a.b"}); err != nil {
				t.Error(err)
			}
			if got := onDisk(r); got == nil || got.OperationID != "5.a.b" {
				t.Errorf("before the first poll: got %+v, want the operation ID", got)
			}
			<-ctx.Done() // the gateway is stopped while it polls
			return provisioning.Assignment{}, ctx.Err()
		}, agreeable)
		r.plugIn(t)
		r.wantState(t, StateRegistering)
		r.stop()

		var resumed provisioning.Request
		second := newRig(t, directory, func(ctx context.Context, request provisioning.Request) (provisioning.Assignment, error) {
			resumed = request
			return assign(ctx, request)
		}, agreeable)
		defer second.stop()
		second.plugIn(t)
		second.wantState(t, StateConfigured)
		if resumed.OperationID != "5.a.b" || resumed.Interrupted {
			t.Errorf("resumed with operation %q, interrupted %v; want 5.a.b, false", resumed.OperationID, resumed.Interrupted)
		}
	})
}

// TestRegisterInDoubt: a register without an answer is looked up after a restart.
func TestRegisterInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		directory := t.TempDir()
		first := newRig(t, directory, func(ctx context.Context, request provisioning.Request) (provisioning.Assignment, error) {
			if err := request.Observe(provisioning.Progress{Step: provisioning.StepSubmitting}); err != nil {
				t.Error(err)
			}
			<-ctx.Done()
			return provisioning.Assignment{}, ctx.Err()
		}, agreeable)
		first.plugIn(t)
		first.stop()
		var second provisioning.Request
		r := newRig(t, directory, func(ctx context.Context, request provisioning.Request) (provisioning.Assignment, error) {
			second = request
			return assign(ctx, request)
		}, agreeable)
		defer r.stop()
		r.plugIn(t)
		r.wantState(t, StateConfigured)
		if !second.Interrupted || second.OperationID != "" {
			t.Errorf("got interrupted %v, operation %q; want true and none", second.Interrupted, second.OperationID)
		}
	})
}

// TestTwinChange: a change of the desired properties reaches the appliance.
func TestTwinChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wrote []string
		r := newRig(t, t.TempDir(), assign, func(s serialbus.Settings) (serialbus.Applied, error) {
			wrote = append(wrote, string(s.Desired["darknessSetting"]))
			return agreeable(s)
		})
		defer r.stop()
		r.plugIn(t)
		r.session.set(map[string]json.RawMessage{"darknessSetting": json.RawMessage(`"dark"`)})
		r.wantState(t, StateConfigured)
		if diff := cmp.Diff([]string{`"medium"`, `"dark"`}, wrote); diff != "" {
			t.Error(diff)
		}
	})
}

func TestRejectedSettingStaysConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int32
		r := newRig(t, t.TempDir(), assign, func(s serialbus.Settings) (serialbus.Applied, error) {
			if tries.Add(1) == 1 {
				return serialbus.Applied{}, &serialbus.RejectedError{Property: "darknessSetting", Reason: "burnt is not allowed"}
			}
			return agreeable(s)
		})
		defer r.stop()
		r.plugIn(t)
		got := r.wantState(t, StateConnected)
		if got.Error == nil || got.Error.Kind != "setting-rejected" {
			t.Errorf("got %+v, want a rejected setting", got.Error)
		}
		time.Sleep(time.Hour)
		r.wantState(t, StateConnected)
		if tries := tries.Load(); tries != 1 {
			t.Errorf("written %d times; a refusal is final until the twin changes", tries)
		}
		r.session.set(ready)
		r.wantState(t, StateConfigured)
	})
}

// TestLineTroubleIsRetried: a line that fails is tried again, and again at once
// when the appliance is back.
func TestLineTroubleIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		r := newRig(t, t.TempDir(), assign, func(s serialbus.Settings) (serialbus.Applied, error) {
			if tries++; tries < 3 {
				return serialbus.Applied{}, errors.New("no answer")
			}
			return agreeable(s)
		})
		defer r.stop()
		r.plugIn(t)
		if got := r.wantState(t, StateConnected); got.Error == nil || got.Error.Owner != "technician" {
			t.Errorf("got %+v, want a technician's trouble", got.Error)
		}
		time.Sleep(time.Minute)
		if got := r.wantState(t, StateConfigured); got.Error != nil {
			t.Errorf("the trouble is over but still shown: %+v", got.Error)
		}
	})
}

// TestHubRefusal is rule 7: after one fresh token DPS is asked, at most once an hour.
func TestHubRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		r := newRig(t, t.TempDir(), func(ctx context.Context, request provisioning.Request) (provisioning.Assignment, error) {
			asked.Add(1)
			return assign(ctx, request)
		}, agreeable)
		defer r.stop()
		var refused error = &hub.RefusedError{Code: 5}
		r.hubErr.Store(&refused)
		r.plugIn(t)
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		if asked := asked.Load(); asked != 2 {
			t.Fatalf("DPS asked %d times in 50 minutes, want twice: once to begin with, once for the refusal", asked)
		}
		if got := r.state(t); got.State != StateAssigned || got.Error == nil || got.Error.Kind != "hub-refused" {
			t.Errorf("got %s, %+v", got.State, got.Error)
		}
		r.hubErr.Store(nil)
		time.Sleep(10 * time.Minute)
		if got := r.wantState(t, StateConfigured); got.Error != nil {
			t.Errorf("the trouble is over but still shown: %+v", got.Error)
		}
	})
}

// TestHubAway: a hub that cannot be reached is only backed off from, and DPS is
// asked after half an hour.
func TestHubAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		r := newRig(t, t.TempDir(), func(ctx context.Context, request provisioning.Request) (provisioning.Assignment, error) {
			asked.Add(1)
			return assign(ctx, request)
		}, agreeable)
		defer r.stop()
		away := errors.New("connection refused")
		r.hubErr.Store(&away)
		r.plugIn(t)
		time.Sleep(29 * time.Minute)
		synctest.Wait()
		if asked := asked.Load(); asked != 1 {
			t.Errorf("DPS asked %d times within half an hour of a hub outage, want once", asked)
		}
		if tried := r.connects.Load(); tried < 5 || tried > 40 {
			t.Errorf("%d connections tried in 29 minutes; want a growing wait", tried)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if asked := asked.Load(); asked != 2 {
			t.Errorf("DPS asked %d times after 39 minutes of a hub outage, want twice", asked)
		}
	})
}

// TestHubBusy is the rest of rule 7: CONNACK 3 is only backed off from, however
// long it lasts.
func TestHubBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		r := newRig(t, t.TempDir(), func(ctx context.Context, request provisioning.Request) (provisioning.Assignment, error) {
			asked.Add(1)
			return assign(ctx, request)
		}, agreeable)
		defer r.stop()
		var busy error = &hub.BusyError{}
		r.hubErr.Store(&busy)
		r.plugIn(t)
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if asked := asked.Load(); asked != 1 {
			t.Errorf("DPS asked %d times during three hours of CONNACK 3, want once", asked)
		}
	})
}

// TestBackWhileReporting: an appliance that was away between its settings and
// their report is set again.
func TestBackWhileReporting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var applied atomic.Int32
		r := newRig(t, t.TempDir(), assign, func(s serialbus.Settings) (serialbus.Applied, error) {
			applied.Add(1)
			return agreeable(s)
		})
		defer r.stop()
		r.session.reportTakes = 20 * time.Second
		r.supervisor.heard(t.Context(), r.line, serialbus.Event{Kind: serialbus.Found, Identity: toaster})
		time.Sleep(10 * time.Second)
		r.supervisor.heard(t.Context(), r.line, serialbus.Event{Kind: serialbus.Lost})
		r.supervisor.heard(t.Context(), r.line, serialbus.Event{Kind: serialbus.Found, Identity: toaster})
		time.Sleep(time.Minute)
		r.wantState(t, StateConfigured)
		if got := applied.Load(); got < 2 {
			t.Errorf("set %d times; after it was away it was not set again", got)
		}
	})
}

// TestDoubtOutlastsANeighbour: a 429 that a neighbour drew says nothing of a
// register that may have reached the service.
func TestDoubtOutlastsANeighbour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var requests []provisioning.Request
		r := newRig(t, t.TempDir(), func(ctx context.Context, request provisioning.Request) (provisioning.Assignment, error) {
			requests = append(requests, request)
			switch len(requests) {
			case 1:
				if err := request.Observe(provisioning.Progress{Step: provisioning.StepSubmitting}); err != nil {
					t.Error(err)
				}
				return provisioning.Assignment{}, &provisioning.UnreachableError{Op: "submitting", Cause: errors.New("timeout")}
			case 2:
				return provisioning.Assignment{}, &provisioning.ThrottledError{NextAttempt: time.Now().Add(6 * time.Minute)}
			default:
				return assign(ctx, request)
			}
		}, agreeable)
		defer r.stop()
		r.plugIn(t)
		time.Sleep(time.Hour)
		r.wantState(t, StateConfigured)
		if len(requests) != 3 || !requests[1].Interrupted || !requests[2].Interrupted {
			t.Errorf("got %d requests, want a third that still looks for the first", len(requests))
		}
	})
}

// TestRestartAsksAgain: a person who has mended the cause restarts; only what
// the service asked for outlasts that.
func TestRestartAsksAgain(t *testing.T) {
	tests := []struct {
		name string
		err  func() error
		want State // at once after the restart
	}{
		{"refused", func() error { return &provisioning.ServiceError{HTTPStatus: 401, Code: 401002} }, StateConfigured},
		{"disabled", func() error { return &provisioning.FailedError{Status: provisioning.StatusDisabled} }, StateConfigured},
		{"throttled", func() error { return throttled(20 * time.Minute) }, StateThrottled},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				directory := t.TempDir()
				first := newRig(t, directory, func(context.Context, provisioning.Request) (provisioning.Assignment, error) {
					return provisioning.Assignment{}, test.err()
				}, agreeable)
				first.plugIn(t)
				first.stop()
				second := newRig(t, directory, assign, agreeable)
				defer second.stop()
				second.plugIn(t)
				second.wantState(t, test.want)
			})
		})
	}
}

// TestConflict: one identity at two places is not provisioned until one is left.
func TestConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.TempDir(), assign, agreeable)
		defer r.stop()
		other := &line{Bus: config.Bus{Line: serialbus.Config{Name: "attic", Port: "/dev/ttyUSB1"}}, bus: busFunc(agreeable)}
		r.plugIn(t)
		r.wantState(t, StateConfigured)
		r.supervisor.heard(t.Context(), other, serialbus.Event{Kind: serialbus.Found, Identity: toaster})
		got := r.wantState(t, StateConflict)
		if want := "attic unit 0 (/dev/ttyUSB1), kitchen unit 0 (/dev/ttyUSB0)"; got.Error == nil || !strings.Contains(got.Error.Verdict, want) {
			t.Errorf("got %+v, want both places: %s", got.Error, want)
		}
		if got.HubConnected {
			t.Error("still connected for two appliances of one name")
		}
		r.supervisor.heard(t.Context(), r.line, serialbus.Event{Kind: serialbus.LineDown, Err: errors.New("unplugged")})
		got = r.wantState(t, StateConfigured)
		if got.Bus != "attic" {
			t.Errorf("bus: got %q, want attic", got.Bus)
		}
	})
}

// TestNothingSentInConflict: a client that is about to send is stopped.
func TestNothingSentInConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var observed error
		r := newRig(t, t.TempDir(), func(ctx context.Context, request provisioning.Request) (provisioning.Assignment, error) {
			time.Sleep(time.Minute)
			if err := request.Observe(provisioning.Progress{Step: provisioning.StepSubmitting}); err != nil {
				observed = err
				return provisioning.Assignment{}, err
			}
			return assign(ctx, request)
		}, agreeable)
		defer r.stop()
		other := &line{Bus: config.Bus{Line: serialbus.Config{Name: "attic", Port: "/dev/ttyUSB1"}}, bus: busFunc(agreeable)}
		r.plugIn(t)
		r.supervisor.heard(t.Context(), other, serialbus.Event{Kind: serialbus.Found, Identity: toaster})
		time.Sleep(2 * time.Minute)
		r.wantState(t, StateConflict)
		if !errors.Is(observed, errConflict) {
			t.Errorf("the step before the PUT got %v, want to be stopped by the conflict", observed)
		}
		r.supervisor.heard(t.Context(), other, serialbus.Event{Kind: serialbus.Lost})
		time.Sleep(2 * time.Minute)
		r.wantState(t, StateConfigured)
	})
}

// TestConflictDuringRegistration: an assignment that arrives while two places
// answer is kept, and the conflict too.
func TestConflictDuringRegistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.TempDir(), func(ctx context.Context, request provisioning.Request) (provisioning.Assignment, error) {
			time.Sleep(time.Minute)
			return assign(ctx, request)
		}, agreeable)
		defer r.stop()
		other := &line{Bus: config.Bus{Line: serialbus.Config{Name: "attic", Port: "/dev/ttyUSB1"}}, bus: busFunc(agreeable)}
		r.plugIn(t)
		r.supervisor.heard(t.Context(), other, serialbus.Event{Kind: serialbus.Found, Identity: toaster})
		time.Sleep(time.Hour)
		if got := r.wantState(t, StateConflict); got.AssignedHub == "" || got.HubConnected {
			t.Errorf("got %+v, want an assignment and no session", got)
		}
		r.supervisor.heard(t.Context(), other, serialbus.Event{Kind: serialbus.Lost})
		r.wantState(t, StateConfigured)
	})
}

// TestConflictDuringWriting: a refusal that ends a write does not speak over the conflict that came meanwhile.
func TestConflictDuringWriting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := newRig(t, t.TempDir(), assign, func(serialbus.Settings) (serialbus.Applied, error) {
			time.Sleep(time.Minute)
			return serialbus.Applied{}, &serialbus.RejectedError{Property: "darknessSetting", Reason: "too dark"}
		})
		r.world.log = slog.New(slog.NewTextHandler(&log, nil))
		other := &line{Bus: config.Bus{Line: serialbus.Config{Name: "attic", Port: "/dev/ttyUSB1"}}, bus: busFunc(agreeable)}
		r.plugIn(t)
		r.wantState(t, StateConnected)
		r.supervisor.heard(t.Context(), other, serialbus.Event{Kind: serialbus.Found, Identity: toaster})
		time.Sleep(2 * time.Minute)
		r.wantState(t, StateConflict)
		r.stop()
		if text := log.String(); !strings.Contains(text, "appliance conflict") || strings.Contains(text, "appliance stays") {
			t.Errorf("the log says:\n%s", text)
		}
	})
}

// TestNotRegistered: what must not reach DPS stays out, and is said once.
func TestNotRegistered(t *testing.T) {
	tests := []struct {
		name  string
		id    string
		allow []string
	}{
		{"no name and no template", "", nil},
		{"capitals", "Breakroom499", nil},
		{"a dot", "breakroom.499", nil},
		{"not on the allow list", toasterID, []string{"*-contoso-hpsd-088"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, t.TempDir(), assign, agreeable)
				defer r.stop()
				r.line.Allow = test.allow
				identity := toaster
				identity.RegistrationID = test.id
				r.supervisor.heard(t.Context(), r.line, serialbus.Event{Kind: serialbus.Found, Identity: identity})
				synctest.Wait()
				if got := r.supervisor.snapshot(); len(got) != 0 {
					t.Errorf("got %+v, want no appliance", got)
				}
			})
		})
	}
}
