// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"math/rand/v2"
	"slices"
	"time"
)

// grain is how much may be put off so that bytes go out together: finer steps only cost processor time.
const grain = time.Millisecond

// wire is what is under way on a line: characters, in the order in which they will be complete. It does no I/O and
// knows no clock, it is told every time.
type wire struct {
	// half: both directions share one pair of wires, so that two talkers at once spoil each other (RS-485).
	half bool
	// echo: the master hears itself.
	echo   bool
	random *rand.Rand
	queue  []character
	free   [talkers]time.Time // when each talker's last character is complete
}

// talker is who sends.
type talker int

// The talkers.
const (
	master   talker = iota
	unit            // the appliances; on a line with two pairs there is one
	stranger        // another master, or something broken
	talkers
)

// character is one byte on the wire.
type character struct {
	due      time.Time // when its last bit is over
	length   time.Duration
	value    byte
	toMaster bool // the master hears it
	toUnits  bool // the appliances hear it
}

// put sends bytes from start on, or as soon as that talker has finished what it sends already. It returns when the
// last one is complete. char is the time of one character, 0 = none.
func (w *wire) put(by talker, start time.Time, char time.Duration, data []byte) time.Time {
	oneTransmitter := by == master || !w.half // several units on a bus have one each
	if oneTransmitter && start.Before(w.free[by]) {
		start = w.free[by]
	}
	for _, value := range data {
		start = start.Add(char)
		w.add(character{
			due: start, length: char, value: value,
			toMaster: by != master || w.echo, toUnits: by != unit,
		})
	}
	w.free[by] = start
	return start
}

// add inserts a character where it belongs, and lets it collide with what is there.
func (w *wire) add(c character) {
	at := len(w.queue)
	for at > 0 && w.queue[at-1].due.After(c.due) {
		at--
	}
	if w.half && c.length > 0 {
		for _, i := range []int{at - 1, at} {
			if i >= 0 && i < len(w.queue) && w.queue[i].overlaps(c) {
				w.collide(&w.queue[i], c)
				return
			}
		}
	}
	w.queue = slices.Insert(w.queue, at, c)
}

// overlaps reports whether two characters are on the wire at the same time.
func (c character) overlaps(d character) bool {
	return c.due.Sub(d.due).Abs() < max(c.length, d.length)
}

// collide makes two characters one. Two units that send the same at the same time do not disturb each other: that is
// why two equal ones on one address are so hard to see.
func (w *wire) collide(is *character, with character) {
	together := is.due.Sub(with.due).Abs() <= is.length/4
	if !together || is.value != with.value {
		is.value = is.value&with.value ^ 1<<w.random.IntN(8)
	}
	// A master whose own transmitter is on hears nothing, unless it hears itself.
	is.toMaster = is.toMaster && with.toMaster
	is.toUnits = is.toUnits || with.toUnits
}

// wake returns when the next characters are to be taken: all that are complete within a grain of each other, when the
// last of them is. So nothing is ever early, and the end of a frame is on time.
func (w *wire) wake() (time.Time, bool) {
	if len(w.queue) == 0 {
		return time.Time{}, false
	}
	last := 0
	for last+1 < len(w.queue) && w.queue[last+1].due.Sub(w.queue[0].due) < grain {
		last++
	}
	return w.queue[last].due, true
}

// take removes and returns the characters that are complete at a time.
func (w *wire) take(now time.Time) []character {
	n := 0
	for n < len(w.queue) && !w.queue[n].due.After(now) {
		n++
	}
	done := w.queue[:n:n]
	w.queue = w.queue[n:]
	if len(w.queue) == 0 {
		w.queue = nil // so that the taken ones can be freed
	}
	return done
}

// deafen lets the appliances hear nothing of what is under way.
func (w *wire) deafen() {
	for i := range w.queue {
		w.queue[i].toUnits = false
	}
}

// quiet reports whether nobody sends and nothing waits to be sent.
func (w *wire) quiet() bool { return len(w.queue) == 0 }

// reset forgets what was under way, as when the adapter is unplugged.
func (w *wire) reset() {
	w.queue = nil
	w.free = [talkers]time.Time{}
}
