// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
)

// TestGroupCommit writes a group in which some fail: theirs alone is undone, and
// what they were told is true after the store was opened again.
func TestGroupCommit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	store, err := openSQLite("file:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.db.Exec("CREATE TABLE numbers (n INTEGER PRIMARY KEY)"); err != nil {
		t.Fatal(err)
	}
	errOdd := errors.New("odd")
	insert := func(n int) func(tx *sql.Tx) error {
		return func(tx *sql.Tx) error {
			if _, err := tx.Exec("INSERT INTO numbers VALUES (?)", n); err != nil {
				return err
			}
			if n%2 == 1 {
				return errOdd
			}
			return nil
		}
	}

	// The first holds up the store until all others wait, and makes one group of them.
	const n = 100
	entered, proceed := make(chan struct{}), make(chan struct{})
	var writers sync.WaitGroup
	results := make([]error, n)
	writers.Go(func() {
		results[0] = store.transact(t.Context(), func(tx *sql.Tx) error {
			close(entered)
			<-proceed
			return insert(0)(tx)
		})
	})
	<-entered
	for i := 1; i < n; i++ {
		writers.Go(func() { results[i] = store.transact(t.Context(), insert(i)) })
	}
	for waiting := 0; waiting < n-1; {
		store.group.mu.Lock()
		waiting = len(store.group.waiting)
		store.group.mu.Unlock()
	}
	close(proceed)
	writers.Wait()
	for i, err := range results {
		if (i%2 == 1) != errors.Is(err, errOdd) {
			t.Errorf("%d: got %v", i, err)
		}
	}
	if err := store.transact(t.Context(), insert(0)); err == nil {
		t.Error("a number was taken twice")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := store.transact(ended, insert(n)); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: got %v", err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}

	again, err := openSQLite("file:" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	var count, sum int
	if err := again.db.QueryRow("SELECT count(*), sum(n) FROM numbers").Scan(&count, &sum); err != nil {
		t.Fatal(err)
	}
	if count != n/2 || sum != n*(n-2)/4 {
		t.Errorf("%d numbers of sum %d are stored, want the even ones, %d of sum %d", count, sum, n/2, n*(n-2)/4)
	}
}

// TestGroupCommitFails: when the transaction cannot be ended, everybody is told.
func TestGroupCommitFails(t *testing.T) {
	store, err := openSQLite("file:" + filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	good := &pendingWork{work: func(*sql.Tx) error { return nil }}
	bad := &pendingWork{work: func(tx *sql.Tx) error {
		_, err := tx.Exec("ROLLBACK") // behind everybody's back
		return errors.Join(errors.New("bad"), err)
	}}
	store.group.write([]*pendingWork{good, bad})
	if good.err == nil || bad.err == nil {
		t.Errorf("got %v and %v, want two errors", good.err, bad.err)
	}
}

// TestStatementsAreKept: a statement is compiled once, and still means the same
// with other values and after an error.
func TestStatementsAreKept(t *testing.T) {
	db, err := openCaching("file::memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT); CREATE INDEX i ON t (b)"); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if _, err := db.Exec("INSERT INTO t VALUES (?, ?)", i, fmt.Sprint("text ", i)); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec("INSERT INTO t VALUES (?, ?)", i, "again"); err == nil {
			t.Error("a key was taken twice")
		}
		var b string
		if err := db.QueryRow("SELECT b FROM t WHERE a = ?", i).Scan(&b); err != nil || b != fmt.Sprint("text ", i) {
			t.Errorf("got %q, %v", b, err)
		}
		if err := db.QueryRow("SELECT b FROM t WHERE a = ?", -1).Scan(&b); !errors.Is(err, sql.ErrNoRows) {
			t.Errorf("got %v, want no rows", err)
		}
	}
	for i := range maxStatements + 50 {
		var n int
		if err := db.QueryRow(fmt.Sprintf("SELECT %d", i)).Scan(&n); err != nil || n != i {
			t.Fatalf("got %d, %v", n, err)
		}
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	err = conn.Raw(func(c any) error {
		if n := len(c.(*cachingConn).statements); n != maxStatements {
			t.Errorf("%d statements are kept, want %d", n, maxStatements)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
