// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the "sqlite" driver

	"github.com/contoso/gatewayd/provisioning"
)

//go:embed migrations/*.sql
var migrations embed.FS

// storeFile is the database's name in the state directory.
const storeFile = "gatewayd.db"

// store keeps the gateway's memory: one SQLite file, write-ahead log, every
// commit synced (design section 12). It has one writer, so one connection.
type store struct{ db *sql.DB }

// openStore opens or makes the database in directory and brings its tables to
// this binary's version. A file from a newer binary is refused and left alone.
func openStore(ctx context.Context, directory string) (*store, error) {
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w (set state_dir to a directory that this user may write)", err)
	}
	path := filepath.Join(directory, storeFile)
	// Pragmas are per connection, so they stand in the DSN.
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() +
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_txlock=immediate"
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	if err := migrate(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", path, err), db.Close())
	}
	return &store{db}, nil
}

// migrate brings the tables forward, never back.
func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		return err
	}
	found, known, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("reading the schema version: %w (if this is not gatewayd's file, move it away)", err)
	}
	if found > known {
		return fmt.Errorf("it was written by a newer gatewayd (schema %d, this one knows %d); install that version again, the file is untouched", found, known)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrating the schema: %w", err)
	}
	return nil
}

func (s *store) close() error { return s.db.Close() }

// ping proves that the database still answers.
func (s *store) ping(ctx context.Context) error {
	var one int
	return s.db.QueryRowContext(ctx, "SELECT 1").Scan(&one)
}

// save writes a record whole, and beside it what the gateway remembers, in one
// synced transaction. It does not stop for a shutdown: what is about to be done
// must be on disk first. memory, if any, is asked within the transaction, because
// the order in which savers get the one connection is not that in which they came,
// and what one has noted must not be overwritten with what another saw before.
func (s *store) save(ctx context.Context, r record, memory func() map[string]any) error {
	if err := s.write(context.WithoutCancel(ctx), r, memory); err != nil {
		return fmt.Errorf("saving %s: %w", r.RegistrationID, err)
	}
	return nil
}

func (s *store) write(ctx context.Context, r record, memory func() map[string]any) error {
	identity, err := json.Marshal(r.Identity)
	if err != nil {
		return err
	}
	var trouble sql.NullString
	if r.Error != nil {
		text, err := json.Marshal(r.Error)
		if err != nil {
			return err
		}
		trouble = sql.NullString{String: string(text), Valid: true}
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it has nothing to do
	_, err = tx.ExecContext(ctx, `
		INSERT INTO appliance (registration_id, bus, port, driver, unit, place, identity, state, error, updated)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (registration_id) DO UPDATE SET bus = excluded.bus, port = excluded.port, driver = excluded.driver,
			unit = excluded.unit, place = excluded.place, identity = excluded.identity, state = excluded.state,
			error = excluded.error, updated = excluded.updated`,
		r.RegistrationID, r.Place.Bus, r.Place.Port, r.Place.Driver, r.Place.Unit, r.Place.Place,
		string(identity), string(r.State), trouble, stamp(r.Updated))
	if err != nil {
		return err
	}
	if err := writeAssignment(ctx, tx, r); err != nil {
		return err
	}
	if err := writeRegistration(ctx, tx, r); err != nil {
		return err
	}
	if memory != nil {
		for key, value := range memory() {
			if err := writeMemory(ctx, tx, key, value); err != nil {
				return err
			}
		}
	}
	return tx.Commit()
}

func writeAssignment(ctx context.Context, tx *sql.Tx, r record) error {
	if r.Assignment == nil {
		_, err := tx.ExecContext(ctx, `DELETE FROM assignment WHERE registration_id = ?`, r.RegistrationID)
		return err
	}
	a := r.Assignment
	_, err := tx.ExecContext(ctx, `
		INSERT OR REPLACE INTO assignment (registration_id, assigned_hub, device_id, substatus, payload, sent_payload, assigned_at)
		VALUES (?, ?, ?, ?, ?, ?, ?)`,
		r.RegistrationID, a.AssignedHub, a.DeviceID, string(a.Substatus), nullable(a.Payload), nullable(a.SentPayload), stamp(a.AssignedAt))
	return err
}

func writeRegistration(ctx context.Context, tx *sql.Tx, r record) error {
	if r.Registration == nil {
		_, err := tx.ExecContext(ctx, `DELETE FROM registration WHERE registration_id = ?`, r.RegistrationID)
		return err
	}
	g := r.Registration
	next := sql.NullString{String: stamp(g.NextAttempt), Valid: !g.NextAttempt.IsZero()}
	_, err := tx.ExecContext(ctx, `
		INSERT OR REPLACE INTO registration (registration_id, reason, since, attempts, next_attempt, operation_id, in_doubt)
		VALUES (?, ?, ?, ?, ?, ?, ?)`,
		r.RegistrationID, g.Reason, stamp(g.Since), g.Attempts, next, g.OperationID, g.InDoubt)
	return err
}

// load reads every record, in the order of registration IDs.
func (s *store) load(ctx context.Context) ([]record, error) {
	rows, err := s.db.QueryContext(ctx, `
		SELECT a.registration_id, a.bus, a.port, a.driver, a.unit, a.place, a.identity, a.state, a.error, a.updated,
			s.assigned_hub, s.device_id, s.substatus, s.payload, s.sent_payload, s.assigned_at,
			r.reason, r.since, r.attempts, r.next_attempt, r.operation_id, r.in_doubt
		FROM appliance a
		LEFT JOIN assignment s USING (registration_id)
		LEFT JOIN registration r USING (registration_id)
		ORDER BY a.registration_id`)
	if err != nil {
		return nil, fmt.Errorf("reading the appliances: %w", err)
	}
	defer rows.Close()
	var all []record
	for rows.Next() {
		r, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("reading an appliance's row: %w", err)
		}
		all = append(all, r)
	}
	return all, rows.Err()
}

