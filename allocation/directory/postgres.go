// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/contoso/gatewayd/allocation"
)

const (
	// postgresConnections bounds those of one gateway: any number of gateways
	// share a server, which takes 100 by default.
	postgresConnections = 4

	// connectTimeout applies to the work of the command line; a lookup ends with
	// its context.
	connectTimeout = 10 * time.Second

	// cancelTime is how long the server may take to end a statement that has run
	// out of time, before the connection is given up.
	cancelTime = 250 * time.Millisecond

	// idleTime ends connections that a firewall may have forgotten.
	idleTime = 5 * time.Minute
)

// postgres reads a PostgreSQL database.
type postgres struct{ db *sql.DB }

// parsePostgres reads a URL. Its error does not show it: there may be a password
// in it.
func parsePostgres(url string) (*pgx.ConnConfig, error) {
	url = strings.TrimSpace(url)
	config, err := pgx.ParseConfig(url)
	if err != nil || !strings.Contains(url, "://") && !strings.Contains(url, "=") {
		return nil, errors.New("it is not a PostgreSQL URL such as postgres://gatewayd@db.example/site?sslmode=verify-full")
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "gatewayd"
	}
	return config, nil
}

func newPostgres(url string) (*postgres, error) {
	config, err := parsePostgres(url)
	if err != nil {
		return nil, err
	}
	// A statement that has run out of time is cancelled at the server. Only
	// closing the connection would leave it running there, one more each time.
	config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: cancelTime}
	}
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(postgresConnections)
	db.SetMaxIdleConns(postgresConnections)
	db.SetConnMaxIdleTime(idleTime)
	return &postgres{db}, nil
}

func (p *postgres) connections() int { return postgresConnections }

func (p *postgres) close() error { return p.db.Close() }

func (p *postgres) lookup(ctx context.Context, id string) (allocation.Row, bool, error) {
	const statement = "SELECT * FROM devices WHERE registration_id = $1 LIMIT 2"
	row, found, err := lookup(ctx, p.db, postgresValue, statement, id)
	if stale(err) {
		row, found, err = lookup(ctx, p.db, postgresValue, statement, id)
	}
	return row, found, err
}

// stale tells that the table has changed since the statement was prepared. The
// driver has dropped it then, and the next try prepares it anew.
func stale(err error) bool {
	failure, ok := errors.AsType[*pgconn.PgError](err)
	return ok && failure.Code == "0A000"
}

func (p *postgres) columns(ctx context.Context) ([]Column, error) { return postgresColumns(ctx, p.db) }

func postgresColumns(ctx context.Context, db querier) (columns []Column, err error) {
	rows, err := db.QueryContext(ctx, `
		SELECT a.attname, format_type(a.atttypid, a.atttypmod), t.typname
		FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
		WHERE a.attrelid = to_regclass('devices') AND a.attnum > 0 AND NOT a.attisdropped
		ORDER BY a.attnum`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c Column
		var kind string
		if err := rows.Scan(&c.Name, &c.Declared, &kind); err != nil {
			return nil, err
		}
		c.Name, c.spelled = strings.ToLower(c.Name), c.Name
		c.Type, c.whole = postgresType(kind)
		columns = append(columns, c)
	}
	return columns, rows.Err()
}

// postgresType tells what a type's values arrive as, and whether they are whole
// numbers.
func postgresType(kind string) (t allocation.ColumnType, whole bool) {
	switch kind {
	case "bool":
		return allocation.ColumnBool, false
	case "int2", "int4", "int8":
		return allocation.ColumnNumber, true
	case "float4", "float8", "numeric":
		return allocation.ColumnNumber, false
	default:
		return allocation.ColumnText, false
	}
}

func (p *postgres) each(ctx context.Context, columns []Column, yield func([]any) error) error {
	return each(ctx, p.db, postgresValue, columns, yield)
}

// postgresValue gives the numbers that the driver gives as text.
func postgresValue(value any, declared *declarations, i int) any {
	text, ok := value.(string)
	if !ok || text == "" || text[0] > '9' || declared.of(i) != "NUMERIC" {
		return value
	}
	return parseNumeric(text)
}

// parseNumeric gives a number, or the text of one that is none, such as NaN.
func parseNumeric(text string) any {
	if whole, err := strconv.ParseInt(text, 10, 64); err == nil {
		return whole
	}
	number, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return text
	}
	return number
}
