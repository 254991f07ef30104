// SPDX-License-Identifier: Apache-2.0

package serialbus

import "bytes"

// receiver cuts the reply to one request out of the bytes that come back. It does no I/O and knows no time: its user
// feeds it bytes, and tells it when the line fell silent.
type receiver struct {
	request []byte // what was asked, whole: a reply must fit it, and a two-wire adapter may echo it
	buf     []byte // received and not yet understood, at most maxFrame+maxJunk bytes
	garbage bool   // bytes had to be thrown away
	foreign int    // whole frames that were no answer to the request
}

// take adds received bytes and returns the reply when it is whole. Frames that are no answer are dropped and counted;
// the reply may stand right behind one.
func (r *receiver) take(received []byte) ([]byte, bool) {
	r.buf = append(r.buf, received...)
	for {
		// No reply starts with its whole request: this is our echo from a two-wire adapter (serial 5.4).
		r.buf = bytes.TrimPrefix(r.buf, r.request)
		frame, rest, found := cutFrame(r.buf)
		if !found {
			break
		}
		r.buf = rest
		if answers(r.request, frame) {
			return frame, true
		}
		r.foreign++
	}
	if len(r.buf) > maxFrame+maxJunk {
		r.abandon()
	}
	return nil, false
}

// pending reports whether bytes wait for the rest of their frame.
func (r *receiver) pending() bool { return len(r.buf) > 0 }

// hopeful reports whether the waiting bytes can still become a frame; if not, the next silence may discard them.
func (r *receiver) hopeful() bool {
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
		r.garbage = true
		r.buf = r.buf[:0]
	}
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
