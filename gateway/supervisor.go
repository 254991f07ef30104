// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/contoso/gatewayd/gateway/config"
	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/serialbus"
)

// supervisor turns what the lines say into appliances, and runs them.
type supervisor struct {
	world *world
	site  string
	ready chan struct{}

	mu         sync.Mutex
	ctx        context.Context // of Run; nil before. Guarded by mu
	lives      sync.WaitGroup
	appliances map[string]*appliance // by registration ID; guarded by mu
	at         map[spot]*appliance   // who answers where; guarded by mu
	complained map[spot]string       // what was said of a spot that is not registered; guarded by mu
	running    map[*appliance]bool   // guarded by mu
}

// newSupervisor takes up every appliance of the store where it was left. What
// only a run can prove, a session and settings in place, is proven anew.
func newSupervisor(w *world, site string, records []record) *supervisor {
	s := &supervisor{
		world: w, site: site, ready: make(chan struct{}),
		appliances: map[string]*appliance{}, at: map[spot]*appliance{},
		complained: map[spot]string{}, running: map[*appliance]bool{},
	}
	for _, r := range records {
		r.State = settled(r)
		if r.Registration != nil {
			r.Registration.NextAttempt = held(r, time.Now())
		}
		s.appliances[r.RegistrationID] = newAppliance(w, r)
	}
	return s
}

// held is when an appliance that was taken up from the store is registered.
// Somebody may have mended what was wrong, and a restart is how they say so; only
// what the service asked for outlasts it. Of a clock that was set back meanwhile
// nothing is believed but how long the wait had to be.
func held(r record, now time.Time) time.Time {
	if r.State != StateThrottled || r.Registration.NextAttempt.IsZero() {
		return time.Time{}
	}
	passed := max(now.Sub(r.Updated), 0)
	return now.Add(min(r.Registration.NextAttempt.Sub(r.Updated)-passed, hintMost))
}

func (s *supervisor) String() string         { return "appliance supervisor" }
func (s *supervisor) Ready() <-chan struct{} { return s.ready }

// Run keeps the appliances alive until ctx ends, then waits for each to stop.
func (s *supervisor) Run(ctx context.Context) error {
	s.mu.Lock()
	s.ctx = ctx
	for _, a := range s.at { // a line may have been quicker
		s.start(a)
	}
	s.mu.Unlock()
	close(s.ready)
	<-ctx.Done()
	s.lives.Wait()
	return nil
}

// start runs an appliance's life once; the lock is held.
func (s *supervisor) start(a *appliance) {
	if s.ctx == nil || s.ctx.Err() != nil || s.running[a] {
		return
	}
	s.running[a] = true
	s.lives.Go(func() { a.run(s.ctx) })
}

// heard takes in one event of a line. It is called by the line's goroutine.
func (s *supervisor) heard(ctx context.Context, l *line, event serialbus.Event) {
	log := s.world.log.With("bus", l.Line.Name, "port", l.Line.Port)
	switch event.Kind {
	case serialbus.LineUp: // the bus has logged it, as it has a line that goes down
	case serialbus.Scanning:
		log.Debug("scanning", "step", event.Progress.Step, "percent", event.Progress.Percent, "unit", event.Unit,
			"left", event.Progress.Left, "found", event.Progress.Found)
	case serialbus.Diagnosed:
		for _, d := range event.Diagnoses {
			log.Warn("the line is in trouble", "kind", d.Kind, "verdict", d.Verdict, "heard", d.Heard, "next", d.Next)
		}
		if len(event.Diagnoses) == 0 {
			log.Info("the line is in order again")
		}
	case serialbus.LineDown:
		for _, at := range s.spotsOn(l) {
			s.lost(ctx, at)
		}
	case serialbus.Found:
		log = log.With("unit", event.Unit)
		tellChange(log, event)
		s.found(ctx, spot{l, event.Unit}, event.Identity, log)
	case serialbus.Lost:
		at := spot{l, event.Unit}
		level := slog.LevelWarn
		switch {
		case errors.Is(event.Err, serialbus.ErrSilent) && !s.knows(at):
			level = slog.LevelDebug // an address of a scanned range where nobody lives
		case errors.Is(event.Err, serialbus.ErrChanged):
			level = slog.LevelDebug // who answers there now is told next
		}
		log.Log(ctx, level, "appliance does not answer", "unit", event.Unit, "err", event.Err)
		s.lost(ctx, at)
	}
}

// tellChange says that another appliance answers at a place than the last one,
// or the same one with other firmware.
func tellChange(log *slog.Logger, event serialbus.Event) {
	was, is := event.Was, event.Identity
	switch {
	case event.Swapped():
		log.Warn("another appliance answers here than before",
			"was_vendor", was.Vendor, "was_model", was.Model, "was_serial", was.Serial, "was_registration_id", was.RegistrationID,
			"vendor", is.Vendor, "model", is.Model, "serial", is.Serial, "registration_id", is.RegistrationID)
	case was.Firmware != is.Firmware && was != (serialbus.Identity{}):
		log.Info("the appliance has other firmware than before", "was", was.Firmware, "firmware", is.Firmware)
	}
}

