// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// mostWrites is how often one value is written: once, and twice more when nobody knows what became of it (serial 7.3).
const mostWrites = 3

// apply brings the unit to the desired properties. Hub, device ID and payload have no place in a register and stay in
// the gateway (serial 7.1).
func (d *modbusDriver) apply(ctx context.Context, unit byte, s Settings) (Applied, error) {
	plan := d.profile.plan(s.Desired)
	w := &registerWriter{
		modbusDriver: d, unit: unit,
		applied: Applied{Reported: make(map[string]json.RawMessage), Unmapped: plan.unmapped},
	}
	var err error
	if w.books, err = open(ctx, d.journal, s, d.profile.settle); err != nil {
		return w.applied, err
	}
	for _, b := range blocks(d.profile.settings(plan.wanted), d.profile.WriteRanges) {
		if err := w.bring(ctx, b); err != nil {
			return w.applied, fmt.Errorf("setting %s: %w", b[0].Name, err)
		}
	}
	return w.applied, errors.Join(plan.rejections(w.refused...), w.books.verified(ctx))
}

// holds reads whether the unit holds the settings, as far as it can hold them.
func (d *modbusDriver) holds(ctx context.Context, unit byte, s Settings) (bool, error) {
	if err := pause(ctx, d.profile.settle); err != nil {
		return false, err
	}
	for _, b := range blocks(d.profile.settings(d.profile.plan(s.Desired).wanted), false) {
		is, err := d.readRegisters(ctx, unit, b.first(), b.size())
		if err != nil {
			return false, fmt.Errorf("reading %s: %w", b[0].Name, err)
		}
		if len(b.differing(is)) > 0 {
			return false, nil
		}
	}
	return true, nil
}

// registerWriter is one Apply on its way through the registers.
type registerWriter struct {
	*modbusDriver
	unit     byte
	books    *bookkeeper
	applied  Applied
	refused  []error // settings that were refused, or that have to wait
	unlocked bool
	proven   bool // the registers are what the profile takes them for
}

// bring brings a block to what is wanted: read, compare, write what differs, read back (serial 7.2). What is about a
// setting is kept in refused; the error ends the writing.
func (w *registerWriter) bring(ctx context.Context, b block) error {
	is, err := w.read(ctx, b)
	if len(b) > 1 && lacking(err) {
		return w.each(b, func(one block) error { return w.bring(ctx, one) })
	}
	if err != nil {
		return w.keep(w.final(b, err))
	}
	for _, part := range blocks(b.differing(is), w.profile.WriteRanges) {
		from := int(part.first() - b.first())
		if err := w.write(ctx, part, is[from:from+part.size()]); err != nil {
			return err
		}
	}
	return nil
}

// write sets a block that differs; what a unit refuses of a range is tried one by one, which shows whose fault it is.
func (w *registerWriter) write(ctx context.Context, b block, is []uint16) error {
	err := w.set(ctx, b, is)
	var limit *LimitError
	if len(b) > 1 && (lacking(err) || errors.As(err, &limit)) {
		return w.each(b, func(one block) error { return w.bring(ctx, one) })
	}
	return w.keep(w.final(b, err))
}

// each does the settings of a block one by one.
func (w *registerWriter) each(b block, do func(block) error) error {
	for _, s := range b {
		if err := do(block{s}); err != nil {
			return err
		}
	}
	return nil
}

// keep takes an error that is about a setting and returns any other.
func (w *registerWriter) keep(err error) error {
	var rejected *RejectedError
	var limit *LimitError
	if errors.As(err, &rejected) || errors.As(err, &limit) {
		w.refused = append(w.refused, err)
		return nil
	}
	return err
}

// set writes a block until it holds what is wanted, at most three times. A write of which nobody knows what became of
// it is followed by reading, never by another write.
func (w *registerWriter) set(ctx context.Context, b block, is []uint16) error {
	want := b.want()
	for write := 0; ; write++ {
		if slices.Equal(is, want) {
			return nil
		}
		if write == mostWrites {
			return fmt.Errorf("the unit did not confirm %d writes of register %d: %w", mostWrites, b.first(), ErrSilent)
		}
		if err := w.prove(ctx, b); err != nil {
			return err
		}
		if err := w.unlock(ctx, b); err != nil {
			return err
		}
		outcome, err := w.send(ctx, b.cells(w.profile), b.first(), want)
		if outcome == writeFailed {
			return err
		}
		if is, err = w.readBack(ctx, b, err); err != nil {
			return err
		}
		if outcome == writeTaken {
			return w.taken(b, is)
		}
	}
}

// taken judges what a block holds after a write that the unit confirmed. If that is something else, writing again would
// only wear its memory out.
func (w *registerWriter) taken(b block, is []uint16) error {
	var faults []error
	for i, s := range b {
		if held := b.of(i, is); !slices.Equal(held, s.want) {
			reason := fmt.Sprintf("the appliance took %s and holds %s", s.decode(s.want, nil), s.decode(held, nil))
			faults = append(faults, &RejectedError{Property: s.Name, Reason: reason})
		}
	}
	return errors.Join(faults...)
}

