// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"
)

// maxRefusal bounds the text of a refusal, in bytes.
const maxRefusal = 1 << 10

// retryAfter is the Retry-After of every 503, in seconds. The service keeps a
// schedule of its own (dps-protocol 12.5); proxies and other callers go by this.
const retryAfter = "5"

// result is a decision with what only the handler needs of it.
type result struct {
	Decision
	wire   []byte // the response as it goes out
	cause  error  // what a 503 must not tell its caller
	unread bool   // the body was not looked at
}

// refuse is an answer of one line of text.
func refuse(status int, message string) result {
	return result{Decision: Decision{Status: status, Refusal: oneLine(message)}}
}

// unavailable keeps the cause for our own log: the caller can do nothing but
// ask again.
func unavailable(cause error) result {
	trouble := refuse(http.StatusServiceUnavailable, "The allocation policy is not available at the moment; ask again later.")
	trouble.cause = cause
	return trouble
}

// beyond answers a request that is beyond a limit, or too late.
func beyond(limit string) result {
	turned := unavailable(nil)
	if limit != limitStop {
		turned = refuse(http.StatusServiceUnavailable, "The allocation webhook has too much to do at the moment; ask again later.")
	}
	turned.Limit, turned.unread = limit, true
	return turned
}

// cutShort answers a request that did not arrive whole: its caller went away, or
// was too slow. Not a refusal, since the rest may have said anything.
func cutShort(cause error) result {
	short := refuse(http.StatusServiceUnavailable, "The request did not arrive whole; send it again.")
	short.cause = cause
	return short
}

func tooLarge() result {
	return refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf("The request is larger than %d KiB, which no AllocationRequest is.", maxBody>>10))
}

// fromError maps an error of the parser or of the policy to a status.
func fromError(err error) result {
	if refusal, ok := errors.AsType[Refusal](err); ok {
		refused := refuse(http.StatusBadRequest, refusal.Message)
		if refused.Refusal == "" {
			refused.Refusal = "The policy refuses the device."
		}
		refused.Rule = refusal.Rule
		return refused
	}
	return unavailable(err)
}

// redactBody gives the request as a decision may show it; a body without JSON
// in it (the empty one) gives nil.
func redactBody(body []byte) []byte {
	body = bytes.TrimSpace(withoutByteOrderMark(body))
	if len(body) == 0 {
		return nil
	}
	return redact(body)
}

// oneLine makes a refusal what its readers expect: one line of bounded length,
// without characters that a terminal obeys, in which nothing is hidden.
func oneLine(message string) string {
	words := strings.FieldsFunc(strings.ToValidUTF8(message, "\ufffd"), func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) })
	return shorten(visible(strings.Join(words, " ")), maxRefusal)
}

// write sends the answer.
func (r *result) write(w http.ResponseWriter) {
	if r.unread {
		// Otherwise net/http would wait for the rest of the body, for as long as a
		// slow caller likes. A recorder has no connection and no deadline.
		w.Header().Set("Connection", "close")
		_ = http.NewResponseController(w).SetReadDeadline(time.Now())
	}
	switch r.Status {
	case http.StatusOK:
		write(w, http.StatusOK, "application/json; charset=utf-8", r.wire)
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", retryAfter)
		writeText(w, r.Status, r.Refusal)
	default:
		writeText(w, r.Status, r.Refusal)
	}
}

func writeText(w http.ResponseWriter, status int, text string) {
	write(w, status, "text/plain; charset=utf-8", []byte(text))
}

// write sends one answer. A write error means that the caller has gone; the
// service asks again then, and gets the same answer.
func write(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
