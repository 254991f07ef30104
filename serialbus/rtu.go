// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// afterUnanswered is how long a unit is left alone after it did not answer, at the least, and how long the line rests
// before a slow look. Some servers are deaf for half a second after a request that was not theirs, and a late reply
// must not meet the next question (serial 4.4, 5.4).
const afterUnanswered = 600 * time.Millisecond

// longestLate is for how long after a request its reply is known as a late one. Only the diagnosis asks.
const longestLate = 5 * time.Second

// habits is what the master has learned of a line. It outlives the port: an adapter that is plugged in again finds the
// same units on the same wires.
type habits struct {
	waits    waits
	echo     bool // the adapter sends back what it is given
	unechoed int  // replies in a row that came without an echo, if echo
	notes    map[byte]*note
	answered time.Time // when a unit answered last
	traffic  traffic   // since the line was last judged
}

// note is what the replies of one unit have shown.
type note struct {
	functions map[byte]FunctionReply // function → its last outcome
	slowest   time.Duration          // until the first byte of a reply
}

// note returns the notes on a unit.
func (h *habits) note(unit byte) *note {
	if h.notes == nil {
		h.notes = make(map[byte]*note)
	}
	n := h.notes[unit]
	if n == nil {
		n = &note{functions: make(map[byte]FunctionReply)}
		h.notes[unit] = n
	}
	return n
}

// rtu is the Modbus RTU master: one request, one reply. It belongs to the goroutine that owns the port.
type rtu struct {
	port   port
	timing timing
	habits *habits
	log    *slog.Logger

	busy       time.Time          // when the last byte went over the line, in either direction
	unanswered time.Time          // when the last request ended that nobody answered
	rested     map[byte]time.Time // unit that did not answer → when it may be asked again
	owed       map[byte]time.Time // unit that did not answer → when it was asked
	latecomers []byte             // units whose reply came after its time was over; whoever reads it clears it
}

// newRTU returns a master for an open port.
func newRTU(p port, t timing, h *habits, log *slog.Logger) *rtu {
	// Nothing is known of the line before now, so its first rest begins here.
	return &rtu{port: p, timing: t, habits: h, rested: make(map[byte]time.Time), owed: make(map[byte]time.Time), busy: time.Now(), log: log}
}

// ask sends one request and returns the reply: intact, from that unit, for that request. It waits as long as a unit
// may take that is known to be there. Errors are ErrSilent, ErrNoise, an *exceptionError, a lost port, and the
// context's.
func (m *rtu) ask(ctx context.Context, request []byte) ([]byte, error) {
	return m.askWithin(ctx, request, m.habits.waits.ceiling)
}

// askWithin is ask with another limit for the first byte of the reply.
func (m *rtu) askWithin(ctx context.Context, request []byte, wait time.Duration) ([]byte, error) {
	unit := request[0]
	if err := m.rest(ctx, unit); err != nil {
		return nil, err
	}
	m.log.Debug("sending", "frame", hexText(request))
	if err := m.port.Write(request); err != nil {
		return nil, err
	}
	// When the last byte has left is reported by no call: Drain returns at once on some adapters. So it is computed.
	sent := time.Now().Add(time.Duration(len(request)) * m.timing.char)
	m.busy = sent
	r := &receiver{request: request, echo: m.habits.echo}
	reply, err := m.receive(ctx, r, sent.Add(wait))
	if errors.Is(err, ErrSilent) || ctx.Err() != nil {
		m.unanswered = sent
		m.rested[unit] = time.Now().Add(max(m.habits.waits.ceiling, afterUnanswered))
		m.owed[unit] = sent
	}
	m.overhear(r)
	if reply != nil {
		delete(m.owed, unit)
		m.learn(r, r.began.Sub(sent))
	}
	if ctx.Err() == nil && !isLost(err) {
		outcome := replyOf(request[1], reply, err)
		m.habits.traffic.asked(unit, outcome, m.weigh(r, request, sent))
		// A unit that lacks one register does not lack the function.
		if request[1] != fcReadRegisters || probing(request) {
			m.habits.note(unit).functions[request[1]] = outcome
		}
	}
	if !r.clean() {
		// What is still under way must not be taken for the next reply.
		if err := m.awaitSilence(ctx, m.timing.silence(), request); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	m.log.Debug("received", "frame", hexText(reply))
	if reply[1]&exceptionBit != 0 {
		return nil, &exceptionError{unit: unit, function: request[1], code: reply[2]}
	}
	return reply, nil
}

// rest leaves a unit alone that did not answer lately, and keeps the silence that has to stand before a request.
func (m *rtu) rest(ctx context.Context, unit byte) error {
	if err := pause(ctx, time.Until(m.rested[unit])); err != nil {
		return err
	}
	delete(m.rested, unit)
	return m.awaitSilence(ctx, m.timing.quiet, nil)
}

// awaitSilence returns when the line has been silent for quiet, or after half a second if it never is. What comes
// meanwhile was not asked for; behind a request, which may be nil, it may belong to its damaged reply.
func (m *rtu) awaitSilence(ctx context.Context, quiet time.Duration, behind []byte) error {
	const longest = 500 * time.Millisecond
	var r receiver
	var buf [maxFrame]byte
	for end := time.Now().Add(longest); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		left := time.Until(m.busy.Add(quiet))
		n, err := m.port.Read(buf[:], min(max(left, 0), readSlice))
		now := time.Now()
		switch {
		case errors.Is(err, errTimeout) && left <= readSlice, err == nil && now.After(end):
			if err == nil {
				m.habits.traffic.unrest++
			}
			r.abandon()
			m.weigh(&r, behind, m.busy)
			m.overhear(&r)
			return nil
		case errors.Is(err, errTimeout):
		case err != nil:
			return err
		default:
			m.busy = now
			r.take(buf[:n], now)
		}
	}
}

