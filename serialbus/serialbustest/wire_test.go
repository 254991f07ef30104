// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// newWire returns a bus on which a character takes 1 ms.
func newWire() *wire { return &wire{half: true, random: rand.New(rand.NewPCG(1, 0))} }

// heard takes everything off the wire: what the master hears, and what the units hear.
func heard(w *wire) (byMaster, byUnits string) {
	for _, c := range w.take(time.Unix(1e9, 0)) {
		if c.toMaster {
			byMaster += string(c.value)
		}
		if c.toUnits {
			byUnits += string(c.value)
		}
	}
	return byMaster, byUnits
}

func TestWire(t *testing.T) {
	const char = time.Millisecond
	at := func(ms float64) time.Time { return time.Unix(0, 0).Add(time.Duration(ms * float64(char))) }
	for _, tc := range []struct {
		name             string
		talk             func(w *wire)
		toMaster, toUnit string // "?" = a spoilt byte
	}{
		{"master and unit in turn", func(w *wire) {
			w.put(master, at(0), char, []byte("ab"))
			w.put(unit, at(2), char, []byte("CD"))
		}, "CD", "ab"},
		{"an echo", func(w *wire) {
			w.echo = true
			w.put(master, at(0), char, []byte("ab"))
		}, "ab", "ab"},
		{"equal units on one address", func(w *wire) {
			w.put(unit, at(0), char, []byte("same"))
			w.put(unit, at(0.1), char, []byte("same"))
		}, "same", ""},
		{"units that differ in one byte", func(w *wire) {
			w.put(unit, at(0), char, []byte("serial1"))
			w.put(unit, at(0), char, []byte("serial2"))
		}, "serial?", ""},
		{"units that differ in length", func(w *wire) {
			w.put(unit, at(0), char, []byte("ab"))
			w.put(unit, at(0), char, []byte("abcd"))
		}, "abcd", ""},
		{"units out of step", func(w *wire) {
			w.put(unit, at(0), char, []byte("ab"))
			w.put(unit, at(1.5), char, []byte("ab"))
		}, "a?b", ""},
		{"a late unit meets the next request", func(w *wire) {
			w.put(unit, at(0), char, []byte("AB"))
			w.put(master, at(1), char, []byte("cd"))
		}, "A", "?d"},
		{"the same with an echo", func(w *wire) {
			w.echo = true
			w.put(unit, at(0), char, []byte("AB"))
			w.put(master, at(1), char, []byte("cd"))
		}, "A?d", "?d"},
		{"another master", func(w *wire) {
			w.put(stranger, at(0), char, []byte("ab"))
			w.put(master, at(1), char, []byte("cd"))
		}, "a", "a?d"},
		{"two pairs of wires", func(w *wire) {
			w.half = false
			w.put(unit, at(0), char, []byte("AB"))
			w.put(master, at(0), char, []byte("cd"))
			w.put(unit, at(1), char, []byte("CD")) // waits for its turn
		}, "ABCD", "cd"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWire()
			tc.talk(w)
			byMaster, byUnits := heard(w)
			if !alike(tc.toMaster, byMaster) || !alike(tc.toUnit, byUnits) {
				t.Errorf("the master hears %q, the units %q; want %q and %q", byMaster, byUnits, tc.toMaster, tc.toUnit)
			}
		})
	}
}

// alike compares with a pattern in which ? is a byte that none of the talkers sent.
func alike(pattern, got string) bool {
	if len(pattern) != len(got) {
		return false
	}
	for i := range len(got) {
		if pattern[i] == '?' && (got[i] < 'a' || got[i] > 'd') && got[i] != '1' && got[i] != '2' || pattern[i] == got[i] {
			continue
		}
		return false
	}
	return true
}

// TestWireIsNeverEarly: whatever is batched, no character leaves before its time, and the last one of a frame on time.
func TestWireIsNeverEarly(t *testing.T) {
	w := newWire()
	start := time.Unix(0, 0)
	const char = 11 * time.Second / 115200
	end := w.put(unit, start, char, make([]byte, 39))
	if want := start.Add(39 * char); !end.Equal(want) {
		t.Errorf("the frame ends at %v, want %v", end, want)
	}
	var sent, turns int
	for turns < 100 {
		now, some := w.wake()
		if !some {
			break
		}
		sent += len(w.take(now))
		turns++
		if earliest := start.Add(time.Duration(sent) * char); now.Before(earliest) {
			t.Errorf("%d characters left at %v, the last one is complete at %v", sent, now, earliest)
		}
		if sent == 39 && !now.Equal(end) {
			t.Errorf("the last one left at %v, want %v", now, end)
		}
	}
	if sent != 39 || turns > 5 {
		t.Errorf("%d characters in %d turns", sent, turns)
	}
}

func TestTroublesRepeat(t *testing.T) {
	fates := func(seed uint64, order ...int) string {
		tr := troubles{seed: seed}
		tr.arm(Rule{Fault: FaultLate, Unit: 1, Share: 0.3, Delay: 25 * time.Millisecond, MostDelay: 60 * time.Millisecond})
		tr.arm(Rule{Fault: FaultCorrupt, On: "read", Skip: 1, Times: 2})
		text := ""
		for i := range 20 {
			for _, unit := range order {
				is := tr.next(unit, []string{"read", "write"}[i%2])
				if unit == 1 {
					text += fmt.Sprint(is.fault, " ", is.delay, ";")
				}
			}
		}
		return text
	}
	if fates(1, 1, 2) != fates(1, 2, 1) {
		t.Error("the order among units matters")
	}
	if fates(1, 1) == fates(2, 1) {
		t.Error("the seed does not matter")
	}
	tr := troubles{}
	tr.arm(Rule{Fault: FaultCorrupt, On: "read", Skip: 1, Times: 2})
	text := ""
	for _, kind := range []string{"read", "write", "read", "read", "write", "read"} {
		text += tr.next(5, kind).fault.String() + " "
	}
	if want := "none none corrupt corrupt none none "; text != want {
		t.Errorf("got %s, want %s", text, want)
	}
	if tr.clear(4) != 0 || tr.clear(0) != 1 || tr.next(5, "read").fault != FaultNone {
		t.Error("the rules are not cleared as they should")
	}
}

func TestRules(t *testing.T) {
	for _, bad := range []Rule{
		{},
		{Fault: 99},
		{Fault: FaultLate, Share: 1.5},
		{Fault: FaultLate, Times: -1},
		{Fault: FaultLate, Delay: 2, MostDelay: 1},
	} {
		if bad.check() == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	for _, name := range faultNames[1:] {
		if fault, err := ParseFault(name); err != nil || fault.String() != name {
			t.Errorf("%s: %v, %v", name, fault, err)
		}
	}
	if _, err := ParseFault("none"); err == nil {
		t.Error("none is no fault")
	}
	got := Rule{Fault: FaultLate, Delay: time.Millisecond, MostDelay: 2 * time.Millisecond, On: "read", Share: 0.5, Skip: 1, Times: 2}.String()
	if want := "late=1ms-2ms on=read share=0.5 skip=1 times=2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
