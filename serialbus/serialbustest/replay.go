// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Replayed says how far a replay has come.
type Replayed struct {
	Requests int `json:"requests"` // in the recording
	Matched  int `json:"matched"`  // of them, that the master sent
	Skipped  int `json:"skipped"`  // of them, that the master left out
	Strange  int `json:"strange"`  // sent by the master and not in the recording from there on
}

// NewReplayLine plays a recording back. speed 2 is twice as fast, 0 is 1.
//
// A recording of a master answers the master: each request that it sends as recorded gets the bytes that came then, at
// the times they came after it. A request that comes later in the recording skips what is before it; one that does not
// come any more gets no answer. Both are logged and counted, see [Line.Replayed]. What was overheard passively is
// played from the beginning on by its times.
func NewReplayLine(r *Recording, speed float64, opts ...Option) (*Line, error) {
	if speed == 0 {
		speed = 1
	}
	if speed < 0 {
		return nil, fmt.Errorf("replaying: speed %v: allowed are numbers above 0", speed)
	}
	p := &player{log: slog.New(slog.DiscardHandler)}
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if o.log != nil {
		p.log = o.log.With("line", o.name)
	}
	scaled := func(d time.Duration) time.Duration { return time.Duration(float64(d) / speed) }
	opts = append(opts, WithoutPacing(), WithBits(10))
	if r.Passive() {
		overheard := &Stranger{Kind: playback}
		for _, record := range r.Records {
			if record.What == "rx" {
				overheard.playback = append(overheard.playback, said{scaled(record.At), record.Data})
			}
		}
		return start(p, false, append(opts, WithStranger(*overheard)))
	}
	for _, record := range r.Records {
		switch record.What {
		case "tx":
			p.script = append(p.script, question{at: record.At, request: record.Data})
		case "rx":
			if len(p.script) > 0 { // what came before the first request answers none
				to := &p.script[len(p.script)-1]
				to.replies = append(to.replies, said{scaled(record.At - to.at), record.Data})
			}
		}
	}
	if len(p.script) == 0 {
		return nil, errors.New("replaying: the recording holds no request of a master, and is not a passive one")
	}
	return start(p, false, opts)
}

// Replayed returns how far the replay has come; it is zero on any other line.
func (l *Line) Replayed() Replayed {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, is := l.device.(*player); is {
		p.told.Requests = len(p.script)
		return p.told
	}
	return Replayed{}
}

// player is the device that plays a recording.
type player struct {
	nobody
	log    *slog.Logger
	script []question
	next   int // in script
	buf    []byte
	told   Replayed
}

// question is one request of a recording with what came after it.
type question struct {
	at      time.Duration
	request []byte
	replies []said
}

// said is what comes some time after a request, or after the start.
type said struct {
	after time.Duration
	data  []byte
}

func (p *player) silence() { p.buf = nil }

// hear implements device.
func (p *player) hear(data []byte, _ time.Time, _ decision) []exchange {
	if len(p.script) == 0 {
		return nil // what was overheard plays by itself, and is heard here too
	}
	p.buf = append(p.buf, data...)
	var done []exchange
	for len(p.buf) > 0 {
		i, partly := p.find()
		if partly {
			break
		}
		if i < 0 {
			p.told.Strange++
			p.log.Warn("the master asks what is not in the recording from here on", "request", hexOf(p.buf), "expected", hexOf(p.expected()))
			p.buf = nil
			break
		}
		if i > p.next {
			p.told.Skipped += i - p.next
			p.log.Warn("the master leaves requests of the recording out", "count", i-p.next, "first", hexOf(p.expected()))
		}
		p.told.Matched++
		now := p.script[i]
		p.buf, p.next = p.buf[len(now.request):], i+1
		for _, reply := range now.replies {
			done = append(done, exchange{kind: "replay", request: now.request, reply: reply.data, think: reply.after})
		}
		if p.next == len(p.script) {
			p.log.Info("the recording is at its end")
		}
	}
	return done
}

// find returns which recorded request the received bytes begin with, the next one of them, -1 for none. partly: the
// bytes may be the beginning of the next one.
func (p *player) find() (index int, partly bool) {
	if bytes.HasPrefix(p.expected(), p.buf) && len(p.buf) < len(p.expected()) {
		return -1, true
	}
	i := slices.IndexFunc(p.script[p.next:], func(q question) bool { return bytes.HasPrefix(p.buf, q.request) })
	if i < 0 {
		return -1, false
	}
	return p.next + i, false
}

// expected is the next request of the recording, nil at its end.
func (p *player) expected() []byte {
	if p.next == len(p.script) {
		return nil
	}
	return p.script[p.next].request
}