// send notes a write in the journal and sends it.
func (w *registerWriter) send(ctx context.Context, cells []Cell, first uint16, values []uint16) (writeResult, error) {
	if err := w.books.plan(ctx, cells); err != nil {
		return writeFailed, err
	}
	_, err := w.master.ask(ctx, writeRequest(w.unit, first, values))
	w.applied.Wrote = true
	outcome := writeOutcome(err)
	if outcome == writeTaken {
		if err := w.books.written(ctx); err != nil {
			return writeFailed, err
		}
	}
	return outcome, err
}

// readBack reads a block after its settle time. why is what the write was answered: a unit that accepted it and needs
// long is asked for a while before the write counts as lost, one that is busy is left alone first.
func (w *registerWriter) readBack(ctx context.Context, b block, why error) ([]uint16, error) {
	if err := pause(ctx, w.profile.settle); err != nil {
		return nil, err
	}
	polls := 0
	var refused *exceptionError
	if errors.As(why, &refused) {
		if err := pause(ctx, firstPoll); err != nil {
			return nil, err
		}
		if refused.code == exceptionSlow {
			polls = slowPolls
		}
	}
	for poll := 0; ; poll++ {
		is, err := w.read(ctx, b)
		if err != nil || poll == polls || slices.Equal(is, b.want()) {
			return is, err
		}
		if err := pause(ctx, firstPoll<<poll); err != nil {
			return nil, err
		}
	}
}

// slowPolls is how often a unit that needs long is read back before the value is written again: for 6 s.
const slowPolls = 6

// prove makes sure, once in an Apply, that the unit numbers its registers as the profile does: the one that ought to hold
// its firmware does so. A write to a register beside the meant one would change another setting.
func (w *registerWriter) prove(ctx context.Context, b block) error {
	if w.profile.FirmwareRegister == nil || w.proven {
		return nil
	}
	id, err := w.identify(ctx, w.unit)
	if err != nil {
		return err
	}
	register := *w.profile.FirmwareRegister
	is, err := w.readRegisters(ctx, w.unit, register, 1)
	if err != nil {
		return err
	}
	if held := strconv.Itoa(int(is[0])); held != id.Firmware {
		return &RejectedError{Property: b[0].Name, Reason: fmt.Sprintf("nothing was written: register %d should hold the firmware %q and holds %s, so profile %s does not fit this appliance",
			register, id.Firmware, held, w.profile.Name)}
	}
	w.proven = true
	return nil
}

// unlock brings the unit to let registers be written, once in an Apply. It needs no write if the unit is open already.
func (w *registerWriter) unlock(ctx context.Context, b block) error {
	u := w.profile.Unlock
	if u == nil || w.unlocked {
		return nil
	}
	for write := 0; ; write++ {
		is, err := w.readRegisters(ctx, w.unit, u.Register, 1)
		if err != nil {
			return fmt.Errorf("unlocking the registers: %w", err)
		}
		if is[0] == u.Value {
			w.unlocked = true
			return nil
		}
		if write == mostWrites {
			return &RejectedError{Property: b[0].Name, Reason: fmt.Sprintf("register %d does not take %d, so the others stay locked", u.Register, u.Value)}
		}
		cell := Cell{Property: "unlock", Register: u.Register, PerDay: w.profile.writesPerDay(property{})}
		if outcome, err := w.send(ctx, []Cell{cell}, u.Register, []uint16{u.Value}); outcome == writeFailed {
			return fmt.Errorf("unlocking the registers: %w", err)
		}
		if err := pause(ctx, w.profile.settle); err != nil {
			return err
		}
	}
}

// read reads a block and takes in what its settings are.
func (w *registerWriter) read(ctx context.Context, b block) ([]uint16, error) {
	is, err := w.readRegisters(ctx, w.unit, b.first(), b.size())
	if err != nil {
		return nil, err
	}
	for i, s := range b {
		w.applied.Reported[s.Name] = s.decode(b.of(i, is), s.value)
	}
	return is, nil
}

// readRegisters reads holding registers. Reading changes nothing, so it may be repeated.
func (d *modbusDriver) readRegisters(ctx context.Context, unit byte, first uint16, count int) ([]uint16, error) {
	reply, err := d.master.askPatiently(ctx, readRequest(unit, first, uint16(count)))
	if err != nil {
		return nil, fmt.Errorf("reading register %d: %w", first, err)
	}
	values := make([]uint16, count)
	for i := range values {
		values[i] = binary.BigEndian.Uint16(reply[3+2*i:])
	}
	return values, nil
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
	case errors.As(err, &refused) && refused.passing():
		return writeUnknown
	default:
		return writeFailed
	}
}

// lacking reports whether an error is a refusal that may be about one setting of several.
func lacking(err error) bool {
	var refused *exceptionError
	return errors.As(err, &refused) && refused.lacks()
}

// final turns the refusals that will not change by trying again into a RejectedError (serial 7.3).
func (d *modbusDriver) final(b block, err error) error {
	var refused *exceptionError
	if !errors.As(err, &refused) {
		return err
	}
	name := b[0].Name
	switch refused.code {
	case exceptionValue:
		return &RejectedError{Property: name, Reason: "the appliance does not take the value (exception 3)"}
	case exceptionFunction, exceptionAddress:
		reason := fmt.Sprintf("the appliance has no such register (%d, exception %d): profile %s does not fit it", b.first(), refused.code, d.profile.Name)
		return &RejectedError{Property: name, Reason: reason}
	default:
		return err
	}
}
