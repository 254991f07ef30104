// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/contoso/gatewayd/allocation"
)

// sqliteTarget puts rows into a SQLite file.
//
// A file in WAL mode is changed in place, in one transaction: that is what the
// mode is for. Any other is copied, the copy is changed and takes the file's
// place. In place, a large transaction without WAL locks readers out for as long
// as it lasts, and what it leaves behind when it is killed keeps out those who
// may only read.
type sqliteTarget struct {
	path    string
	copied  *os.File // the copy, locked; nil when the file is changed in place
	lock    *sql.DB  // holds the file against other writers while it is copied, or nil
	info    fs.FileInfo
	db      *sql.DB
	tx      *sql.Tx
	columns []Column
	before  int
}

func openSQLiteTarget(ctx context.Context, path string) (_ *sqliteTarget, err error) {
	t := &sqliteTarget{}
	defer func() {
		if err != nil {
			t.abort()
		}
	}()
	if t.path, err = realPath(path); err != nil {
		return nil, err
	}
	wal := false
	switch t.info, err = os.Stat(t.path); {
	case err == nil:
		if t.lock, wal, err = lockSQLite(ctx, t.path); err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if wal {
		t.db, t.lock = t.lock, nil
	} else if err := t.copy(ctx); err != nil {
		return nil, err
	}
	if t.tx, err = t.db.BeginTx(ctx, nil); err != nil {
		return nil, explainSQLite(t.path, err)
	}
	return t, t.look(ctx)
}

// realPath follows links, so that not the link is replaced. The file need not
// exist.
func realPath(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path, nil
	}
	return real, err
}

// lockSQLite opens a file and tells whether it is in WAL mode. If it is not, the
// file is held against other writers, but not against readers.
func lockSQLite(ctx context.Context, path string) (db *sql.DB, wal bool, err error) {
	db, err = sql.Open("sqlite", dsn(path, "mode=rw&_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=synchronous(FULL)"))
	if err != nil {
		return nil, false, err
	}
	db.SetMaxOpenConns(1)
	var mode string
	if err = db.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err == nil && mode != "wal" {
		_, err = db.ExecContext(ctx, "BEGIN IMMEDIATE")
	}
	if err != nil {
		return nil, false, errors.Join(explainSQLite(path, err), db.Close())
	}
	return db, mode == "wal", nil
}

// copy makes the file's copy, or an empty one for a file that does not exist.
// What a killed import has left of its own is overwritten.
func (t *sqliteTarget) copy(ctx context.Context) error {
	name := t.path + ".import"
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		return fmt.Errorf("locking %s: %w; another import may be under way", name, err)
	}
	// The lock may be on what is the directory by now, because the import that had
	// it has ended meanwhile.
	if info, err := os.Stat(name); err != nil || !isOpen(file, info) {
		return errors.Join(errors.New("another import has ended this moment; run this one again"), file.Close())
	}
	t.copied = file
	if err := errors.Join(file.Truncate(0), t.likeOriginal(file)); err != nil {
		return err
	}
	if t.info != nil {
		original, err := sql.Open("sqlite", dsn(t.path, "mode=ro&_pragma=busy_timeout(5000)"))
		if err != nil {
			return err
		}
		_, err = original.ExecContext(ctx, "VACUUM INTO ?", name)
		if err := errors.Join(err, original.Close()); err != nil {
			return fmt.Errorf("copying %s: %w", t.path, err)
		}
	}
	// Nobody else has the copy and it is thrown away after a failure, so it needs
	// no journal; it is synced as a whole before it takes the file's place.
	t.db, err = sql.Open("sqlite", dsn(name, "mode=rw&_pragma=journal_mode(OFF)&_pragma=synchronous(OFF)"))
	if err != nil {
		return err
	}
	t.db.SetMaxOpenConns(1)
	return nil
}

// likeOriginal gives the copy the mode and owner of the file.
func (t *sqliteTarget) likeOriginal(file *os.File) error {
	if t.info == nil {
		return nil
	}
	if err := file.Chmod(t.info.Mode().Perm()); err != nil {
		return err
	}
	owner, ok := t.info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil // another user cannot give files away
	}
	return file.Chown(int(owner.Uid), int(owner.Gid))
}

