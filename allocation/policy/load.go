// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/contoso/gatewayd/allocation"
)

// Bounds of a policy.
const (
	maxFile      = 512 << 10 // bytes
	maxRules     = 1_000
	maxName      = 100 // bytes of a rule's name
	maxColumns   = 100
	maxProblems  = 50  // that one error tells
	maxCollected = 500 // that are looked for
)

// Load reads the policy of a file.
func Load(path string) (*Policy, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the allocation policy: %w", err)
	}
	defer file.Close()
	source, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the allocation policy: %w", err)
	}
	return Parse(path, source)
}

// Parse reads a policy. name stands for the file in messages. What is wrong with
// the policy comes back as a [*LoadError].
func Parse(name string, source []byte) (*Policy, error) {
	if len(source) > maxFile {
		return nil, &LoadError{Name: name, Problems: []Problem{{Message: fmt.Sprintf("larger than %d KiB, which no policy is", maxFile>>10)}}}
	}
	root, problem := parseDocument(source)
	if problem != nil {
		return nil, &LoadError{Name: name, Problems: []Problem{*problem}}
	}
	c := &checker{name: name, source: source}
	p := c.policy(root)
	if err := c.err(); err != nil {
		return nil, err
	}
	return p, nil
}

// policy reads the whole file.
func (c *checker) policy(root *node) *Policy {
	c.only(root, "", "directory", "rule")
	for _, key := range root.members {
		if key.name == "directory" && c.isTable(key.value, key.at, "[directory]") {
			c.directory(key.value, key.at)
		}
	}
	p := &Policy{name: c.name, source: c.source, use: c.use, columns: c.columnNames(), thinking: maxThinking}
	rules := root.get("rule")
	switch {
	case rules == nil:
		c.fail(span{}, "there is no [[rule]]; the shortest policy is one with refuse = \"…\"")
		return p
	case rules.kind != list || slices.ContainsFunc(rules.items, func(n *node) bool { return n.kind != table }):
		c.fail(rules.at, "rules are written as [[rule]], with two brackets")
		return p
	case len(rules.items) > maxRules:
		c.fail(rules.items[maxRules].at, "more than %d rules; a [directory] may hold what differs from device to device", maxRules)
		return p
	}
	for i, item := range rules.items {
		p.rules = append(p.rules, c.readRule(item, i+1))
	}
	c.rule = ""
	c.namesDiffer(p.rules)
	c.everyDeviceIsAnswered(p.rules)
	return p
}

// readRule reads one [[rule]].
func (c *checker) readRule(n *node, number int) rule {
	r := rule{number: number, name: fmt.Sprintf("rule %d", number), at: n.at}
	r.line, _ = position(c.source, n.at.start)
	c.rule = ""
	mistakes := len(c.problems)
	if name := n.get("name"); name != nil && c.isText(name, "name") {
		if name.text == "" || len(name.text) > maxName || strings.ContainsAny(name.text, "\r\n\t") {
			c.fail(name.at, "a name has 1 to %d bytes on one line", maxName)
		}
		r.name, r.named, r.at = name.text, true, name.at
	}
	c.rule = fmt.Sprintf("rule %q", r.name)
	if !r.named {
		c.rule = r.name
	}
	c.only(n, " of a rule", "name", "when", "hub", "refuse", "tags", "desired", "payload")
	var answers []string
	for _, key := range n.members {
		switch key.name {
		case "when":
			r.when = c.when(key.value, key.at)
		case "hub":
			r.hub = c.selection(key.value, key.at)
			answers = append(answers, key.name)
		case "refuse":
			r.refuse = new(c.sentence(key.value, key.at, "refuse"))
			answers = append(answers, key.name)
		case "tags":
			r.tags = c.object(key.value, key.at, key.name)
		case "desired":
			r.desired = c.object(key.value, key.at, key.name)
		case "payload":
			r.payload = c.object(key.value, key.at, key.name)
		}
	}
	switch {
	case len(answers) == 0:
		c.fail(n.at, "a rule answers with hub = … or with refuse = \"…\", and this one has neither")
	case len(answers) == 2:
		c.fail(n.at, "a rule answers with hub = … or with refuse = \"…\", and this one has both")
	case r.refuse != nil && (r.tags != nil || r.desired != nil || r.payload != nil):
		c.fail(n.at, "a refused device gets no tags, desired properties or payload")
	}
	r.conditioned = n.get("when") != nil
	r.always = !r.conditioned && len(c.problems) == mistakes && (r.hub == nil || r.hub.none != noneNext)
	return r
}

