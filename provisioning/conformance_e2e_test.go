// SPDX-License-Identifier: Apache-2.0

package provisioning_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/dpslocal"
)

// TestConformanceLocal runs what the rules ask against the local service and its fault script, over loopback and in real
// time: only what needs no long wait, and only lower bounds of time. The suite proper is TestConformance.
func TestConformanceLocal(t *testing.T) {
	t.Parallel()
	once := func(call dpslocal.CallKind, fault dpslocal.Fault) dpslocal.FaultRule {
		return dpslocal.FaultRule{Call: call, Count: 1, Fault: fault}
	}
	const register, poll = dpslocal.RegisterCall, dpslocal.PollCall
	tests := []struct {
		name    string
		faults  []dpslocal.FaultRule
		change  func(s *site, r *provisioning.Request)
		kind    string        // of the verdict; "" is assigned
		calls   string        // which reached the service, in order; polls that follow the last are left out
		steps   []string      // which must be among those reported
		atLeast time.Duration // until the end
		atMost  time.Duration // 0 is not looked at; else far above what it takes, and far below what the hint says
	}{
		{
			name:   "rule 1 a hint of zero is obeyed",
			faults: []dpslocal.FaultRule{once(register, dpslocal.Fault{RetryAfter: "0"})},
			calls:  "register poll",
		},
		{
			name:   "rule 1 the hint is obeyed",
			faults: []dpslocal.FaultRule{once(register, dpslocal.Fault{RetryAfter: "1"})},
			calls:  "register poll", atLeast: time.Second,
		},
		{
			name:   "rule 2 429 to a register is asked again",
			faults: []dpslocal.FaultRule{once(register, dpslocal.Fault{Status: 429, RetryAfter: "1"})},
			calls:  "register register poll", steps: []string{"throttled"}, atLeast: time.Second,
		},
		{
			name:   "rule 2 503 to a register is asked again",
			faults: []dpslocal.FaultRule{once(register, dpslocal.Fault{Status: 503})},
			calls:  "register register poll", steps: []string{"retrying"}, atLeast: time.Second,
		},
		{
			name:   "rule 2 a long hint ends the attempt",
			faults: []dpslocal.FaultRule{once(register, dpslocal.Fault{Status: 429, RetryAfter: "3600"})},
			kind:   "throttled", calls: "register", atMost: time.Minute,
		},
		{
			name:   "rule 2 a long hint as a date ends the attempt",
			faults: []dpslocal.FaultRule{once(register, dpslocal.Fault{Status: 503, RetryAfter: "Sun, 31 Dec 2999 23:59:59 GMT"})},
			kind:   "throttled", calls: "register", atMost: time.Minute,
		},
		{
			name:   "rule 3 429 to a poll keeps the operation",
			faults: []dpslocal.FaultRule{once(poll, dpslocal.Fault{Status: 429, RetryAfter: "1"})},
			calls:  "register poll poll", steps: []string{"throttled"}, atLeast: time.Second,
		},
		{
			name:   "rule 3 500 to a poll keeps the operation",
			faults: []dpslocal.FaultRule{once(poll, dpslocal.Fault{Status: 500})},
			calls:  "register poll poll", steps: []string{"retrying"}, atLeast: time.Second,
		},
		{
			name:   "rule 3 a connection that breaks under a poll keeps the operation",
			faults: []dpslocal.FaultRule{once(poll, dpslocal.Fault{Close: true})},
			calls:  "register poll poll",
		},
		{
			name:   "rule 3 404 to a poll begins again",
			faults: []dpslocal.FaultRule{once(poll, dpslocal.Fault{Status: 404})},
			calls:  "register poll register poll", steps: []string{"restarting"},
		},
		{
			name:   "rule 3 404 for ever is the end",
			faults: []dpslocal.FaultRule{{Call: poll, Fault: dpslocal.Fault{Status: 404}}},
			kind:   "not-enrolled", calls: "register poll register poll",
		},
		{
			name:   "rule 5 a clock that is off is set by the service's",
			faults: []dpslocal.FaultRule{once(register, dpslocal.Fault{Status: 401, ClockSkew: 2 * time.Hour})},
			calls:  "register register poll", steps: []string{"retrying"},
		},
		{
			name: "rule 5 the secondary key is tried",
			change: func(s *site, r *provisioning.Request) {
				r.Keys = []provisioning.DeviceKey{s.key.Derive("another"), s.key.Derive(r.RegistrationID)}
			},
			calls: "register register poll", steps: []string{"retrying"},
		},
		{
			name: "rule 5 neither key is accepted",
			change: func(s *site, r *provisioning.Request) {
				r.Keys = []provisioning.DeviceKey{s.key.Derive("a"), s.key.Derive("b")}
			},
			kind: "unauthorized-both-keys", calls: "register register",
		},
		{
			name:   "rule 11 an ID arrives as it is spelled",
			change: func(s *site, r *provisioning.Request) { *r = s.request("Dev:A_1.x-Y") },
			calls:  "register poll",
		},
		{
			name:   "rule 12 a register of which something was written is not repeated",
			faults: []dpslocal.FaultRule{once(register, dpslocal.Fault{Drop: true})},
			kind:   "*", calls: "register",
		},
	}
	eachTransport(t, func(t *testing.T, transport provisioning.Transport) {
		var all sync.WaitGroup // at once, however few processors there are, because they wait more than they work
		defer all.Wait()
		for _, test := range tests {
			run := func(name string, f func(*testing.T)) { all.Go(func() { t.Run(name, f) }) }
			run(test.name, func(t *testing.T) {
				var calls callLog
				site := newSite(t, allocateToasters, calls.note)
				for _, rule := range test.faults {
					if _, err := site.server.AddFault(rule); err != nil {
						t.Fatal(err)
					}
				}
				r := site.request(toaster)
				if test.change != nil {
					test.change(site, &r)
				}
				var steps []string
				operations := make(map[string]bool)
				r.Observe = func(p provisioning.Progress) error {
					steps = append(steps, string(p.Step))
					if p.OperationID != "" {
						operations[p.OperationID] = true
					}
					return nil
				}
				begun := time.Now()
				got, err := site.client(t, transport).Register(t.Context(), r)
				took := time.Since(begun)

				if kind := provisioning.Verdict(err).Kind; kind != test.kind && !(test.kind == "*" && err != nil) {
					t.Errorf("it ended as %q, want %q (%v)", kind, test.kind, err)
				}
				if err == nil && (got.AssignedHub != toasters || got.DeviceID != r.RegistrationID) {
					t.Errorf("assigned %+v", got)
				}
				if story := calls.story(); story != test.calls && !isPolled(story, test.calls) {
					t.Errorf("it did %q, want %q", story, test.calls)
				}
				for _, step := range test.steps {
					if !strings.Contains(strings.Join(steps, " "), step) {
						t.Errorf("the steps are %v, want %s among them", steps, step)
					}
				}
				if begun := max(strings.Count(test.calls, "register poll"), 1); len(operations) > begun {
					t.Errorf("%d operations, want %d", len(operations), begun)
				}
				if took < test.atLeast || test.atMost > 0 && took > test.atMost {
					t.Errorf("it took %v, want at least %v and at most %v", took, test.atLeast, test.atMost)
				}
			})
		}
	})
}

// TestConformanceLocalOnePool registers devices one after another over one connection (rule 12).
func TestConformanceLocalOnePool(t *testing.T) {
	site := newSite(t, allocateToasters, nil)
	var dials atomic.Int32
	client := site.clientWith(t, provisioning.TransportHTTPS, func(cfg *provisioning.Config) {
		cfg.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	})
	for i := range 10 {
		if _, err := client.Register(t.Context(), site.request(fmt.Sprintf("unit%d-contoso-tstrsd-007", i))); err != nil {
			t.Fatal(err)
		}
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections for ten devices, want 1", n)
	}
}

// callLog notes the calls that reached a local service.
type callLog struct {
	mu    sync.Mutex
	calls []string
}

// note is for dpslocal.Options.Fault: it lets everything pass to the fault script.
func (l *callLog) note(p dpslocal.FaultPoint) dpslocal.Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, string(p.Call))
	return dpslocal.Fault{}
}

func (l *callLog) story() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.calls, " ")
}

// isPolled tells whether a story is another one with more polls at its end: how many it takes is the machine's affair.
func isPolled(story, begin string) bool {
	more, found := strings.CutPrefix(story, begin)
	return found && strings.HasSuffix(begin, "poll") && strings.Trim(more, " pol") == ""
}