// look finds out what table is there.
func (t *sqliteTarget) look(ctx context.Context) (err error) {
	var kind string
	err = t.tx.QueryRowContext(ctx, "SELECT type FROM sqlite_schema WHERE lower(name) = 'devices' AND type IN ('table', 'view')").Scan(&kind)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return explainSQLite(t.path, err)
	case kind == "view":
		return errView
	}
	if t.columns, err = sqliteColumns(ctx, t.tx); err != nil {
		return err
	}
	t.before, err = countRows(ctx, t.tx)
	return err
}

func (t *sqliteTarget) existing() []Column { return t.columns }

// sqliteTypes are declarations that SQLite and people understand.
var sqliteTypes = map[allocation.ColumnType]string{
	allocation.ColumnText: "TEXT", allocation.ColumnNumber: "NUMERIC", allocation.ColumnBool: "BOOLEAN",
}

// sqliteCheck keeps values of other types out, which SQLite by itself does not.
func sqliteCheck(c Column) string {
	switch c.Type {
	case allocation.ColumnNumber:
		return fmt.Sprintf(" CHECK (typeof(%s) IN ('null', 'integer', 'real'))", c.quoted())
	case allocation.ColumnBool:
		return fmt.Sprintf(" CHECK (%s IN (0, 1))", c.quoted())
	default:
		return ""
	}
}

func (t *sqliteTarget) load(ctx context.Context, columns []Column, replace bool, rows iter.Seq[[]any]) error {
	if err := t.prepare(ctx, columns, replace); err != nil {
		return explainSQLite(t.path, err)
	}
	insert, err := t.tx.PrepareContext(ctx, "INSERT INTO devices ("+quotedNames(columns)+") VALUES (?"+strings.Repeat(", ?", len(columns)-1)+")"+onConflict(columns))
	if err != nil {
		return explainSQLite(t.path, err)
	}
	defer insert.Close()
	for row := range rows {
		if _, err := insert.ExecContext(ctx, row...); err != nil {
			return explainSQLite(t.path, err)
		}
	}
	return nil
}

// prepare makes the table ready for rows. A table that stays as it is keeps its
// indexes and triggers.
func (t *sqliteTarget) prepare(ctx context.Context, columns []Column, replace bool) error {
	var statements []string
	switch {
	case len(t.columns) > 0 && !replace:
	case len(t.columns) > 0 && sameColumns(t.columns, columns):
		statements = []string{"DELETE FROM devices"}
	default:
		statements = []string{
			"DROP TABLE IF EXISTS devices",
			"CREATE TABLE devices (" + definitions(columns, sqliteTypes, sqliteCheck) + ") WITHOUT ROWID",
		}
	}
	for _, statement := range statements {
		if _, err := t.tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

func (t *sqliteTarget) commit(ctx context.Context) (before, after int, err error) {
	if after, err = countRows(ctx, t.tx); err != nil {
		return 0, 0, err
	}
	if err := t.tx.Commit(); err != nil {
		return 0, 0, explainSQLite(t.path, err)
	}
	if t.copied == nil {
		return t.before, after, nil
	}
	if err := t.db.Close(); err != nil {
		return 0, 0, err
	}
	if err := t.copied.Sync(); err != nil {
		return 0, 0, err
	}
	if err := os.Rename(t.copied.Name(), t.path); err != nil {
		return 0, 0, err
	}
	// The lock on the copy, which has the file's name now, is given up by abort.
	return t.before, after, syncDirectory(filepath.Dir(t.path))
}

// syncDirectory makes a rename outlast a power cut.
func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	defer directory.Close()
	return directory.Sync()
}

func (t *sqliteTarget) abort() {
	if t.tx != nil {
		_ = t.tx.Rollback() // says that it is over after a commit
	}
	if t.db != nil {
		_ = t.db.Close()
	}
	if t.copied != nil {
		if info, err := os.Stat(t.copied.Name()); err == nil && isOpen(t.copied, info) {
			_ = os.Remove(t.copied.Name()) // not renamed
		}
		_ = t.copied.Close()
	}
	if t.lock != nil {
		_ = t.lock.Close() // ends its transaction
	}
}

// isOpen tells whether the open file is the one that has the name.
func isOpen(file *os.File, named fs.FileInfo) bool {
	info, err := file.Stat()
	return err == nil && os.SameFile(info, named)
}
