// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
)

// Bounds of a pattern. RE2 takes time in proportion to the text and to the size
// of the pattern, so that the two together bound one comparison.
const (
	maxPattern      = 1 << 10 // bytes of a glob or regex
	maxInstructions = 1_000   // of a compiled regex
	maxMatchedText  = 4 << 10 // bytes of text that a glob or regex looks at
	maxPatterns     = 50      // in one list
)

// matcher is what a condition wants of a field, or a rule of a hub's name.
type matcher struct {
	want    string // for explanations
	present *bool  // the member must be there, or must not
	not     *matcher
	either  []matcher // one of them must hold
	tests   []test    // all of them must hold, for one and the same value
}

// test is one key of a matcher.
type test struct {
	want  string
	holds func(seen) (bool, error)
}

// holds tells whether the value fits. An error means that it cannot be told.
func (m *matcher) holds(value seen) (bool, error) {
	if m.present != nil && value.present != *m.present {
		return false, nil
	}
	if m.not != nil {
		if held, err := m.not.holds(value); held || err != nil {
			return false, err
		}
	}
	if len(m.either) > 0 {
		return m.eitherHolds(value)
	}
	if len(m.tests) == 0 {
		return true, nil
	}
	if !value.present {
		return false, nil
	}
	if value.several == nil {
		return allHold(m.tests, value)
	}
	for _, one := range value.several {
		if held, err := allHold(m.tests, seen{present: true, text: one}); held || err != nil {
			return held, err
		}
	}
	return false, nil
}

func (m *matcher) eitherHolds(value seen) (bool, error) {
	for i := range m.either {
		if held, err := m.either[i].holds(value); held || err != nil {
			return held, err
		}
	}
	return false, nil
}

func allHold(tests []test, value seen) (bool, error) {
	for i := range tests {
		if held, err := tests[i].holds(value); !held || err != nil {
			return false, err
		}
	}
	return true, nil
}

// The keys of a matcher.
const (
	keyEquals     = "equals"
	keyContains   = "contains"
	keyPrefix     = "prefix"
	keySuffix     = "suffix"
	keyGlob       = "glob"
	keyRegex      = "regex"
	keyIgnoreCase = "ignore_case"
	keyFrom       = "from"
	keyAbove      = "above"
	keyBelow      = "below"
	keyUpTo       = "up_to"
	keyPresent    = "present"
	keyNot        = "not"
)

var (
	textKeys  = []string{keyEquals, keyContains, keyPrefix, keySuffix, keyGlob, keyRegex, keyIgnoreCase}
	rangeKeys = []string{keyFrom, keyAbove, keyBelow, keyUpTo}
	otherKeys = []string{keyPresent, keyNot}
)

// keysOf gives the keys that fit a kind of field.
func keysOf(k fieldKind) []string {
	switch k {
	case textField, listField:
		return slices.Concat(textKeys, otherKeys)
	case numberField:
		return slices.Concat([]string{keyEquals}, rangeKeys, otherKeys)
	case boolField:
		return slices.Concat([]string{keyEquals}, otherKeys)
	default:
		return slices.Concat(textKeys, rangeKeys, otherKeys)
	}
}

// wordHints answer words that other languages use.
var wordHints = map[string]string{
	"one_of": `a list says that: equals = ["…", "…"]`, "in": `a list says that: equals = ["…", "…"]`, "any_of": `a list says that: equals = ["…", "…"]`,
	"matches": `write regex = '…'`, "match": `write regex = '…', or glob = "*…*"`, "regexp": `write regex = '…'`, "like": `write glob = "*…*"`,
	"starts_with": `write prefix = "…"`, "ends_with": `write suffix = "…"`, "startswith": `write prefix = "…"`, "endswith": `write suffix = "…"`,
	"absent": `write present = false`, "exists": `write present = true`, "null": `write present = false`, "missing": `write present = false`,
	"min": `write from = …`, "max": `write up_to = … or below = …`, "to": `write up_to = … or below = …`, "until": `write below = …`,
	"gte": `write from = …`, "gt": `write above = …`, "lt": `write below = …`, "lte": `write up_to = …`,
	"eq": `write equals = …`, "is": `write equals = …`, "ignorecase": `write ignore_case = true`,
}

// matcher reads a matcher: text for what the value must equal, a list for any of
// several, or a table of tests that must all hold.
func (c *checker) matcher(n *node, at span, of field) matcher {
	switch n.kind {
	case list:
		return c.anyOf(n, at, of)
	case table:
		return c.allOf(n, at, of)
	default:
		t := c.equals([]*node{n}, of, of.fold)
		return matcher{want: t.want, tests: []test{t}}
	}
}

