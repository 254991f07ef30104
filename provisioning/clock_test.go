// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestRule5TheClockHasAFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		built := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC) // the bubble's clock says 2000
		clock := NewClock(built, slog.New(slog.NewTextHandler(&log, nil)))
		for n := range 3 {
			if got, want := clock.Now(), built.Add(time.Duration(n)*time.Hour); !got.Equal(want) {
				t.Errorf("after %d hours: got %v, want %v", n, got, want)
			}
			time.Sleep(time.Hour)
		}
		if got, want := clock.Floor(), built.Add(3*time.Hour); !got.Equal(want) {
			t.Errorf("to be kept: got %v, want %v", got, want)
		}
		if got := strings.Count(log.String(), "level=WARN"); got != 1 {
			t.Errorf("said %d times, want once:\n%s", got, log.String())
		}
	})
}

func TestRule5AClockAboveItsFloorIsTheSystems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		for _, floor := range []time.Time{{}, time.Now().Add(-time.Hour), time.Now()} {
			clock := NewClock(floor, slog.New(slog.NewTextHandler(&log, nil)))
			time.Sleep(time.Hour)
			if got := clock.Now(); !got.Equal(time.Now()) {
				t.Errorf("floor %v: got %v, want the system's %v", floor, got, time.Now())
			}
			// What the system's clock says is not known to be true, so it is not kept.
			if got := clock.Floor(); got.After(floor.Add(time.Hour)) {
				t.Errorf("floor %v: %v is to be kept, want no more than an hour later", floor, got)
			}
		}
		if log.Len() > 0 {
			t.Errorf("said, want nothing:\n%s", log.String())
		}
	})
}

func TestRule5TheClockIsCorrected(t *testing.T) {
	tests := []struct {
		name  string
		skew  time.Duration // the service's clock before ours
		floor time.Duration // before ours
		taken bool
		agree bool
	}{
		{"the same", 0, -time.Hour, false, true},
		{"five minutes ahead", 5 * time.Minute, -time.Hour, false, true},
		{"six minutes ahead", 6 * time.Minute, -time.Hour, true, true},
		{"years ahead", 26 * 365 * 24 * time.Hour, -time.Hour, true, true},
		{"six minutes behind", -6 * time.Minute, -time.Hour, true, true},
		{"behind the floor", -2 * time.Hour, -time.Hour, false, false},
		{"ahead of a floor in force", 2 * time.Hour, time.Hour, true, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				clock := NewClock(time.Now().Add(test.floor), slog.New(slog.NewTextHandler(&log, nil)))
				want := clock.Now().Add(time.Hour)
				if test.taken {
					want = time.Now().Add(test.skew + time.Hour)
				}
				log.Reset()
				if got := clock.follow(time.Now().Add(test.skew), time.Now()); got != test.agree {
					t.Fatalf("they agree: got %v, want %v", got, test.agree)
				}
				time.Sleep(time.Hour)
				if got := clock.Now(); !got.Equal(want) {
					t.Errorf("an hour later: got %v, want %v", got, want)
				}
				if said := strings.Contains(log.String(), "level=WARN"); said != test.taken {
					t.Errorf("said %v, want %v:\n%s", said, test.taken, log.String())
				}
			})
		})
	}
}

// TestRule5ACorrectionEnds: once the system's clock is right it is used again.
func TestRule5ACorrectionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := NewClock(time.Time{}, nil)
		clock.follow(time.Now().Add(time.Hour), time.Now())
		// As if the system had been set to the service's time and a minute: the bubble's clock cannot be.
		clock.service = clock.service.Add(-time.Hour - time.Minute)
		if got := clock.Now(); !got.Equal(time.Now()) {
			t.Errorf("got %v, want the system's %v", got, time.Now())
		}
		if !clock.service.IsZero() {
			t.Error("the correction is still there")
		}
	})
}

// TestRule5TheFloorGrowsWithTheServicesWord: what the service named has passed, minutes of tolerance aside; but not
// what this clock has not come to.
func TestRule5TheFloorGrowsWithTheServicesWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock, begun := NewClock(time.Time{}, nil), time.Now()
		clock.passed(begun, time.Now())
		clock.passed(time.Time{}, time.Now())
		clock.passed(begun.Add(-time.Hour), time.Now())
		time.Sleep(time.Hour)
		if got, want := clock.Floor(), begun.Add(time.Hour-skewLimit); !got.Equal(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		clock.passed(time.Now().Add(1000*time.Hour), time.Now())
		if got, want := clock.Floor(), begun.Add(time.Hour-skewLimit); !got.Equal(want) {
			t.Errorf("a time to come: got %v, want %v", got, want)
		}
	})
}
