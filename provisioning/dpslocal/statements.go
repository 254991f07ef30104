// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"modernc.org/sqlite"
)

// maxStatements bounds what a connection keeps; the store has a few dozen.
const maxStatements = 200

// openCaching opens a SQLite database whose connections compile each statement
// once: compiling the few that a registration needs takes longer than running
// them.
func openCaching(name string) (*sql.DB, error) {
	connector, err := sqlite.NewConnector(name)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(cachingConnector{connector}), nil
}

// cachingConnector makes connections that cache.
type cachingConnector struct {
	driver.Connector
}

// Connect implements driver.Connector.
func (c cachingConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	full, ok := conn.(sqliteConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%T is not the connection that is expected", conn), conn.Close())
	}
	return &cachingConn{sqliteConn: full, statements: make(map[string]cachedStmt)}, nil
}

// sqliteConn is what database/sql may use of a connection. It leaves out the
// ways to run a statement that is not prepared.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// cachingConn keeps its prepared statements. Like every driver's connection it is
// used by one goroutine at a time; nothing here runs a statement again before
// the rows of its last run are read.
type cachingConn struct {
	sqliteConn
	statements map[string]cachedStmt
}

// PrepareContext implements driver.ConnPrepareContext.
func (c *cachingConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if stmt, ok := c.statements[query]; ok {
		return stmt, nil
	}
	stmt, err := c.sqliteConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	full, ok := stmt.(sqliteStmt)
	if !ok || len(c.statements) >= maxStatements {
		return stmt, nil
	}
	c.statements[query] = cachedStmt{full}
	return c.statements[query], nil
}

// Close implements driver.Conn.
func (c *cachingConn) Close() error {
	var errs []error
	for _, stmt := range c.statements {
		errs = append(errs, stmt.sqliteStmt.Close())
	}
	clear(c.statements)
	return errors.Join(append(errs, c.sqliteConn.Close())...)
}

// sqliteStmt is what database/sql may use of a statement.
type sqliteStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// cachedStmt outlives those who have prepared it.
type cachedStmt struct {
	sqliteStmt
}

// Close implements driver.Stmt. The connection closes it in the end.
func (cachedStmt) Close() error { return nil }
