// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Bounds of what a rule hands out.
const (
	maxValueDepth = 16
	maxMemberName = 256      // bytes
	maxResponse   = 64 << 10 // bytes (dps-protocol 12.3)
)

// value is a piece of JSON that a rule gives: written down, or put together
// with expressions.
type value struct {
	static  json.RawMessage // where no expression is inside
	expr    *expression
	members []valueMember // of an object
	items   []*value      // of a list
	isList  bool
}

type valueMember struct {
	name  []byte // as JSON text with its colon
	value *value
}

// object reads desired, tags or payload.
func (c *checker) object(n *node, at span, what string) *value {
	if !c.isTable(n, at, what) {
		return nil
	}
	if isExpression(n) {
		return &value{expr: c.expression(n.members[0].value, wantObject)}
	}
	if len(n.members) == 0 {
		return &value{static: json.RawMessage("{}")}
	}
	return c.value(n, at, what, 1)
}

// value reads any value; what names it in messages.
func (c *checker) value(n *node, at span, what string, depth int) *value {
	if depth > maxValueDepth {
		c.fail(at, "%s is nested deeper than %d levels", what, maxValueDepth)
		return &value{static: json.RawMessage("null")}
	}
	switch n.kind {
	case table:
		if isExpression(n) {
			return &value{expr: c.expression(n.members[0].value, wantValue)}
		}
		return c.tableValue(n, what, depth)
	case list:
		v := &value{isList: true}
		for _, item := range n.items {
			v.items = append(v.items, c.value(item, item.at, what, depth+1))
		}
		return v.settle()
	default:
		return &value{static: c.scalar(n)}
	}
}

func (c *checker) tableValue(n *node, what string, depth int) *value {
	v := &value{}
	for _, key := range n.members {
		c.memberName(key, what)
		if key.value.kind == text {
			c.noSecret(key)
		}
		v.members = append(v.members, valueMember{append(quoteJSON(key.name), ':'), c.value(key.value, key.at, what+"."+key.name, depth+1)})
	}
	return v.settle()
}

// memberName refuses names that the hub would refuse in a twin, long after this
// policy was loaded.
func (c *checker) memberName(key member, what string) {
	switch {
	case key.name == "" || len(key.name) > maxMemberName:
		c.fail(key.at, "a name in %s has 1 to %d bytes", what, maxMemberName)
	case !strings.HasPrefix(what, "payload") && strings.ContainsAny(key.name, ".$ \t\r\n"):
		c.fail(key.at, "a hub takes no twin with %q in it: names have no dots, spaces or dollar signs", key.name)
	}
}

// secretNames and secretTexts tell what looks like a secret. A policy is read by
// many and may lie in a repository; a twin is no place for a secret either.
var (
	secretNames = regexp.MustCompile(`(?i)(password|passwd|secret|token|connectionstring|apikey|(access|function|primary|secondary|private|account|group)_?key)$`)
	secretTexts = regexp.MustCompile(`SharedAccess(Key|Signature)|AccountKey=|[?&](code|sig)=|-----BEGIN [A-Z ]*PRIVATE KEY`)
)

func (c *checker) noSecret(key member) {
	if key.value.text != "" && (secretNames.MatchString(key.name) || secretTexts.MatchString(key.value.text)) {
		c.fail(key.at, "%q looks like a secret, and a policy holds none: it is copied, shared and logged", key.name)
	}
}

// scalar gives a TOML value in JSON: dates and times as text in the form of
// RFC 3339.
func (c *checker) scalar(n *node) json.RawMessage {
	switch n.kind {
	case boolean:
		return json.RawMessage(n.text)
	case integer, float:
		document, err := json.Marshal(c.number(n))
		if err != nil {
			c.fail(n.at, "%s is no number that JSON has", n.text)
		}
		return document
	case date:
		return quoteJSON(dateText(n.text))
	default:
		return quoteJSON(n.text)
	}
}

// dateText brings a date with a time into the one form of RFC 3339; a date or a
// time alone stays as it is.
func dateText(spelled string) string {
	if parsed, err := time.Parse(time.RFC3339Nano, strings.Replace(strings.ToUpper(spelled), " ", "T", 1)); err == nil {
		return parsed.Format(time.RFC3339Nano)
	}
	return strings.Replace(strings.ToUpper(spelled), " ", "T", 1)
}

// quoteJSON gives text as JSON, without the escapes that only HTML needs.
func quoteJSON(s string) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(s); err != nil {
		return []byte(`""`)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

// settle writes a value down for good when nothing in it is an expression.
func (v *value) settle() *value {
	dynamic := slices.ContainsFunc(v.items, func(item *value) bool { return item.static == nil }) ||
		slices.ContainsFunc(v.members, func(m valueMember) bool { return m.value.static == nil })
	if dynamic {
		return v
	}
	document, err := v.append(nil, nil)
	if err != nil {
		return v
	}
	return &value{static: document}
}

// append adds the value's JSON to out. A member whose expression gives no value
// (an empty optional) is left out.
func (v *value) append(out []byte, e *evaluation) ([]byte, error) {
	switch {
	case v.static != nil:
		return append(out, v.static...), nil
	case v.expr != nil:
		document, present, err := v.expr.document(e)
		if err != nil {
			return nil, err
		}
		if !present {
			return nil, e.trouble(v.expr.at, fmt.Errorf("the expression gives no value where one is needed"))
		}
		return append(out, document...), nil
	case v.isList:
		return v.appendList(out, e)
	default:
		return v.appendObject(out, e)
	}
}

func (v *value) appendList(out []byte, e *evaluation) ([]byte, error) {
	out = append(out, '[')
	var err error
	for i, item := range v.items {
		if i > 0 {
			out = append(out, ',')
		}
		if out, err = item.append(out, e); err != nil {
			return nil, err
		}
	}
	return append(out, ']'), nil
}

func (v *value) appendObject(out []byte, e *evaluation) ([]byte, error) {
	out = append(out, '{')
	first := len(out)
	for _, m := range v.members {
		if m.value.expr != nil {
			document, present, err := m.value.expr.document(e)
			if err != nil {
				return nil, err
			}
			if present {
				out = append(append(comma(out, first), m.name...), document...)
			}
			continue
		}
		var err error
		if out, err = m.value.append(append(comma(out, first), m.name...), e); err != nil {
			return nil, err
		}
	}
	return append(out, '}'), nil
}

// comma separates members from the second on.
func comma(out []byte, first int) []byte {
	if len(out) == first {
		return out
	}
	return append(out, ',')
}
