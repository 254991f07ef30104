// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// village is the units of a Modbus line, as a wire's answer. Each unit answers 0x03 after its delay and refuses all else.
type village struct {
	delays map[byte]time.Duration
	deaf   map[byte]bool // does not hear for 550 ms after a request to somebody else that nobody answered
	hush   bool          // at a wrong speed they keep silent instead of sending garbage
	gone   atomic.Bool

	silence time.Time // when the last request was that nobody answered
}

func (v *village) answer(request []byte) []burst {
	delay, there := v.delays[request[0]]
	if v.deaf[request[0]] && time.Since(v.silence) < 550*time.Millisecond {
		there = false
	}
	if !there || v.gone.Load() {
		v.silence = time.Now()
		return nil
	}
	if request[1] != fcReadRegisters {
		return []burst{{delay, sealed([]byte{request[0], request[1] | exceptionBit, exceptionFunction})}}
	}
	if !bytes.Equal(request, readRequest(request[0], 0, 1)) {
		return []burst{{delay, sealed([]byte{request[0], fcReadRegisters | exceptionBit, exceptionAddress})}}
	}
	return []burst{{delay, sealed([]byte{request[0], fcReadRegisters, 2, 0, 0})}}
}

// runLine runs a bus with these units in a synctest bubble.
func runLine(t *testing.T, v *village, change func(*Config)) *bench {
	t.Helper()
	return runWire(t, &wire{answer: v.answer}, change)
}

func runWire(t *testing.T, w *wire, change func(*Config)) *bench {
	t.Helper()
	cfg := Config{Port: "/dev/ttyTEST", Driver: DriverModbusRTU, Units: allUnits()}
	if change != nil {
		change(&cfg)
	}
	bus, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{bus: bus, ended: make(chan error, 1), wire: w}
	bus.open = b.open
	return b.start(t)
}

func allUnits() []byte {
	var units []byte
	for u := minUnit; u <= maxUnit; u++ {
		units = append(units, byte(u))
	}
	return units
}

// asked returns the units in the order in which they were first asked.
func (b *bench) asked() []byte {
	b.mu.Lock()
	w := b.wire
	b.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	var units []byte
	for _, frame := range w.written {
		if !slices.Contains(units, frame[0]) {
			units = append(units, frame[0])
		}
	}
	return units
}

func (b *bench) progress() []Progress {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.scans)
}

const ms = time.Millisecond

// TestScan: known units first, then all others fast, then the silent ones slowly; percent never falls, time left does.
func TestScan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &village{
			delays: map[byte]time.Duration{3: 5 * ms, 100: 5 * ms, 200: 300 * ms, 247: 5 * ms},
			deaf:   map[byte]bool{100: true},
		}
		b := runLine(t, v, func(c *Config) { c.Known = []byte{247, 99} })
		told := b.after(10 * time.Minute)
		if found := strings.Count(strings.Join(told, "\n"), "found"); found != 4 || len(told) != 1+247 {
			t.Errorf("%d found, %d events", found, len(told))
		}
		if order := b.asked(); order[0] != 99 || order[1] != 247 || order[2] != 1 || len(order) != 247 {
			t.Errorf("asked %v", order)
		}
		var steps []ScanStep
		last := Progress{}
		for i, p := range b.progress() {
			if p.Step != last.Step {
				steps = append(steps, p.Step)
			}
			if p.Percent < last.Percent || p.Units != 247 || p.Found < last.Found || p.Percent == 100 && p.Step != StepDone {
				t.Errorf("report %d: %+v after %+v", i, p, last)
			}
			if p.Step == StepSlow && last.Step == StepSlow && p.Left > last.Left {
				t.Errorf("report %d: the time left grows: %+v after %+v", i, p, last)
			}
			last = p
		}
		if want := []ScanStep{StepKnown, StepFast, StepSlow, StepDone}; !slices.Equal(steps, want) {
			t.Errorf("steps %v, want %v", steps, want)
		}
		if last.Percent != 100 || last.Found != 4 || last.Left != 0 {
			t.Errorf("at the end: %+v", last)
		}
		if n := len(b.progress()); n > 400 {
			t.Errorf("%d reports", n)
		}
	})
}

// TestScanIsFastOnceItHasLearned: after the first units the silence of an address costs 20 ms, not half a second.
func TestScanIsFastOnceItHasLearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := runLine(t, &village{delays: map[byte]time.Duration{1: 5 * ms, 2: 5 * ms}}, nil)
		b.after(10 * time.Second) // 245 silent units at 500 ms would take two minutes
		if i := slices.IndexFunc(b.progress(), func(p Progress) bool { return p.Step == StepSlow }); i < 0 {
			t.Errorf("after ten seconds: %+v", b.progress())
		}
	})
}

