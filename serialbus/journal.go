// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Journal remembers what is being written to appliances, across power cuts and kills; the owner of the Bus keeps it
// on disk (serial 7). For each appliance there is one entry, of its latest write: planned, then written, then verified.
// Each method returns when what it was told is on disk. Methods are called from the goroutine that runs [Bus.Run], with
// the line standing still meanwhile.
type Journal interface {
	// Pending reports whether the appliance's entry is not verified: nobody knows whether the write took place.
	Pending(ctx context.Context, registrationID string) (bool, error)
	// Plan is called before each write to the line, also before one that is repeated. It takes the place of the entry
	// before, and counts every cell for its day in the same step. If a cell was written as often as it may be, Plan
	// notes and counts nothing and returns a *LimitError; the write is left out. With any other error it is too.
	Plan(ctx context.Context, e Entry, cells []Cell) error
	// Written is called when the appliance has confirmed the write.
	Written(ctx context.Context, e Entry) error
	// Verified is called when everything that was planned was read back, whatever was found there.
	Verified(ctx context.Context, e Entry) error
}

// Entry says what a write is about.
type Entry struct {
	RegistrationID string
	Revision       int64  // that of the settings, see [Settings]
	Hash           string // SHA-256 of the settings in hex
	// Settings are what was to be written. After a kill [Bus.Holds] tells whether the appliance has them.
	Settings Settings
}

// Cell is one piece of an appliance's memory that wears out by writing: a register.
type Cell struct {
	Property string // that is kept there, for people
	Register uint16
	PerDay   int // how often it may be written in a day
}

// LimitError says that a setting was written as often as its register may be in a day (serial 7.4). It is worth another
// try at Next.
type LimitError struct {
	Property string
	Writes   int       // so many today
	Next     time.Time // the beginning of the next day
}

// Error says how often, and when the next try is worth its while.
func (e *LimitError) Error() string {
	return fmt.Sprintf("setting %q was written %d times today, and its memory wears out: next try tomorrow, at %s", e.Property, e.Writes, e.Next.Format("15:04 MST"))
}

// defaultWritesPerDay spares an EEPROM cell, which lasts for 100,000 writes or so: 27 years (serial 7.4).
const (
	defaultWritesPerDay = 10
	maxWritesPerDay     = 1000
)

// bookkeeper keeps the journal during one Apply. Without a journal, or for settings without a registration ID, it does
// nothing.
type bookkeeper struct {
	journal Journal
	entry   Entry
	pending bool // the entry is not verified
}

// open begins to keep the journal for settings, and waits where a write may have been cut off: what was written shows
// after the settle time only, and must not be written once more before.
func open(ctx context.Context, j Journal, s Settings, settle time.Duration) (*bookkeeper, error) {
	k := &bookkeeper{entry: Entry{RegistrationID: s.RegistrationID, Revision: s.Revision, Hash: s.hash(), Settings: s}}
	if j == nil || s.RegistrationID == "" {
		return k, nil
	}
	k.journal = j
	var err error
	if k.pending, err = j.Pending(ctx, s.RegistrationID); err != nil {
		return k, fmt.Errorf("looking into the journal: %w", err)
	}
	if k.pending {
		return k, pause(ctx, settle)
	}
	return k, nil
}

// plan notes that cells are about to be written.
func (k *bookkeeper) plan(ctx context.Context, cells []Cell) error {
	if k.journal == nil {
		return nil
	}
	err := k.journal.Plan(ctx, k.entry, cells)
	var limit *LimitError
	if errors.As(err, &limit) {
		return limit
	}
	if err != nil {
		return fmt.Errorf("nothing was written, since the journal takes no note of it: %w", err)
	}
	k.pending = true
	return nil
}

// written notes that the appliance confirmed. That the note failed changes nothing: the entry stays planned.
func (k *bookkeeper) written(ctx context.Context) error {
	if k.journal == nil {
		return nil
	}
	if err := k.journal.Written(ctx, k.entry); err != nil {
		return fmt.Errorf("noting a write in the journal: %w", err)
	}
	return nil
}

// verified notes that all was read back.
func (k *bookkeeper) verified(ctx context.Context) error {
	if k.journal == nil || !k.pending {
		return nil
	}
	if err := k.journal.Verified(ctx, k.entry); err != nil {
		return fmt.Errorf("noting in the journal what was read back: %w", err)
	}
	k.pending = false
	return nil
}

// hash names the content of the settings. JSON objects are written with their members in order, so equal settings have
// equal hashes.
func (s Settings) hash() string {
	content, err := json.Marshal(struct {
		Hub, Device string
		Desired     map[string]json.RawMessage
		Payload     json.RawMessage
	}{s.AssignedHub, s.DeviceID, s.Desired, slices.Clone(s.Payload)})
	if err != nil {
		content = fmt.Append(nil, s.AssignedHub, s.DeviceID, s.Desired, s.Payload) // no JSON: refused later, but named
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
