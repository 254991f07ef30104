// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"

	"github.com/contoso/gatewayd/allocation"
)

// errView says that rows cannot go into a view.
var errView = errors.New("devices is a view over other tables; import into those")

// sameColumns tells whether a table has these columns, of these types, in any
// order, and no others.
func sameColumns(existing, columns []Column) bool {
	if len(existing) != len(columns) {
		return false
	}
	for _, c := range columns {
		if !slices.ContainsFunc(existing, func(e Column) bool { return e.Name == c.Name && e.Type == c.Type }) {
			return false
		}
	}
	return true
}

// definitions is the list of columns of a statement that makes the table. types
// names the database's types, check what else it says of a column.
func definitions(columns []Column, types map[allocation.ColumnType]string, check func(Column) string) string {
	all := []string{"registration_id TEXT NOT NULL PRIMARY KEY CHECK (registration_id = lower(registration_id))"}
	for _, c := range columns {
		if c.Name != idColumn {
			all = append(all, c.quoted()+" "+types[c.Type]+check(c))
		}
	}
	return strings.Join(all, ", ")
}

// onConflict is the end of an INSERT that gives a row that is there new values.
func onConflict(columns []Column) string {
	var sets []string
	for _, c := range columns {
		if c.Name != idColumn {
			sets = append(sets, fmt.Sprintf("%s = excluded.%[1]s", c.quoted()))
		}
	}
	if sets == nil {
		return " ON CONFLICT (registration_id) DO NOTHING"
	}
	return " ON CONFLICT (registration_id) DO UPDATE SET " + strings.Join(sets, ", ")
}

func countRows(ctx context.Context, tx *sql.Tx) (n int, err error) {
	err = tx.QueryRowContext(ctx, "SELECT count(*) FROM devices").Scan(&n)
	return n, err
}

// dryRun is the target of an import that changes nothing.
type dryRun struct{ columns []Column }

func openDryRun(ctx context.Context, config Config) (*dryRun, error) {
	d, err := Open(config)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	columns, err := d.source.columns(ctx)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a file that is not there will be made
		return nil, err
	}
	return &dryRun{columns}, nil
}

func (d *dryRun) existing() []Column { return d.columns }

func (d *dryRun) load(_ context.Context, _ []Column, _ bool, rows iter.Seq[[]any]) error {
	for range rows { // reading them is what finds the bad ones
	}
	return nil
}

func (d *dryRun) commit(context.Context) (before, after int, err error) { return 0, 0, nil }

func (d *dryRun) abort() {}
