// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/serialbus"
	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// entryOf is a write of the tutorial's settings.
func entryOf(id string) serialbus.Entry {
	return serialbus.Entry{RegistrationID: id, Revision: 3, Hash: "h", Settings: serialbus.Settings{
		AssignedHub: "hub", DeviceID: "dev", Desired: ready, Payload: json.RawMessage(`{"a":1}`), RegistrationID: id, Revision: 3,
	}}
}

// TestJournalKeeps: what is not verified is found again after a restart, with its settings.
func TestJournalKeeps(t *testing.T) {
	directory := t.TempDir()
	for _, tc := range []struct {
		id      string
		steps   []func(*writeJournal) error
		pending bool
	}{
		{"none", nil, false},
		{"planned", []func(*writeJournal) error{
			func(j *writeJournal) error { return j.Plan(t.Context(), entryOf("planned"), nil) },
		}, true},
		{"written", []func(*writeJournal) error{
			func(j *writeJournal) error { return j.Plan(t.Context(), entryOf("written"), nil) },
			func(j *writeJournal) error { return j.Written(t.Context(), entryOf("written")) },
		}, true},
		{"verified", []func(*writeJournal) error{
			func(j *writeJournal) error { return j.Plan(t.Context(), entryOf("verified"), nil) },
			func(j *writeJournal) error { return j.Verified(t.Context(), entryOf("verified")) },
		}, false},
		{"planned again", []func(*writeJournal) error{
			func(j *writeJournal) error { return j.Plan(t.Context(), entryOf("planned again"), nil) },
			func(j *writeJournal) error { return j.Verified(t.Context(), entryOf("planned again")) },
			func(j *writeJournal) error { return j.Plan(t.Context(), entryOf("planned again"), nil) },
		}, true},
	} {
		t.Run(tc.id, func(t *testing.T) {
			s := openTestStore(t, directory)
			for _, step := range tc.steps {
				if err := step(newWriteJournal(s, time.Now)); err != nil {
					t.Fatal(err)
				}
			}
			s.close()
			s = openTestStore(t, directory)
			defer s.close()
			settings, pending, err := newWriteJournal(s, time.Now).unverified(t.Context(), tc.id)
			if err != nil || pending != tc.pending {
				t.Fatalf("got pending %v, %v, want %v", pending, err, tc.pending)
			}
			if pending {
				if diff := cmp.Diff(entryOf(tc.id).Settings, settings); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

// TestWritesAreLimitedByTheDay: the tenth write is the last of the day, also after a restart, and a refused one notes
// and counts nothing.
func TestWritesAreLimitedByTheDay(t *testing.T) {
	directory := t.TempDir()
	now := time.Date(2026, 11, 22, 23, 30, 0, 0, time.UTC)
	cells := []serialbus.Cell{{Property: "other", Register: 4, PerDay: 20}, {Property: "temperatureSetting", Register: 101, PerDay: 10}}
	plan := func() error {
		s := openTestStore(t, directory)
		defer s.close()
		return newWriteJournal(s, func() time.Time { return now }).Plan(t.Context(), entryOf("pump"), cells)
	}
	for n := range 10 {
		if err := plan(); err != nil {
			t.Fatalf("write %d: %v", n+1, err)
		}
	}
	for range 15 {
		var limit *serialbus.LimitError
		if err := plan(); !errors.As(err, &limit) {
			t.Fatalf("got %v, want the limit", err)
		}
		want := serialbus.LimitError{Property: "temperatureSetting", Writes: 10, Next: time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)}
		if diff := cmp.Diff(want, *limit); diff != "" {
			t.Fatal(diff)
		}
	}
	now = now.Add(time.Hour)
	for n := range 10 {
		if err := plan(); err != nil {
			t.Fatalf("write %d of the next day: %v", n+1, err)
		}
	}
	if err := plan(); err == nil {
		t.Error("the next day has no limit")
	}
}

// lookBus is a line that is asked what it holds; order is who was asked what, in order.
type lookBus struct {
	busFunc
	order *[]string
	fails int // so many times
}

func (l *lookBus) Apply(ctx context.Context, unit int, s serialbus.Settings) (serialbus.Applied, error) {
	*l.order = append(*l.order, "apply")
	return l.busFunc.Apply(ctx, unit, s)
}

func (l *lookBus) Holds(context.Context, int, serialbus.Settings) (bool, error) {
	*l.order = append(*l.order, "look")
	if l.fails--; l.fails >= 0 {
		return false, serialbus.ErrSilent
	}
	return true, nil
}

// TestLooksBackFirst: on start a write that is not verified is read before anything else is done.
func TestLooksBackFirst(t *testing.T) {
	for _, tc := range []struct {
		name  string
		steps func(*writeJournal) error
		fails int
		want  []string
	}{
		{"nothing was cut off", func(*writeJournal) error { return nil }, 0, []string{"register", "apply"}},
		{"cut off", func(j *writeJournal) error { return j.Plan(t.Context(), entryOf(toasterID), nil) }, 0, []string{"look", "register", "apply"}},
		{"it does not answer at once", func(j *writeJournal) error { return j.Plan(t.Context(), entryOf(toasterID), nil) }, 2, []string{"look", "look", "look", "register", "apply"}},
		{"it never answers: the next settings are read first", func(j *writeJournal) error { return j.Plan(t.Context(), entryOf(toasterID), nil) }, 9, []string{"look", "look", "look", "register", "apply"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				directory := t.TempDir()
				s := openTestStore(t, directory)
				if err := tc.steps(newWriteJournal(s, time.Now)); err != nil {
					t.Fatal(err)
				}
				s.close()
				var order []string
				r := newRig(t, directory, func(ctx context.Context, q provisioning.Request) (provisioning.Assignment, error) {
					order = append(order, "register")
					return assign(ctx, q)
				}, agreeable)
				defer r.stop()
				r.line.bus = &lookBus{busFunc: agreeable, order: &order, fails: tc.fails}
				r.plugIn(t)
				time.Sleep(time.Minute)
				r.wantState(t, StateConfigured)
				if diff := cmp.Diff(tc.want, order); diff != "" {
					t.Error(diff)
				}
				_, pending, err := r.world.journal.unverified(t.Context(), toasterID)
				if wantPending := tc.fails > lookTries; err != nil || pending != wantPending {
					t.Errorf("got pending %v, %v, want %v", pending, err, wantPending)
				}
			})
		})
	}
}

// TestWriteLimitIsShown: a setting that was written too often today keeps the appliance connected, with the error, and
// is tried again tomorrow.
func TestWriteLimitIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var applies atomic.Int32
		tomorrow := time.Now().Add(8 * time.Hour)
		r := newRig(t, t.TempDir(), assign, func(s serialbus.Settings) (serialbus.Applied, error) {
			applies.Add(1)
			if time.Now().Before(tomorrow) {
				return serialbus.Applied{Reported: map[string]json.RawMessage{"state": ready["state"]}},
					fmt.Errorf("applying settings: %w", &serialbus.LimitError{Property: "darknessSetting", Writes: 10, Next: tomorrow})
			}
			return agreeable(s)
		})
		defer r.stop()
		r.plugIn(t)
		time.Sleep(7 * time.Hour)
		got := r.wantState(t, StateConnected)
		if got.Error == nil || got.Error.Kind != "write-limit" || !strings.Contains(got.Error.Verdict, `setting "darknessSetting" was written 10 times today`) {
			t.Errorf("got %+v", got.Error)
		}
		if string(got.Reported["state"]) != `"ready"` {
			t.Errorf("the other setting is not reported: %v", got.Reported)
		}
		if n := applies.Load(); n != 1 {
			t.Errorf("asked the line %d times before tomorrow, want once", n)
		}
		time.Sleep(2 * time.Hour)
		r.wantState(t, StateConfigured)
	})
}

