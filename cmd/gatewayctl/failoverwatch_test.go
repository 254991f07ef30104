// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/provisioning/enrollment"
)

// swapTime is when the entry was changed, by the service's clock.
var swapTime = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

// at is a record that was updated so many seconds after the swap.
func at(seconds int, id, status string, code int, hub string) enrollment.Registration {
	return enrollment.Registration{
		RegistrationID: id, Status: status, ErrorCode: code, AssignedHub: hub,
		LastUpdatedDateTimeUTC: enrollment.Timestamp{Time: swapTime.Add(time.Duration(seconds) * time.Second)},
	}
}

func listed(records ...enrollment.Registration) iter.Seq2[enrollment.Registration, error] {
	return func(yield func(enrollment.Registration, error) bool) {
		for _, r := range records {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// TestWatcher tells apart what the new webhook decided and what it did not.
func TestWatcher(t *testing.T) {
	for _, test := range []struct {
		name          string
		before, after enrollment.Registration
		want          string // "" for nothing new
		failing       bool
	}{
		{"untouched", at(-9, "a", "assigned", 0, "h1"), at(-9, "a", "assigned", 0, "h1"), "", false},
		{"first assignment", enrollment.Registration{}, at(1, "a", "assigned", 0, "h1"), "assigned to h1", false},
		{"assigned again", at(-9, "a", "assigned", 0, "H1"), at(1, "a", "assigned", 0, "h1"), "assigned to h1, as before", false},
		{"moved", at(-9, "a", "assigned", 0, "h1"), at(1, "A", "assigned", 0, "h2"), "assigned to h2, moved from h1", false},
		{"refused", at(-9, "a", "assigned", 0, "h1"), at(1, "a", "failed", 400207, ""), "failed (400207): (without a word)", true},
		{"no hub", enrollment.Registration{}, at(1, "a", "failed", 400208, ""), "failed (400208): (without a word)", true},
		{"key", enrollment.Registration{}, at(1, "a", "failed", 400209, ""), "failed (400209): (without a word)", true},
		{"failed as before", at(-9, "a", "failed", 400207, ""), at(1, "a", "failed", 400207, ""), "failed (400207): (without a word), as before", false},
		{"failed otherwise than before", at(-9, "a", "failed", 400207, ""), at(1, "a", "failed", 400209, ""), "failed (400209): (without a word)", true},
		{"a hub's fault", enrollment.Registration{}, at(1, "a", "failed", 409203, ""), "failed (409203): (without a word), not by the webhook", false},
		{"disabled", enrollment.Registration{}, at(1, "a", "disabled", 0, ""), "disabled", false},
		{"begun with the old webhook", at(-9, "a", "assigning", 0, ""), at(1, "a", "failed", 400207, ""), "failed (400207): (without a word) (begun before the swap)", false},
		{"under way", enrollment.Registration{}, at(1, "a", "assigning", 0, ""), "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := listed()
			if test.before.RegistrationID != "" {
				before = listed(test.before)
			}
			w, err := newWatcher(before)
			if err != nil {
				t.Fatal(err)
			}
			w.since = swapTime
			news, err := w.look(listed(test.after), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			got, failing := "", false
			for _, s := range news {
				got, failing = got+s.text(), s.failing()
			}
			if got != test.want || failing != test.failing {
				t.Errorf("got %q, failing %t, want %q, %t", got, failing, test.want, test.failing)
			}
			if again, _ := w.look(listed(test.after), time.Now()); len(again) > 0 {
				t.Errorf("told twice: %v", again)
			}
		})
	}
}

// TestWatcherSecondTurn: the end of what the old webhook decided does not count,
// and the device's next registration does.
func TestWatcherSecondTurn(t *testing.T) {
	w, err := newWatcher(listed())
	if err != nil {
		t.Fatal(err)
	}
	w.since = swapTime
	var got []bool
	for _, record := range []enrollment.Registration{
		at(0, "a", "assigning", 0, ""), // begun after the list, before the swap
		at(1, "a", "failed", 400207, ""),
		at(2, "a", "failed", 400207, ""),
	} {
		news, err := w.look(listed(record), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range news {
			got = append(got, s.failing())
		}
	}
	if diff := cmp.Diff([]bool{false, true}, got); diff != "" {
		t.Errorf("failing (-want +got):\n%s", diff)
	}
}

// TestWatch follows the clock: looks that grow rarer, a service that throttles,
// a device that DPS cannot get an answer for, the end.
func TestWatch(t *testing.T) {
	type look struct {
		records []enrollment.Registration
		err     error
	}
	throttled := fmt.Errorf("listing: %w", &enrollment.ServiceError{HTTPStatus: 429, RetryAfter: 20 * time.Second})
	broken := errors.New("broken")
	for _, test := range []struct {
		name   string
		length time.Duration
		looks  []look // the last one again and again
		want   string // when it looked, in seconds, and what came of it
	}{
		{"nothing happens", 20 * time.Second, []look{{}}, "0 1 3 6 10 15 20 end"},
		{"throttled", time.Minute, []look{{}, {err: throttled}, {}}, "0 1 21 26 31 36 41 46 51 56 60 trouble end"},
		{"broken at the end", 4 * time.Second, []look{{}, {}, {}, {err: broken}}, "0 1 3 4 broken"},
		{"stuck", 5 * time.Minute, []look{{}, {records: []enrollment.Registration{at(1, "a", "assigning", 0, "")}}}, "0 1 3 6 10 15 20 25 30 35 40 45 50 55 60 65 a: under way for more than 1m0s"},
		{"stuck, without a time", 5 * time.Minute, []look{{}, {records: []enrollment.Registration{{RegistrationID: "a", Status: "assigning"}}}}, "0 1 3 6 10 15 20 25 30 35 40 45 50 55 60 65 a: under way for more than 1m0s"},
		{"under way at the swap", 2 * time.Minute, []look{{records: []enrollment.Registration{{RegistrationID: "a", Status: "assigning"}}}}, "0 1 3 6 10 15 20 25 30 35 40 45 50 55 60 65 70 75 80 85 90 95 100 105 110 115 120 end"},
		{"one of two fails", time.Minute, []look{{records: []enrollment.Registration{at(1, "b", "failed", 400209, ""), at(1, "a", "assigned", 0, "h")}}}, "0 b: failed (400209)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, err := newWatcher(listed())
				if err != nil {
					t.Fatal(err)
				}
				w.since = swapTime
				var got []string
				began, n, troubles := time.Now(), 0, ""
				failed, err := w.watch(t.Context(), test.length, func() iter.Seq2[enrollment.Registration, error] {
					got = append(got, fmt.Sprint(int(time.Since(began).Seconds())))
					l := test.looks[min(n, len(test.looks)-1)]
					n++
					return func(yield func(enrollment.Registration, error) bool) {
						for _, r := range l.records {
							if !yield(r, nil) {
								return
							}
						}
						if l.err != nil {
							yield(enrollment.Registration{}, l.err)
						}
					}
				}, func(sighting) {}, func(error) { troubles += " trouble" })
				end := " end"
				switch {
				case failed != nil:
					end = " " + failed.RegistrationID + ": " + failed.text()
				case err != nil:
					end = " " + err.Error()
				}
				if all := strings.Join(got, " ") + troubles + end; !strings.HasPrefix(all, test.want) {
					t.Errorf("got  %s\nwant %s", all, test.want)
				}
			})
		})
	}
}

// TestWatchInterrupted ends at once.
func TestWatchInterrupted(t *testing.T) {
	w, err := newWatcher(listed())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.watch(ctx, time.Hour, func() iter.Seq2[enrollment.Registration, error] { return listed() }, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
