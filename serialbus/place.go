// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// missesToLose is how many looks in a row an appliance may miss before it counts as lost.
const missesToLose = 3

// rereadAfter is after how many rescan times the full identity of a known appliance is read again. It takes several
// exchanges, and what it looks for, new firmware or a swap that went unnoticed, is rare; Apply looks as well.
const rereadAfter = 10

// place is one position on the line where an appliance may be. It belongs to the goroutine that owns the port.
type place struct {
	unit   byte
	known  bool      // an appliance was here before: it is looked for first, and patiently
	seen   seen      // how far the scan has got here
	due    time.Time // when to look again
	slow   time.Time // when it was last looked at slowly
	found  bool
	is     Identity  // who is there, if found
	last   Identity  // who was found here last, zero if nobody was
	misses int       // looks in a row without an answer, if found
	read   time.Time // when the identity was last read, if found
	told   string    // why nobody usable is there, as last told
}

// look does one look at a place. Its error ends the port.
func (b *Bus) look(ctx context.Context, d driver, l look) error {
	p := l.place
	b.beginLook(l)
	var err error
	if l.how == lookAgain {
		err = b.recheck(ctx, d, p)
	} else {
		err = b.find(ctx, d, l)
	}
	if isLost(err) || ctx.Err() != nil {
		return err
	}
	b.heardLook(d, p, err)
	b.judge(l, err)
	b.endLook(d, l)
	return nil
}

// judge takes in what came of a look.
func (b *Bus) judge(l look, err error) {
	p := l.place
	if err == nil {
		p.misses, p.seen = 0, seenWell
		p.due = time.Now().Add(b.cfg.Recheck)
		return
	}
	b.log.Debug("no good answer", "appliance", p.unit, "err", err)
	if errors.Is(err, ErrNoise) {
		b.log.Debug("damaged characters since the port was opened", "errors", b.damage())
	}
	if p.found {
		p.misses++
		if p.misses < missesToLose {
			p.due = time.Now().Add(b.cfg.Recheck)
			return
		}
	}
	p.known = false
	p.due = time.Now().Add(b.cfg.Rescan)
	if l.how == lookFast && errors.Is(err, ErrSilent) {
		p.seen = max(p.seen, seenFast) // its silence is told after a slow look
		return
	}
	p.seen = seenWell
	b.lose(p, b.inWords(p, err))
}

// find looks for an appliance where none is known now.
func (b *Bus) find(ctx context.Context, d driver, l look) error {
	if err := ask(ctx, d, l); err != nil {
		return err
	}
	is, err := readTwice(ctx, d, l.place.unit)
	if err != nil {
		return err
	}
	b.found(l.place, is)
	return nil
}

// recheck asks a known appliance whether it is still there, and from time to time whether it is still the same one
// with the same firmware.
func (b *Bus) recheck(ctx context.Context, d driver, p *place) error {
	// Presence comes first in any case: at the rungs of the identity ladder silence is costly.
	if err := d.present(ctx, p.unit); err != nil || time.Since(p.read) < rereadAfter*b.cfg.Rescan {
		return err
	}
	is, err := d.identify(ctx, p.unit)
	if err != nil {
		return err
	}
	if is == p.is {
		p.read = time.Now()
		return nil
	}
	again, err := d.identify(ctx, p.unit)
	if err != nil {
		return err
	}
	if again != is {
		return fmt.Errorf("two readings of its identity differ: %w", ErrNoise)
	}
	b.lose(p, b.inWords(p, ErrChanged))
	b.found(p, is)
	return nil
}

// readTwice returns an identity that was read twice alike, in four readings at the most (serial 1.7).
func readTwice(ctx context.Context, d driver, unit byte) (Identity, error) {
	last, err := d.identify(ctx, unit)
	if err != nil {
		return Identity{}, err
	}
	for range 3 {
		is, err := d.identify(ctx, unit)
		if err != nil {
			return Identity{}, err
		}
		if is == last {
			return is, nil
		}
		last = is
	}
	return Identity{}, errUnsteady
}

// errUnsteady is about an appliance whose identity never reads the same twice.
var errUnsteady = errors.New("its identity reads differently each time")

// found tells that an appliance is at the place, after its identity was read twice alike.
func (b *Bus) found(p *place, is Identity) {
	p.found, p.is, p.misses, p.read, p.told = true, is, 0, time.Now(), ""
	b.log.Debug("found", "appliance", p.unit, "registration_id", is.RegistrationID)
	e := Event{Kind: Found, Unit: int(p.unit), Identity: is}
	if p.last != is {
		e.Was = p.last
	}
	p.last = is
	b.events(e)
}

// lose tells that nobody usable is at the place: always if somebody was, and else once for each reason.
func (b *Bus) lose(p *place, why error) {
	if !p.found && p.told == why.Error() {
		return
	}
	was := p.is
	p.found, p.is, p.misses, p.told = false, Identity{}, 0, why.Error()
	b.events(Event{Kind: Lost, Unit: int(p.unit), Identity: was, Err: why})
}

// inWords says why an appliance does not answer, and what to do next. The same trouble has the same words whichever
// question met it, since a reason is told once.
func (b *Bus) inWords(p *place, err error) error {
	where := b.cfg.Port
	check := "check that it is switched on, the cable and the plug"
	if b.cfg.Driver == DriverModbusRTU {
		where = fmt.Sprintf("%s: unit %d", b.cfg.Port, p.unit)
		check = "check that it is switched on, its address, and the wires A and B"
	}
	switch {
	case errors.Is(err, ErrSilent):
		return fmt.Errorf("%s: %w; %s", where, ErrSilent, check)
	case errors.Is(err, ErrNoise):
		return fmt.Errorf("%s: %w: wrong speed or parity (it is %d baud, parity %s), noise, or two appliances at once; compare with the appliance's manual",
			where, ErrNoise, b.speed.baud, b.speed.parity)
	case errors.Is(err, ErrStrange):
		return fmt.Errorf("%s: %w; compare the bus's profile with the appliance", where, err)
	case errors.Is(err, errUnsteady):
		return fmt.Errorf("%s: %w; look for noise, or for two appliances with one address", where, err)
	default:
		return fmt.Errorf("%s: %w", where, err)
	}
}

// nameless says what is known of a unit that answers and cannot name itself.
func (b *Bus) nameless(unit int) error {
	where := b.cfg.Port
	if b.cfg.Driver == DriverModbusRTU {
		where = fmt.Sprintf("%s: unit %d", b.cfg.Port, unit)
	}
	return fmt.Errorf("%s: it answers but cannot name itself; give the bus a registration_id template, or the profile of this product", where)
}
