// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"time"
	"unicode/utf8"
)

// Bounds of what one decision may put into the log.
const (
	maxLoggedID   = 128      // bytes; the longest registration ID that is valid
	maxLoggedBody = 16 << 10 // bytes; a real request has about 1,200
)

// Lookup is what became of a look into the device directory.
type Lookup string

// The outcomes of a lookup.
const (
	LookupNone    Lookup = ""        // the policy reads no directory, or was not asked
	LookupFound   Lookup = "found"   // there is a row
	LookupMissing Lookup = "missing" // there is none, and none for an ID that is not valid
	LookupFailed  Lookup = "failed"  // the directory did not answer, or with a row that does not fit
)

// Decision is what happened to one request. Nothing in it is secret: members
// that look like keys are masked in Request, Response and Device.
type Decision struct {
	// Time is when the request arrived.
	Time time.Time

	// RegistrationID is the device's spelling of it, or empty when the request
	// did not tell.
	RegistrationID string

	// Source says who decided. It is empty when the request did not get so far.
	Source Source

	// FallbackReason is why the policy decided in place of a cloud function, in
	// one line; it is empty unless Source is SourceFallback.
	FallbackReason string

	// Rule names the rule of the policy that decided, or is empty.
	Rule string

	// PolicyDigest names the text of the policy that decided, or is empty when
	// somebody else did, or a policy without a text.
	PolicyDigest string

	// Device is the row of the device directory that the policy was given, or nil.
	Device Row

	// Lookup is what became of the question for that row.
	Lookup Lookup

	// DirectoryTrouble is why Device is the policy's default row although the
	// directory may have one, in one line; it is empty otherwise.
	DirectoryTrouble string

	// AssignedHub is the hub that the answer names, or empty.
	AssignedHub string

	// Request is the body as it came, or nil when it was empty, not JSON, or not
	// read at all because no key fitted or it was too large.
	Request json.RawMessage

	// Response is the body of a 200, and nil otherwise.
	Response json.RawMessage

	// Refusal is the line of text that any other status went out with.
	Refusal string

	// Limit names the limit that the request was beyond, or is empty. Such a
	// request was not looked at; a flood of them is counted and not kept.
	Limit string

	// Status is the HTTP status of the answer.
	Status int

	// Duration runs from the arrival of the request to the decision, without
	// the time that the answer took to travel.
	Duration time.Duration
}

// Size is about how many bytes the decision takes in memory, for whoever keeps many.
func (d *Decision) Size() int {
	const (
		rest   = 512 // of a decision beside its documents
		column = 64  // of a row
	)
	size := rest + cap(d.Request) + cap(d.Response) + len(d.Refusal)
	for name, value := range d.Device {
		text, _ := value.(string)
		size += column + len(name) + len(text)
	}
	return size
}

// logMessage is the first line of the log of the tutorial's function. Whoever
// has read that log looks for this line.
const logMessage = "C# HTTP trigger function processed a request."

// log writes the decision as one record, in the words of the tutorial's
// function: its first line, the request's body under request_body, and under
// response what the function logs there, the response or the text of the refusal.
// Both come last, because they are long. cause is what a 503 does not tell its
// caller, or nil.
func (d *Decision) log(ctx context.Context, logger *slog.Logger, cause error) {
	level := d.level()
	if !logger.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 9)
	attrs = append(attrs,
		slog.String("registration_id", loggable(d.RegistrationID, maxLoggedID)),
		slog.Int("status", d.Status),
	)
	for _, known := range []slog.Attr{
		slog.String("hub", loggable(d.AssignedHub, maxHostName)),
		slog.String("source", string(d.Source)),
		slog.String("rule", loggable(d.Rule, maxLoggedID)),
	} {
		if known.Value.String() != "" {
			attrs = append(attrs, known)
		}
	}
	attrs = append(attrs, slog.Duration("duration", d.Duration))
	if d.FallbackReason != "" {
		attrs = append(attrs, slog.String("fallback_reason", d.FallbackReason))
	}
	if d.DirectoryTrouble != "" {
		attrs = append(attrs, slog.String("directory_trouble", d.DirectoryTrouble))
	}
	if cause != nil {
		attrs = append(attrs, slog.String("err", loggable(cause.Error(), maxLoggedBody)))
	}
	if d.Request != nil {
		attrs = append(attrs, documentAttr("request_body", d.Request))
	}
	if d.Response != nil {
		attrs = append(attrs, documentAttr("response", d.Response))
	} else {
		attrs = append(attrs, slog.String("response", d.Refusal))
	}
	// Logger.LogAttrs would look for its caller's place in the source and at the
	// clock again, for each request.
	record := slog.NewRecord(d.Time.Add(d.Duration), level, logMessage, 0)
	record.AddAttrs(attrs...)
	_ = logger.Handler().Handle(ctx, record) // as Logger does: nobody can be told
}

// documentAttr shows a document. The usual one is not copied.
func documentAttr(key string, text json.RawMessage) slog.Attr {
	if len(text) <= maxLoggedBody && isVisible(text) {
		return slog.Any(key, document(text))
	}
	return slog.String(key, loggable(string(text), maxLoggedBody))
}

// document is JSON that a log shows as text.
type document []byte

// MarshalText gives the document itself.
func (d document) MarshalText() ([]byte, error) { return d, nil }

// String gives a copy.
func (d document) String() string { return string(d) }

// level says who should look: nobody at an answer of the policy, a person at
// trouble of our own, and whoever set up the enrollment at everything else, which
// an answer in place of the cloud function, or on a default row because of a
// directory in trouble, is too. A 503 that nobody decided is a request that did
// not arrive whole, which is trouble of its caller.
func (d *Decision) level() slog.Level {
	switch {
	case (d.Source == SourceFallback || d.DirectoryTrouble != "") && d.Status < http.StatusInternalServerError:
		return slog.LevelWarn
	case d.Status == http.StatusOK, d.Status == http.StatusBadRequest:
		return slog.LevelInfo
	case d.Status >= http.StatusInternalServerError && d.Source != "":
		return slog.LevelError
	default:
		return slog.LevelWarn
	}
}

// shorten cuts text to at most limit bytes and shows that it did.
func shorten(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	cut := limit
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}
