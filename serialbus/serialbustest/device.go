// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"fmt"
	"time"
)

// device is what hangs on a line. It does no I/O and is told every time.
type device interface {
	// hear takes bytes from the wire, the last of which was complete at the time at, and returns the exchanges that
	// they complete. It asks decide about each request that an appliance heard, before the request takes effect.
	hear(data []byte, at time.Time, decide decision) []exchange
	// silence tells that nothing came for so long that half a request has no rest.
	silence()
	// stray turns a reply into one that the master did not ask for.
	stray(reply []byte) []byte
	// appliance returns the appliance at an address, nil if there is none.
	appliance(unit int) appliance
	// units are the addresses that have an appliance, in order.
	units() []int
}

// decision says what becomes of a request of a kind to a unit.
type decision func(unit int, kind string) fate

// appliance is one unit on a line, as its owner sees it who stands before it.
type appliance interface {
	// settings shows what it is set to, in the words of its profile.
	settings() map[string]string
	// writes counts how often its settings were written over the line.
	writes() int
	// set changes a setting at the appliance itself, get shows one.
	set(name, value string) error
	get(name string) (string, error)
	setFirmware(version string)
	// cut takes its power away until a time, or, with the zero time, until it gets it back.
	cut(until time.Time)
	supply()
	on(at time.Time) bool
}

// exchange is one request that an appliance understood, and its reply.
type exchange struct {
	unit           int
	kind           string
	request, reply []byte
	think          time.Duration // how long the appliance thinks beyond the line's turnaround
	fate           fate
}

// power is an appliance's supply.
type power struct {
	off  bool
	till time.Time // with off: when it comes back by itself, zero = it does not
}

func (p *power) cut(until time.Time) { p.off, p.till = true, until }
func (p *power) supply()             { p.off = false }

// on reports whether there is power at a time.
func (p *power) on(at time.Time) bool {
	if p.off && !p.till.IsZero() && !at.Before(p.till) {
		p.off = false
	}
	return !p.off
}

// errNoSetting is about a name that an appliance does not know.
func errNoSetting(name string) error {
	return fmt.Errorf("it has no setting or register %q", name)
}
