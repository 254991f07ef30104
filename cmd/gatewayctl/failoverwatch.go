// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/contoso/gatewayd/provisioning/enrollment"
)

const (
	// The first looks come quickly, for a person who waits; later ones spare a
	// service whose calls are counted.
	firstLook   = 1 * time.Second
	longestLook = 5 * time.Second

	// patience is how long a registration may be under way before the webhook is
	// blamed: DPS goes on asking one that it cannot reach for seven minutes, and
	// tells nobody (dps-protocol 12.5).
	patience = time.Minute
)

// sighting is what became of one device after the swap.
type sighting struct {
	enrollment.Registration
	before enrollment.Registration // the record of before the swap, or the zero one
	stuck  bool                    // under way for longer than patience
	old    bool                    // begun before the swap: the other webhook was asked
}

// failing tells whether the new webhook is to blame. A device that failed in
// the same way before the swap is not: a policy refuses it wherever it runs.
func (s sighting) failing() bool {
	if s.old {
		return false
	}
	sameAsBefore := s.before.Status == "failed" && s.before.ErrorCode == s.ErrorCode
	return s.stuck || s.Status == "failed" && slices.Contains(webhookCodes, s.ErrorCode) && !sameAsBefore
}

// text tells it in one line, without the registration ID.
func (s sighting) text() string {
	var text string
	switch {
	case s.stuck:
		return fmt.Sprintf("under way for more than %s: DPS asks the webhook again and again, so it is out of its reach or in trouble", patience)
	case s.Status == "assigned" && s.before.AssignedHub == "":
		text = "assigned to " + cell(s.AssignedHub)
	case s.Status == "assigned" && strings.EqualFold(s.before.AssignedHub, s.AssignedHub):
		text = "assigned to " + cell(s.AssignedHub) + ", as before"
	case s.Status == "assigned":
		text = "assigned to " + cell(s.AssignedHub) + ", moved from " + cell(s.before.AssignedHub)
	case s.Status == "failed":
		text = fmt.Sprintf("failed (%d): %s", s.ErrorCode, quoteAnswer([]byte(s.ErrorMessage)))
		if s.before.Status == "failed" && s.before.ErrorCode == s.ErrorCode {
			text += ", as before"
		} else if !slices.Contains(webhookCodes, s.ErrorCode) {
			text += ", not by the webhook"
		}
	default:
		text = cell(s.Status)
	}
	if s.old {
		text += " (begun before the swap)"
	}
	return text
}

// watcher follows the registrations of an entry from a swap on. Before and
// after are told apart by the service's own clock.
type watcher struct {
	since time.Time // when the entry was changed

	before   map[string]enrollment.Registration // by registration ID in lower case
	underway map[string]bool                    // begun before the swap, and not ended yet
	seen     map[string]time.Time               // the last update that was told
	begun    map[string]time.Time               // begun after the swap: when that was first seen, by our clock
	stuck    map[string]bool                    // of those, told to be under way for too long
	looked   bool                               // once at least
}

// newWatcher takes down how the registrations stand before a swap.
func newWatcher(records iter.Seq2[enrollment.Registration, error]) (*watcher, error) {
	w := &watcher{
		before:   make(map[string]enrollment.Registration),
		underway: make(map[string]bool),
		seen:     make(map[string]time.Time),
		begun:    make(map[string]time.Time),
		stuck:    make(map[string]bool),
	}
	for record, err := range records {
		if err != nil {
			return nil, err
		}
		id := strings.ToLower(record.RegistrationID)
		w.before[id] = enrollment.Registration{Status: record.Status, ErrorCode: record.ErrorCode, AssignedHub: record.AssignedHub}
		w.underway[id] = record.Status == "assigning"
	}
	return w, nil
}

// look reads the registrations once and returns what is new. A record under way
// may tell no time, dpslocal's does not: then what is there at the first look,
// right after the swap, was begun before it.
func (w *watcher) look(records iter.Seq2[enrollment.Registration, error], now time.Time) ([]sighting, error) {
	var news []sighting
	first := !w.looked
	w.looked = true
	for record, err := range records {
		if err != nil {
			return news, err
		}
		id, updated := strings.ToLower(record.RegistrationID), record.LastUpdatedDateTimeUTC.Time
		sinceSwap := updated.After(w.since)
		switch assigning := record.Status == "assigning"; {
		case assigning && (w.underway[id] || !sinceSwap && (first || !updated.IsZero())):
			w.underway[id] = true
		case assigning:
			if began, known := w.begun[id]; !known {
				w.begun[id] = now
			} else if !w.stuck[id] && now.Sub(began) >= patience {
				w.stuck[id] = true
				news = append(news, sighting{Registration: record, before: w.before[id], stuck: true})
			}
		case !sinceSwap:
			delete(w.underway, id)
		case !w.seen[id].Equal(updated):
			w.seen[id] = updated
			news = append(news, sighting{Registration: record, before: w.before[id], old: w.underway[id]})
			delete(w.underway, id)
			delete(w.begun, id)
			delete(w.stuck, id)
		}
	}
	return news, nil
}

// watch looks until the time is over, the first device fails, or ctx ends. It
// returns the failing device, if there is one. Trouble on the way to the service
// is told and does not end it, unless the last look fails too.
func (w *watcher) watch(ctx context.Context, length time.Duration, records func() iter.Seq2[enrollment.Registration, error],
	tell func(sighting), trouble func(error),
) (*sighting, error) {
	end := time.Now().Add(length)
	pause := firstLook
	for {
		began := time.Now()
		news, err := w.look(records(), began)
		var failed *sighting
		for _, s := range news {
			tell(s)
			if failed == nil && s.failing() {
				failed = &s
			}
		}
		left := time.Until(end)
		switch {
		case failed != nil:
			return failed, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case left <= 0:
			return nil, err
		case err != nil:
			trouble(err)
		}
		// A list of thousands takes the service time too.
		pause = max(min(pause, longestLook), 4*time.Since(began), hint(err))
		timer := time.NewTimer(min(pause, left))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		pause += time.Second
	}
}

// hint is how long a throttling service wants to be left alone.
func hint(err error) time.Duration {
	if refused, ok := errors.AsType[*enrollment.ServiceError](err); ok && refused.HTTPStatus == http.StatusTooManyRequests {
		return max(refused.RetryAfter, longestLook)
	}
	return 0
}
