// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"database/sql"

	"github.com/contoso/gatewayd/allocation"
)

// declarations are the types of a result's columns. They are asked for when they
// are needed, because that is a good part of the time of a lookup.
type declarations struct {
	rows  *sql.Rows
	types []*sql.ColumnType
}

// of gives the type of a column in the driver's words, or nothing.
func (d *declarations) of(i int) string {
	if d.types == nil {
		types, err := d.rows.ColumnTypes()
		if err != nil {
			return ""
		}
		d.types = types
	}
	return d.types[i].DatabaseTypeName()
}

// mend gives a value as it is meant, where a driver gives it as something else.
type mend func(value any, declared *declarations, i int) any

// lookup reads the row of an ID with a statement that gives two if there are
// several.
func lookup(ctx context.Context, db *sql.DB, mend mend, statement, id string) (allocation.Row, bool, error) {
	rows, err := db.QueryContext(ctx, statement, id)
	if err != nil {
		return nil, false, err
	}
	defer rows.Close()
	if !rows.Next() {
		return nil, false, rows.Err()
	}
	names, err := rows.Columns()
	if err != nil {
		return nil, false, err
	}
	values := make([]any, len(names))
	if err := rows.Scan(pointers(values)...); err != nil {
		return nil, false, err
	}
	declared := &declarations{rows: rows}
	for i := range values {
		values[i] = fromDatabase(mend(values[i], declared, i))
	}
	if rows.Next() {
		return nil, false, errTwice(id)
	}
	if err := rows.Err(); err != nil {
		return nil, false, err
	}
	row, err := newRow(names, values)
	if err == nil {
		err = checkID(row, id)
	}
	if err != nil {
		return nil, false, err
	}
	return row, true, nil
}

// each gives the rows of the table in the order of their IDs.
func each(ctx context.Context, db *sql.DB, mend mend, columns []Column, yield func([]any) error) error {
	rows, err := db.QueryContext(ctx, "SELECT "+quotedNames(columns)+" FROM devices ORDER BY registration_id")
	if err != nil {
		return err
	}
	defer rows.Close()
	values := make([]any, len(columns))
	into := pointers(values)
	declared := &declarations{rows: rows}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		for i := range values {
			values[i] = fromDatabase(mend(values[i], declared, i))
		}
		if err := yield(values); err != nil {
			return err
		}
	}
	return rows.Err()
}

func pointers(values []any) []any {
	all := make([]any, len(values))
	for i := range values {
		all[i] = &values[i]
	}
	return all
}
