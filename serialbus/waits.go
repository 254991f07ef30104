// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The bounds of a fast look's wait (serial 5.4).
const (
	shortestWait     = 20 * time.Millisecond
	shortestFTDIWait = 40 * time.Millisecond // with the 16 ms for which such an adapter holds short replies back
	repliesToLearn   = 5
)

// waits learns how long the units of a line take to answer, and says how long a fast look waits for the first byte of
// a reply: serial 5.1's W. Silence dominates the time of a scan, so W matters more than the speed of the line.
//
// It starts at the ceiling. After five replies it is twice the slowest reply plus 10 ms, within the bounds; a frame
// that came too late doubles it, until five further replies have come. Only the last 64 replies count, so that one
// slow hour is forgotten.
type waits struct {
	ceiling, floor time.Duration
	wait           time.Duration
	recent         [64]time.Duration
	heard          int // replies in all
	since          int // replies since the start or the last late frame
}

// setFloor takes in the shortest wait of the port that was just opened.
func (w *waits) setFloor(floor time.Duration) {
	w.floor = min(floor, w.ceiling)
	w.wait = max(w.wait, w.floor)
}

func newWaits(ceiling, floor time.Duration) waits {
	return waits{ceiling: ceiling, floor: min(floor, ceiling), wait: ceiling}
}

// answered takes in how long a unit took until the first byte of its reply.
func (w *waits) answered(delay time.Duration) {
	w.recent[w.heard%len(w.recent)] = max(delay, 0)
	w.heard++
	w.since++
	if w.since < repliesToLearn {
		return
	}
	var slowest time.Duration
	for _, d := range w.recent[:min(w.heard, len(w.recent))] {
		slowest = max(slowest, d)
	}
	w.wait = min(max(2*slowest+10*time.Millisecond, w.floor), w.ceiling)
}

// late takes in that a reply came after its time was over.
func (w *waits) late() {
	w.wait = min(2*w.wait, w.ceiling)
	w.since = 0
}

// shortestWaitOf returns the shortest fast wait on a port. An FTDI adapter holds a short reply back until its latency
// timer has run out; the class folder, /sys/class/tty, tells how that is set.
func shortestWaitOf(class, port string) time.Duration {
	const harmless = 2 // ms
	device, err := filepath.EvalSymlinks(port)
	if err != nil {
		return shortestWait
	}
	text, err := os.ReadFile(filepath.Join(class, filepath.Base(device), "device", "latency_timer"))
	if err != nil {
		return shortestWait // another adapter, or none
	}
	if ms, err := strconv.Atoi(strings.TrimSpace(string(text))); err != nil || ms <= harmless {
		return shortestWait
	}
	return shortestFTDIWait
}
