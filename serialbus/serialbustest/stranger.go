// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Stranger is somebody else who talks on the line without being asked.
type Stranger struct {
	// Kind says who: another master that polls the registers of a unit, or noise, random bytes from a loose shield or a
	// unit that babbles.
	Kind StrangerKind
	// Unit is whom another master polls; 0 = 1. If the unit is on the line, it answers.
	Unit byte
	// Every is the pause between two polls or bursts; 0 = 200 ms for another master, and 5 to 30 ms by chance for noise.
	Every time.Duration

	words    []byte // of an appliance that talks by itself
	playback []said // of a recording
}

// StrangerKind says who a [Stranger] is.
type StrangerKind string

// The strangers.
const (
	AnotherMaster StrangerKind = "master"
	Noise         StrangerKind = "noise"

	ownWords StrangerKind = "appliance" // the appliance itself, which talks unasked
	playback StrangerKind = "recording" // what was overheard once
)

// ParseStranger reads the word for a stranger.
func ParseStranger(word string) (StrangerKind, error) {
	switch kind := StrangerKind(word); kind {
	case AnotherMaster, Noise:
		return kind, nil
	default:
		return "", fmt.Errorf("chatter %q: allowed are %s and %s", word, AnotherMaster, Noise)
	}
}

// babbler is a Stranger at work.
type babbler struct {
	Stranger
	random *rand.Rand
	next   time.Time // when it talks again
	begun  time.Time
	played int // of playback
}

// newBabbler returns a stranger who begins to talk soon. The same seed gives the same bytes.
func newBabbler(s Stranger, seed uint64, now time.Time) *babbler {
	if s.Unit == 0 {
		s.Unit = 1
	}
	if s.Every == 0 && s.Kind == AnotherMaster {
		s.Every = 200 * time.Millisecond
	}
	b := &babbler{Stranger: s, random: rand.New(rand.NewPCG(seed, 2)), next: now, begun: now}
	if s.Kind == playback {
		b.next = b.playsNext()
	}
	return b
}

// playsNext returns when the next bytes of a recording are due.
func (b *babbler) playsNext() time.Time {
	if b.played == len(b.playback) {
		return b.begun.Add(100 * 365 * 24 * time.Hour)
	}
	return b.begun.Add(b.playback[b.played].after)
}

// talk returns what the stranger says now, and sets when it talks again.
func (b *babbler) talk(now time.Time) []byte {
	if b.Kind == playback {
		b.played++
		b.next = b.playsNext()
		return b.Stranger.playback[b.played-1].data
	}
	pause := b.Every
	if pause == 0 {
		pause = time.Duration(5+b.random.IntN(25)) * time.Millisecond
	}
	b.next = now.Add(pause)
	switch b.Kind {
	case ownWords:
		return b.words
	case AnotherMaster:
		return withChecksum([]byte{b.Unit, 0x03, 0, 0, 0, 1})
	default:
	}
	burst := make([]byte, 1+b.random.IntN(40))
	for i := range burst {
		burst[i] = byte(b.random.Uint32())
	}
	return burst
}
