// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// A policy's file becomes a tree of nodes that still know where they stand and
// in which order: a decoder into structs would lose the order of a twin's
// properties, and the place of a mistake inside an expression.

// span is a piece of the file, as byte offsets.
type span struct{ start, end int }

// kind is what a node is in TOML.
type kind int

const (
	table kind = iota
	list
	text
	integer
	float
	boolean
	date
)

// String gives the kind as a message names it.
func (k kind) String() string {
	return [...]string{"a table", "a list", "text", "a number", "a number", "true or false", "a date or time"}[k]
}

// node is one value of the file.
type node struct {
	kind    kind
	at      span     // the value; for a list or table the key it stands behind
	text    string   // text: what it says; number, boolean and date: how it is spelled
	members []member // table: in the order of the file
	items   []*node  // list
}

// member is one key of a table.
type member struct {
	name  string
	at    span
	value *node
}

// get gives the value behind a key, or nil.
func (n *node) get(name string) *node {
	for i := range n.members {
		if n.members[i].name == name {
			return n.members[i].value
		}
	}
	return nil
}

// maxKeys bounds the keys of one table: the decoder compares each with all others.
const maxKeys = 2_000

// parseDocument reads TOML. Its error says what is wrong and where.
func parseDocument(source []byte) (*node, *Problem) {
	var tree builder
	tree.build(source)
	if wide := tree.wide; wide != nil {
		return nil, problemAt(source, wide.at, fmt.Sprintf("the table with %q has more than %d keys", clip(wide.name), maxKeys))
	}
	// The decoder checks what a grammar cannot: keys given twice, tables that
	// grow out of values, dates that no calendar has. A tree of a file with such
	// a mistake is not looked at.
	var ignored map[string]any
	if err := toml.Unmarshal(source, &ignored); err != nil {
		return nil, tomlProblem(source, err)
	}
	return tree.root, nil
}

// builder makes the tree of a file as far as the grammar goes.
type builder struct {
	root *node
	wide *member // the first key too many of a table
}

func (b *builder) build(source []byte) {
	b.root = &node{kind: table}
	into := b.root
	var parser unstable.Parser
	parser.Reset(source)
	for b.wide == nil && parser.NextExpression() {
		expression := parser.Expression()
		switch expression.Kind {
		case unstable.Table:
			into = b.open(expression.Key(), table)
		case unstable.ArrayTable:
			into = b.open(expression.Key(), list)
		case unstable.KeyValue:
			b.set(into, expression)
		}
	}
}

// add puts one key into a table.
func (b *builder) add(n *node, name string, at span, value *node) {
	n.members = append(n.members, member{name, at, value})
	if len(n.members) > maxKeys && b.wide == nil {
		b.wide = &member{name, at, value}
	}
}

// tomlProblem words what the parser says, with its position where it has one.
func tomlProblem(source []byte, err error) *Problem {
	message := strings.TrimPrefix(err.Error(), "toml: ")
	at := span{}
	if decode, ok := errors.AsType[*toml.DecodeError](err); ok {
		row, column := decode.Position()
		at.start = offsetOf(source, row, column)
		at.end = at.start + 1
	}
	return problemAt(source, at, message)
}

// open gives the table that a header names, made where it is new. last is what
// the header makes of its last key: a table, or one more table of a list.
func (b *builder) open(keys unstable.Iterator, last kind) *node {
	n := b.root
	for keys.Next() {
		key := keys.Node()
		name, at := string(key.Data), spanOf(key.Raw)
		isLast := keys.IsLast()
		child := n.get(name)
		if child == nil {
			child = &node{kind: table, at: at}
			if isLast {
				child.kind = last
			}
			b.add(n, name, at, child)
		}
		if child.kind == list {
			if isLast {
				child.items = append(child.items, &node{kind: table, at: at})
			}
			if len(child.items) == 0 {
				return child // an empty list of values, which the decoder lets nobody extend
			}
			child = child.items[len(child.items)-1]
		}
		n = child
	}
	return n
}