// found names an appliance that was read twice alike and lets it live.
func (s *supervisor) found(ctx context.Context, at spot, identity serialbus.Identity, log *slog.Logger) {
	log.Info("identity read", "source", identity.Source, "sure", identity.Sure(), "vendor", identity.Vendor, "model", identity.Model,
		"serial", identity.Serial, "firmware", identity.Firmware)
	id, by, err := s.name(at, identity)
	if err != nil {
		s.complain(at, log, err)
		return
	}
	s.mu.Lock()
	delete(s.complained, at)
	a := s.appliances[id]
	known := a != nil
	if !known {
		a = newAppliance(s.world, record{RegistrationID: id, State: StateIdentified})
		s.appliances[id] = a
	}
	s.at[at] = a
	s.mu.Unlock()

	log.Info("appliance named", "registration_id", id, "named_by", by, "known", known)
	a.answersAt(ctx, at, identity)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.start(a)
}

// complain says once what keeps an appliance from being registered.
func (s *supervisor) complain(at spot, log *slog.Logger, err error) {
	s.mu.Lock()
	said := s.complained[at] == err.Error()
	s.complained[at] = err.Error()
	s.mu.Unlock()
	if !said {
		log.Error("appliance not registered", "err", err)
	}
}

// errNotNamed asks for the configuration's help.
var errNotNamed = errors.New("it tells no registration ID of its own: give the bus a registration_id template, or pin this unit")

// name gives the registration ID of an appliance and says whose word it is
// (serial 2.3): that of a pin, of the appliance itself, or of the bus's template;
// in all cases by the rule for emitted IDs and the bus's allow list.
func (s *supervisor) name(at spot, identity serialbus.Identity) (id, by string, err error) {
	bus := at.line.Bus
	pin, pinned := bus.Pin(at.unit)
	switch {
	case pinned:
		if err := pinFits(pin, identity); err != nil {
			return "", "", err
		}
		id, by = pin.RegistrationID, "pin"
	case identity.RegistrationID != "":
		id, by = identity.RegistrationID, "appliance"
	case !bus.RegistrationID.Set():
		return "", "", errNotNamed
	default:
		if id, err = bus.RegistrationID.Render(s.site, bus.Line.Name, at.unit, identity); err != nil {
			return "", "", fmt.Errorf("naming it: %w", err)
		}
		by = "template"
	}
	if err := provisioning.CheckEmittedRegistrationID(id); err != nil {
		return "", "", fmt.Errorf("%w; correct the name in the appliance, or the bus's registration_id template", err)
	}
	if len(bus.Allow) == 0 {
		return id, by, nil
	}
	for _, pattern := range bus.Allow {
		if matched, err := path.Match(pattern, id); err == nil && matched {
			return id, by, nil
		}
	}
	return "", "", fmt.Errorf("%q is not on the allow list of bus %q: add it there if it belongs here", id, bus.Line.Name)
}

// pinFits tells whether an appliance is of the product that its place is pinned to.
func pinFits(pin config.Pin, is serialbus.Identity) error {
	if strings.EqualFold(pin.Vendor, is.Vendor) && strings.EqualFold(pin.Product, is.Model) {
		return nil
	}
	return fmt.Errorf("the place is pinned to %q for vendor %q, product %q, and vendor %q, product %q answers there: put the right appliance there, or correct the pin",
		pin.RegistrationID, pin.Vendor, pin.Product, is.Vendor, is.Model)
}

func (s *supervisor) lost(ctx context.Context, at spot) {
	s.mu.Lock()
	a := s.at[at]
	delete(s.at, at)
	s.mu.Unlock()
	if a != nil {
		a.silentAt(ctx, at)
	}
}

// knows tells whether an appliance was answering at a spot.
func (s *supervisor) knows(at spot) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at[at] != nil
}

func (s *supervisor) spotsOn(l *line) []spot {
	s.mu.Lock()
	defer s.mu.Unlock()
	var spots []spot
	for at := range s.at {
		if at.line == l {
			spots = append(spots, at)
		}
	}
	return spots
}

// snapshot lists every known appliance in the order of registration IDs.
func (s *supervisor) snapshot() []Status {
	s.mu.Lock()
	all := make([]*appliance, 0, len(s.appliances))
	for _, a := range s.appliances {
		all = append(all, a)
	}
	s.mu.Unlock()
	statuses := make([]Status, 0, len(all))
	for _, a := range all {
		a.mu.Lock()
		statuses = append(statuses, a.status())
		a.mu.Unlock()
	}
	slices.SortFunc(statuses, func(a, b Status) int { return cmp.Compare(a.RegistrationID, b.RegistrationID) })
	return statuses
}
