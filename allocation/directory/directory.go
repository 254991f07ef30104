// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/contoso/gatewayd/allocation"
)

// Config says where the directory is: one of the two.
type Config struct {
	// File is the path of a SQLite file.
	File string

	// URL is that of a PostgreSQL database, such as
	// "postgres://gatewayd@db.example/site?sslmode=verify-full". It may hold a
	// password and is never shown.
	URL string
}

// Directory is an open device directory. It implements allocation.Directory.
type Directory struct {
	source source
	gate   *gate
}

// source is a database that holds the table.
type source interface {
	// lookup gives the row of an ID in lower case. An error of type *rowError is
	// the row's, every other one the database's.
	lookup(ctx context.Context, id string) (row allocation.Row, found bool, err error)

	// columns describes the table; it has none when there is no table.
	columns(ctx context.Context) ([]Column, error)

	// each gives the rows in the order of their IDs, with the values in the order
	// of columns.
	each(ctx context.Context, columns []Column, yield func([]any) error) error

	connections() int // how many lookups may run at once
	close() error
}

// rowError is trouble with one row of a database that is well.
type rowError struct{ err error }

// Error gives the message.
func (e *rowError) Error() string { return e.err.Error() }

// Unwrap gives the cause.
func (e *rowError) Unwrap() error { return e.err }

// maxRow bounds the texts of one row, in bytes. It becomes part of each decision
// and its record.
const maxRow = 64 << 10

// Open opens a directory for reading. It neither connects nor looks for the
// file, because a database may be away when a gateway starts: see
// [Directory.Check].
func Open(config Config) (*Directory, error) {
	var source source
	switch {
	case config.File != "" && config.URL != "":
		return nil, errors.New("opening the device directory: it is either a SQLite file or a PostgreSQL URL, not both")
	case config.File != "":
		source = newSQLite(config.File)
	case config.URL != "":
		postgres, err := newPostgres(config.URL)
		if err != nil {
			return nil, fmt.Errorf("opening the device directory: %w", err)
		}
		source = postgres
	default:
		return nil, errors.New("opening the device directory: neither a SQLite file nor a PostgreSQL URL is given")
	}
	return &Directory{source: source, gate: newGate(source.connections())}, nil
}

// Lookup gives the row of a registration ID, with nil for NULL. The values are
// text, int64, float64 and bool; what is of another type in the database comes
// as text: a time as in RFC 3339, bytes in hexadecimal unless they are UTF-8.
func (d *Directory) Lookup(ctx context.Context, registrationID string) (row allocation.Row, found bool, err error) {
	err = d.gate.through(ctx, func() (err error) {
		row, found, err = d.source.lookup(ctx, strings.ToLower(registrationID))
		return err
	}, func(err error) bool {
		_, ofRow := errors.AsType[*rowError](err)
		return !ofRow
	})
	if err != nil {
		return nil, false, fmt.Errorf("asking the device directory: %w", err)
	}
	return row, found, nil
}

// Columns describes the table's columns in their order. Without a table it is an
// error.
func (d *Directory) Columns(ctx context.Context) ([]Column, error) {
	columns, err := d.source.columns(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the columns of the device directory: %w", err)
	}
	if len(columns) == 0 {
		return nil, &allocation.DirectoryTableError{Problems: []string{"there is no table devices"}}
	}
	return columns, nil
}

// Check tells whether the table has what a policy reads. An error that is a
// [*allocation.DirectoryTableError] says what does not fit; any other that nobody could be asked.
func (d *Directory) Check(ctx context.Context, wanted map[string]allocation.ColumnType) error {
	columns, err := d.Columns(ctx)
	if err != nil {
		return err
	}
	there := map[string]Column{}
	for _, column := range columns {
		there[column.Name] = column
	}
	var problems []string
	if _, ok := there[idColumn]; !ok {
		problems = append(problems, "the table devices has no column registration_id")
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		column, ok := there[name]
		switch {
		case !ok:
			problems = append(problems, fmt.Sprintf("the table devices has no column %q, which the policy reads; it has %s", name, listed(columns)))
		case !column.mayHold(wanted[name]):
			problems = append(problems, fmt.Sprintf("the column %q is declared %s, and the policy expects a %s", name, column.Declared, wanted[name]))
		}
	}
	if problems != nil {
		return &allocation.DirectoryTableError{Problems: problems}
	}
	return nil
}

// Each gives every row in the order of registration IDs, with its values in the
// order of columns, which [Directory.Columns] gave. It ends with the first error
// of yield. The slice is used again for the next row.
func (d *Directory) Each(ctx context.Context, columns []Column, yield func([]any) error) error {
	if err := d.source.each(ctx, columns, yield); err != nil {
		return fmt.Errorf("reading the device directory: %w", err)
	}
	return nil
}

// Close ends all connections. Lookups under way are waited for.
func (d *Directory) Close() error { return d.source.close() }

// listed lists columns for a message.
func listed(columns []Column) string {
	const most = 20
	var all []string
	for _, column := range columns[:min(len(columns), most)] {
		all = append(all, column.Name)
	}
	if len(columns) > most {
		all = append(all, "…")
	}
	return strings.Join(all, ", ")
}
