// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
)

// remember keeps a value under a key, as JSON, in one synced transaction.
func (s *store) remember(ctx context.Context, key string, value any) error {
	ctx = context.WithoutCancel(ctx) // as in save: a shutdown does not stop it
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("remembering %s: %w", key, err)
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it has nothing to do
	if err := writeMemory(ctx, tx, key, value); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("remembering %s: %w", key, err)
	}
	return nil
}

func writeMemory(ctx context.Context, tx *sql.Tx, key string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("remembering %s: %w", key, err)
	}
	_, err = tx.ExecContext(ctx, `INSERT OR REPLACE INTO memory (key, value) VALUES (?, ?)`, key, string(text))
	if err != nil {
		return fmt.Errorf("remembering %s: %w", key, err)
	}
	return nil
}

// recall reads what was remembered under a key into value, a pointer; nothing
// remembered leaves it as it is.
func (s *store) recall(ctx context.Context, key string, value any) error {
	var text string
	err := s.db.QueryRowContext(ctx, `SELECT value FROM memory WHERE key = ?`, key).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), value)
	}
	if err != nil {
		return fmt.Errorf("recalling %s: %w", key, err)
	}
	return nil
}
