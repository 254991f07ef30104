// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"log/slog"
	"sync"
	"time"
)

// skewLimit is how far a clock may be off before rule 5 blames it. It is also the tolerance of local services for
// expired tokens (dps-protocol 5.3).
const skewLimit = 5 * time.Minute

// Clock is the time that tokens are signed with and certificates are checked by. It is the system's, with two
// exceptions for a gateway without a battery (rule 5): it is never before a floor, and once the service has refused a
// token and its clock turned out to be more than five minutes off, it is the service's. Each is logged once, as a
// warning.
//
// The correction is dropped when the system's clock has come within five minutes of it. Waits and deadlines do not
// need this clock: they are measured by the monotonic one.
//
// A Clock may be used from any number of goroutines.
type Clock struct {
	log *slog.Logger

	mu      sync.Mutex // guards what follows
	floor   time.Time  // what time it was at least at since
	since   time.Time
	service time.Time // what time it was for the service at heard; zero: the system's clock is believed
	heard   time.Time
	behind  bool // in force, and said so
}

// NewClock makes a clock that is never before floor: the latest time that is known to have passed, such as that of
// the program's build or what [Clock.Floor] returned before a restart. The zero time is no floor. A nil log discards.
func NewClock(floor time.Time, log *slog.Logger) *Clock {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Clock{log: log, floor: floor.Round(0), since: time.Now()}
}

// Now is the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at(time.Now())
}

// Floor is the latest time that is known to have passed: the floor that the clock was made with or a later time that
// the service named, and the time since then. The system's clock has no say in it, so one that was years ahead leaves
// nothing behind. It is what to keep for the [NewClock] after the next restart.
func (c *Clock) Floor() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.floorAt(time.Now())
}

// at tells the time at a moment of the system's clock; the lock is held.
func (c *Clock) at(moment time.Time) time.Time {
	system := moment.Round(0) // the wall clock alone; moment itself counts monotonically
	if !c.service.IsZero() {
		corrected := c.service.Add(moment.Sub(c.heard))
		if system.Sub(corrected).Abs() > skewLimit {
			return corrected
		}
		c.service = time.Time{}
		c.log.Info("the system's clock has been set right; it is used again")
	}
	floor := c.floorAt(moment)
	if !system.Before(floor) {
		c.behind = false
		return moment
	}
	if !c.behind {
		c.behind = true
		c.log.Warn("the system's clock is behind a time that has passed already, which is used in its place for tokens and certificates; set the clock, or give the machine a time server or a battery",
			"system", system.UTC().Format(time.RFC3339), "used", floor.UTC().Format(time.RFC3339))
	}
	return floor
}

func (c *Clock) floorAt(moment time.Time) time.Time {
	if c.floor.IsZero() {
		return c.floor
	}
	return c.floor.Add(moment.Sub(c.since))
}

// passed takes in that the service named a time when it accepted a request at moment. It is believed as far as this
// clock agrees, because a time to come would be a floor for ever. The few minutes of tolerance keep a clock out of this
// that is slightly slow.
func (c *Clock) passed(service, moment time.Time) {
	if service.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ours := c.at(moment); ours.Before(service) {
		service = ours.Round(0)
	}
	if least := service.Add(-skewLimit); least.After(c.floorAt(moment)) {
		c.floor, c.since = least, moment
	}
}

// follow makes the service's time this clock's, if they are more than five minutes apart, and tells whether they agree
// after that. A time before the floor is not believed. The caller vouches that it is the provisioning service that
// named its time when it answered at moment.
func (c *Clock) follow(service, moment time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.at(moment).Round(0)
	skew := service.Sub(was)
	if skew.Abs() <= skewLimit {
		return true
	}
	if service.Before(c.floorAt(moment)) {
		return false
	}
	c.service, c.heard = service, moment
	c.log.Warn("the clock is wrong; tokens and certificates go by the provisioning service's from now on",
		"clock", was.UTC().Format(time.RFC3339), "service", service.UTC().Format(time.RFC3339), "off_by", skew.Abs().Round(time.Second))
	return true
}
