// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/contoso/gatewayd/serialbus"
)

// The steps of a write, in their order (design section 12).
const (
	stepPlanned  = "planned"
	stepWritten  = "written"
	stepVerified = "verified"
)

// writeJournal keeps the store's account of what is written to appliances. Each step
// is one synced transaction; an idle gateway takes none.
type writeJournal struct {
	store *store
	now   func() time.Time // of the day that wear is counted by
}

var _ serialbus.Journal = (*writeJournal)(nil)

// newWriteJournal counts days by the clock that has a floor: after a start without a
// battery the day is then not 1970's, in which nothing was written yet.
func newWriteJournal(s *store, now func() time.Time) *writeJournal {
	return &writeJournal{store: s, now: now}
}

// Pending implements [serialbus.Journal].
func (j *writeJournal) Pending(ctx context.Context, registrationID string) (bool, error) {
	_, pending, err := j.unverified(ctx, registrationID)
	return pending, err
}

// unverified returns the settings of a write of which nobody knows whether it
// took place.
func (j *writeJournal) unverified(ctx context.Context, registrationID string) (serialbus.Settings, bool, error) {
	var text string
	var revision int64
	err := j.store.db.QueryRowContext(ctx, `SELECT revision, settings FROM journal WHERE registration_id = ? AND step <> ?`,
		registrationID, stepVerified).Scan(&revision, &text)
	if errors.Is(err, sql.ErrNoRows) {
		return serialbus.Settings{}, false, nil
	}
	var s serialbus.Settings
	if err == nil {
		err = json.Unmarshal([]byte(text), &s)
	}
	if err != nil {
		return serialbus.Settings{}, false, fmt.Errorf("reading the journal of %s: %w", registrationID, err)
	}
	s.RegistrationID, s.Revision = registrationID, revision
	return s, true, nil
}

// Plan implements [serialbus.Journal]. It does not stop for a shutdown, and
// neither do the others: once it is noted, the write is under way.
func (j *writeJournal) Plan(ctx context.Context, e serialbus.Entry, cells []serialbus.Cell) error {
	ctx = context.WithoutCancel(ctx)
	settings, err := json.Marshal(e.Settings)
	if err != nil {
		return fmt.Errorf("noting a write to %s: %w", e.RegistrationID, err)
	}
	tx, err := j.store.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("noting a write to %s: %w", e.RegistrationID, err)
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it has nothing to do
	now := j.now().UTC()
	for _, cell := range cells {
		if err := wear(ctx, tx, e.RegistrationID, cell, now); err != nil {
			return err
		}
	}
	_, err = tx.ExecContext(ctx, `INSERT OR REPLACE INTO journal (registration_id, revision, hash, step, settings, updated) VALUES (?, ?, ?, ?, ?, ?)`,
		e.RegistrationID, e.Revision, e.Hash, stepPlanned, string(settings), stamp(now))
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return fmt.Errorf("noting a write to %s: %w", e.RegistrationID, err)
	}
	return nil
}

// wear counts a write of a cell, or refuses it for today.
func wear(ctx context.Context, tx *sql.Tx, registrationID string, cell serialbus.Cell, now time.Time) error {
	today := now.Format(time.DateOnly)
	var day string
	var writes int
	err := tx.QueryRowContext(ctx, `SELECT day, writes FROM wear WHERE registration_id = ? AND register = ?`,
		registrationID, cell.Register).Scan(&day, &writes)
	switch {
	case errors.Is(err, sql.ErrNoRows), err == nil && day != today:
		day, writes = today, 0
	case err != nil:
		return fmt.Errorf("counting the writes of register %d of %s: %w", cell.Register, registrationID, err)
	}
	if writes >= cell.PerDay {
		next := now.Truncate(24 * time.Hour).Add(24 * time.Hour)
		return &serialbus.LimitError{Property: cell.Property, Writes: writes, Next: next}
	}
	_, err = tx.ExecContext(ctx, `INSERT OR REPLACE INTO wear (registration_id, register, day, writes) VALUES (?, ?, ?, ?)`,
		registrationID, cell.Register, day, writes+1)
	if err != nil {
		return fmt.Errorf("counting the writes of register %d of %s: %w", cell.Register, registrationID, err)
	}
	return nil
}

// Written implements [serialbus.Journal].
func (j *writeJournal) Written(ctx context.Context, e serialbus.Entry) error {
	return j.step(ctx, e.RegistrationID, stepWritten)
}

// Verified implements [serialbus.Journal].
func (j *writeJournal) Verified(ctx context.Context, e serialbus.Entry) error {
	return j.step(ctx, e.RegistrationID, stepVerified)
}

// step brings the entry of an appliance to a step.
func (j *writeJournal) step(ctx context.Context, registrationID, step string) error {
	_, err := j.store.db.ExecContext(context.WithoutCancel(ctx), `UPDATE journal SET step = ?, updated = ? WHERE registration_id = ?`,
		step, stamp(j.now()), registrationID)
	if err != nil {
		return fmt.Errorf("noting that a write to %s is %s: %w", registrationID, step, err)
	}
	return nil
}

// lookTries is how often an appliance is asked what became of a write before it
// is served all the same; then the next settings are read before they are written.
const lookTries = 3

// lookBack reads what became of a write that a kill or a power cut has left
// unverified, before anything else is done to the appliance (serial 7).
func (a *appliance) lookBack(ctx context.Context) {
	cut, unverified, err := a.world.journal.unverified(ctx, a.id)
	if err != nil {
		a.log.Error("the journal is not readable; settings are read before they are written", "err", err)
	}
	for tries := 0; unverified && tries < lookTries && ctx.Err() == nil; {
		where, answers := a.where()
		if !answers {
			a.rest(ctx, 0)
			continue
		}
		holds, err := where.line.bus.Holds(ctx, where.unit, cut)
		if err == nil {
			err = a.world.journal.step(ctx, a.id, stepVerified)
		}
		if err == nil {
			a.log.Info("looked back at a write that was cut off", "took_place", holds, "revision", cut.Revision)
			return
		}
		if tries++; ctx.Err() == nil {
			a.log.Warn("a write that was cut off is not looked at yet", "err", err, "attempt", tries)
			a.rest(ctx, settingsRetry)
		}
	}
}