func scan(rows *sql.Rows) (record, error) {
	var r record
	var identity, state, updated string
	var trouble, hub, device, substatus, payload, sent, assignedAt, reason, since, next, operation sql.NullString
	var attempts sql.NullInt64
	var inDoubt sql.NullBool
	err := rows.Scan(&r.RegistrationID, &r.Place.Bus, &r.Place.Port, &r.Place.Driver, &r.Place.Unit, &r.Place.Place,
		&identity, &state, &trouble, &updated,
		&hub, &device, &substatus, &payload, &sent, &assignedAt,
		&reason, &since, &attempts, &next, &operation, &inDoubt)
	if err != nil {
		return record{}, err
	}
	// Damage to either must not stop the gateway: the one is read anew from the line before anything is done with it,
	// the other are words.
	if json.Unmarshal([]byte(identity), &r.Identity) != nil {
		r.Identity = Identity{}
	}
	if trouble.Valid {
		r.Error = new(Trouble)
		if json.Unmarshal([]byte(trouble.String), r.Error) != nil {
			r.Error = nil
		}
	}
	r.State, r.Updated = State(state), unstamp(updated)
	if hub.Valid {
		r.Assignment = &assignment{
			AssignedHub: hub.String, DeviceID: device.String, Substatus: provisioning.Substatus(substatus.String),
			Payload: raw(payload), SentPayload: raw(sent), AssignedAt: unstamp(assignedAt.String),
		}
	}
	if reason.Valid {
		r.Registration = &registration{
			Reason: reason.String, Since: unstamp(since.String), Attempts: int(attempts.Int64),
			NextAttempt: unstamp(next.String), OperationID: operation.String, InDoubt: inDoubt.Bool,
		}
	}
	return r, nil
}

// stamp writes a time so that text order is time order.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// unstamp reads what stamp wrote; anything else is the zero time, which makes
// an attempt due now.
func unstamp(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}
	}
	return t
}

func nullable(text json.RawMessage) sql.NullString {
	return sql.NullString{String: string(text), Valid: text != nil}
}

func raw(text sql.NullString) json.RawMessage {
	if !text.Valid {
		return nil
	}
	return json.RawMessage(text.String)
}
