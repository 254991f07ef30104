// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// modbusDriver reads and sets the units of an RS-485 line.
type modbusDriver struct {
	master  *rtu
	profile profile
}

// present asks a unit that ought to be there the cheapest question there is: one register. Any intact answer will do, a
// refusal too (serial 5.3). Silence is believed the second time, which the unit is asked after a rest of the line: some
// are deaf for half a second after a request that was not theirs (serial 4.4).
func (d *modbusDriver) present(ctx context.Context, unit byte) error {
	err := d.probe(ctx, unit, d.master.habits.waits.ceiling)
	if errors.Is(err, ErrSilent) {
		err = d.probe(ctx, unit, d.master.habits.waits.ceiling)
	}
	return err
}

// glance asks whether a unit answers as soon as those of this line do. Most addresses are silent, so its silence is
// not looked into.
func (d *modbusDriver) glance(ctx context.Context, unit byte) error {
	return d.probe(ctx, unit, d.master.habits.waits.wait)
}

// stare asks whether a unit answers at all: slowly, after a rest of the line (serial 5.3).
func (d *modbusDriver) stare(ctx context.Context, unit byte) error {
	if err := pause(ctx, time.Until(d.rested())); err != nil {
		return err
	}
	return d.probe(ctx, unit, max(d.master.habits.waits.ceiling, afterUnanswered))
}

// rested returns when the line will have been at rest for long enough for a slow look.
func (d *modbusDriver) rested() time.Time { return d.master.unanswered.Add(afterUnanswered) }

// late returns the units whose reply came too late since the last call.
func (d *modbusDriver) late() []byte {
	late := d.master.latecomers
	d.master.latecomers = nil
	return late
}

// probe asks for one register and takes every intact answer for presence.
func (d *modbusDriver) probe(ctx context.Context, unit byte, wait time.Duration) error {
	for try := 1; ; try++ {
		_, err := d.master.askWithin(ctx, readRequest(unit, 0, 1), wait)
		if errors.Is(err, ErrNoise) && try < 3 { // collisions come and go; three in a row are a wrong speed (serial 5.4)
			continue
		}
		return unlessRefused(err)
	}
}

// identify climbs the identity ladder. A unit that answers but cannot name itself gives an Identity without a Source;
// it may be silent at a rung that it does not know, so silence there is no error.
func (d *modbusDriver) identify(ctx context.Context, unit byte) (Identity, error) {
	id, err := d.master.readDeviceID(ctx, unit, d.profile.Identity)
	if err == nil || !cannot(err) {
		return id, err
	}
	id, err = d.master.readServerID(ctx, unit)
	if err == nil || !cannot(err) {
		return id, err
	}
	if err := d.present(ctx, unit); err != nil {
		return Identity{}, err
	}
	return Identity{}, nil
}

// cannot reports whether a unit does not know a function: some refuse it, some keep silent (serial 4.2). A unit that is
// busy or that failed may know it all the same.
func cannot(err error) bool {
	var refused *exceptionError
	if errors.As(err, &refused) {
		return refused.lacks()
	}
	return errors.Is(err, ErrSilent)
}

// apply brings the unit to the desired properties, one register at a time, because many products take one value per
// write. Hub, device ID and payload have no place in a register and stay in the gateway (serial 7.1).
func (d *modbusDriver) apply(ctx context.Context, unit byte, s Settings) (Applied, error) {
	plan := d.profile.plan(s.Desired)
	applied := Applied{Reported: make(map[string]json.RawMessage), Unmapped: plan.unmapped}
	var refused []error
	for _, name := range slices.Sorted(maps.Keys(plan.wanted)) {
		prop, _ := d.profile.property(name)
		value := plan.wanted[name]
		register, wrote, err := d.set(ctx, unit, prop, prop.encode(value))
		applied.Wrote = applied.Wrote || wrote
		if register != nil {
			applied.Reported[name] = prop.decode(*register, value)
		}
		var rejected *RejectedError
		if errors.As(err, &rejected) {
			refused = append(refused, err)
		} else if err != nil {
			return applied, fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return applied, plan.rejections(refused...)
}

// set brings one register to a value: read, compare, write only on difference, read back (serial 7.2). It returns what
// the register was last seen to hold, nil if that is not known.
func (d *modbusDriver) set(ctx context.Context, unit byte, prop property, want uint16) (held *uint16, wrote bool, err error) {
	const mostWrites = 3 // one, and two more when nobody knows what became of it (serial 7.3)
	for write := 0; ; write++ {
		is, err := d.readRegister(ctx, unit, *prop.Register)
		if err != nil {
			return nil, wrote, d.final(prop, err)
		}
		if is == want {
			return &is, wrote, nil
		}
		if write == mostWrites {
			return &is, wrote, fmt.Errorf("the unit did not confirm %d writes of register %d: %w", mostWrites, *prop.Register, ErrSilent)
		}
		_, err = d.master.ask(ctx, writeRequest(unit, *prop.Register, want))
		wrote = true
		outcome := writeOutcome(err)
		if outcome == writeFailed {
			return &is, wrote, d.final(prop, err)
		}
		if err := pause(ctx, d.profile.settle); err != nil {
			return nil, wrote, err
		}
		if outcome == writeUnknown {
			continue // the next turn reads back first and writes only if it has to
		}
		is, err = d.readRegister(ctx, unit, *prop.Register)
		if err != nil {
			return nil, wrote, d.final(prop, err)
		}
		if is != want {
			// It took the write and holds something else: writing again would only wear its memory out.
			reason := fmt.Sprintf("the appliance took %s and holds %s", prop.decode(want, nil), prop.decode(is, nil))
			return &is, wrote, &RejectedError{Property: prop.Name, Reason: reason}
		}
		return &is, wrote, nil
	}
}

// writeResult is one of the three ways a write can end.
type writeResult int

const (
	writeTaken   writeResult = iota // confirmed; reading back must show it
	writeUnknown                    // perhaps taken; reading back tells
	writeFailed                     // refused
)

// writeOutcome sorts the error of a write. Without an intact reply nobody knows whether the unit took it; the same
// holds for "accepted but slow" and "busy", which reading back answers too.
func writeOutcome(err error) writeResult {
	var refused *exceptionError
	switch {
	case err == nil:
		return writeTaken
	case errors.Is(err, ErrSilent), errors.Is(err, ErrNoise):
		return writeUnknown
	case errors.As(err, &refused) && (refused.code == exceptionSlow || refused.code == exceptionBusy):
		return writeUnknown
	default:
		return writeFailed
	}
}

// final turns the refusals that will not change by trying again into a RejectedError (serial 7.3).
func (d *modbusDriver) final(prop property, err error) error {
	var refused *exceptionError
	if !errors.As(err, &refused) {
		return err
	}
	switch refused.code {
	case exceptionValue:
		return &RejectedError{Property: prop.Name, Reason: "the appliance does not take the value (exception 3)"}
	case exceptionFunction, exceptionAddress:
		reason := fmt.Sprintf("the appliance has no such register (%d, exception %d): profile %s does not fit it", *prop.Register, refused.code, d.profile.Name)
		return &RejectedError{Property: prop.Name, Reason: reason}
	default:
		return err
	}
}

// readRegister reads one holding register. Reading changes nothing, so it may be repeated.
func (d *modbusDriver) readRegister(ctx context.Context, unit byte, register uint16) (uint16, error) {
	reply, err := d.master.askPatiently(ctx, readRequest(unit, register, 1))
	if err != nil {
		return 0, fmt.Errorf("reading register %d: %w", register, err)
	}
	return binary.BigEndian.Uint16(reply[3:5]), nil
}
