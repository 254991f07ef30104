// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/contoso/gatewayd/gateway/config"
	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/hub"
	"github.com/contoso/gatewayd/serialbus"
)

// registrar runs one registration to its end; [provisioning.Client] is one.
type registrar interface {
	Register(ctx context.Context, request provisioning.Request) (provisioning.Assignment, error)
}

// hubSession is an open session with an assigned hub; [hub.Session] is one.
type hubSession interface {
	Twin(ctx context.Context) (hub.Twin, error)
	Report(ctx context.Context, patch map[string]json.RawMessage) (int64, error)
	Desired() <-chan hub.Properties
	Done() <-chan struct{}
	Err() error
	Close()
}

// bus writes settings to an appliance; [serialbus.Bus] is one.
type bus interface {
	Apply(ctx context.Context, unit int, settings serialbus.Settings) (serialbus.Applied, error)
	Holds(ctx context.Context, unit int, settings serialbus.Settings) (bool, error)
}

// line is a bus with its configuration.
type line struct {
	config.Bus
	bus bus
}

// spot is one place where an appliance can answer.
type spot struct {
	line *line
	unit int
}

// place is the spot in the words of the appliance's JSON.
func (s spot) place() Place {
	l := s.line.Line
	return Place{Bus: l.Name, Port: l.Port, Driver: string(l.Driver), Unit: s.unit, Place: s.line.Place}
}

// world is what every appliance shares: the leaves behind small interfaces and
// the settings that concern each.
type world struct {
	store     *store
	journal   *writeJournal
	registrar registrar
	reach     *reach
	openHub   func(ctx context.Context, a *assignment, key provisioning.DeviceKey) (hubSession, error)
	keys      provisioning.KeySource
	accepted  atomic.Int32 // index of the key that DPS or a hub accepted last
	clock     *provisioning.Clock
	budget    *provisioning.Budget
	payload   config.PayloadTemplate
	hubMode   config.HubMode
	log       *slog.Logger
	// changed tells the watchers of the snapshot that it is out of date.
	changed func()
}

// appliance is the thing on the serial line, by the registration ID it has.
// One goroutine, run, leads it through the states of design section 4; the
// supervisor tells it where it answers.
type appliance struct {
	id    string // registration ID
	world *world
	log   *slog.Logger
	wake  chan struct{} // holds one signal: something the run loop waits for has changed

	mu    sync.Mutex
	rec   record                      // what is on disk; guarded by mu
	spots map[spot]serialbus.Identity // where it answers now; guarded by mu
	facts facts                       // guarded by mu

	hub  hubTrouble // owned by the run loop
	key  int        // index of the key that was accepted last; below zero: not known. Owned by the run loop
	told time.Time  // the attempt that await has spoken of; owned by the run loop
	// writeAgain is when a setting may be written again that was written too often today; owned by the run loop
	writeAgain time.Time
}

// facts are true of this run only and never stored.
type facts struct {
	registered   bool
	doubt        bool // an attempt before this one may have reached DPS unanswered
	away         bool // the last attempt found DPS away: the next is due when it is back
	hubConnected bool
	payload      json.RawMessage // what the appliance would tell the policy now
	desired      map[string]json.RawMessage
	reported     map[string]json.RawMessage
	unmapped     []string
	heard        int   // how often it has come to answer
	version      int64 // $version of the desired properties that are proven on the appliance or refused by it for good; 0 = none
}

func newAppliance(w *world, r record) *appliance {
	return &appliance{
		id:    r.RegistrationID,
		world: w,
		log:   w.log.With("registration_id", r.RegistrationID),
		wake:  make(chan struct{}, 1),
		rec:   r,
		spots: map[spot]serialbus.Identity{},
		key:   -1,
	}
}

// run leads the appliance until ctx ends. Every trouble is a state of the
// appliance, never an error of the daemon.
func (a *appliance) run(ctx context.Context) {
	a.lookBack(ctx)
	for ctx.Err() == nil {
		_, answers := a.where()
		assigned, wait, wanted := a.plan(time.Now())
		switch {
		case !answers:
			a.rest(ctx, 0)
		case wanted && wait <= 0:
			a.register(ctx)
		case assigned && a.world.hubMode == config.HubStay:
			a.serve(ctx)
		default:
			if wanted && !assigned {
				a.shutOut(ctx)
			}
			a.await(ctx, wait)
		}
	}
}

// clockStep bounds one sleep, so that a clock that is set right after a start
// without a battery does not leave an appliance waiting for years.
const clockStep = time.Minute

// await rests until DPS is to be asked, and says so once for each wait.
func (a *appliance) await(ctx context.Context, wait time.Duration) {
	if wait <= 0 {
		a.rest(ctx, 0) // nothing is wanted
		return
	}
	if next := a.nextAttempt(); !next.Equal(a.told) {
		a.told = next
		a.log.Info("waiting before DPS is asked", "retry_in", wait.Round(time.Second), "state", a.state())
	}
	a.rest(ctx, min(wait, clockStep))
}

func (a *appliance) nextAttempt() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rec.Registration == nil {
		return time.Time{}
	}
	return a.rec.Registration.NextAttempt
}

func (a *appliance) state() State {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rec.State
}

