// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"database/sql"
	"errors"
	"sync/atomic"
	"time"
)

// leaseTime is for how long an instance may work on its operations without
// renewing its lease, by the store's clock.
const leaseTime = 10 * time.Second

// storeTimeout bounds what an instance asks of a shared store besides serving
// calls; it is shorter than a lease.
const storeTimeout = 5 * time.Second

// SharedStore is a Store that several servers, the instances, use at once, and
// so are one service for registration. An operation belongs to the instance that
// began it or took it over. It is that instance's for as long as its lease
// holds, by the store's clock; after that anybody may take it over, and
// SaveProgress and FinishOperation of the former owner return ErrNotOurs.
//
// Close ends the lease, so that others need not wait for its end.
type SharedStore interface {
	Store

	// BeginLease gives up the lease that this instance has, if any, with all its
	// operations, and begins a new one.
	BeginLease(ctx context.Context) error

	// RenewLease lets the lease hold for ten seconds from now on. It returns
	// ErrNotOurs when it has ended.
	RenewLease(ctx context.Context) error

	// TakeOperations makes unfinished operations that belong to no lease that
	// holds this instance's own, and returns them, oldest first.
	TakeOperations(ctx context.Context) ([]Operation, error)

	// Exclusive runs f while no other instance runs one for the same purpose.
	Exclusive(ctx context.Context, purpose string, f func() error) error

	// Secret returns what all instances share under a name, or ErrNotFound.
	Secret(ctx context.Context, name string) (Secret, error)
	PutSecret(ctx context.Context, name string, value Secret) error
}

// postgresStore is the SharedStore in PostgreSQL.
type postgresStore struct {
	*sqlStore
}

// NewPostgresStore makes a store of a PostgreSQL database whose schema is up to
// date and whose driver takes ? for a parameter; package pgstore opens one. The
// store closes the database.
func NewPostgresStore(db *sql.DB) SharedStore {
	instance := new(atomic.Pointer[string])
	instance.Store(new(string)) // owns nothing before BeginLease
	return &postgresStore{&sqlStore{
		db:         db,
		forUpdate:  ` FOR UPDATE`,
		skipLocked: ` FOR UPDATE SKIP LOCKED`,
		instance:   instance,
	}}
}

// BeginLease implements SharedStore. Deleting an instance takes it from its
// operations too.
func (s *postgresStore) BeginLease(ctx context.Context) error {
	instance := newGUID()
	err := s.transact(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM instances WHERE id = ?`, s.owner()); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO instances (id, lease_until) VALUES (?, clock_timestamp() + make_interval(secs => ?))`,
			instance, leaseTime.Seconds())
		return err
	})
	if err == nil {
		s.instance.Store(&instance)
	}
	return err
}

// RenewLease implements SharedStore.
func (s *postgresStore) RenewLease(ctx context.Context) error {
	return changeOne(ctx, s.db, ErrNotOurs, `UPDATE instances SET lease_until = clock_timestamp() + make_interval(secs => ?)
		WHERE id = ? AND lease_until > clock_timestamp()`, leaseTime.Seconds(), s.owner())
}

// TakeOperations implements SharedStore. An instance whose lease has ended is
// deleted first: from then on it cannot renew it. Of two that take at once, the
// second finds the owner changed.
func (s *postgresStore) TakeOperations(ctx context.Context) ([]Operation, error) {
	if _, err := s.db.ExecContext(ctx, `DELETE FROM instances WHERE lease_until <= clock_timestamp()`); err != nil {
		return nil, err
	}
	// What the columns are selected from is what the update returns.
	return s.operations(ctx, `WITH operations AS (UPDATE operations SET owner = ? WHERE ended = '' AND owner IS NULL RETURNING *) `+
		operationColumns+`ORDER BY begun`, s.owner())
}

// Exclusive implements SharedStore with one of the database's advisory locks.
func (s *postgresStore) Exclusive(ctx context.Context, purpose string, f func() error) error {
	purpose = "dpslocal " + purpose
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock(hashtext(?))`, purpose); err != nil {
		return err
	}
	err = f()
	_, unlocking := conn.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock(hashtext(?))`, purpose)
	return errors.Join(err, unlocking)
}

// Secret implements SharedStore.
func (s *postgresStore) Secret(ctx context.Context, name string) (Secret, error) {
	var value Secret
	err := s.db.QueryRowContext(ctx, `SELECT value FROM secrets WHERE name = ?`, name).Scan(&value)
	return value, notFound(err)
}

// PutSecret implements SharedStore.
func (s *postgresStore) PutSecret(ctx context.Context, name string, value Secret) error {
	_, err := s.db.ExecContext(ctx, insertInto("secrets", `name, value`)+` ON CONFLICT (name) DO UPDATE SET `+excluded(`value`), name, string(value))
	return err
}

// Close implements Store.
func (s *postgresStore) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	_, err := s.db.ExecContext(ctx, `DELETE FROM instances WHERE id = ?`, s.owner())
	return errors.Join(err, s.db.Close())
}
