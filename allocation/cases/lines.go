// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// lines tells where each case and its keys stand, since values do not keep that.
// A case's map is by path, such as "want.hub"; "" is the case itself.
type lines []map[string]int

// findLines reads the positions out of a text that was decoded already.
func findLines(text []byte) lines {
	var found lines
	var table []string // that key-values are in
	parser := unstable.Parser{}
	parser.Reset(text)
	for parser.NextExpression() {
		expression := parser.Expression()
		var path []string
		line := 0
		for keys := expression.Key(); keys.Next(); {
			node := keys.Node()
			if line == 0 {
				line = parser.Shape(node.Raw).Start.Line
			}
			path = append(path, string(node.Data))
		}
		switch expression.Kind {
		case unstable.ArrayTable:
			table = path
			if len(path) == 1 && path[0] == "case" {
				found = append(found, map[string]int{"": line})
			}
		case unstable.Table:
			table = path
			found.note(table, nil, line)
		case unstable.KeyValue:
			found.note(table, path, line)
		}
	}
	return found
}

// note keeps the line of a key of the last case.
func (l lines) note(table, path []string, line int) {
	if len(l) == 0 || len(table) == 0 || table[0] != "case" {
		return
	}
	whole := append(append([]string{}, table[1:]...), path...)
	if key := strings.Join(whole, "."); key != "" {
		if _, known := l[len(l)-1][key]; !known {
			l[len(l)-1][key] = line
		}
	}
}

// of gives the line of a key of a case, else of what the key is in, or 0.
func (l lines) of(index int, key string) int {
	if index >= len(l) {
		return 0
	}
	for {
		if line, ok := l[index][key]; ok {
			return line
		}
		dot := strings.LastIndexByte(key, '.')
		if dot < 0 {
			return l[index][""]
		}
		key = key[:dot]
	}
}

// located words a decoder's error with file and line, and names the nearest key
// for one that is not known.
func located(name string, err error) error {
	if unknown, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		var all []error
		for _, one := range unknown.Errors {
			row, _ := one.Position()
			key := one.Key()
			known := keysOf(reflect.TypeFor[rawFile](), key[:len(key)-1])
			all = append(all, fmt.Errorf("%s:%d: unknown key %q%s", name, row, strings.Join(key, "."), didYouMean(key[len(key)-1], known)))
		}
		return errors.Join(all...)
	}
	if decode, ok := errors.AsType[*toml.DecodeError](err); ok {
		row, column := decode.Position()
		message := strings.TrimPrefix(decode.Error(), "toml: ")
		if what, _, ok := strings.Cut(message, " into "); ok {
			message = strings.Replace(what, "cannot decode TOML", "of another type than this key has: a", 1)
		}
		return fmt.Errorf("%s:%d:%d: %s", name, row, column, message)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// keysOf lists the keys of the table at path.
func keysOf(t reflect.Type, path []string) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for _, field := range reflect.VisibleFields(t) {
		name := field.Tag.Get("toml")
		if name == "" {
			continue // the short form, whose fields come by themselves
		}
		if len(path) > 0 && name == path[0] {
			return keysOf(field.Type, path[1:])
		}
		keys = append(keys, name)
	}
	if len(path) > 0 {
		return nil
	}
	return keys
}
