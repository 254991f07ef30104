// SPDX-License-Identifier: Apache-2.0

package pgstore_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/provisioning/dpslocal/pgstore"
	"github.com/contoso/gatewayd/provisioning/dpslocal/storetest"
)

// open opens a store. It is to be closed.
func open(t *testing.T, url dpslocal.Secret) dpslocal.SharedStore {
	t.Helper()
	store, err := pgstore.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// instance opens a store as a server does, and closes it with the test.
func instance(t *testing.T, url dpslocal.Secret) dpslocal.SharedStore {
	t.Helper()
	store := open(t, url)
	t.Cleanup(func() { _ = store.Close() })
	if err := store.BeginLease(t.Context()); err != nil {
		t.Fatal(err)
	}
	return store
}

func TestPostgresStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() dpslocal.Store {
		url := newDatabase(t)
		return func() dpslocal.Store {
			store := open(t, url)
			if err := store.BeginLease(t.Context()); err != nil {
				t.Fatal(err)
			}
			return store
		}
	})
}

// TestSameMigrations: a migration of one database has its like for the other.
func TestSameMigrations(t *testing.T) {
	names := func(dir string) (names []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		return names
	}
	if diff := cmp.Diff(names("../migrations"), names("migrations")); diff != "" {
		t.Errorf("SQLite's migrations and PostgreSQL's (-SQLite +PostgreSQL); write the missing one too:\n%s", diff)
	}
	if got := names(filepath.Join("..", "migrations")); len(got) < 4 {
		t.Errorf("got %v; is this the right directory?", got)
	}
}

// begin stores an operation of a device.
func begin(t *testing.T, store dpslocal.Store, id, device string) {
	t.Helper()
	op := dpslocal.Operation{ID: id, RegistrationID: device, Status: dpslocal.Assigning, Begun: time.Now()}
	if got, err := store.BeginOperation(t.Context(), op, dpslocal.Registration{ID: device, State: []byte("{}")}); err != nil || got.ID != id {
		t.Fatalf("beginning %s: %s, %v", id, got.ID, err)
	}
}

// took returns the IDs of what a store takes over.
func took(t *testing.T, store dpslocal.SharedStore) (ids []string) {
	t.Helper()
	operations, err := store.TakeOperations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range operations {
		ids = append(ids, op.ID)
	}
	return ids
}

// TestLease: what belongs to an instance is nobody else's until its lease ends,
// and not its own after that.
func TestLease(t *testing.T) {
	url := newDatabase(t)
	first, second := instance(t, url), instance(t, url)
	ctx := t.Context()
	begin(t, first, "1", "a")
	begin(t, first, "2", "b")
	if ids := took(t, second); ids != nil {
		t.Errorf("took %v from an instance that is there", ids)
	}
	if err := first.SaveProgress(ctx, "1", 4, time.Now()); err != nil {
		t.Error(err)
	}
	if err := second.SaveProgress(ctx, "1", 5, time.Now()); !errors.Is(err, dpslocal.ErrNotOurs) {
		t.Errorf("progress of another's operation: %v, want ErrNotOurs", err)
	}
	execute(t, url, `UPDATE instances SET lease_until = clock_timestamp()`)
	if err := first.RenewLease(ctx); !errors.Is(err, dpslocal.ErrNotOurs) {
		t.Errorf("renewing a lease that has ended: %v, want ErrNotOurs", err)
	}
	if err := second.BeginLease(ctx); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1", "2"}, took(t, second)); diff != "" {
		t.Errorf("taken over (-want +got):\n%s", diff)
	}
	if op, err := second.Operation(ctx, "a", "1"); err != nil || op.WebhookCalls != 4 {
		t.Errorf("%d webhook calls, %v; want 4", op.WebhookCalls, err)
	}
	ended := dpslocal.Operation{ID: "1", RegistrationID: "a", Status: dpslocal.Assigned, Ended: time.Now(), State: []byte("{}")}
	r := dpslocal.Registration{ID: "a", Status: dpslocal.Assigned, State: []byte("{}")}
	if err := first.FinishOperation(ctx, ended, r, nil); !errors.Is(err, dpslocal.ErrNotOurs) {
		t.Errorf("ending what another has taken: %v, want ErrNotOurs", err)
	}
	if got, err := first.Registration(ctx, "a"); err != nil || got.Status == dpslocal.Assigned {
		t.Errorf("got %+v, %v; want nothing written", got, err)
	}
	if err := second.FinishOperation(ctx, ended, r, nil); err != nil {
		t.Error(err)
	}
	op := dpslocal.Operation{ID: "3", RegistrationID: "c"}
	if _, err := first.BeginOperation(ctx, op, dpslocal.Registration{ID: "c", State: []byte("{}")}); err == nil {
		t.Error("an operation was begun without a lease")
	}
	// An instance that stops leaves its operations at once.
	if err := first.BeginLease(ctx); err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"2"}, took(t, first)); diff != "" {
		t.Errorf("taken over (-want +got):\n%s", diff)
	}
}

// TestOneRunningOperation: of registers at several instances at once, one begins
// an operation and all name it.
func TestOneRunningOperation(t *testing.T) {
	url := newDatabase(t)
	stores := []dpslocal.SharedStore{instance(t, url), instance(t, url)}
	for _, device := range []string{"a", "b", "c", "d", "e"} {
		var group sync.WaitGroup
		ids := make([]string, 20)
		for i := range ids {
			group.Go(func() {
				op := dpslocal.Operation{ID: device + string(rune('A'+i)), RegistrationID: device, Begun: time.Now()}
				got, err := stores[i%2].BeginOperation(t.Context(), op, dpslocal.Registration{ID: device, State: []byte("{}")})
				if err != nil {
					t.Error(err)
				}
				ids[i] = got.ID
			})
		}
		group.Wait()
		for _, id := range ids {
			if id != ids[0] || id == "" {
				t.Errorf("operations %v; want one", ids)
				break
			}
		}
	}
}

// A database of a newer program is left alone.
func TestNewerDatabase(t *testing.T) {
	url := newDatabase(t)
	if err := open(t, url).Close(); err != nil {
		t.Fatal(err)
	}
	execute(t, url, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, true)`)
	if _, err := pgstore.Open(t.Context(), url); err == nil || !strings.Contains(err.Error(), "use the newer program") {
		t.Errorf("got %v, want a refusal", err)
	}
}

// No error shows the password.
func TestOpenErrors(t *testing.T) {
	for name, url := range map[string]dpslocal.Secret{
		"port":    "postgres://u:SECRET@h:port/db",
		"escape":  "postgres://u:SECRET%zz@h/db",
		"option":  "postgres://u:SECRET@127.0.0.1/db?sslmode=perhaps",
		"nobody":  "postgres://u:SECRET@127.0.0.1:1/db?sslmode=disable",
		"sockets": "postgres://u:SECRET@/db?host=/nowhere",
	} {
		_, err := pgstore.Open(t.Context(), url)
		if err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: got %v, want an error without the password", name, err)
		}
	}
}
