// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// afterUnanswered is how long a unit is left alone after it did not answer, at the least. Some servers are deaf for
// half a second after a request that was not theirs, and a late reply must not meet the next question (serial 4.4, 5.4).
const afterUnanswered = 600 * time.Millisecond

// rtu is the Modbus RTU master: one request, one reply. It belongs to the goroutine that owns the port.
type rtu struct {
	port   port
	timing timing
	wait   time.Duration      // how long a unit may think, serial 5.1's W
	rested map[byte]time.Time // unit that did not answer → when it may be asked again
	log    *slog.Logger
}

// newRTU returns a master for an open port.
func newRTU(p port, t timing, wait time.Duration, log *slog.Logger) *rtu {
	return &rtu{port: p, timing: t, wait: wait, rested: make(map[byte]time.Time), log: log}
}

// ask sends one request and returns the reply: intact, from that unit, for that request. Errors are ErrSilent,
// ErrNoise, an *exceptionError, a lost port, and the context's.
func (m *rtu) ask(ctx context.Context, request []byte) ([]byte, error) {
	unit := request[0]
	if err := m.rest(ctx, unit); err != nil {
		return nil, err
	}
	m.log.Debug("sending", "frame", hexText(request))
	if err := m.port.Write(request); err != nil {
		return nil, err
	}
	reply, clean, err := m.receive(ctx, request)
	if errors.Is(err, ErrSilent) || ctx.Err() != nil {
		m.rested[unit] = time.Now().Add(max(m.wait, afterUnanswered))
	}
	if !clean {
		// What is still under way must not be taken for the next reply.
		if err := drain(ctx, m.port, m.timing.silence()); err != nil {
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

// rest keeps the silence that has to stand before a request and forgets what came unasked.
func (m *rtu) rest(ctx context.Context, unit byte) error {
	if err := pause(ctx, max(m.timing.quiet, time.Until(m.rested[unit]))); err != nil {
		return err
	}
	delete(m.rested, unit)
	return m.port.Flush()
}

// receive waits for the reply to a request that was just written. A frame that is none does not end the wait, it is
// dropped while the timer runs on: a master that stops at the first late frame loses most of a bus (serial 5.4).
// clean is false if anything but the reply was heard.
func (m *rtu) receive(ctx context.Context, request []byte) (reply []byte, clean bool, err error) {
	r := receiver{request: request}
	// The wait counts from when the last byte of the request has left, which no call reports: Drain returns at once
	// on some adapters. So it is computed.
	firstBy := time.Now().Add(time.Duration(len(request))*m.timing.char + m.wait)
	longest := maxFrame*m.timing.char + 50*time.Millisecond
	var frameBy time.Time // when the frame that has begun must be whole
	var buf [maxFrame]byte
	for {
		if err := ctx.Err(); err != nil {
			return nil, false, err
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
			return nil, !r.garbage && r.foreign == 0, r.verdict()
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
			return nil, false, err
		}
		if !r.pending() {
			frameBy = earlier(time.Now(), firstBy).Add(longest)
		}
		if reply, whole := r.take(buf[:n]); whole {
			return reply, !r.garbage && r.foreign == 0, nil
		}
	}
}

// verdict says what was heard instead of a reply.
func (r *receiver) verdict() error {
	if r.garbage {
		return ErrNoise
	}
	return ErrSilent
}

// earlier returns the first of two times.
func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// askPatiently repeats a question that changes nothing: three times in all when the reply was damaged, twice when
// none came.
func (m *rtu) askPatiently(ctx context.Context, request []byte) ([]byte, error) {
	var silences int
	for try := 1; ; try++ {
		reply, err := m.ask(ctx, request)
		if errors.Is(err, ErrSilent) {
			silences++
		}
		again := errors.Is(err, ErrNoise) && try < 3 || errors.Is(err, ErrSilent) && silences < 2
		if !again {
			return reply, err
		}
	}
}

// hexText formats a frame for the log when it is written, not before.
type hexText []byte

// LogValue implements slog.LogValuer.
func (h hexText) LogValue() slog.Value { return slog.StringValue(fmt.Sprintf("% X", []byte(h))) }