func (c *checker) anyOf(n *node, at span, of field) matcher {
	if len(n.items) == 0 {
		c.fail(at, "the list is empty, so %s could never fit", of.name)
		return matcher{}
	}
	var m matcher
	var wants []string
	for _, item := range n.items {
		if item.kind == list {
			c.fail(item.at, "a list in a list has no meaning here")
			continue
		}
		one := c.matcher(item, item.at, of)
		m.either = append(m.either, one)
		if strings.HasPrefix(one.want, ignoringCase) {
			one.want = inBrackets(one.want)
		}
		wants = append(wants, one.want)
	}
	m.want = strings.Join(wants, " or ")
	return m
}

func (c *checker) allOf(n *node, at span, of field) matcher {
	known := keysOf(of.kind)
	if len(n.members) == 0 {
		c.fail(at, "nothing is said about %s; write what it must be, such as %s", of.name, sampleOf(of.kind))
		return matcher{}
	}
	fold := of.fold
	ignore := n.get(keyIgnoreCase)
	if ignore != nil && c.boolean(ignore, keyIgnoreCase) {
		fold = foldBoth(of.fold)
		if len(n.members) == 1 {
			c.fail(at, "%s alone compares nothing", keyIgnoreCase)
		}
	}
	var m matcher
	var wants []string
	for _, key := range n.members {
		if !slices.Contains(known, key.name) {
			c.unknownTest(key, of, known)
			continue
		}
		switch key.name {
		case keyIgnoreCase:
		case keyPresent:
			m.present = new(c.boolean(key.value, keyPresent))
			wants = append(wants, map[bool]string{true: "present", false: "absent"}[*m.present])
		case keyNot:
			m.not = new(c.matcher(key.value, key.at, of))
			wants = append(wants, "not "+inBrackets(m.not.want))
		default:
			t := c.test(key, of, fold)
			m.tests = append(m.tests, t)
			wants = append(wants, t.want)
		}
	}
	if m.present != nil && !*m.present && len(wants) > 1 {
		c.fail(at, "present = false leaves nothing for the other tests of %s to look at", of.name)
	}
	for i := range wants {
		if len(wants) > 1 {
			wants[i] = inBrackets(wants[i])
		}
	}
	m.want = strings.Join(wants, " and ")
	if ignore != nil && ignore.text == "true" {
		m.want = ignoringCase + m.want
	}
	return m
}

// ignoringCase begins what a matcher with ignore_case wants, so that an
// explanation tells why "Lobby1" has the prefix "lobby".
const ignoringCase = "ignoring case: "

// inBrackets keeps the parts of a want together.
func inBrackets(want string) string {
	if strings.HasPrefix(want, "not (") {
		return want
	}
	if strings.HasPrefix(want, ignoringCase) || strings.Contains(want, " or ") || strings.Contains(want, " and ") {
		return "(" + want + ")"
	}
	return want
}

func sampleOf(k fieldKind) string {
	switch k {
	case numberField:
		return "{ from = 2 }"
	case boolField:
		return "true"
	case versionField:
		return `{ from = "12.0", below = "13" }`
	default:
		return `{ contains = "…" }`
	}
}

// unknownTest words the refusal of a key that no matcher of the field has.
func (c *checker) unknownTest(key member, of field, known []string) {
	all := slices.Concat(textKeys, rangeKeys, otherKeys)
	switch hint, hinted := wordHints[key.name]; {
	case slices.Contains(all, key.name):
		c.fail(key.at, "%s does not fit %s; it takes %s", key.name, of.name, oneOf(known))
	case hinted:
		c.fail(key.at, "unknown test %q of %s; %s", key.name, of.name, hint)
	case of.kind == anyField && nearest(key.name, known) == "":
		path := strings.TrimPrefix(of.name, "payload.")
		c.fail(key.at, "unknown test %q of %s; a member inside a member is one quoted path: payload.%q", key.name, of.name, path+"."+key.name)
	default:
		c.fail(key.at, "unknown test %q of %s%s", key.name, of.name, orKnown(key.name, known))
	}
}

