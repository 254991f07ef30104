// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"time"
)

// traffic is what was heard on a line since it was last judged, in numbers: what [judge] makes its diagnoses of. It
// does no I/O and knows no clock. Its zero value has heard nothing.
type traffic struct {
	tally                // of all units
	units map[byte]*heed // by unit that was asked

	damage  []damage // the last replies without a valid checksum
	echoes  int      // requests that came back
	late    int      // replies after their time was over
	strays  int      // intact replies that nobody had been asked for
	polls   int      // requests that somebody else sent
	polled  []byte   // to whom, each once
	burst   int      // runs of bytes without a valid checksum while nobody was asked
	unasked int      // how many bytes these were
	unrest  int      // times that the line did not fall silent for half a second
	errors  LineErrors
}

// tally counts requests by what came of them.
type tally struct {
	requests, data, refusals, silences, damaged int
}

// intact returns how many replies had a valid checksum.
func (t tally) intact() int { return t.data + t.refusals }

// add counts one request.
func (t *tally) add(outcome FunctionReply) {
	t.requests++
	switch outcome.Answer {
	case "data":
		t.data++
	case "refusal":
		t.refusals++
	case "noise":
		t.damaged++
	default:
		t.silences++
	}
}

// heed is what came of the requests to one unit.
type heed struct {
	tally
	functions map[byte]*tally
	unsteady  int // times that two readings of its identity differed
	late      int // replies after their time was over
}

// damage is one reply without a valid checksum.
type damage struct {
	length int           // bytes
	delay  time.Duration // from the end of the request to its first byte
}

// mostDamage is how many damaged replies are kept: enough to see whether they are alike.
const mostDamage = 64

// of returns what was heard of a unit.
func (t *traffic) of(unit byte) *heed {
	if t.units == nil {
		t.units = make(map[byte]*heed)
	}
	h := t.units[unit]
	if h == nil {
		h = &heed{functions: make(map[byte]*tally)}
		t.units[unit] = h
	}
	return h
}

// asked takes in what came of a request; garbage is what came in place of an intact reply, if anything did.
func (t *traffic) asked(unit byte, outcome FunctionReply, garbage damage) {
	t.add(outcome)
	h := t.of(unit)
	h.add(outcome)
	if h.functions[outcome.Function] == nil {
		h.functions[outcome.Function] = new(tally)
	}
	h.functions[outcome.Function].add(outcome)
	if outcome.Answer != "noise" || garbage.length == 0 {
		return
	}
	if len(t.damage) == mostDamage {
		t.damage = slices.Delete(t.damage, 0, 1)
	}
	t.damage = append(t.damage, garbage)
}

// overheard takes in bytes that were no answer. request is what had been asked meanwhile, nil if nothing; late reports
// whether a unit's reply is still expected. It returns how many of the bytes belong to no intact frame.
func (t *traffic) overheard(run, request []byte, late func(unit byte) bool) (garbage int) {
	frames, garbage := overhearIn(run)
	for _, f := range frames {
		own := request != nil && bytes.Equal(f.bytes, request)
		switch {
		case own:
			t.echoes++
		case f.request:
			t.polls++
			if !slices.Contains(t.polled, f.unit) {
				t.polled = append(t.polled, f.unit)
			}
		case late(f.unit):
			t.late++
			t.of(f.unit).late++
		default:
			t.strays++
		}
	}
	if request == nil && garbage > 0 {
		t.burst++
		t.unasked += garbage
	}
	return garbage
}

// alike reports whether the damaged replies are of about one length, that of a short frame: within a half of the middle
// one, but for one in five. Units that are asked at a wrong speed answer like this; noise does not.
func (t *traffic) alike() bool {
	lengths := make([]int, 0, len(t.damage))
	for _, d := range t.damage {
		lengths = append(lengths, d.length)
	}
	slices.Sort(lengths)
	if len(lengths) == 0 {
		return false
	}
	middle, near := lengths[len(lengths)/2], 0
	for _, n := range lengths {
		if 2*n >= middle && 2*n <= 3*middle {
			near++
		}
	}
	const short = 64 // bytes: ten times a reply, as a slow one looks at a high speed
	return middle <= short && 5*near >= 4*len(lengths)
}

// damagedAt returns the units whose replies were damaged, sorted.
func (t *traffic) damagedAt() []byte {
	var units []byte
	for _, unit := range slices.Sorted(maps.Keys(t.units)) {
		if t.units[unit].damaged > 0 {
			units = append(units, unit)
		}
	}
	return units
}

// tooSlow returns the units, sorted, that answer, but not in the time they are given: never, or so often not that their
// identity could not be read.
func (t *traffic) tooSlow() []byte {
	const few = 2
	var units []byte
	for _, unit := range slices.Sorted(maps.Keys(t.units)) {
		h := t.units[unit]
		never := h.intact() == 0 && (h.late >= few || h.late > 0 && t.intact() == 0)
		if never || h.late > 0 && h.unsteady > 0 {
			units = append(units, unit)
		}
	}
	return units
}

// anotherMaster reports whether somebody else sends requests. One such frame may be an accident, three are a habit.
func (t *traffic) anotherMaster() bool { return t.polls >= 3 }

// outcomeOf sorts what a driver without functions made of a look.
func outcomeOf(err error) FunctionReply {
	switch {
	case err == nil:
		return FunctionReply{Answer: "data"}
	case errors.Is(err, ErrNoise):
		return FunctionReply{Answer: "noise"}
	case errors.Is(err, ErrSilent):
		return FunctionReply{Answer: "silence"}
	default:
		return FunctionReply{Answer: "refusal"}
	}
}
