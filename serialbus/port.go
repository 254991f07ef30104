// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"errors"
	"time"
)

// port is an open serial port as the drivers see it. It belongs to one goroutine. Every error but errTimeout means
// that the port is lost: close it and open it again.
type port interface {
	// Read waits at most wait for bytes and returns those that have come, at least one, or errTimeout.
	Read(buf []byte, wait time.Duration) (int, error)
	// Write sends the whole frame, or fails when the port does not take it within a second or so.
	Write(frame []byte) error
	// SetSpeed changes speed and shape of the characters.
	SetSpeed(s speed) error
	// Flush discards what was received and not read.
	Flush() error
	// Check asks whether this is still the device that the port's name leads to. It reads and writes nothing.
	Check() error
	// Errors returns the driver's counters of damaged characters; an error where it has none.
	Errors() (LineErrors, error)
	// Close gives the port back. The returned channel closes when it is free to be opened again, which a write that
	// hangs in the kernel can delay for as long as the adapter stays plugged in.
	Close() <-chan struct{}
}

// errTimeout is a Read's way to say that nothing came.
var errTimeout = errors.New("nothing came in time")

// lostError marks an error after which the port must be closed and opened again.
type lostError struct{ cause error }

func (e *lostError) Error() string { return e.cause.Error() }

// Unwrap gives the cause, so that errors.Is finds ErrUnplugged and the like.
func (e *lostError) Unwrap() error { return e.cause }

// isLost reports whether the port is lost.
func isLost(err error) bool {
	var lost *lostError
	return errors.As(err, &lost)
}

// readSlice bounds one Read, so that a cancelled context is seen soon even by a patient reader.
const readSlice = 100 * time.Millisecond

// pause waits for d or until ctx ends, whose error it returns then.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// timing is what follows from the speed and the shape of a character (serial 5.1).
type timing struct {
	char  time.Duration // one character on the wire
	quiet time.Duration // 3.5 characters, the rest between frames
}

// timing computes the times of a line: one start bit, 8 data bits, and the parity and stop bits given. Above 19,200
// baud the rest between frames is fixed, because interrupts cannot keep up with shorter ones (serial 5.1).
func (s speed) timing() timing {
	bits := 1 + 8 + s.stopBits // start, data, stop
	if s.parity != ParityNone {
		bits++
	}
	char := time.Duration(bits) * time.Second / time.Duration(s.baud)
	if s.baud > 19200 {
		return timing{char: char, quiet: 1750 * time.Microsecond}
	}
	return timing{char: char, quiet: char * 7 / 2}
}

// silence is how long nothing must come before half a frame counts as given up: USB adapters deliver in bursts.
func (t timing) silence() time.Duration { return max(t.quiet, 20*time.Millisecond) }
