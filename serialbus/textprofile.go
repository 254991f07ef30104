// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The dialects of the driver line.
const (
	protocolALP  = "alp"  // ALP/1, see [alpDriver]
	protocolText = "text" // queries and expressions of the profile's own, see [textDriver]
	protocolUSB  = "usb"  // nothing is said: the appliance is a USB device, see [usbDriver]
)

// Limits of a text profile.
const (
	textMaxReply   = 2048 // V.250: the longest answer to one query, and the longest line
	textMaxQueries = 16
	textMaxQuery   = 256
	textMaxExpect  = 1024
	textMaxTimeout = 5 * time.Minute
)

// textDialect is a conversation in lines of text that ends in knowing who answers. Expressions are RE2, so none of them
// can take long, whatever the line holds; each sees one line, without its end and the spaces around it.
type textDialect struct {
	Terminator  string `toml:"terminator"` // is sent behind each query, e.g. "\n"
	TimeoutText string `toml:"timeout"`    // how long a reply may take to begin, e.g. "1s"; empty = [DefaultReplyTimeout]
	// Done is the expression of the line that ends a reply. Empty: the line that was expected ends it.
	Done string `toml:"done"`
	// Refused is the expression of the line by which the appliance says that it does not know a query.
	Refused string      `toml:"refused"`
	Queries []textQuery `toml:"query"` // asked in this order

	timeout       time.Duration
	done, refused *regexp.Regexp // nil = none
}

// textQuery is one question and what is read out of its answer.
type textQuery struct {
	// Send is the query without its terminator. Empty: nothing is sent, the appliance speaks by itself.
	Send string `toml:"send"`
	// Expect is the expression of the line that answers. Its named groups are what it tells: vendor, model, serial,
	// firmware, provisioning and registration_id.
	Expect string `toml:"expect"`
	// Optional is a query that the appliance may refuse or answer in another way: it tells less then.
	Optional bool `toml:"optional"`

	expect *regexp.Regexp // nil = only the end of the reply counts
}

// identityGroups are the names of groups in an expression, and the texts they fill.
var identityGroups = map[string]func(*Identity) *string{
	"vendor":          func(id *Identity) *string { return &id.Vendor },
	"model":           func(id *Identity) *string { return &id.Model },
	"serial":          func(id *Identity) *string { return &id.Serial },
	"firmware":        func(id *Identity) *string { return &id.Firmware },
	"provisioning":    func(id *Identity) *string { return &id.Provisioning },
	"registration_id": func(id *Identity) *string { return &id.RegistrationID },
}

// identityGroupNames is how a person reads the names of the groups.
const identityGroupNames = "vendor, model, serial, firmware, provisioning and registration_id"

// compile checks the dialect and compiles its expressions.
func (t *textDialect) compile() error {
	t.timeout = DefaultReplyTimeout
	if t.TimeoutText != "" {
		timeout, err := time.ParseDuration(t.TimeoutText)
		if err != nil || timeout <= 0 || timeout > textMaxTimeout {
			return fmt.Errorf("timeout %q: allowed are durations up to %v, e.g. 1s", t.TimeoutText, textMaxTimeout)
		}
		t.timeout = timeout
	}
	if len(t.Queries) == 0 || len(t.Queries) > textMaxQueries {
		return fmt.Errorf("query: %d of them; allowed are 1 to %d", len(t.Queries), textMaxQueries)
	}
	var err error
	if t.done, err = compileExpression("done", t.Done); err != nil {
		return err
	}
	if t.refused, err = compileExpression("refused", t.Refused); err != nil {
		return err
	}
	told := make(map[string]bool)
	for i := range t.Queries {
		q := &t.Queries[i]
		if err := q.compile(t, told); err != nil {
			return fmt.Errorf("query %d (%q): %w", i+1, q.Send, err)
		}
	}
	if len(told) == 0 {
		return errors.New("query: no expression has a named group, so nothing would be known of the appliance; name " + identityGroupNames)
	}
	return nil
}

