// SPDX-License-Identifier: Apache-2.0

// Package pgstore opens the PostgreSQL database that several instances of
// dpslocal share. It is apart from package dpslocal so that a program without
// need of one does not link the driver.
//
// The statements are dpslocal's own, the same as for SQLite; here are the
// connection and the schema. Instances that start at once bring it up to date
// one after the other.
package pgstore

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/contoso/gatewayd/provisioning/dpslocal"
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	// maxConns bounds the connections of one instance. PostgreSQL takes 100 by
	// default, of all its clients.
	maxConns = 16

	// connectTimeout applies unless the URL has a connect_timeout.
	connectTimeout = 10 * time.Second

	// migrationLock is the advisory lock that instances hold while they migrate.
	migrationLock = 0x64_70_73_6d // "dpsm"
)

// Open connects to the database of a URL, such as
// "postgres://dpslocal@db.example/dpslocal?sslmode=verify-full", and brings its
// schema up to date. The database must exist; its user must be allowed to make
// tables. What the URL leaves out comes from libpq's variables, such as
// PGPASSWORD, and files, such as ~/.pgpass. A database of a newer program is
// refused and left alone. Errors do not show the URL, which may hold a password.
func Open(ctx context.Context, url dpslocal.Secret) (dpslocal.SharedStore, error) {
	config, err := pgx.ParseConfig(string(url))
	if err != nil {
		// Not wrapped: the cause quotes the URL.
		return nil, &dpslocal.ConfigError{Err: errors.New("store: not a PostgreSQL URL such as postgres://user@host:5432/database?sslmode=verify-full")}
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "dpslocal"
	}
	db := sql.OpenDB(connector{stdlib.GetConnector(*config)})
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	if err := migrate(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the store on %s: %w", config.Host, err), db.Close())
	}
	return dpslocal.NewPostgresStore(db), nil
}

// migrate applies the migrations that the database does not have yet.
func migrate(ctx context.Context, db *sql.DB) (err error) {
	lock, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := lock.ExecContext(ctx, `SELECT pg_advisory_lock(?)`, migrationLock); err != nil {
		return err
	}
	defer func() {
		_, unlocking := lock.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock(?)`, migrationLock)
		err = errors.Join(err, unlocking)
	}()
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	current, newest, err := provider.GetVersions(ctx)
	if err != nil {
		return err
	}
	if current > newest {
		return fmt.Errorf("it is of version %d and this program knows versions up to %d: use the newer program", current, newest)
	}
	_, err = provider.Up(ctx)
	return err
}