func (c *checker) test(key member, of field, fold func(string) string) test {
	operands := []*node{key.value}
	if key.value.kind == list {
		operands = key.value.items
		if len(operands) == 0 {
			c.fail(key.at, "the list is empty, so %s could never fit", of.name)
		}
	}
	switch key.name {
	case keyEquals:
		return c.equals(operands, of, fold)
	case keyFrom, keyAbove, keyBelow, keyUpTo:
		return c.limit(key, of)
	case keyGlob, keyRegex:
		return c.pattern(key.name, operands, fold)
	default:
		return c.partOfText(key.name, operands, fold)
	}
}

// equals compares with one or several values of the types that the field has.
func (c *checker) equals(operands []*node, of field, fold func(string) string) test {
	var texts []string
	var values []any
	var wants []string
	for _, operand := range operands {
		wants = append(wants, operand.shown())
		switch {
		case operand.kind == text && (of.kind == textField || of.kind == listField || of.kind == versionField || of.kind == anyField):
			c.isWord(operand, of)
			texts = append(texts, applyFold(fold, operand.text))
		case (operand.kind == integer || operand.kind == float) && (of.kind == numberField || of.kind == anyField):
			values = append(values, c.number(operand))
		case operand.kind == boolean && (of.kind == boolField || of.kind == anyField):
			values = append(values, operand.text == "true")
		default:
			c.fail(operand.at, "%s is %s, and %s stands here", of.name, typeOf(of.kind), operand.kind)
		}
	}
	return test{want: strings.Join(wants, " or "), holds: func(value seen) (bool, error) {
		if value.value == nil {
			return slices.Contains(texts, applyFold(fold, value.text)), nil
		}
		return slices.ContainsFunc(values, func(wanted any) bool { return equalScalars(wanted, value.value) }), nil
	}}
}

// isWord refuses a value that a field with a fixed set of them never has.
func (c *checker) isWord(operand *node, of field) {
	if of.words != nil && !slices.Contains(of.words, operand.text) {
		c.fail(operand.at, "%s is never %q%s", of.name, operand.text, orKnown(operand.text, of.words))
	}
}

func typeOf(k fieldKind) string {
	switch k {
	case numberField:
		return "a number"
	case boolField:
		return "true or false"
	case anyField:
		return "text, a number, or true or false"
	default:
		return "text"
	}
}

func equalScalars(a, b any) bool {
	if order, ok := compareNumbers(a, b); ok {
		return order == 0
	}
	x, isBool := a.(bool)
	y, both := b.(bool)
	return isBool && both && x == y
}

// partOfText makes the tests that look for a piece of text.
func (c *checker) partOfText(key string, operands []*node, fold func(string) string) test {
	compare := map[string]func(s, part string) bool{keyContains: strings.Contains, keyPrefix: strings.HasPrefix, keySuffix: strings.HasSuffix}[key]
	var parts, wants []string
	for _, operand := range operands {
		if !c.isText(operand, key) {
			continue
		}
		if operand.text == "" {
			c.fail(operand.at, "%s = \"\" would fit every text", key)
		}
		parts = append(parts, applyFold(fold, operand.text))
		wants = append(wants, operand.shown())
	}
	return test{want: key + " " + strings.Join(wants, " or "), holds: func(value seen) (bool, error) {
		whole := applyFold(fold, value.text)
		return slices.ContainsFunc(parts, func(part string) bool { return compare(whole, part) }), nil
	}}
}

// pattern makes the tests of globs and regular expressions. A glob fits the
// whole text; a regex is looked for anywhere in it.
func (c *checker) pattern(key string, operands []*node, fold func(string) string) test {
	var patterns []*regexp.Regexp
	var wants []string
	if len(operands) > maxPatterns {
		c.fail(operands[maxPatterns].at, "more than %d patterns in one list; a regex can say several with |", maxPatterns)
		operands = operands[:maxPatterns]
	}
	for _, operand := range operands {
		if !c.isText(operand, key) {
			continue
		}
		wants = append(wants, operand.shown())
		source := operand.text
		if key == keyGlob {
			source = globSource(applyFold(fold, source))
		} else if fold != nil {
			source = "(?i)" + source
		}
		compiled, err := compilePattern(source)
		if err != nil {
			c.fail(operand.at, "%s %s: %v", key, operand.shown(), err)
			continue
		}
		patterns = append(patterns, compiled)
	}
	return test{want: key + " " + strings.Join(wants, " or "), holds: func(value seen) (bool, error) {
		if len(value.text) > maxMatchedText {
			return false, fmt.Errorf("the value has %d bytes, and a pattern looks at no more than %d", len(value.text), maxMatchedText)
		}
		whole := applyFold(fold, value.text)
		return slices.ContainsFunc(patterns, func(p *regexp.Regexp) bool { return p.MatchString(whole) }), nil
	}}
}

