// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// full is a record with every member set.
func full() record {
	at := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	return record{
		RegistrationID: "breakroom499-contoso-tstrsd-007",
		Place:          Place{Bus: "kitchen", Port: "/dev/ttyUSB0", Driver: "line", Unit: 3, Place: "Break room 499"},
		Identity:       Identity{Vendor: "Contoso", Model: "TSTRSD-007", Serial: "499", Firmware: "12.0.2.5", Provisioning: "1.0.0.0", Source: "alp"},
		State:          StateThrottled,
		Error:          &Trouble{Kind: "throttled", Code: 429001, Verdict: "v", Owner: "o", Next: "n"},
		Assignment: &assignment{
			AssignedHub: "hub.example", DeviceID: "dev", Substatus: "initialAssignment",
			Payload: json.RawMessage(`{"property1":"value1"}`), SentPayload: json.RawMessage(`{"model":"m"}`), AssignedAt: at,
		},
		Registration: &registration{Reason: "firmware changed", Since: at, Attempts: 2, NextAttempt: at.Add(time.Hour), OperationID: "5.a.b", InDoubt: true},
		Updated:      at,
	}
}

func openTestStore(t *testing.T, directory string) *store {
	t.Helper()
	s, err := openStore(t.Context(), directory)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close() })
	return s
}

// TestStoreKeeps saves records, opens the file again and reads them back.
func TestStoreKeeps(t *testing.T) {
	bare := record{RegistrationID: "a", State: StateIdentified, Updated: full().Updated}
	settledRecord := full()
	settledRecord.RegistrationID, settledRecord.Registration, settledRecord.Error = "z", nil, nil
	want := []record{bare, full(), settledRecord}

	directory := t.TempDir()
	s := openTestStore(t, directory)
	for _, r := range want {
		if err := s.save(t.Context(), r, nil); err != nil {
			t.Fatal(err)
		}
	}
	s.close()
	got, err := openTestStore(t, directory).load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestStoreReplaces checks that what a later record no longer has is gone.
func TestStoreReplaces(t *testing.T) {
	s := openTestStore(t, t.TempDir())
	r := full()
	if err := s.save(t.Context(), r, nil); err != nil {
		t.Fatal(err)
	}
	r.Registration, r.Assignment, r.Error, r.State = nil, nil, nil, StateIdentified
	if err := s.save(t.Context(), r, nil); err != nil {
		t.Fatal(err)
	}
	got, err := s.load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]record{r}, got); diff != "" {
		t.Error(diff)
	}
}

// TestStoreSavesDuringShutdown: what is about to be done is written although
// the context has ended.
func TestStoreSavesDuringShutdown(t *testing.T) {
	s := openTestStore(t, t.TempDir())
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.save(ended, full(), nil); err != nil {
		t.Fatal(err)
	}
}

// TestStoreRemembersTheNewest has a saver wait for the connection while something
// is noted: a hold-back that a neighbour wrote meanwhile must not be undone.
func TestStoreRemembersTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := openStore(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		var noted atomic.Int32
		before, err := s.db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		saved := make(chan error)
		go func() {
			saved <- s.save(t.Context(), full(), func() map[string]any { return map[string]any{"noted": noted.Load()} })
		}()
		synctest.Wait() // it has no connection yet
		noted.Store(1)
		if err := before.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := <-saved; err != nil {
			t.Fatal(err)
		}
		got := 0
		if err := s.recall(t.Context(), "noted", &got); err != nil || got != 1 {
			t.Errorf("remembered %d, %v, want what was true when it was written", got, err)
		}
	})
}

// TestStoreOutlivesDamage: what the line tells again, and words, are not worth a gateway.
func TestStoreOutlivesDamage(t *testing.T) {
	s := openTestStore(t, t.TempDir())
	want := full()
	if err := s.save(t.Context(), want, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.Exec(`UPDATE appliance SET identity = '{"vendor":"Con', error = '[1]'`); err != nil {
		t.Fatal(err)
	}
	got, err := s.load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want.Identity, want.Error = Identity{}, nil
	if diff := cmp.Diff([]record{want}, got); diff != "" {
		t.Error(diff)
	}
}

func TestStoreRefusesNewerFile(t *testing.T) {
	directory := t.TempDir()
	s := openTestStore(t, directory)
	if _, err := s.db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)`); err != nil {
		t.Fatal(err)
	}
	s.close()
	_, err := openStore(t.Context(), directory)
	if err == nil || !strings.Contains(err.Error(), "written by a newer gatewayd (schema 99") {
		t.Errorf("got %v, want that a newer gatewayd wrote it", err)
	}
}

func TestStoreNamesTheFile(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, storeFile)
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := openStore(t.Context(), directory)
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want the path %s", err, path)
	}
}