// namesDiffer: a record names its rule, so two must not share a name.
func (c *checker) namesDiffer(rules []rule) {
	first := map[string]int{}
	for _, r := range rules {
		if number, taken := first[r.name]; taken {
			c.fail(r.at, "rule %d is named %q like rule %d; records tell rules apart by their names", r.number, r.name, number)
			continue
		}
		first[r.name] = r.number
	}
}

// everyDeviceIsAnswered: the last rule takes whatever comes, and no rule before
// it does. A rule with a mistake in it says nothing about the others: what seems to
// lack a condition may have a misspelt one.
func (c *checker) everyDeviceIsAnswered(rules []rule) {
	for i, r := range rules {
		isLast := i == len(rules)-1
		switch {
		case r.always && !isLast:
			next := rules[i+1]
			c.fail(next.at, "rule %q is never reached, because rule %q takes every device", next.name, r.name)
			return
		case isLast && r.conditioned:
			c.fail(r.at, "the last rule has a condition, so a device that it does not fit would get no answer; end with a rule without when, such as refuse = \"Unrecognized device registration.\"")
		case isLast && r.hub != nil && r.hub.none == noneNext:
			c.fail(r.at, "there is no next rule for none = \"next\"; end with a rule that answers every device")
		}
	}
}

// directory reads [directory].
func (c *checker) directory(n *node, at span) {
	c.only(n, " of [directory]", "missing", "unavailable", "timeout", "columns", "default")
	c.use = allocation.DirectoryUse{
		Used:    true,
		Missing: allocation.DirectoryRetry, Unavailable: allocation.DirectoryRetry,
		Timeout: allocation.DefaultDirectoryTimeout,
		Columns: map[string]allocation.ColumnType{},
	}
	if columns := n.get("columns"); columns == nil {
		c.fail(at, `[directory] needs columns, such as columns = { hub = "text", floor = "number" }`)
	} else if c.isTable(columns, columns.at, "columns") {
		c.columns(columns)
	}
	for _, key := range n.members {
		switch key.name {
		case "missing":
			c.use.Missing = c.outcome(key, true)
		case "unavailable":
			c.use.Unavailable = c.outcome(key, false)
		case "timeout":
			c.use.Timeout = c.timeout(key.value)
		case "default":
			c.use.Default = c.defaultRow(key)
		}
	}
	wantsDefault := c.use.Missing == allocation.DirectoryDefault || c.use.Unavailable == allocation.DirectoryDefault
	if wantsDefault && n.get("default") == nil {
		c.fail(at, `missing or unavailable is "default", and there is no default = { … } row`)
	}
}

// columnTypes are the types that a column may have, in the words of the file.
var columnTypes = []string{string(allocation.ColumnText), string(allocation.ColumnNumber), string(allocation.ColumnBool)}

func (c *checker) columns(n *node) {
	if len(n.members) > maxColumns {
		c.fail(n.at, "more than %d columns", maxColumns)
	}
	for _, key := range n.members {
		if !isIdentifier(key.name) {
			c.fail(key.at, "a column that rules can read is named by letters, digits and underscores, and is no word of the expression language; %q is not", key.name)
		}
		if !c.isText(key.value, "the type of a column") {
			continue
		}
		if !slices.Contains(columnTypes, key.value.text) {
			c.fail(key.value.at, "a column holds %s, and not %q%s", oneOf(columnTypes), key.value.text, didYouMean(key.value.text, columnTypes))
		}
		c.use.Columns[key.name] = allocation.ColumnType(key.value.text)
	}
}

