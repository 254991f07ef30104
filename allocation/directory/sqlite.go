// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"sync"

	_ "modernc.org/sqlite" // the "sqlite" driver

	"github.com/contoso/gatewayd/allocation"
)

// sqliteConnections bounds the lookups in one file. One takes some 30 µs; more at
// once are slower, because SQLite in Go has locks that all connections share.
const sqliteConnections = 2

// sqlite reads a SQLite file. The file may be written to at any time, and
// another may take its place or be copied over it: each lookup looks which file has
// the name, and when it was written.
type sqlite struct {
	path string

	mu     sync.Mutex // guards what follows
	opened *openedFile
	closed bool
}

// openedFile is one file with its connections. It is closed when another has
// taken its place, or it was written to, and nobody reads it any more.
type openedFile struct {
	db      *sql.DB
	info    os.FileInfo
	users   int
	retired bool
}

func newSQLite(path string) *sqlite { return &sqlite{path: path} }

func (s *sqlite) connections() int { return sqliteConnections }

// dsn opens a file with options of the driver. The pragmas stand in it because
// they hold for one connection each.
func dsn(path, options string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + options
}

// acquire gives the file that has the name now; release is called after use.
func (s *sqlite) acquire() (*openedFile, error) {
	info, err := os.Stat(s.path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, errors.New("it is a directory, and not a SQLite file")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, sql.ErrConnDone
	}
	if s.opened == nil || !s.opened.isStill(info) {
		// A busy database is one whose writer commits, which is soon over.
		db, err := sql.Open("sqlite", dsn(s.path, "mode=ro&_pragma=busy_timeout(500)&_pragma=query_only(1)"))
		if err != nil {
			return nil, err
		}
		db.SetMaxOpenConns(sqliteConnections)
		db.SetMaxIdleConns(sqliteConnections)
		s.retire()
		s.opened = &openedFile{db: db, info: info}
	}
	s.opened.users++
	return s.opened, nil
}

// isStill tells whether the file with the name is the one that was opened, and was
// not written to since. SQLite notices by a count in the file that another program
// has written, and by another count that the table is another one. A file that was
// copied over this one may have the same counts: rows would be read from what
// connections remember of the old one, or with its names of the columns.
func (f *openedFile) isStill(info os.FileInfo) bool {
	return os.SameFile(f.info, info) && f.info.Size() == info.Size() && f.info.ModTime().Equal(info.ModTime())
}

// retire closes the open file once nobody reads it. Called with mu held.
func (s *sqlite) retire() {
	if s.opened == nil {
		return
	}
	s.opened.retired = true
	if s.opened.users == 0 {
		_ = s.opened.db.Close() // read only: nothing can be lost
	}
	s.opened = nil
}

func (s *sqlite) release(file *openedFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	file.users--
	if file.retired && file.users == 0 {
		_ = file.db.Close()
	}
}

func (s *sqlite) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.retire()
	return nil
}

func (s *sqlite) lookup(ctx context.Context, id string) (allocation.Row, bool, error) {
	file, err := s.acquire()
	if err != nil {
		return nil, false, explainSQLite(s.path, err)
	}
	defer s.release(file)
	row, found, err := lookup(ctx, file.db, sqliteValue, "SELECT * FROM devices WHERE registration_id = ? LIMIT 2", id)
	return row, found, explainSQLite(s.path, err)
}

// sqliteValue gives bools, for which SQLite has 0 and 1.
func sqliteValue(value any, declared *declarations, i int) any {
	if n, ok := value.(int64); ok && (n == 0 || n == 1) && sqliteType(declared.of(i)) == allocation.ColumnBool {
		return n == 1
	}
	return value
}

func (s *sqlite) columns(ctx context.Context) ([]Column, error) {
	file, err := s.acquire()
	if err != nil {
		return nil, err
	}
	defer s.release(file)
	columns, err := sqliteColumns(ctx, file.db)
	return columns, explainSQLite(s.path, err)
}

// querier is a database, a connection or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func sqliteColumns(ctx context.Context, db querier) (columns []Column, err error) {
	rows, err := db.QueryContext(ctx, "SELECT name, type FROM pragma_table_xinfo('devices') WHERE hidden <> 1")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c Column
		if err := rows.Scan(&c.Name, &c.Declared); err != nil {
			return nil, err
		}
		c.Name, c.spelled, c.Type = strings.ToLower(c.Name), c.Name, sqliteType(c.Declared)
		columns = append(columns, c)
	}
	return columns, rows.Err()
}

// sqliteType reads a declaration as SQLite does, which goes by parts of words;
// only that it has bools is new.
func sqliteType(declared string) allocation.ColumnType {
	declared = strings.ToUpper(declared)
	has := func(parts ...string) bool {
		for _, part := range parts {
			if strings.Contains(declared, part) {
				return true
			}
		}
		return false
	}
	switch {
	case has("BOOL"):
		return allocation.ColumnBool
	case has("DATE", "TIME"):
		return allocation.ColumnText // the driver makes times of them
	case has("INT"):
		return allocation.ColumnNumber
	case has("CHAR", "CLOB", "TEXT"):
		return allocation.ColumnText
	case has("REAL", "FLOA", "DOUBLE", "NUM", "DEC"):
		return allocation.ColumnNumber
	default:
		return ""
	}
}

func (s *sqlite) each(ctx context.Context, columns []Column, yield func([]any) error) error {
	file, err := s.acquire()
	if err != nil {
		return err
	}
	defer s.release(file)
	return explainSQLite(s.path, each(ctx, file.db, sqliteValue, columns, yield))
}

// explainSQLite adds to an error what a person can do about it.
func explainSQLite(path string, err error) error {
	if _, ofRow := errors.AsType[*rowError](err); ofRow || err == nil {
		return err
	}
	text := err.Error()
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return err
	case strings.Contains(text, "no such table"):
		return fmt.Errorf("%s has no table devices: %w; gatewayctl directory import makes it", path, err)
	case strings.Contains(text, "unable to open database file"), strings.Contains(text, "readonly"):
		return fmt.Errorf("%s: %w; it is unreadable for this user, or in WAL mode in a directory where this user may not write: PRAGMA journal_mode=DELETE makes it readable there", path, err)
	default:
		return fmt.Errorf("%s: %w", path, err)
	}
}