// TestSlowLooksDelayNobody: while silent addresses are looked at slowly, known units are looked at on time and settings
// wait for one look at the most. Afterwards a round takes an hour.
func TestSlowLooksDelayNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &village{delays: map[byte]time.Duration{1: 5 * ms}}
		b := runLine(t, v, func(c *Config) { c.Rescan = time.Hour })
		b.after(30 * time.Second)
		if p := b.progress(); p[len(p)-1].Step != StepSlow {
			t.Fatalf("it should be looking slowly: %+v", p[len(p)-1])
		}
		for range 20 {
			start := time.Now()
			if _, err := b.bus.Apply(t.Context(), 1, Settings{}); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("settings waited %v", took)
			}
			time.Sleep(1700 * ms)
		}
		v.gone.Store(true)
		expect(t, "gone", lostOnly(b.after(3*DefaultRecheck+5*time.Second)), []string{"lost: nobody answered"})
		b.after(10 * time.Minute)
		before := b.wireWrites()
		b.after(time.Hour)
		if n := b.wireWrites() - before; n < 220 || n > 300 { // about one slow look each
			t.Errorf("%d questions in an hour", n)
		}
	})
}

// lostOnly returns the last of what was told, which is about the unit that had been found.
func lostOnly(told []string) []string { return told[len(told)-1:] }

func (b *bench) wireWrites() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wire.writes()
}

// TestScanGoesOnAfterAPortLoss: what was looked at is not looked at again; who was found is looked for first.
func TestScanGoesOnAfterAPortLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &village{delays: map[byte]time.Duration{1: 5 * ms, 2: 5 * ms, 240: 5 * ms}}
		b := runLine(t, v, nil)
		b.after(4 * time.Second)
		before := b.progress()
		asked := b.asked()
		if n := len(asked); n < 50 || n > 200 {
			t.Fatalf("%d units asked", n)
		}
		b.unplug(errors.New("gone"))
		b.after(30 * time.Second)
		b.mu.Lock()
		b.openAs, b.wire = nil, &wire{answer: v.answer}
		b.mu.Unlock()
		b.after(6 * time.Second)
		order := b.asked()
		if order[0] != 1 || order[1] != 2 || slices.Contains(order, asked[len(asked)-2]) || order[2] < asked[len(asked)-1] {
			t.Errorf("asked %v, then %v", asked, order)
		}
		after := b.progress()[len(before):]
		if after[0].Percent < before[len(before)-1].Percent {
			t.Errorf("%+v, then %+v", before[len(before)-1], after[0])
		}
		b.after(10 * time.Minute)
		if p := b.progress(); p[len(p)-1] != (Progress{Percent: 100, Step: StepDone, Unit: 247, Found: 3, Units: 247, Speed: "19200 8E1"}) {
			t.Errorf("at the end %+v", p[len(p)-1])
		}
	})
}

// TestLateReplyFindsItsUnit: a reply that was too late for a fast look need not wait for the slow one.
func TestLateReplyFindsItsUnit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &village{delays: map[byte]time.Duration{}}
		for u := byte(1); u <= 20; u++ {
			v.delays[u] = 2 * ms
		}
		first := true
		w := &wire{answer: func(request []byte) []burst {
			if request[0] == 12 && first {
				first = false
				return []burst{{50 * ms, frameOf(t, "0C 03 02 00 00")}}
			}
			return v.answer(request)
		}}
		b := runWire(t, w, func(c *Config) { c.Units = allUnits()[:20] })
		told := b.after(5 * time.Second)
		if found := strings.Count(strings.Join(told, "\n"), "found"); found != 20 {
			t.Errorf("%d found: %v", found, told)
		}
		for _, p := range b.progress() {
			if p.Step == StepSlow {
				t.Errorf("there was a slow look: %+v", p)
			}
		}
	})
}

func TestProgressOfASmallLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := runLine(t, &village{delays: map[byte]time.Duration{7: 5 * ms}}, func(c *Config) { c.Units = []byte{7} })
		b.after(time.Minute)
		got := fmt.Sprint(b.progress())
		if want := "[{0 fast 7 1.5s 0 1 19200 8E1 <nil>} {100 done 7 0s 1 1 19200 8E1 <nil>}]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}
