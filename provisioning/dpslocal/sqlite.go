// SPDX-License-Identifier: Apache-2.0

package dpslocal

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
	"strings"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// operationLifetime is how long an ended operation can still be polled. The
// service's own figure is not documented (dps-protocol 11.4).
const operationLifetime = 24 * time.Hour

// storeTime is how the store writes times: their text sorts as they do.
const storeTime = "2006-01-02T15:04:05.000000000Z"

// sqlStore is a Store in a SQL database: a SQLite file, SQLite in memory, or
// PostgreSQL. Its statements are written so that both understand them; what
// only one of them has is a field.
type sqlStore struct {
	db *sql.DB

	// forUpdate keeps others from a row that is read to be changed, skipLocked
	// from waiting for it. SQLite has one writer at a time and needs neither.
	forUpdate, skipLocked string

	// group writes for many at once, or is nil: PostgreSQL does that by itself.
	group *groupCommit

	// instance owns the operations that are begun here; see SharedStore. It is nil
	// in a store that nobody else uses.
	instance *atomic.Pointer[string]
}

// owner is the instance as a column holds it.
func (s *sqlStore) owner() any {
	if s.instance == nil {
		return nil
	}
	return *s.instance.Load()
}

// OpenStore opens or makes the SQLite file at path and brings its schema up to
// date. A file of a newer program is refused and left alone.
func OpenStore(path string) (Store, error) {
	// The file holds keys, and SQLite would make it readable for everyone.
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	_ = file.Close()
	store, err := openSQLite("file:" + (&url.URL{Path: path}).EscapedPath())
	if err != nil {
		return nil, fmt.Errorf("opening the store %s: %w", path, err)
	}
	return store, nil
}

// OpenMemoryStore makes a store that is gone when it is closed, for tests. It
// works inside a synctest bubble.
func OpenMemoryStore() (Store, error) {
	store, err := openSQLite("file::memory:")
	if err != nil {
		return nil, fmt.Errorf("opening a store in memory: %w", err)
	}
	return store, nil
}

