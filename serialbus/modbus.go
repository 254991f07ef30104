// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"errors"
	"time"
)

// modbusDriver reads and sets the units of an RS-485 line.
type modbusDriver struct {
	master  *rtu
	profile profile
	journal Journal // nil = nothing is noted
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

// identify climbs the identity ladder, and reads the registers besides that the profile names. A unit that answers but cannot name itself gives an Identity without a Source;
// it may be silent at a rung that it does not know, so silence there is no error.
func (d *modbusDriver) identify(ctx context.Context, unit byte) (Identity, error) {
	id, err := d.climb(ctx, unit)
	if err != nil {
		return Identity{}, err
	}
	return d.master.readIdentityRegisters(ctx, unit, d.profile.Identity.Registers, id)
}

// climb returns what the first rung tells that the unit knows: device identification, SunSpec's common model, server ID.
func (d *modbusDriver) climb(ctx context.Context, unit byte) (Identity, error) {
	id, err := d.master.readDeviceID(ctx, unit, d.profile.Identity)
	if err == nil || !cannot(err) {
		return id, err
	}
	id, err = d.master.readServerID(ctx, unit)
	if err != nil && !cannot(err) {
		return Identity{}, err
	}
	answered := err == nil
	// The common model has a layout, and a serial number; the server ID is anything.
	common, err := d.master.readSunSpec(ctx, unit)
	switch {
	case err != nil && !cannot(err):
		return Identity{}, err
	case err == nil && common.Source != "":
		return common, nil
	case answered:
		return id, nil
	}
	if err := d.present(ctx, unit); err != nil {
		return Identity{}, err
	}
	return Identity{}, nil
}

// isException reports whether an error is an exception of that code.
func isException(err error, code byte) bool {
	var refused *exceptionError
	return errors.As(err, &refused) && refused.code == code
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