// set puts a key and its value into a table, through the tables that a dotted
// key names.
func (b *builder) set(n *node, keyValue *unstable.Node) {
	keys := keyValue.Key()
	for keys.Next() {
		key := keys.Node()
		name, at := string(key.Data), spanOf(key.Raw)
		if keys.IsLast() {
			b.add(n, name, at, b.value(keyValue.Value(), at))
			return
		}
		child := n.get(name)
		if child == nil {
			child = &node{kind: table, at: at}
			b.add(n, name, at, child)
		}
		n = child
	}
}

// value copies a value. key is where the parser does not tell its place.
func (b *builder) value(value *unstable.Node, key span) *node {
	n := &node{at: spanOf(value.Raw), text: string(value.Data)}
	switch value.Kind {
	case unstable.InlineTable:
		n.kind, n.at, n.text = table, key, ""
		for children := value.Children(); b.wide == nil && children.Next(); {
			b.set(n, children.Node())
		}
	case unstable.Array:
		n.kind, n.at, n.text = list, key, ""
		for children := value.Children(); children.Next(); {
			n.items = append(n.items, b.value(children.Node(), key))
		}
	case unstable.String:
		n.kind = text
	case unstable.Integer:
		n.kind = integer
	case unstable.Float:
		n.kind = float
	case unstable.Bool:
		n.kind = boolean
	default:
		n.kind = date
	}
	return n
}

func spanOf(r unstable.Range) span {
	return span{int(r.Offset), int(r.Offset + r.Length)}
}

// offsetOf is the inverse of position, for columns that count bytes.
func offsetOf(source []byte, row, column int) int {
	offset := 0
	for range row - 1 {
		newline := bytes.IndexByte(source[offset:], '\n')
		if newline < 0 {
			break
		}
		offset += newline + 1
	}
	return min(offset+max(column-1, 0), len(source))
}

// position gives line and column of an offset, both from 1; the column counts
// characters, as an editor does.
func position(source []byte, offset int) (line, column int) {
	offset = min(offset, len(source))
	for offset > 0 && offset < len(source) && !utf8.RuneStart(source[offset]) {
		offset-- // the parser's last byte may be that of a character
	}
	before := source[:offset]
	line = 1 + bytes.Count(before, []byte("\n"))
	return line, 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
}

// lineAt gives a line of the file without its end, from 1.
func lineAt(source []byte, number int) string {
	for line := range bytes.Lines(source) {
		if number--; number == 0 {
			return string(bytes.TrimRight(line, "\r\n"))
		}
	}
	return ""
}

// contentOffsets maps each byte of a text's value, and its end, to where the
// file spells it. raw is the text with its quotes, start where it stands.
// Escapes make the two differ; the place of a mistake inside an expression must
// be right all the same.
func contentOffsets(raw []byte, start int) []int {
	quote, quotes, i := raw[0], 1, 1
	if len(raw) >= 6 && raw[1] == quote && raw[2] == quote {
		quotes, i = 3, 3
		for _, newline := range []string{"\r\n", "\n"} {
			if strings.HasPrefix(string(raw[i:]), newline) {
				i += len(newline)
				break
			}
		}
	}
	var offsets []int
	end := len(raw) - quotes
	for i < end {
		size, spelled := 1, 1
		if quote == '"' && raw[i] == '\\' {
			size, spelled = escape(raw[i:end])
		}
		for range size {
			offsets = append(offsets, start+i)
		}
		i += spelled
	}
	return append(offsets, start+end)
}

// escape tells how many bytes an escape stands for and how many spell it.
func escape(raw []byte) (size, spelled int) {
	if len(raw) < 2 {
		return 1, 1
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[raw[1]]
	if digits > 0 && len(raw) >= 2+digits {
		var r rune
		if _, err := fmt.Sscanf(string(raw[2:2+digits]), "%x", &r); err != nil {
			return 1, 2 + digits
		}
		return utf8.RuneLen(r), 2 + digits
	}
	if strings.IndexByte(" \t\r\n", raw[1]) < 0 {
		return 1, 2
	}
	// A backslash at the end of a line swallows the white space behind it.
	rest := strings.TrimLeft(string(raw[1:]), " \t\r\n")
	return 0, len(raw) - len(rest)
}
