// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// maxFileSize bounds the configuration; a hundred lines of 247 units each
// stay far below it.
const maxFileSize = 1 << 20

// Load reads and checks the file at path. All that is wrong with it comes back
// in one error, a line each, with the position where there is one.
func Load(path string) (Config, error) {
	text, err := readBounded(path, maxFileSize)
	if err != nil {
		return Config{}, err
	}
	return Parse(path, text)
}

// Parse is [Load] for a text already read; path names it in messages.
func Parse(path string, text []byte) (Config, error) {
	var raw rawFile
	decoder := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := decoder.Decode(&raw); err != nil {
		return Config{}, located(path, err, reflect.TypeFor[rawFile]())
	}
	return check(path, raw)
}

// located words a decoder's error with file and line, and for an unknown key
// the nearest known one in the same table of the type that was decoded into.
// An error of another kind is only given the file.
func located(path string, err error, into reflect.Type) error {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) {
		var all []error
		for _, one := range unknown.Errors {
			row, _ := one.Position()
			key := one.Key()
			message := fmt.Sprintf("%s:%d: unknown key %q", path, row, strings.Join(key, "."))
			if near := nearestKey(into, key); near != "" {
				message += fmt.Sprintf(" (did you mean %q?)", near)
			}
			all = append(all, errors.New(message))
		}
		return errors.Join(all...)
	}
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		row, column := decode.Position()
		return fmt.Errorf("%s:%d:%d: %s", path, row, column, wrongType.ReplaceAllStringFunc(strings.TrimPrefix(decode.Error(), "toml: "), typeInWords))
	}
	return fmt.Errorf("%s: %w", path, err)
}

// wrongType is what the decoder says of a value of another type than its key has, with names of this program's types
// that mean nothing to who writes the file.
var wrongType = regexp.MustCompile(`^cannot decode TOML (\w+) into (?:struct field \S+|a Go value) of type (\S+)$`)

// typeInWords says the same in the words of the file format.
func typeInWords(message string) string {
	parts := wrongType.FindStringSubmatch(message)
	wanted := parts[2]
	switch {
	case wanted == "string", strings.HasSuffix(wanted, ".Parity"), strings.HasSuffix(wanted, ".Driver"):
		wanted = `text between quotes, such as "500ms"`
	case wanted == "bool":
		wanted = "true or false"
	case strings.HasPrefix(wanted, "int"), strings.HasPrefix(wanted, "uint"):
		wanted = "a whole number without quotes"
	case strings.HasPrefix(wanted, "float"):
		wanted = "a number without quotes"
	case strings.HasPrefix(wanted, "[]"):
		wanted = "a list between brackets"
	default:
		wanted = "another type"
	}
	return fmt.Sprintf("a TOML %s stands here; allowed is %s", parts[1], wanted)
}

// nearestKey names the known key of the same table that is nearest to an
// unknown one, or "" when none is near.
func nearestKey(into reflect.Type, key []string) string {
	known := keysOf(into, key[:len(key)-1])
	return nearest(key[len(key)-1], known)
}

// keysOf lists the keys of the table at path, walking the raw structs' tags.
func keysOf(t reflect.Type, path []string) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for i := range t.NumField() {
		field := t.Field(i)
		name := field.Tag.Get("toml")
		if name == "" {
			continue // no key of the file
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

// nearest picks the candidate within a third of its length in edits, or two for
// letters that changed places, so that a slip of the finger is recognised and
// another word is not.
func nearest(word string, candidates []string) string {
	best, distance := "", 1<<30
	for _, candidate := range candidates {
		d := edits(word, candidate)
		if d < distance && d <= allowed(candidate) {
			best, distance = candidate, d
		}
	}
	return best
}

// allowed is how many edits away a word is still taken for the candidate.
func allowed(candidate string) int {
	if len(candidate) < 4 {
		return 1
	}
	return max(2, len(candidate)/3)
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		previous := slices.Clone(row)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(previous[j]+cost, previous[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("reading %s: larger than %d KiB, so it is not what it should be", path, limit>>10)
	}
	return text, nil
}