// fatalJournal kills its own process at the n-th call of a kind: before the step is on disk, or after.
type fatalJournal struct {
	serialbus.Journal
	moment string
}

func (j fatalJournal) dieAt(moment string) {
	if j.moment == moment {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until the signal is there
	}
}

func (j fatalJournal) Plan(ctx context.Context, e serialbus.Entry, cells []serialbus.Cell) error {
	j.dieAt("before planned")
	err := j.Journal.Plan(ctx, e, cells)
	j.dieAt("after planned")
	return err
}

func (j fatalJournal) Written(ctx context.Context, e serialbus.Entry) error {
	j.dieAt("before written")
	err := j.Journal.Written(ctx, e)
	j.dieAt("after written")
	return err
}

func (j fatalJournal) Verified(ctx context.Context, e serialbus.Entry) error {
	j.dieAt("before verified")
	err := j.Journal.Verified(ctx, e)
	j.dieAt("after verified")
	return err
}

// TestKilledWhileWriting kills the process that writes with SIGKILL at every step of the journal and starts another:
// the register's cell is written once in all, and the second process knows what is not verified.
func TestKilledWhileWriting(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		moment  string
		wears   int // after the kill
		pending bool
	}{
		{"before planned", 0, false},
		{"after planned", 0, true},
		{"before written", 1, true},
		{"after written", 1, true},
		{"before verified", 1, true},
		{"after verified", 1, false},
	} {
		t.Run(tc.moment, func(t *testing.T) {
			t.Parallel()
			line, err := serialbustest.NewModbusLine([]serialbustest.HeatPump{{Unit: 7, RegistrationID: heatPumpID, Vendor: "Contoso", Model: "HPSD-088", Firmware: "1"}})
			if err != nil {
				t.Skipf("no pseudo-terminals here: %v", err)
			}
			defer line.Close()
			directory := t.TempDir()
			write := func(moment string) error {
				command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWriterProcess$")
				command.Env = append(os.Environ(), "WRITER_PORT="+line.Path(), "WRITER_DIR="+directory, "WRITER_MOMENT="+moment)
				out, err := command.CombinedOutput()
				if err != nil && moment == "" {
					t.Logf("%s", out)
				}
				return err
			}
			var ended *exec.ExitError
			if err := write(tc.moment); !errors.As(err, &ended) || ended.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("got %v, want the process killed", err)
			}
			if got := line.RegisterWrites(7, 101); got != tc.wears {
				t.Errorf("written %d times when it was killed, want %d", got, tc.wears)
			}
			s := openTestStore(t, directory)
			if pending, err := newWriteJournal(s, time.Now).Pending(t.Context(), heatPumpID); err != nil || pending != tc.pending {
				t.Errorf("got pending %v, %v, want %v", pending, err, tc.pending)
			}
			s.close()
			if err := write(""); err != nil {
				t.Fatal(err)
			}
			if got := line.RegisterWrites(7, 101); got != 1 {
				t.Errorf("the cell was written %d times in all, want once", got)
			}
			if got := line.Settings(7)["temperatureSetting"]; got != "65" {
				t.Errorf("set to %s", got)
			}
			s = openTestStore(t, directory)
			if pending, err := newWriteJournal(s, time.Now).Pending(t.Context(), heatPumpID); err != nil || pending {
				t.Errorf("got pending %v, %v in the end", pending, err)
			}
		})
	}
}

// TestWriterProcess is the process that TestKilledWhileWriting kills.
func TestWriterProcess(t *testing.T) {
	port := os.Getenv("WRITER_PORT")
	if port == "" {
		return // only a part of TestKilledWhileWriting, which starts it with its settings
	}
	s := openTestStore(t, os.Getenv("WRITER_DIR"))
	bus, err := serialbus.New(serialbus.Config{
		Port: port, Driver: serialbus.DriverModbusRTU, Profile: "contoso-hpsd-088", Units: []byte{7},
		Journal: fatalJournal{newWriteJournal(s, time.Now), os.Getenv("WRITER_MOMENT")},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	found := make(chan struct{}, 1)
	runUntilCleanup(t, func(ctx context.Context) error {
		return bus.Run(ctx, func(e serialbus.Event) {
			if e.Kind == serialbus.Found {
				found <- struct{}{}
			}
		})
	})
	<-found
	if _, err := bus.Apply(t.Context(), 7, serialbus.Settings{
		Desired: map[string]json.RawMessage{"temperatureSetting": json.RawMessage(`"65"`)}, RegistrationID: heatPumpID, Revision: 3,
	}); err != nil {
		t.Error(err)
	}
}
