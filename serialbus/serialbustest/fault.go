// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Fault is one thing that can go wrong with a request or its reply.
type Fault int

// The faults.
const (
	FaultNone        Fault = iota
	FaultSilence           // the request takes effect, the reply is lost
	FaultCorrupt           // one bit of the reply is wrong
	FaultForeign           // an intact reply that nobody asked for comes first
	FaultCut               // only half of the reply comes
	FaultLate              // the reply comes later than the appliance's think time
	FaultUnheard           // the request is lost: nothing happens
	FaultPowerBefore       // the power fails before the request takes effect
	FaultPowerAfter        // the power fails after it took effect and before the reply
)

// faultNames are the words of scripts and commands.
var faultNames = []string{"none", "lost", "corrupt", "foreign", "cut", "late", "unheard", "power-before", "power-after"}

// String returns the fault as scripts name it.
func (f Fault) String() string {
	if f < 0 || int(f) >= len(faultNames) {
		return "unknown"
	}
	return faultNames[f]
}

// ParseFault reads the word for a fault.
func ParseFault(word string) (Fault, error) {
	i := slices.Index(faultNames, word)
	if i < 1 {
		return FaultNone, fmt.Errorf("fault %q: allowed are %s", word, strings.Join(faultNames[1:], ", "))
	}
	return Fault(i), nil
}

// The times of a [Rule] that names none.
const (
	defaultLate = 40 * time.Millisecond
	defaultOff  = time.Second
)

// Rule makes a fault happen. Of several rules that fit a request the first one counts.
type Rule struct {
	Fault Fault
	// Unit is the appliance's address; 0 = every one on the line.
	Unit int
	// On is the kind of request; empty = any. Modbus has "read", "write" and "identify", ALP/1 its methods "identify",
	// "status", "stage" and "commit", a line of text "query" and "write".
	On string
	// Share is how many of the requests it meets, by chance: above 0 to 1; 0 = all of them.
	Share float64
	// Skip is how many requests are spared at first, Times how often it happens at the most; 0 = without end.
	Skip, Times int
	// Delay is by how much a reply is late (0 = 40 ms), or for how long the power is off (0 = 1 s). With MostDelay it is
	// anything between the two, by chance.
	Delay, MostDelay time.Duration
}

// String shows the rule as the commands of appliancesim write it.
func (r Rule) String() string {
	text := r.Fault.String()
	switch {
	case r.MostDelay > 0:
		text += fmt.Sprintf("=%v-%v", r.Delay, r.MostDelay)
	case r.Delay > 0:
		text += fmt.Sprintf("=%v", r.Delay)
	}
	if r.On != "" {
		text += " on=" + r.On
	}
	if r.Share > 0 {
		text += fmt.Sprintf(" share=%v", r.Share)
	}
	if r.Skip > 0 {
		text += fmt.Sprintf(" skip=%d", r.Skip)
	}
	if r.Times > 0 {
		text += fmt.Sprintf(" times=%d", r.Times)
	}
	return text
}

// check refuses a rule that could never be followed.
func (r Rule) check() error {
	switch {
	case r.Fault <= FaultNone || int(r.Fault) >= len(faultNames):
		return fmt.Errorf("fault %d: there is no such fault", int(r.Fault))
	case r.Share < 0 || r.Share > 1:
		return fmt.Errorf("share %v: allowed are 0 to 1", r.Share)
	case r.Skip < 0 || r.Times < 0:
		return fmt.Errorf("skip %d, times %d: a count is not negative", r.Skip, r.Times)
	case r.Delay < 0 || r.MostDelay != 0 && r.MostDelay < r.Delay:
		return fmt.Errorf("delay %v to %v: the first is the shorter one, and none is negative", r.Delay, r.MostDelay)
	}
	return nil
}

// fate is what becomes of one request.
type fate struct {
	fault Fault
	delay time.Duration
}

// troubles decides the fate of requests. The same seed and the same requests give the same fates; each unit has its
// own chance, so that the order among units does not matter.
type troubles struct {
	seed   uint64
	script func(unit, n int) Fault // of WithFault
	asked  int                     // requests so far, for script
	rules  []*armed
	dice   map[int]*rand.Rand
	counts map[Fault]int // what happened
}

// armed is a rule at work.
type armed struct {
	Rule
	met, done map[int]int // by unit: requests that fit, faults that happened
}

// arm adds a rule; it is asked after those before it.
func (t *troubles) arm(r Rule) {
	t.rules = append(t.rules, &armed{Rule: r, met: make(map[int]int), done: make(map[int]int)})
}

// clear takes the rules for a unit away, or all of them for unit 0, and returns how many there were.
func (t *troubles) clear(unit int) int {
	before := len(t.rules)
	t.rules = slices.DeleteFunc(t.rules, func(a *armed) bool { return unit == 0 || a.Unit == unit })
	return before - len(t.rules)
}

// next decides about one request.
func (t *troubles) next(unit int, kind string) fate {
	is := fate{fault: FaultNone}
	if t.script != nil {
		is.fault = t.script(unit, t.asked)
	}
	t.asked++
	for _, a := range t.rules {
		if is.fault == FaultNone && a.strikes(unit, kind, t.die(unit)) {
			is = fate{fault: a.Fault, delay: a.lasting(t.die(unit))}
		}
	}
	if is.delay == 0 {
		is.delay = Rule{Fault: is.fault}.lasting(nil)
	}
	if is.fault != FaultNone {
		if t.counts == nil {
			t.counts = make(map[Fault]int)
		}
		t.counts[is.fault]++
	}
	return is
}

// die returns the unit's source of chance.
func (t *troubles) die(unit int) *rand.Rand {
	if t.dice == nil {
		t.dice = make(map[int]*rand.Rand)
	}
	if t.dice[unit] == nil {
		t.dice[unit] = rand.New(rand.NewPCG(t.seed, uint64(unit)))
	}
	return t.dice[unit]
}

// strikes reports whether the rule's fault happens to a request.
func (a *armed) strikes(unit int, kind string, die *rand.Rand) bool {
	if a.Unit != 0 && a.Unit != unit || a.On != "" && a.On != kind {
		return false
	}
	a.met[unit]++
	if a.met[unit] <= a.Skip || a.Times > 0 && a.done[unit] >= a.Times || a.Share > 0 && die.Float64() >= a.Share {
		return false
	}
	a.done[unit]++
	return true
}

// lasting returns how late or for how long.
func (r Rule) lasting(die *rand.Rand) time.Duration {
	switch {
	case r.MostDelay > r.Delay:
		return r.Delay + time.Duration(die.Int64N(int64(r.MostDelay-r.Delay)))
	case r.Delay > 0:
		return r.Delay
	case r.Fault == FaultLate:
		return defaultLate
	default:
		return defaultOff
	}
}
