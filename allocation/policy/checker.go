// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/contoso/gatewayd/allocation"
)

// checker turns the tree of a file into a policy and collects what is wrong, so
// that a person sees all of it at once.
type checker struct {
	name     string
	source   []byte
	rule     string // the rule that is looked at, as messages name it; or empty
	use      allocation.DirectoryUse
	compiler *compiler // made when the first expression needs it
	problems []*Problem
}

// fail notes a mistake.
func (c *checker) fail(at span, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	if len(c.problems) >= maxCollected {
		return
	}
	if c.rule != "" {
		message = c.rule + ": " + message
	}
	c.problems = append(c.problems, problemAt(c.source, at, message))
}

// err gives what is wrong, or nil.
func (c *checker) err() error {
	if len(c.problems) == 0 {
		return nil
	}
	failed := &LoadError{Name: c.name}
	for _, problem := range c.problems {
		failed.Problems = append(failed.Problems, *problem)
	}
	slices.SortStableFunc(failed.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if len(failed.Problems) > maxProblems {
		more := len(failed.Problems) - maxProblems
		failed.Problems = append(failed.Problems[:maxProblems], Problem{Message: fmt.Sprintf("and %d or more others", more)})
	}
	return failed
}

// only refuses keys of a table that are not known there.
func (c *checker) only(n *node, where string, known ...string) {
	for _, key := range n.members {
		if !slices.Contains(known, key.name) {
			c.fail(key.at, "unknown key %q%s%s", key.name, where, orKnown(key.name, known))
		}
	}
}

// isText tells whether a value is text, and notes it where it is not.
func (c *checker) isText(n *node, what string) bool {
	if n.kind == text {
		return true
	}
	c.fail(n.at, "%s must be text between quotes, and %s stands here", what, n.kind)
	return false
}

// isTable is isText for tables.
func (c *checker) isTable(n *node, at span, what string) bool {
	if n.kind == table {
		return true
	}
	c.fail(at, "%s must be a table, and %s stands here", what, n.kind)
	return false
}

func (c *checker) boolean(n *node, what string) bool {
	if n.kind != boolean {
		c.fail(n.at, "%s must be true or false, and %s stands here", what, n.kind)
	}
	return n.text == "true"
}

// number gives an int64 or a float64.
func (c *checker) number(n *node) any {
	digits := strings.ReplaceAll(n.text, "_", "")
	switch n.kind {
	case integer:
		// TOML's 0x, 0o and 0b are those of Go; a zero in front never is.
		whole, err := strconv.ParseInt(strings.TrimPrefix(digits, "+"), 0, 64)
		if err == nil {
			return whole
		}
	case float:
		value, err := strconv.ParseFloat(digits, 64)
		if err == nil && !math.IsInf(value, 0) && !math.IsNaN(value) {
			return value
		}
	}
	c.fail(n.at, "%s is no number that JSON has", n.text)
	return int64(0)
}

// sentence is text that a device's owner reads: written in the file, or said by
// an expression.
type sentence struct {
	text string
	expr *expression
}

// maxSentence bounds a refusal, in bytes; the webhook cuts what is longer.
const maxSentence = 1 << 10

// sentence reads a refusal.
func (c *checker) sentence(n *node, at span, what string) sentence {
	if n.kind == table {
		return sentence{expr: c.expressionIn(n, at, what, wantText)}
	}
	if !c.isText(n, what) {
		return sentence{}
	}
	switch {
	case strings.TrimSpace(n.text) == "":
		c.fail(n.at, "%s needs a sentence: the device's owner will look for a reason", what)
	case strings.ContainsAny(n.text, "\r\n"):
		c.fail(n.at, "%s must be one line", what)
	case len(n.text) > maxSentence:
		c.fail(n.at, "%s is longer than %d bytes", what, maxSentence)
	}
	return sentence{text: n.text}
}

// expressionIn reads { cel = '…' } where nothing else may stand.
func (c *checker) expressionIn(n *node, at span, what string, want resultKind) *expression {
	source := n.get(expressionKey)
	if source == nil || len(n.members) != 1 {
		c.fail(at, "%s may be text or { cel = '…' }", what)
		return nil
	}
	return c.expression(source, want)
}

// isExpression tells whether a table stands for the value of an expression.
func isExpression(n *node) bool {
	return n.kind == table && len(n.members) == 1 && n.members[0].name == expressionKey && n.members[0].value.kind == text
}

// shown is a value as a message repeats it.
func (n *node) shown() string {
	if n.kind == text {
		return strconv.Quote(clip(n.text))
	}
	return clip(n.text)
}
