// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"bytes"
	"time"
)

// receiver cuts the reply to one request out of the bytes that come back. It does no I/O: its user feeds it bytes, and
// tells it when the line fell silent.
type receiver struct {
	request []byte    // what was asked, whole; nil = nothing, so that every frame is foreign
	echo    bool      // the line is known to send every request back
	buf     []byte    // received and not yet understood, at most maxFrame+maxJunk bytes
	began   time.Time // when the first byte in buf came
	echoed  bool      // the request came back, and was taken off
	garbage bool      // bytes had to be thrown away
	foreign []byte    // the units whose whole frames were no answer to the request
	refuse  [][]byte  // the last of what was thrown away or was no answer, for the diagnosis
	wasteAt time.Time // when the first byte came that had to be thrown away
}

// mostRefuse is how many pieces a receiver keeps of what was no answer.
const mostRefuse = 16

// keep remembers bytes that were no answer.
func (r *receiver) keep(piece []byte) {
	if len(r.refuse) == mostRefuse {
		r.refuse = r.refuse[1:]
	}
	r.refuse = append(r.refuse, bytes.Clone(piece))
}

// take adds bytes received now and returns the reply when it is whole. Frames that are no answer are dropped and
// noted; the reply may stand right behind one.
func (r *receiver) take(received []byte, now time.Time) ([]byte, bool) {
	if len(r.buf) == 0 {
		r.began = now
	}
	if r.buf == nil {
		r.buf = make([]byte, 0, maxFrame+maxJunk+len(received))
	}
	r.buf = append(r.buf, received...)
	for {
		if r.stripEcho() {
			r.began = now
		}
		frame, rest, found := cutFrame(r.buf)
		if !found {
			break
		}
		r.buf = rest
		if r.request != nil && answers(r.request, frame) {
			return frame, true
		}
		r.foreign = append(r.foreign, frame[0])
		r.keep(frame)
	}
	if len(r.buf) > maxFrame+maxJunk {
		r.abandon()
	}
	return nil, false
}

// stripEcho takes the request off that a two-wire adapter sent back: once, and exactly its bytes. On a line that was
// not seen to echo it does so only where no reply can begin like this.
func (r *receiver) stripEcho() bool {
	if r.echoed || r.request == nil || !r.echo && !provesEcho(r.request) || !bytes.HasPrefix(r.buf, r.request) {
		return false
	}
	r.buf, r.echoed = r.buf[len(r.request):], true
	return true
}

// pending reports whether bytes wait for the rest of their frame.
func (r *receiver) pending() bool { return len(r.buf) > 0 }

// hopeful reports whether the waiting bytes can still become a frame, or the rest of an echo come; if not, the next
// silence may discard them.
func (r *receiver) hopeful() bool {
	if !r.echoed && bytes.HasPrefix(r.request, r.buf) {
		return true
	}
	for skip := 0; skip <= maxJunk && skip < len(r.buf); skip++ {
		if n := replyLength(r.buf[skip:]); n == 0 || n > len(r.buf)-skip {
			return true
		}
	}
	return false
}

// abandon discards the waiting bytes.
func (r *receiver) abandon() {
	if len(r.buf) > 0 {
		if !r.garbage {
			r.wasteAt = r.began
		}
		r.garbage = true
		r.keep(r.buf)
		r.buf = r.buf[:0]
	}
}

// clean reports whether nothing but the reply was heard, and perhaps the echo.
func (r *receiver) clean() bool { return !r.garbage && len(r.foreign) == 0 && len(r.buf) == 0 }

// verdict says what was heard instead of a reply.
func (r *receiver) verdict() error {
	if r.garbage {
		return ErrNoise
	}
	return ErrSilent
}

// cutFrame returns the first intact frame in buf, whoever sent it, and what stands behind it. Up to three bytes of
// junk before the frame are skipped, not more: every further try gives noise another chance to look like a frame.
func cutFrame(buf []byte) (frame, rest []byte, found bool) {
	for skip := 0; skip <= maxJunk && skip < len(buf); skip++ {
		n := replyLength(buf[skip:])
		if n > 0 && skip+n <= len(buf) && intact(buf[skip:skip+n]) {
			return buf[skip : skip+n], buf[skip+n:], true
		}
	}
	return nil, nil, false
}