// receive waits for the reply to a request that was just written; its first byte has to come by firstBy. A frame that
// is none does not end the wait, it is dropped while the timer runs on: a master that stops at the first late frame
// loses most of a bus (serial 5.4).
func (m *rtu) receive(ctx context.Context, r *receiver, firstBy time.Time) ([]byte, error) {
	longest := maxFrame*m.timing.char + 50*time.Millisecond
	var frameBy time.Time // when the frame that has begun must be whole
	var buf [maxFrame]byte
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		deadline := firstBy
		if r.pending() {
			deadline = frameBy
		}
		wait := min(time.Until(deadline), readSlice)
		if wait <= 0 {
			r.abandon()
			if time.Now().Before(firstBy) {
				continue
			}
			return nil, r.verdict()
		}
		if r.pending() && !r.hopeful() {
			wait = min(wait, m.timing.silence())
		}
		n, err := m.port.Read(buf[:], wait)
		if errors.Is(err, errTimeout) {
			if !r.hopeful() {
				r.abandon()
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		now := time.Now()
		m.busy = now
		if !r.pending() {
			frameBy = earlier(now, firstBy).Add(longest)
		}
		if reply, whole := r.take(buf[:n], now); whole {
			return reply, nil
		}
	}
}

// earlier returns the first of two times.
func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// overhear looks at the frames that were no answer: one of a unit that is being rested came too late.
func (m *rtu) overhear(r *receiver) {
	for _, unit := range r.foreign {
		if time.Now().Before(m.rested[unit]) {
			m.log.Debug("a reply came too late", "appliance", unit)
			m.habits.waits.late()
			m.latecomers = append(m.latecomers, unit)
		}
	}
}

// weigh takes in what was heard beside the answer to a request, for the diagnosis of the line, and returns what came in
// its place.
func (m *rtu) weigh(r *receiver, request []byte, sent time.Time) damage {
	d := damage{delay: r.wasteAt.Sub(sent)}
	late := func(unit byte) bool {
		asked, owes := m.owed[unit]
		return owes && time.Since(asked) < longestLate
	}
	for _, piece := range r.refuse {
		d.length += m.habits.traffic.overheard(piece, request, late)
	}
	if r.echoed {
		m.habits.traffic.echoes++
	}
	return d
}

// learn takes from a reply what it shows about the line: how soon units answer, and whether the adapter echoes. Only
// questions that any unit answers from its memory count for the time, since a profile's register may need seconds.
func (m *rtu) learn(r *receiver, delay time.Duration) {
	if probing(r.request) {
		m.habits.waits.answered(delay)
	}
	h := m.habits
	h.answered = m.busy
	n := h.note(r.request[0])
	n.slowest = max(n.slowest, delay)
	switch {
	case r.echoed && !h.echo:
		h.echo, h.unechoed = true, 0
		m.log.Info("the adapter sends back what it is given; its echo is taken off")
	case r.echoed:
		h.unechoed = 0
	case h.echo:
		const enough = 3
		if h.unechoed++; h.unechoed == enough {
			h.echo = false
			m.log.Info("the adapter no longer sends back what it is given")
		}
	}
}

// probing reports whether a request asks for presence or identity.
func probing(request []byte) bool {
	return request[1] == fcEncapsulated || request[1] == fcServerID || bytes.Equal(request, readRequest(request[0], 0, 1))
}

// firstPoll is how long a unit is left alone that is busy or needs long; the time doubles with each further refusal.
const firstPoll = 100 * time.Millisecond

// askPatiently repeats a question that changes nothing: three times in all when the reply was damaged, twice when none
// came, six times within three seconds when the unit is busy or needs long. A unit that kept silent at a question for
// its identity does not know it, most likely, and is asked once from then on.
func (m *rtu) askPatiently(ctx context.Context, request []byte) ([]byte, error) {
	var noises, silences, refusals int
	if request[1] != fcReadRegisters && m.habits.note(request[0]).functions[request[1]].Answer == "silence" {
		silences++
	}
	for {
		reply, err := m.ask(ctx, request)
		var refused *exceptionError
		again := false
		switch {
		case errors.Is(err, ErrNoise):
			noises++
			again = noises < 3
		case errors.Is(err, ErrSilent):
			silences++
			again = silences < 2
		case errors.As(err, &refused) && refused.passing():
			again = refusals < 5
			if again {
				if err := pause(ctx, firstPoll<<refusals); err != nil {
					return nil, err
				}
			}
			refusals++
		}
		if !again {
			return reply, err
		}
	}
}

// hexText formats a frame for the log when it is written, not before.
type hexText []byte

// LogValue implements slog.LogValuer.
func (h hexText) LogValue() slog.Value { return slog.StringValue(fmt.Sprintf("% X", []byte(h))) }
