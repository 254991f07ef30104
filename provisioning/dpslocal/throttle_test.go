// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.Throttle = Throttle{Registrations: 2, Lookups: 1, Polls: 5}
		s := newCore(t, cfg, always(200, goodAnswer))
		serve := func(c call) answer { return s.service.serve(t.Context(), c) }
		refused := func(c call, hint string) {
			t.Helper()
			if a := serve(c); a.status != 429 || a.retryAfter != hint || decodeStatus(t, a.body).ErrorCode != codeThrottled {
				t.Errorf("%s: got %+v, want 429 after %s", c.kind, a, hint)
			}
		}

		stranger := request(RegisterCall, "dev-1")
		stranger.token = ""
		for range 3 {
			serve(stranger) // counts for nothing
		}
		first := decodeStatus(t, serve(request(RegisterCall, "dev-1")).body)
		time.Sleep(20 * time.Second)
		if a := serve(request(RegisterCall, "dev-2")); a.status != 202 {
			t.Errorf("second register: got %+v, want 202", a)
		}
		refused(request(RegisterCall, "dev-3"), "40")
		if n := len(s.Operations("dev-3")); n != 0 {
			t.Errorf("%d operations begun by a 429, want none", n)
		}

		// Lookups have a budget of their own, and so has each device's polling.
		if a := serve(request(LookupCall, "dev-1")); a.status != 200 {
			t.Errorf("lookup: got %+v, want 200", a)
		}
		refused(request(LookupCall, "dev-1"), "60")
		poll := request(PollCall, "dev-1")
		poll.operationID = first.OperationID
		for range 5 {
			if a := serve(poll); a.status != 200 {
				t.Errorf("poll: got %+v, want 200", a)
			}
		}
		time.Sleep(9500 * time.Millisecond)
		poll.registrationID, poll.token = "DEV-1", request(PollCall, "DEV-1").token
		refused(poll, "2") // half a second, lifted to what every client keeps to
		if a := serve(request(PollCall, "dev-2")); a.status != 404 {
			t.Errorf("another device's poll: got %+v, want it taken", a)
		}
		time.Sleep(500 * time.Millisecond)
		if a := serve(poll); a.status != 200 {
			t.Errorf("poll in a new window: got %+v, want 200", a)
		}

		time.Sleep(30 * time.Second)
		if a := serve(request(RegisterCall, "dev-3")); a.status != 202 {
			t.Errorf("register in a new window: got %+v, want 202", a)
		}
	})
}

// TestThrottleForgets polls with many devices: what is kept is bounded by those
// of the last ten seconds.
func TestThrottleForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := newThrottle(Throttle{Polls: 5})
		for i := range 1000 {
			limits.take(PollCall, fmt.Sprintf("dev-%d", i))
		}
		time.Sleep(pollWindow)
		limits.take(PollCall, "dev-0")
		if n := len(limits.polls); n != 1 {
			t.Errorf("%d windows kept, want 1", n)
		}
	})
}

// TestHashedByWeight: each hub gets its share, and another weight of one hub moves
// devices to it or from it only.
func TestHashedByWeight(t *testing.T) {
	hubs := []string{"A.example", "b.example", "c.example"}
	before := map[string]int{"a.example": 1, "b.example": 2, "c.example": 1}
	after := map[string]int{"a.example": 1, "b.example": 2, "c.example": 7}
	const devices = 4000
	count, countAfter := map[string]int{}, map[string]int{}
	for i := range devices {
		id := fmt.Sprintf("dev-%d", i)
		was, is := rendezvous(hubs, before, id), rendezvous(hubs, after, id)
		count[was]++
		countAfter[is]++
		if was != is && is != "c.example" {
			t.Errorf("%s moved from %s to %s, want only moves to c.example", id, was, is)
		}
	}
	near := func(got, want int) bool { return got > want*9/10 && got < want*11/10 }
	if !near(count["A.example"], devices/4) || !near(count["b.example"], devices/2) || !near(countAfter["c.example"], devices*7/10) {
		t.Errorf("got %v, then %v; want shares of 1:2:1, then 1:2:7", count, countAfter)
	}
}

// TestGeoLatency: the nearest is the linked hub named first, whatever the order
// of the enrollment's own list.
func TestGeoLatency(t *testing.T) {
	tests := []struct {
		name string
		hubs []string
		want string
	}{
		{"all linked hubs", nil, toasters},
		{"in another order", []string{heatPumps, toasters}, toasters},
		{"the nearest is not allowed", []string{heatPumps}, heatPumps},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := testConfig()
				cfg.EnrollmentGroups[0].AllocationPolicy = GeoLatency
				cfg.EnrollmentGroups[0].Hubs = tt.hubs
				s := newCore(t, cfg, nil)
				for i := range 5 {
					if got := register(t, s, request(RegisterCall, fmt.Sprintf("dev-%d", i))).RegistrationState.AssignedHub; got != tt.want {
						t.Errorf("got %s, want %s", got, tt.want)
					}
				}
			})
		})
	}
}
