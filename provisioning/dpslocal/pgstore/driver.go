// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"database/sql/driver"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/stdlib"
)

// connector makes connections that understand the statements of package
// dpslocal: parameters are written ?, which PostgreSQL calls $1, $2 and so on.
type connector struct {
	driver.Connector
}

// Connect implements driver.Connector.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	inner, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return conn{inner.(*stdlib.Conn)}, nil
}

// conn is a connection of pgx with everything that it can do.
type conn struct {
	*stdlib.Conn
}

// ExecContext implements driver.ExecerContext.
func (c conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.Conn.ExecContext(ctx, numbered(query), storable(args))
}

// QueryContext implements driver.QueryerContext.
func (c conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.Conn.QueryContext(ctx, numbered(query), storable(args))
}

// numbered gives the parameters of a statement their numbers. The statements
// have no question mark elsewhere.
func numbered(query string) string {
	var b strings.Builder
	for i := 1; ; i++ {
		before, after, found := strings.Cut(query, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteString("$" + strconv.Itoa(i))
		query = after
	}
}

// storable replaces in texts what is not UTF-8, as encoding/json does when it
// decodes them. A device's payload can hold such bytes, SQLite keeps them, and
// PostgreSQL refuses the whole statement.
func storable(args []driver.NamedValue) []driver.NamedValue {
	for i, arg := range args {
		if text, ok := arg.Value.(string); ok {
			args[i].Value = strings.ToValidUTF8(text, "\uFFFD")
		}
	}
	return args
}