// openSQLite opens a database and brings its schema up to date. It has a single
// connection: SQLite has one writer anyway, the reads are by primary key, and a
// memory database lives and dies with its connection. The pragmas are in
// the name because they are of a connection, not of the file: every commit is
// synced, and writers wait for each other instead of failing.
func openSQLite(name string) (*sqlStore, error) {
	db, err := openCaching(name +
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_txlock=immediate")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if err := migrate(db); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &sqlStore{db: db, group: &groupCommit{db: db}}, nil
}

// migrate applies the migrations that the file does not have yet.
func migrate(db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	ctx := context.Background()
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

// Close implements Store.
func (s *sqlStore) Close() error { return s.db.Close() }

// transact runs f in one transaction. f must not use a context that can end while
// it runs: SQLite would undo what others have written beside it.
func (s *sqlStore) transact(ctx context.Context, f func(tx *sql.Tx) error) error {
	if s.group != nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		return s.group.run(f)
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// Enrollments implements EnrollmentStore.
func (s *sqlStore) Enrollments(ctx context.Context) ([]Enrollment, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT kind, id, device_id, attestation, primary_key, secondary_key, x509, tpm,
		iot_edge, provisioning_status, allocation_policy, webhook_url, webhook_api_version, hubs, reprovision_policy,
		initial_twin, device_information, etag, created, updated FROM enrollments ORDER BY kind, id_key`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Enrollment
	for rows.Next() {
		var e Enrollment
		if err := rows.Scan(&e.Kind, &e.ID, &e.DeviceID, &e.Attestation, &e.PrimaryKey, &e.SecondaryKey,
			jsonColumn{&e.X509}, jsonColumn{&e.TPM}, &e.IoTEdge, &e.ProvisioningStatus, &e.AllocationPolicy,
			&e.WebhookURL, &e.WebhookAPIVersion, jsonColumn{&e.Hubs}, &e.ReprovisionPolicy,
			rawColumn{&e.InitialTwin}, rawColumn{&e.DeviceInformation}, &e.ETag, timeColumn{&e.Created}, timeColumn{&e.Updated}); err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, rows.Err()
}

// enrollmentColumns are the columns of enrollmentValues, in their order. The
// first two are the primary key.
const enrollmentColumns = `kind, id_key, id, device_id, attestation, primary_key, secondary_key, x509, tpm, iot_edge,
	provisioning_status, allocation_policy, webhook_url, webhook_api_version, hubs, reprovision_policy,
	initial_twin, device_information, etag, created, updated`

// enrollmentValues are a row of enrollmentColumns.
func enrollmentValues(e Enrollment) []any {
	return []any{
		e.Kind, strings.ToLower(e.ID), e.ID, e.DeviceID, e.Attestation, string(e.PrimaryKey), string(e.SecondaryKey),
		string(encodeJSON(e.X509)), string(encodeJSON(e.TPM)), e.IoTEdge, e.ProvisioningStatus,
		e.AllocationPolicy, string(e.WebhookURL), e.WebhookAPIVersion, string(encodeJSON(e.Hubs)), e.ReprovisionPolicy,
		string(e.InitialTwin), string(e.DeviceInformation), e.ETag, textOf(e.Created), textOf(e.Updated),
	}
}

// PutEnrollment implements EnrollmentStore.
func (s *sqlStore) PutEnrollment(ctx context.Context, e Enrollment) error {
	_, err := s.db.ExecContext(ctx, insertInto("enrollments", enrollmentColumns)+
		` ON CONFLICT (kind, id_key) DO UPDATE SET `+excluded(enrollmentColumns), enrollmentValues(e)...)
	return err
}

// insertInto is the statement that inserts a row of a comma-separated list of columns.
func insertInto(table, columns string) string {
	return `INSERT INTO ` + table + ` (` + columns + `) VALUES (?` + strings.Repeat(`, ?`, strings.Count(columns, `,`)) + `)`
}

// excluded sets every column to the value that could not be inserted.
func excluded(columns string) string {
	var set []string
	for column := range strings.SplitSeq(columns, `,`) {
		column = strings.TrimSpace(column)
		set = append(set, column+` = excluded.`+column)
	}
	return strings.Join(set, `, `)
}

// DeleteEnrollment implements EnrollmentStore.
func (s *sqlStore) DeleteEnrollment(ctx context.Context, kind EnrollmentKind, id string) error {
	return deleteOne(ctx, s.db, `DELETE FROM enrollments WHERE kind = ? AND id_key = ?`, kind, strings.ToLower(id))
}

// Registration implements RegistrationStore.
func (s *sqlStore) Registration(ctx context.Context, id string) (Registration, error) {
	return selectRegistration(ctx, s.db, id, "")
}

// RegistrationsOf implements RegistrationStore.
func (s *sqlStore) RegistrationsOf(ctx context.Context, groupID, after string, limit int) ([]Registration, error) {
	rows, err := s.db.QueryContext(ctx, registrationColumns+`WHERE enrollment_kind = ? AND lower(enrollment_id) = ? AND id_key > ?
		ORDER BY id_key LIMIT ?`, Group, strings.ToLower(groupID), strings.ToLower(after), limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Registration
	for rows.Next() {
		var r Registration
		if err := rows.Scan(r.columns()...); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, rows.Err()
}

// DeleteRegistration implements RegistrationStore.
func (s *sqlStore) DeleteRegistration(ctx context.Context, id string, allow func(Registration) error) error {
	return s.transact(ctx, func(tx *sql.Tx) error {
		ctx := context.WithoutCancel(ctx)
		r, err := selectRegistration(ctx, tx, id, s.forUpdate)
		if err != nil {
			return err
		}
		if err := allow(r); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM operations WHERE registration_key = ?`, strings.ToLower(id)); err != nil {
			return err
		}
		return deleteOne(ctx, tx, `DELETE FROM registrations WHERE id_key = ?`, strings.ToLower(id))
	})
}

// registrationColumns selects what columns scans, in the same order.
const registrationColumns = `SELECT id, enrollment_kind, enrollment_id, created, updated, status, state,
	assigned_hub, device_id, substatus FROM registrations `

// columns are the places that a row of registrationColumns is scanned into.
func (r *Registration) columns() []any {
	return []any{
		&r.ID, &r.EnrollmentKind, &r.EnrollmentID,
		timeColumn{&r.Created},
		timeColumn{&r.Updated},
		&r.Status,
		rawColumn{&r.State},
		&r.AssignedHub, &r.DeviceID, &r.Substatus,
	}
}