// globSource gives the regular expression of a glob: * stands for any text, ?
// for one character.
func globSource(glob string) string {
	var source strings.Builder
	source.WriteString(`(?s)\A`)
	for _, r := range glob {
		switch r {
		case '*':
			source.WriteString(".*")
		case '?':
			source.WriteString(".")
		default:
			source.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	return source.String() + `\z`
}

func compilePattern(source string) (*regexp.Regexp, error) {
	if len(source) > maxPattern {
		return nil, fmt.Errorf("longer than %d bytes", maxPattern)
	}
	parsed, err := syntax.Parse(source, syntax.Perl)
	if failed, ok := errors.AsType[*syntax.Error](err); ok && failed.Expr == source {
		return nil, errors.New(failed.Code.String()) // the message names the pattern already
	} else if ok {
		return nil, fmt.Errorf("%s: %s", failed.Code, failed.Expr)
	}
	if err != nil {
		return nil, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, err
	}
	if len(program.Inst) > maxInstructions {
		return nil, fmt.Errorf("repeats so much that it would become %d instructions; allowed are %d", len(program.Inst), maxInstructions)
	}
	return regexp.Compile(source)
}

// limit makes the tests of a range. Limits that are text compare versions, part
// by part as numbers; others compare numbers.
func (c *checker) limit(key member, of field) test {
	fits := map[string]func(order int) bool{
		keyFrom:  func(order int) bool { return order >= 0 },
		keyAbove: func(order int) bool { return order > 0 },
		keyBelow: func(order int) bool { return order < 0 },
		keyUpTo:  func(order int) bool { return order <= 0 },
	}[key.name]
	want := key.name + " " + key.value.shown()
	switch operand := key.value; {
	case operand.kind == text && of.kind != numberField:
		limit, err := parseVersion(operand.text)
		if err != nil {
			c.fail(operand.at, "%s: %v", key.name, err)
		}
		return test{want: want, holds: func(value seen) (bool, error) {
			version, err := parseVersion(value.text)
			if err != nil {
				return false, err
			}
			return fits(slices.Compare(version, limit)), nil
		}}
	case (operand.kind == integer || operand.kind == float) && of.kind != versionField:
		limit := c.number(operand)
		return test{want: want, holds: func(value seen) (bool, error) {
			order, ok := compareNumbers(value.value, limit)
			if !ok {
				return false, fmt.Errorf("%s is no number to compare with %s", value, operand.text)
			}
			return fits(order), nil
		}}
	case of.kind == versionField:
		c.fail(operand.at, "versions are text, because 12.10 is newer than 12.9: %s = %q", key.name, operand.text)
	default:
		c.fail(operand.at, "%s of %s must be a number, and %s stands here", key.name, of.name, operand.kind)
	}
	return test{want: want, holds: func(seen) (bool, error) { return false, nil }}
}

// parseVersion reads numbers with dots between them. Zeros at the end say
// nothing: 12 is 12.0.
func parseVersion(version string) ([]uint64, error) {
	parts := strings.Split(version, ".")
	if len(parts) > 16 {
		parts = nil
	}
	var numbers []uint64
	for _, part := range parts {
		value, err := strconv.ParseUint(part, 10, 64)
		if err != nil {
			parts = nil
			break
		}
		numbers = append(numbers, value)
	}
	if parts == nil {
		return nil, fmt.Errorf("%q is no version, which is numbers with dots between them", clip(version))
	}
	for len(numbers) > 0 && numbers[len(numbers)-1] == 0 {
		numbers = numbers[:len(numbers)-1]
	}
	return numbers, nil
}

// compareNumbers gives the order of two numbers, and false when one is none.
func compareNumbers(a, b any) (order int, ok bool) {
	i, iWhole := a.(int64)
	j, jWhole := b.(int64)
	if iWhole && jWhole {
		return compare(i, j), true
	}
	x, xOK := toFloat(a)
	y, yOK := toFloat(b)
	return compare(x, y), xOK && yOK
}

func compare[T int64 | float64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

func toFloat(value any) (float64, bool) {
	switch v := value.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, true
	default:
		return 0, false
	}
}

func applyFold(fold func(string) string, value string) string {
	if fold == nil {
		return value
	}
	return fold(value)
}

func foldBoth(first func(string) string) func(string) string {
	return func(value string) string { return strings.ToLower(applyFold(first, value)) }
}