// compile checks a query and notes in told what it tells.
func (q *textQuery) compile(t *textDialect, told map[string]bool) error {
	switch {
	case len(q.Send) > textMaxQuery:
		return fmt.Errorf("send: %d bytes; allowed are %d", len(q.Send), textMaxQuery)
	case q.Send != "" && t.Terminator == "":
		return errors.New(`terminator: missing; it ends each query, e.g. "\n" or "\r"`)
	case q.Send == "" && len(t.Queries) > 1:
		return errors.New("send: missing; only a profile with one query can just listen")
	case q.Expect == "" && (t.Done == "" || q.Send == ""):
		return errors.New("expect: missing, and nothing else tells that the reply has come")
	}
	var err error
	if q.expect, err = compileExpression("expect", q.Expect); err != nil || q.expect == nil {
		return err
	}
	for _, group := range q.expect.SubexpNames()[1:] {
		switch {
		case group == "":
		case identityGroups[group] == nil:
			return fmt.Errorf("expect: group %q: allowed are %s", group, identityGroupNames)
		case told[group]:
			return fmt.Errorf("expect: group %q is there twice", group)
		default:
			told[group] = true
		}
	}
	return nil
}

// compileExpression compiles an expression of bounded length; empty gives nil.
func compileExpression(key, text string) (*regexp.Regexp, error) {
	if text == "" {
		return nil, nil
	}
	if len(text) > textMaxExpect {
		return nil, fmt.Errorf("%s: %d bytes; allowed are %d", key, len(text), textMaxExpect)
	}
	compiled, err := regexp.Compile(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return compiled, nil
}

// fill puts the groups of a line that was expected into the identity. Groups that took no part leave it alone.
func (q *textQuery) fill(id *Identity, line []string) {
	for i, group := range q.expect.SubexpNames() {
		if group != "" && line[i] != "" {
			*identityGroups[group](id) = line[i]
		}
	}
}

// textHearing takes in the reply to one query, byte by byte, and holds no more than one line of it.
type textHearing struct {
	dialect *textDialect
	query   *textQuery
	line    []byte   // under way
	total   int      // bytes of the reply so far
	found   []string // the line that was expected, with its groups; nil = not yet
	refused bool
	overrun bool   // the reply or a line is longer than it may be
	garbage bool   // a line is no text
	strange string // the last line of text that was not expected
}

// take takes received bytes in and reports whether the reply is over.
func (h *textHearing) take(received []byte) bool {
	for _, c := range received {
		if h.total++; h.total > textMaxReply && h.query.Send != "" {
			h.overrun = true
			return true
		}
		if c != '\r' && c != '\n' {
			if len(h.line) < textMaxReply {
				h.line = append(h.line, c)
			} else {
				h.overrun = true // such a line is cut, and fits nothing most likely
			}
			continue
		}
		line := strings.TrimSpace(string(h.line))
		h.line = h.line[:0]
		if h.judge(line) {
			return true
		}
	}
	return false
}

// judge takes one whole line in and reports whether it ends the reply.
func (h *textHearing) judge(line string) bool {
	switch {
	case line == "" || line == h.query.Send: // the empty lines between, and the echo
		return false
	case !utf8.ValidString(line) || strings.ContainsFunc(line, unprintable):
		h.garbage = true
		return false
	case h.dialect.refused != nil && h.dialect.refused.MatchString(line):
		h.refused = true
		return true
	case h.dialect.done != nil && h.dialect.done.MatchString(line):
		return true
	}
	if h.query.expect != nil && h.found == nil {
		if h.found = h.query.expect.FindStringSubmatch(line); h.found != nil {
			return h.dialect.done == nil
		}
	}
	h.strange = line
	return false
}

// unprintable reports whether a character belongs into no line of text.
func unprintable(r rune) bool { return !unicode.IsPrint(r) && r != '\t' }

// verdict says what is wrong with a reply that is over, or that time has ended; nil = nothing.
func (h *textHearing) verdict(over bool) error {
	switch {
	case h.overrun && over:
		return fmt.Errorf("%w: more than %d characters without an end", ErrStrange, textMaxReply)
	case over && (h.refused || h.query.expect != nil && h.found == nil):
		if h.query.Optional {
			return nil
		}
		return fmt.Errorf("%w: to %q it says %s", ErrStrange, h.query.Send, h.saying())
	case over:
		return nil
	case h.garbage, h.found != nil, len(h.line) > 0 && h.strange == "": // or cut short
		return ErrNoise
	case h.strange != "" && h.query.Send != "":
		return fmt.Errorf("%w: to %q it says %s", ErrStrange, h.query.Send, h.saying())
	case h.strange != "":
		return fmt.Errorf("%w: it says %s", ErrStrange, h.saying())
	default:
		return ErrSilent
	}
}

// saying is what the appliance said, for an error.
func (h *textHearing) saying() string {
	switch {
	case h.refused:
		return "that it does not know it"
	case h.strange == "":
		return "nothing"
	default:
		return fmt.Sprintf("%q", brief([]byte(h.strange)))
	}
}