// selectRegistration reads one registration, with a lock clause or none, or
// returns ErrNotFound.
func selectRegistration(ctx context.Context, q querier, id, lock string) (Registration, error) {
	var r Registration
	err := q.QueryRowContext(ctx, registrationColumns+`WHERE id_key = ?`+lock, strings.ToLower(id)).Scan(r.columns()...)
	return r, notFound(err)
}

// operationColumns selects what columns scans, in the same order.
const operationColumns = `SELECT id, registration_id, begun, ended, status, state, enrollment_kind, enrollment_id, key_id,
	certificates, payload, webhook_calls, next_call FROM operations `

// columns are the places that a row of operationColumns is scanned into.
func (op *Operation) columns() []any {
	return []any{
		&op.ID, &op.RegistrationID,
		timeColumn{&op.Begun},
		timeColumn{&op.Ended},
		&op.Status,
		rawColumn{&op.State},
		&op.EnrollmentKind, &op.EnrollmentID, &op.KeyID, &op.Certificates,
		rawColumn{&op.Payload},
		&op.WebhookCalls,
		timeColumn{&op.NextCall},
	}
}

// Operation implements RegistrationStore.
func (s *sqlStore) Operation(ctx context.Context, registrationID, operationID string) (Operation, error) {
	var op Operation
	err := s.db.QueryRowContext(ctx, operationColumns+`WHERE id = ? AND registration_key = ?`,
		operationID, strings.ToLower(registrationID)).Scan(op.columns()...)
	return op, notFound(err)
}

// Operations implements RegistrationStore.
func (s *sqlStore) Operations(ctx context.Context, registrationID string) ([]Operation, error) {
	return s.operations(ctx, operationColumns+`WHERE registration_key = ? ORDER BY begun`, strings.ToLower(registrationID))
}

// UnfinishedOperations implements RegistrationStore.
func (s *sqlStore) UnfinishedOperations(ctx context.Context) ([]Operation, error) {
	return s.operations(ctx, operationColumns+`WHERE ended = '' ORDER BY begun`)
}

// operations runs a query for any number of operations.
func (s *sqlStore) operations(ctx context.Context, query string, args ...any) ([]Operation, error) {
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Operation
	for rows.Next() {
		var op Operation
		if err := rows.Scan(op.columns()...); err != nil {
			return nil, err
		}
		all = append(all, op)
	}
	return all, rows.Err()
}

