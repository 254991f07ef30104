// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
)

// groupCommit writes what is asked for at the same time in one transaction, so
// that it shares one wait for the disk. Each piece of work is all or nothing by
// itself, and is told of success when the disk has it and not before.
type groupCommit struct {
	db *sql.DB

	mu      sync.Mutex
	waiting []*pendingWork
	leading bool // somebody is writing, or has been told to
}

// pendingWork is one piece of work that waits to be written.
type pendingWork struct {
	work func(tx *sql.Tx) error
	err  error

	// turn tells its owner to write all that waits, or, when it is false, that the
	// work was done by another.
	turn chan bool
}

// run does work in a transaction. While one group is being written the next one
// gathers, and the first of it writes it.
func (g *groupCommit) run(work func(tx *sql.Tx) error) error {
	own := &pendingWork{work: work, turn: make(chan bool, 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, own)
	if !g.leading {
		g.leading = true
		own.turn <- true
	}
	g.mu.Unlock()
	if !<-own.turn {
		return own.err
	}

	g.mu.Lock()
	group := g.waiting
	g.waiting = nil
	g.mu.Unlock()
	g.write(group)

	g.mu.Lock()
	if g.leading = len(g.waiting) > 0; g.leading {
		g.waiting[0].turn <- true
	}
	g.mu.Unlock()
	for _, other := range group {
		if other != own {
			other.turn <- false
		}
	}
	return own.err
}

// write does a group's work and leaves each piece its error.
func (g *groupCommit) write(group []*pendingWork) {
	if err := g.commit(group); err != nil {
		for _, p := range group {
			if p.err == nil {
				p.err = err
			}
		}
	}
}

// commit does a group's work in one transaction. Its error is everybody's: then
// nothing was written. No context can end it, since that would undo the work of
// the others.
func (g *groupCommit) commit(group []*pendingWork) error {
	tx, err := g.db.BeginTx(context.Background(), nil)
	if err != nil {
		return err
	}
	for _, p := range group {
		if err := p.run(tx); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}

// run does one piece of a group's work, or none of it. Its own error is about
// the transaction, which cannot go on.
func (p *pendingWork) run(tx *sql.Tx) error {
	if _, err := tx.Exec("SAVEPOINT work"); err != nil {
		return fmt.Errorf("beginning in a group: %w", err)
	}
	if p.err = p.work(tx); p.err != nil {
		if _, err := tx.Exec("ROLLBACK TO work"); err != nil {
			return fmt.Errorf("undoing in a group: %w", err)
		}
	}
	if _, err := tx.Exec("RELEASE work"); err != nil {
		return fmt.Errorf("ending in a group: %w", err)
	}
	return nil
}
