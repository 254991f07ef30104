// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Driver names the protocol that is spoken on a line.
type Driver string

// The drivers.
const (
	DriverLine      Driver = "line"       // one appliance, text lines; the profile says which dialect
	DriverModbusRTU Driver = "modbus-rtu" // Modbus RTU, many units
)

// Parity is the parity bit of a character; empty means the profile's.
type Parity string

// The parities.
const (
	ParityNone Parity = "none"
	ParityEven Parity = "even"
	ParityOdd  Parity = "odd"
)

// Defaults for the zero values of [Config].
const (
	// DefaultSettle lets an appliance recover from the DTR pulse that opening a port gives it.
	DefaultSettle = 100 * time.Millisecond
	// DefaultReplyTimeout is the longest reply time that a heat pump maker states (serial 2.2).
	DefaultReplyTimeout = 500 * time.Millisecond
	// DefaultRecheck is how often a found appliance is asked whether it is still there.
	DefaultRecheck = 10 * time.Second
	// DefaultRescan is how often a silent unit is looked at again.
	DefaultRescan = 30 * time.Second
)

// The limits of [Config]. Modbus reserves unit 0 for broadcasts, which are never sent, and 248 to 255.
const (
	minUnit    = 1
	maxUnit    = 247
	minBaud    = 300
	maxBaud    = 4_000_000
	maxTimeout = time.Hour
)

// Config is one bus: a port and what is expected on it.
type Config struct {
	// Name is what people call the line, e.g. "kitchen". It is not used on the wire.
	Name string
	// Port is the path of the tty, by preference a stable one (/dev/serial/by-id or by-path). Required.
	Port string
	// Driver is the protocol. Required.
	Driver Driver
	// Profile names a built-in profile, see [Profiles], or one of those in Profiles. Required with the driver "line", because an unknown appliance
	// may act on a query; without one "modbus-rtu" identifies at 19,200 baud 8E1 and can set nothing.
	Profile string
	// Profiles are the site's own, beside the built-in ones; see [ParseProfile].
	Profiles []Profile
	// Baud is the speed of the line; 0 = the profile's.
	Baud int
	// Parity is the parity of the line; empty = the profile's.
	Parity Parity
	// AutoBaud searches speed and parity among the usual ones (19200 8E1, 9600 8N1, 9600 8E1, 19200 8N1, 115200 8N1) until
	// a unit answers, and again when nobody has answered for ten minutes. Only with "modbus-rtu", in place of Baud and
	// Parity.
	AutoBaud bool
	// Units are the Modbus addresses to look at, 1 to 247; see [ParseUnits]. Required with "modbus-rtu", absent with "line".
	Units []byte
	// Known are those of Units where an appliance was found in an earlier run: they are looked at first, and patiently.
	Known []byte
	// RS485 makes a UART on the board switch the line's direction by itself, where its driver can and the device tree has
	// not said so already. USB adapters need nothing. A port that cannot is not opened, see [ErrNoRS485].
	RS485 bool
	// Settle is the pause after opening the port; 0 = [DefaultSettle].
	Settle time.Duration
	// ReplyTimeout is how long an appliance may think before the first byte of its reply; 0 = the profile's, else
	// [DefaultReplyTimeout].
	// On a Modbus line it bounds the waits that are learned from the replies.
	ReplyTimeout time.Duration
	// Recheck is the time between two looks at an appliance that was found; 0 = [DefaultRecheck].
	Recheck time.Duration
	// Rescan is the time between two fast looks at a place where nobody answered; 0 = [DefaultRescan]. After ten times as
	// long the full identity of an appliance that was found is read again.
	Rescan time.Duration
	// Journal remembers what is written; nil = nothing does, and writes are not limited.
	Journal Journal
	// Record gets a recording of everything that is sent and received, for "appliancesim replay"; nil = none. The line
	// stands still while a write to it takes; one that fails ends the recording. See [RecordFile].
	Record io.Writer
}