// reserved are the words that the expression language keeps for itself.
var reserved = strings.Fields("as break const continue else false for function if import in let loop namespace null package return true var void while")

func isIdentifier(name string) bool {
	if name == "" || slices.Contains(reserved, name) {
		return false
	}
	for i, r := range name {
		letter := r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return true
}

// outcome reads what happens without a row.
func (c *checker) outcome(key member, mayRefuse bool) allocation.DirectoryOutcome {
	words := []string{string(allocation.DirectoryRetry), string(allocation.DirectoryDefault)}
	allowed := oneOf(words)
	if mayRefuse {
		allowed = fmt.Sprintf("%q, %q or %s", words[0], words[1], refuseTable)
	}
	switch n := key.value; {
	case n.kind == table && len(n.members) == 1 && n.members[0].name == "refuse":
		if !mayRefuse {
			c.fail(n.members[0].at, "a directory that does not answer is our own trouble, which must not refuse a device for good; %s may be %s", key.name, allowed)
			return ""
		}
		refuse := n.members[0]
		if c.isText(refuse.value, "refuse") {
			c.use.Refusal = c.sentence(refuse.value, refuse.at, "refuse").text
		}
		return allocation.DirectoryRefuse
	case n.kind == text && slices.Contains(words, n.text):
		return allocation.DirectoryOutcome(n.text)
	case n.kind == text && n.text == "refuse" && mayRefuse:
		c.fail(n.at, `%s = "refuse" needs the sentence to refuse with: %s = { refuse = "…" }`, key.name, key.name)
	case n.kind == text && n.text == "refuse":
		c.fail(n.at, "a directory that does not answer is our own trouble, which must not refuse a device for good; %s may be %s", key.name, allowed)
	case n.kind == text:
		c.fail(n.at, "%s may be %s, and not %q%s", key.name, allowed, n.text, didYouMean(n.text, words))
	default:
		c.fail(key.at, "%s may be %s", key.name, allowed)
	}
	return ""
}

// maxTimeout bounds a lookup; more would not be waited for.
const maxTimeout = allocation.MaxDirectoryTimeout

func (c *checker) timeout(n *node) time.Duration {
	if !c.isText(n, "timeout") {
		return 0
	}
	timeout, err := time.ParseDuration(n.text)
	if err != nil || timeout < time.Millisecond || timeout > maxTimeout {
		c.fail(n.at, "timeout must be a time between \"1ms\" and %q, such as \"500ms\"", maxTimeout)
	}
	return timeout
}

func (c *checker) defaultRow(key member) allocation.Row {
	if !c.isTable(key.value, key.at, "default") {
		return nil
	}
	row := allocation.Row{}
	known := c.columnNames()
	for _, column := range key.value.members {
		holds, declared := c.use.Columns[column.name]
		if !declared {
			c.fail(column.at, "columns does not name %q%s", column.name, orKnown(column.name, known))
			continue
		}
		switch n := column.value; {
		case n.kind == text && holds == allocation.ColumnText:
			row[column.name] = n.text
		case (n.kind == integer || n.kind == float) && holds == allocation.ColumnNumber:
			row[column.name] = c.number(n)
		case n.kind == boolean && holds == allocation.ColumnBool:
			row[column.name] = n.text == "true"
		default:
			c.fail(n.at, "column %s holds %s, and %s stands here", column.name, map[allocation.ColumnType]string{
				allocation.ColumnText: "text", allocation.ColumnNumber: "a number", allocation.ColumnBool: "true or false",
			}[holds], n.kind)
		}
	}
	return row
}
