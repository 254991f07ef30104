// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/contoso/gatewayd/allocation"
)

// postgresTarget puts rows into a PostgreSQL table. They go into a temporary one
// first, so that the table itself is touched only when the whole file has been
// read, and is locked for as short as possible.
type postgresTarget struct {
	db      *sql.DB
	conn    *sql.Conn
	tx      *sql.Tx
	columns []Column
	loaded  []Column
	replace bool
}

func openPostgresTarget(ctx context.Context, url string) (_ *postgresTarget, err error) {
	config, err := parsePostgres(url)
	if err != nil {
		return nil, err
	}
	t := &postgresTarget{db: stdlib.OpenDB(*config)}
	defer func() {
		if err != nil {
			t.abort()
		}
	}()
	if t.conn, err = t.db.Conn(ctx); err != nil {
		return nil, err
	}
	if t.tx, err = t.conn.BeginTx(ctx, nil); err != nil {
		return nil, err
	}
	var kind string
	err = t.tx.QueryRowContext(ctx, "SELECT relkind::text FROM pg_class WHERE oid = to_regclass('devices')").Scan(&kind)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return t, nil
	case err != nil:
		return nil, err
	case kind != "r" && kind != "p":
		return nil, errView
	}
	t.columns, err = postgresColumns(ctx, t.tx)
	return t, err
}

func (t *postgresTarget) existing() []Column { return t.columns }

// postgresTypes are the types of new columns. numeric keeps whole numbers and
// fractions as they are.
var postgresTypes = map[allocation.ColumnType]string{
	allocation.ColumnText: "text", allocation.ColumnNumber: "numeric", allocation.ColumnBool: "boolean",
}

func noCheck(Column) string { return "" }

func (t *postgresTarget) load(ctx context.Context, columns []Column, replace bool, rows iter.Seq[[]any]) error {
	t.loaded, t.replace = columns, replace
	var all []string
	for _, c := range columns {
		all = append(all, Column{Name: c.Name}.quoted()+" "+postgresTypes[c.Type])
	}
	if _, err := t.tx.ExecContext(ctx, "CREATE TEMPORARY TABLE devices_import ("+strings.Join(all, ", ")+") ON COMMIT DROP"); err != nil {
		return err
	}
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name
	}
	next, stop := iter.Pull(rows)
	defer stop()
	return t.conn.Raw(func(driver any) error {
		_, err := driver.(*stdlib.Conn).Conn().CopyFrom(ctx, pgx.Identifier{"pg_temp", "devices_import"}, names,
			pgx.CopyFromFunc(func() ([]any, error) {
				row, ok := next()
				if !ok {
					return nil, nil
				}
				return row, nil
			}))
		return err
	})
}

func (t *postgresTarget) commit(ctx context.Context) (before, after int, err error) {
	for _, statement := range t.begin() {
		if _, err := t.tx.ExecContext(ctx, statement); err != nil {
			return 0, 0, err
		}
	}
	if before, err = countRows(ctx, t.tx); err != nil {
		return 0, 0, err
	}
	for _, statement := range t.fill() {
		if _, err := t.tx.ExecContext(ctx, statement); err != nil {
			return 0, 0, err
		}
	}
	if after, err = countRows(ctx, t.tx); err != nil {
		return 0, 0, err
	}
	return before, after, t.tx.Commit()
}

// begin makes the table, or keeps other writers from it; not readers.
func (t *postgresTarget) begin() []string {
	if len(t.columns) == 0 {
		return []string{"CREATE TABLE devices (" + definitions(t.loaded, postgresTypes, noCheck) + ")"}
	}
	return []string{"LOCK TABLE devices IN SHARE ROW EXCLUSIVE MODE"}
}

// fill brings the rows into the table. Only a table that gets other columns is
// changed itself, which keeps readers out until the commit; it stays the same
// table, so that rights on it and views over it remain.
func (t *postgresTarget) fill() (statements []string) {
	if t.replace && len(t.columns) > 0 {
		statements = append(statements, "DELETE FROM devices")
		if !sameColumns(t.columns, t.loaded) {
			statements = append(statements, t.alter())
		}
	}
	declared := map[string]string{}
	for _, c := range t.columns {
		declared[c.Name] = c.Declared
	}
	var values []string
	for _, c := range t.loaded {
		value := Column{Name: c.Name}.quoted()
		if kind := declared[c.Name]; kind != "" && c.Declared == kind {
			value = fmt.Sprintf("CAST(%s AS %s)", value, kind)
		}
		values = append(values, value)
	}
	insert := "INSERT INTO devices (" + quotedNames(t.loaded) + ") SELECT " + strings.Join(values, ", ") + " FROM pg_temp.devices_import"
	if !t.replace {
		insert += onConflict(t.loaded)
	}
	return append(statements, insert)
}

// alter gives an empty table the columns that were loaded.
func (t *postgresTarget) alter() string {
	var changes []string
	for _, c := range t.columns {
		if c.Name != idColumn && !contains(t.loaded, c) {
			changes = append(changes, "DROP COLUMN "+c.quoted())
		}
	}
	for _, c := range t.loaded {
		if c.Name != idColumn && !contains(t.columns, c) {
			changes = append(changes, "ADD COLUMN "+c.quoted()+" "+postgresTypes[c.Type])
		}
	}
	return "ALTER TABLE devices " + strings.Join(changes, ", ")
}

// contains tells whether a list has a column of the name and type.
func contains(columns []Column, wanted Column) bool {
	for _, c := range columns {
		if c.Name == wanted.Name && c.Type == wanted.Type {
			return true
		}
	}
	return false
}

func (t *postgresTarget) abort() {
	if t.tx != nil {
		_ = t.tx.Rollback() // says that it is over after a commit
	}
	if t.conn != nil {
		_ = t.conn.Close()
	}
	_ = t.db.Close()
}
