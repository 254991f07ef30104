// SPDX-License-Identifier: Apache-2.0

package policy

import "slices"

// alternative is a list of conditions that must all hold. A rule applies when
// one of its alternatives holds, or when it has none.
type alternative []condition

// condition is one thing that a rule asks for: that a field fits a matcher, or
// that an expression is true.
type condition struct {
	at    span
	name  string // the field, or "cel"
	want  string
	read  func(*subject) seen
	match matcher
	expr  *expression
}

// when reads the condition of a rule: a table of fields, an expression, or a
// list of these.
func (c *checker) when(n *node, at span) []alternative {
	if n.kind != list {
		return []alternative{c.alternative(n, at)}
	}
	if len(n.items) == 0 {
		c.fail(at, "the list of conditions is empty, so the rule could never apply")
	}
	var either []alternative
	for _, item := range n.items {
		either = append(either, c.alternative(item, item.at))
	}
	return either
}

func (c *checker) alternative(n *node, at span) alternative {
	switch n.kind {
	case text:
		return alternative{c.condition(n)}
	case table:
	default:
		c.fail(at, "when must be a table such as { registration_id = { contains = \"…\" } }, an expression, or a list of these, and %s stands here", n.kind)
		return nil
	}
	if len(n.members) == 0 {
		c.fail(at, "when is empty; a rule without when takes every device")
	}
	var all alternative
	for _, key := range n.members {
		switch f, found := findField(fields, key.name); {
		case found:
			all = append(all, c.fits(key, f))
		case key.name == certificateGroup || key.name == payloadGroup || key.name == deviceGroup:
			all = append(all, c.group(key)...)
		case key.name == expressionKey:
			if c.isText(key.value, expressionKey) {
				all = append(all, c.condition(key.value))
			}
		default:
			c.unknownField(key)
		}
	}
	return all
}

// fieldHints answer names that the request's own documents use.
var fieldHints = map[string]string{
	"registrationId": "registration_id", "id": "registration_id", "linkedHubs": "linked_hubs", "hubs": "linked_hubs",
	"currentIotHubHostName": "current_hub", "currentDeviceId": "current_device_id", "enrollmentGroupId": "enrollment_group",
	"group": "enrollment_group", "individualEnrollment": "individual_enrollment", "x509": certificateGroup, "subject": "certificate.subject",
	"issuer": "certificate.issuer", "thumbprint": "certificate.thumbprint", "MyDeviceFirmwareVersion": "firmware", "version": "firmware",
}

func (c *checker) unknownField(key member) {
	if meant, hinted := fieldHints[key.name]; hinted {
		c.fail(key.at, "unknown condition %q; here it is called %s", key.name, meant)
		return
	}
	c.fail(key.at, "unknown condition %q%s", key.name, orKnown(key.name, conditionNames()))
}

// condition reads an expression that must be true.
func (c *checker) condition(n *node) condition {
	return condition{at: n.at, name: expressionKey, want: clip(n.text), expr: c.expression(n, wantBool)}
}

// fits reads what a rule wants of a field.
func (c *checker) fits(key member, of field) condition {
	match := c.matcher(key.value, key.at, of)
	return condition{at: key.at, name: of.name, want: match.want, read: of.read, match: match}
}

// group reads the conditions of a key that has keys of its own.
func (c *checker) group(key member) alternative {
	if !c.isTable(key.value, key.at, key.name) {
		return nil
	}
	if len(key.value.members) == 0 {
		c.fail(key.at, "%s is empty; name what it must fit", key.name)
	}
	if key.name == deviceGroup && !c.use.Used {
		c.fail(key.at, "%s", noDirectory)
		return nil
	}
	var all alternative
	for _, inner := range key.value.members {
		of, known := c.member(key.name, inner)
		if known {
			all = append(all, c.fits(inner, of))
		}
	}
	return all
}

// noDirectory is said of a rule that reads the device directory unannounced.
const noDirectory = `a rule that reads device needs a [directory] section with columns = { … }, which says what a row holds`

// member finds a field of a group.
func (c *checker) member(group string, inner member) (field, bool) {
	switch group {
	case payloadGroup:
		return payloadField(inner.name), true
	case certificateGroup:
		of, known := findField(certificateFields, inner.name)
		of.name = certificateGroup + "." + of.name
		if !known {
			c.fail(inner.at, "unknown member %q of certificate%s", inner.name, orKnown(inner.name, fieldNames(certificateFields)))
		}
		return of, known
	default:
		holds, known := c.use.Columns[inner.name]
		if !known {
			c.fail(inner.at, "columns of [directory] does not name %q%s", inner.name, orKnown(inner.name, c.columnNames()))
		}
		return deviceField(inner.name, holds), known
	}
}

func (c *checker) columnNames() []string {
	var names []string
	for name := range c.use.Columns {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