// BeginOperation implements RegistrationStore. That one operation at most runs
// for a registration is the work of a unique index.
func (s *sqlStore) BeginOperation(ctx context.Context, op Operation, r Registration) (Operation, error) {
	const runs = operationColumns + `WHERE registration_key = ? AND ended = ''`
	key := strings.ToLower(op.RegistrationID)
	err := s.transact(ctx, func(tx *sql.Tx) error {
		ctx := context.WithoutCancel(ctx)
		var running Operation
		err := tx.QueryRowContext(ctx, runs, key).Scan(running.columns()...)
		if err == nil {
			op = running
			return nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err := putBegunRegistration(ctx, tx, r); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM operations WHERE id IN
			(SELECT id FROM operations WHERE ended <> '' AND ended < ?`+s.skipLocked+`)`, textOf(op.Begun.Add(-operationLifetime)))
		if err != nil {
			return err
		}
		return changeOne(ctx, tx, errRuns, `INSERT INTO operations (id, registration_key, registration_id, begun, ended, status, state,
			enrollment_kind, enrollment_id, key_id, certificates, payload, webhook_calls, next_call, owner)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (registration_key) WHERE ended = '' DO NOTHING`,
			op.ID, key, op.RegistrationID, textOf(op.Begun), textOf(op.Ended), op.Status,
			string(op.State), op.EnrollmentKind, op.EnrollmentID, op.KeyID, op.Certificates,
			string(op.Payload), op.WebhookCalls, textOf(op.NextCall), s.owner())
	})
	if errors.Is(err, errRuns) {
		err = s.db.QueryRowContext(ctx, runs, key).Scan(op.columns()...)
	}
	return op, notFound(err)
}

// errRuns is how BeginOperation learns that another instance was faster.
var errRuns = errors.New("an operation runs already")

// SaveProgress implements RegistrationStore.
func (s *sqlStore) SaveProgress(ctx context.Context, operationID string, calls int, next time.Time) error {
	return changeOne(ctx, s.db, ErrNotOurs, `UPDATE operations SET webhook_calls = ?, next_call = ?
		WHERE id = ? AND ended = '' AND owner IS NOT DISTINCT FROM ?`, calls, textOf(next), operationID, s.owner())
}

// FinishOperation implements RegistrationStore.
func (s *sqlStore) FinishOperation(ctx context.Context, op Operation, r Registration, place *Placement) error {
	return s.transact(ctx, func(tx *sql.Tx) error {
		ctx := context.WithoutCancel(ctx)
		// The registration goes first, as in BeginOperation, so that the two wait
		// for each other and do not block each other.
		if err := putRegistration(ctx, tx, r); err != nil {
			return err
		}
		err := changeOne(ctx, tx, ErrNotOurs, `UPDATE operations SET ended = ?, status = ?, state = ?, owner = NULL
			WHERE id = ? AND ended = '' AND owner IS NOT DISTINCT FROM ?`,
			textOf(op.Ended), op.Status, string(op.State), op.ID, s.owner())
		if err != nil || place == nil {
			return err
		}
		return s.putPlacement(ctx, tx, *place)
	})
}

// putBegunRegistration writes what a register call changes. The assignment in
// force is not among it: it may have come about since the registration was read,
// or the registration may have been deleted since, and then this is a first one.
func putBegunRegistration(ctx context.Context, tx *sql.Tx, r Registration) error {
	r.AssignedHub, r.DeviceID, r.Substatus = "", "", ""
	_, err := tx.ExecContext(ctx, insertInto("registrations", registrationRow)+
		` ON CONFLICT (id_key) DO UPDATE SET `+excluded(`enrollment_kind, enrollment_id, updated, status, state`), r.values()...)
	return err
}

// putRegistration writes a registration. The spelling and the time of the first
// one stay.
func putRegistration(ctx context.Context, tx *sql.Tx, r Registration) error {
	_, err := tx.ExecContext(ctx, insertInto("registrations", registrationRow)+` ON CONFLICT (id_key) DO UPDATE SET `+
		excluded(`enrollment_kind, enrollment_id, updated, status, state, assigned_hub, device_id, substatus`), r.values()...)
	return err
}

// registrationRow are the columns of Registration.values, in their order.
const registrationRow = `id_key, id, enrollment_kind, enrollment_id, created, updated, status, state, assigned_hub, device_id, substatus`

// values are a row of registrationRow.
func (r Registration) values() []any {
	return []any{
		strings.ToLower(r.ID), r.ID, r.EnrollmentKind, r.EnrollmentID, textOf(r.Created), textOf(r.Updated),
		r.Status, string(r.State), r.AssignedHub, r.DeviceID, r.Substatus,
	}
}

// putPlacement makes, updates or moves a device. Removing it from the hub that
// it leaves is part of the move (dps-protocol 19.1).
func (s *sqlStore) putPlacement(ctx context.Context, tx *sql.Tx, place Placement) error {
	device := place.Device
	if place.From != "" && !strings.EqualFold(place.From, device.Hub) {
		old, err := selectDevice(ctx, tx, place.From, device.ID, s.forUpdate)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if err == nil && place.Migrate {
			device.Twin = old.Twin
		}
		if err := deleteDevice(ctx, tx, place.From, device.ID); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO devices (hub_key, hub, id, primary_key, secondary_key, primary_thumbprint,
		secondary_thumbprint, tags, tags_version, desired, desired_version, reported, reported_version)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (hub_key, id) DO UPDATE SET primary_key = excluded.primary_key, secondary_key = excluded.secondary_key,
		primary_thumbprint = excluded.primary_thumbprint, secondary_thumbprint = excluded.secondary_thumbprint`,
		strings.ToLower(device.Hub), device.Hub, device.ID, string(device.PrimaryKey), string(device.SecondaryKey),
		device.PrimaryThumbprint, device.SecondaryThumbprint, sectionText(device.Twin.Tags), device.Twin.TagsVersion,
		sectionText(device.Twin.Desired), device.Twin.DesiredVersion, sectionText(device.Twin.Reported), device.Twin.ReportedVersion)
	return err
}

// Device implements DeviceStore.
func (s *sqlStore) Device(ctx context.Context, hub, id string) (Device, error) {
	return selectDevice(ctx, s.db, hub, id, "")
}

// UpdateTwin implements DeviceStore. The transaction takes the write lock when it
// begins, so that what was read is still true when it is written.
func (s *sqlStore) UpdateTwin(ctx context.Context, hub, id string, change func(*Twin) error) error {
	return s.transact(ctx, func(tx *sql.Tx) error {
		ctx := context.WithoutCancel(ctx)
		device, err := selectDevice(ctx, tx, hub, id, s.forUpdate)
		if err != nil {
			return err
		}
		if err := change(&device.Twin); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE devices SET tags = ?, tags_version = ?, desired = ?, desired_version = ?, reported = ?,
			reported_version = ? WHERE hub_key = ? AND id = ?`,
			sectionText(device.Twin.Tags), device.Twin.TagsVersion, sectionText(device.Twin.Desired), device.Twin.DesiredVersion,
			sectionText(device.Twin.Reported), device.Twin.ReportedVersion, strings.ToLower(hub), id)
		return err
	})
}

// DeleteDevice implements DeviceStore.
func (s *sqlStore) DeleteDevice(ctx context.Context, hub, id string) error {
	return deleteDevice(ctx, s.db, hub, id)
}

// querier is what a database and a transaction have in common.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// selectDevice reads one device, with a lock clause or none, or returns ErrNotFound.
func selectDevice(ctx context.Context, q querier, hub, id, lock string) (Device, error) {
	var d Device
	err := q.QueryRowContext(ctx, `SELECT hub, id, primary_key, secondary_key, primary_thumbprint, secondary_thumbprint,
		tags, tags_version, desired, desired_version, reported, reported_version FROM devices WHERE hub_key = ? AND id = ?`+lock, strings.ToLower(hub), id).
		Scan(&d.Hub, &d.ID, &d.PrimaryKey, &d.SecondaryKey, &d.PrimaryThumbprint, &d.SecondaryThumbprint,
			jsonColumn{&d.Twin.Tags}, &d.Twin.TagsVersion,
			jsonColumn{&d.Twin.Desired}, &d.Twin.DesiredVersion, jsonColumn{&d.Twin.Reported}, &d.Twin.ReportedVersion)
	return d, notFound(err)
}

// deleteDevice removes one device, or returns ErrNotFound.
func deleteDevice(ctx context.Context, q querier, hub, id string) error {
	return deleteOne(ctx, q, `DELETE FROM devices WHERE hub_key = ? AND id = ?`, strings.ToLower(hub), id)
}

// deleteOne removes one row, or returns ErrNotFound.
func deleteOne(ctx context.Context, q querier, statement string, args ...any) error {
	return changeOne(ctx, q, ErrNotFound, statement, args...)
}

// changeOne runs a statement that changes a row, or returns none when there is
// no such row.
func changeOne(ctx context.Context, q querier, none error, statement string, args ...any) error {
	result, err := q.ExecContext(ctx, statement, args...)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, none)
	}
	return nil
}

// notFound turns the driver's word for no row into ours.
func notFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}

// textOf writes a time, the zero time as no text.
func textOf(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(storeTime)
}

// sectionText writes a section of a twin; one that was never set is empty.
func sectionText(section map[string]json.RawMessage) string {
	if section == nil {
		return "{}"
	}
	return string(encodeJSON(section))
}

// timeColumn scans what textOf wrote.
type timeColumn struct{ t *time.Time }

// Scan implements sql.Scanner.
func (c timeColumn) Scan(value any) error {
	text, ok := value.(string)
	if !ok {
		return fmt.Errorf("a time is stored as %T", value)
	}
	if text == "" {
		*c.t = time.Time{}
		return nil
	}
	t, err := time.Parse(storeTime, text)
	*c.t = t
	return err
}

// rawColumn scans a JSON document that may be absent.
type rawColumn struct{ raw *json.RawMessage }

// Scan implements sql.Scanner.
func (c rawColumn) Scan(value any) error {
	text, ok := value.(string)
	if !ok {
		return fmt.Errorf("a document is stored as %T", value)
	}
	if text != "" && !json.Valid([]byte(text)) {
		return errors.New("a stored document is damaged")
	}
	*c.raw = rawJSON(text)
	return nil
}

// jsonColumn decodes a JSON document into what v points at.
type jsonColumn struct{ v any }

// Scan implements sql.Scanner.
func (c jsonColumn) Scan(value any) error {
	text, ok := value.(string)
	if !ok {
		return fmt.Errorf("a document is stored as %T", value)
	}
	return json.Unmarshal([]byte(text), c.v)
}