// plan tells whether an assignment is in force, and whether DPS is to be asked
// and after what wait. An appliance that was never assigned always wants asking;
// while DPS is away it waits for its turn to try.
func (a *appliance) plan(now time.Time) (assigned bool, wait time.Duration, wanted bool) {
	a.mu.Lock()
	assigned = a.rec.Assignment != nil
	wanted = !assigned || a.rec.Registration != nil
	if a.rec.Registration != nil && !a.facts.away {
		wait = a.rec.Registration.NextAttempt.Sub(now)
	}
	a.mu.Unlock()
	if wanted && wait <= 0 {
		wait = a.world.reach.wait(a, now)
	}
	return assigned, wait, wanted
}

// rest waits for a wake-up, for d if it is above zero, or for the end.
func (a *appliance) rest(ctx context.Context, d time.Duration) {
	var timer <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
	case <-a.wake:
	case <-timer:
	}
}

func (a *appliance) wakeUp() {
	select {
	case a.wake <- struct{}{}:
	default: // one signal is enough: the loop looks at everything anew
	}
}

// where tells the one place where the appliance answers; false when it answers
// nowhere, or at two places.
func (a *appliance) where() (spot, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.spots) != 1 {
		return spot{}, false
	}
	for s := range a.spots {
		return s, true
	}
	return spot{}, false
}

// answersAt takes in that the appliance was read twice alike at a spot.
func (a *appliance) answersAt(ctx context.Context, s spot, identity serialbus.Identity) {
	payload, err := a.world.payload.Render(identity)
	if err != nil {
		a.log.Error("payload not rendered; the registration goes without one", "err", err)
	}
	a.update(ctx, func(r *record) {
		a.spots[s] = identity
		r.Place = s.place()
		r.Identity = Identity{
			Vendor: identity.Vendor, Model: identity.Model, Serial: identity.Serial,
			Firmware: identity.Firmware, Provisioning: identity.Provisioning, Source: identity.Source,
		}
		a.facts.payload = payload
		a.facts.version = 0 // it may have lost its settings while it was away
		a.facts.heard++
		if r.Assignment != nil && r.Registration == nil && !sameJSON(r.Assignment.SentPayload, payload) {
			r.Registration = &registration{Reason: "the appliance's payload has changed, for instance by a firmware update", Since: time.Now()}
		}
	})
	a.wakeUp()
}

// silentAt takes in that the appliance no longer answers at a spot.
func (a *appliance) silentAt(ctx context.Context, s spot) {
	a.update(ctx, func(r *record) {
		delete(a.spots, s)
		if r.State != StateConflict || len(a.spots) > 1 {
			return
		}
		r.State, r.Error = settled(*r), nil
		for rest := range a.spots {
			r.Place = rest.place()
		}
	})
	a.wakeUp()
}

// settled is the state of an appliance of which only the record is known: after
// a start, and when a conflict has ended.
func settled(r record) State {
	switch {
	case r.Assignment != nil:
		return StateAssigned
	case r.Registration != nil && r.State != StateConflict && r.State != StateIdentified:
		return r.State
	default:
		return StateIdentified
	}
}

func conflict(spots map[spot]serialbus.Identity) *Trouble {
	var places []string
	for s := range spots {
		places = append(places, fmt.Sprintf("%s unit %d (%s)", s.line.Line.Name, s.unit, s.line.Line.Port))
	}
	return &Trouble{
		Kind:    "conflict",
		Verdict: fmt.Sprintf("one identity answers at %d places: %s", len(places), sortedList(places)),
		Owner:   "technician",
		Next:    "give one of the appliances its own identity or unplug it; the other goes on by itself",
	}
}

// update changes the record and the facts in one step: on disk first, then in
// memory, then for the watchers. It returns false, with the record unchanged,
// when the disk refused it; the caller then does not act on the change.
func (a *appliance) update(ctx context.Context, change func(*record)) bool {
	return a.write(ctx, false, change)
}

// write is update; always goes to disk also if only the gateway's memory has
// changed.
func (a *appliance) write(ctx context.Context, always bool, change func(*record)) bool {
	a.mu.Lock()
	before := a.rec
	next := a.rec.clone()
	change(&next)
	if len(a.spots) > 1 { // stronger than what an attempt that is under way may find
		next.State, next.Error = StateConflict, conflict(a.spots)
	}
	saved := true
	if changed := !next.equal(before); changed || always {
		if changed {
			next.Updated = time.Now()
		}
		if err := a.world.store.save(ctx, next, a.world.memory); err != nil {
			a.log.Error("state not saved; check the disk of the state directory", "err", err)
			saved = false
		} else {
			a.rec = next
		}
	}
	after := a.rec.State
	a.mu.Unlock()
	if after != before.State {
		a.logState(before.State, after)
	}
	a.world.changed()
	return saved
}

// logState says each change of state once, with what belongs to it.
func (a *appliance) logState(before, after State) {
	a.mu.Lock()
	trouble, assigned := a.rec.Error, a.rec.Assignment
	a.mu.Unlock()
	level, words := slog.LevelInfo, []any{"was", before}
	if after == StateAssigned && assigned != nil {
		words = append(words, "hub", assigned.AssignedHub, "device_id", assigned.DeviceID, "substatus", assigned.Substatus)
	}
	if trouble != nil {
		level = slog.LevelWarn
		words = append(words, "verdict", trouble.Verdict, "owner", trouble.Owner, "next", trouble.Next)
	}
	if after == StateRefused || after == StateConflict || after == StateDisabled {
		level = slog.LevelError // a person must act
	}
	a.log.Log(context.Background(), level, "appliance "+string(after), words...)
}