// Validate says what is wrong with the configuration: every fault, each with its field and what is allowed.
func (c Config) Validate() error {
	faults := []error{c.validatePort(), c.validateProfile(), c.validateUnits()}
	if c.Baud != 0 && (c.Baud < minBaud || c.Baud > maxBaud) {
		faults = append(faults, fmt.Errorf("baud %d: allowed are %d to %d, or none for the profile's", c.Baud, minBaud, maxBaud))
	}
	if c.AutoBaud && (c.Driver != DriverModbusRTU || c.Baud != 0 || c.Parity != "") {
		faults = append(faults, errors.New("baud auto: only the driver modbus-rtu can search, and then for the parity too; leave parity out"))
	}
	if c.Parity != "" && !slices.Contains([]Parity{ParityNone, ParityEven, ParityOdd}, c.Parity) {
		faults = append(faults, fmt.Errorf("parity %q: allowed are none, even and odd", c.Parity))
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"settle", c.Settle}, {"reply timeout", c.ReplyTimeout}, {"recheck", c.Recheck}, {"rescan", c.Rescan}} {
		if d.value < 0 || d.value > maxTimeout {
			faults = append(faults, fmt.Errorf("%s %v: allowed are 0 (the default) to %v", d.field, d.value, maxTimeout))
		}
	}
	return errors.Join(faults...)
}

func (c Config) validatePort() error {
	if c.Port == "" {
		return errors.New("port: missing; name the tty, e.g. /dev/serial/by-id/usb-…")
	}
	return nil
}

// validateProfile checks the driver and that the profile is one for it.
func (c Config) validateProfile() error {
	switch c.Driver {
	case DriverModbusRTU:
		if c.Profile == "" {
			return nil
		}
	case DriverLine:
		if c.Profile == "" {
			return errors.New("profile: missing; the driver line needs one, because an unknown appliance may act on a query")
		}
	default:
		return fmt.Errorf("driver %q: allowed are %s and %s", c.Driver, DriverLine, DriverModbusRTU)
	}
	p, err := c.profile()
	if err != nil {
		return err
	}
	if p.Driver != c.Driver {
		return fmt.Errorf("profile %q: it is for the driver %s, not %s", c.Profile, p.Driver, c.Driver)
	}
	return nil
}

// validateUnits checks the addresses: required on a bus, absent on a line with one appliance.
func (c Config) validateUnits() error {
	if c.Driver != DriverModbusRTU {
		if len(c.Units) != 0 {
			return errors.New("units: only the driver modbus-rtu has them; leave them out")
		}
		return nil
	}
	if len(c.Units) == 0 {
		return fmt.Errorf(`units: missing; name the addresses to look at, e.g. "1-32" (%d to %d)`, minUnit, maxUnit)
	}
	seen := make(map[byte]bool, len(c.Units))
	for _, u := range c.Units {
		if u < minUnit || u > maxUnit {
			return fmt.Errorf("units: %d is no address of a unit; allowed are %d to %d", u, minUnit, maxUnit)
		}
		if seen[u] {
			return fmt.Errorf("units: %d is named twice", u)
		}
		seen[u] = true
	}
	return nil
}

// withDefaults fills the zero values, the serial settings from the profile p.
func (c Config) withDefaults(p profile) Config {
	c.Units = slices.Clone(c.Units)
	if c.Baud == 0 {
		c.Baud = p.Serial.Baud
	}
	if c.Parity == "" {
		c.Parity = p.Serial.Parity
	}
	if c.ReplyTimeout == 0 {
		c.ReplyTimeout = p.replyTimeout
	}
	reply := DefaultReplyTimeout
	if p.Text != nil {
		reply = p.Text.timeout
	}
	for _, d := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{
		{&c.Settle, DefaultSettle},
		{&c.ReplyTimeout, reply},
		{&c.Recheck, DefaultRecheck},
		{&c.Rescan, DefaultRescan},
	} {
		if *d.value == 0 {
			*d.value = d.fallback
		}
	}
	return c
}

// ParseUnits reads a list of Modbus addresses as people write it: numbers and ranges between commas, "1-32,40".
// The result is in the order of the text; every address is 1 to 247 and appears once.
func ParseUnits(text string) ([]byte, error) {
	var units []byte
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		from, err := parseUnit(first)
		if err != nil {
			return nil, err
		}
		to := from
		if isRange {
			if to, err = parseUnit(last); err != nil {
				return nil, err
			}
		}
		if to < from {
			return nil, fmt.Errorf("units %q: the range runs backwards; write %d-%d", part, to, from)
		}
		for u := from; u <= to; u++ {
			if slices.Contains(units, u) {
				return nil, fmt.Errorf("units %q: %d is named twice", text, u)
			}
			units = append(units, u)
		}
	}
	return units, nil
}

// parseUnit reads one address, 1 to 247.
func parseUnit(text string) (byte, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 8)
	if err != nil || n < minUnit || n > maxUnit {
		return 0, fmt.Errorf(`units: %q is no address; allowed are numbers from %d to %d and ranges, e.g. "1-32,40"`, text, minUnit, maxUnit)
	}
	return byte(n), nil
}
