// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// maxKeyLength bounds a function key; those made by Azure Functions have 44 to 60
// characters, and an owner may choose others.
const maxKeyLength = 512

// Key is the secret that a cloud function wants to be shown. The zero Key is none:
// the function lets everyone in.
//
// The text is behind a pointer, because a formatting verb that prints a structure
// with a Key in it does not ask the methods of its unexported fields.
type Key struct{ text *string }

const redacted = "[redacted]"

// Format prints [redacted] for every verb.
func (Key) Format(state fmt.State, _ rune) { _, _ = state.Write([]byte(redacted)) }

// LogValue gives [redacted] to slog.
func (Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText gives [redacted] to JSON and its kind.
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// ParseKey reads the key of a function: one line of visible ASCII characters,
// 1 to 512 of them. Blank lines and lines that start with # are passed over.
// Errors never show the text.
func ParseKey(text string) (Key, error) {
	var key string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if key != "" {
			return Key{}, errors.New("the key of the cloud function: more than one line; only one key can be shown to the function")
		}
		key = line
	}
	if key == "" {
		return Key{}, errors.New("the key of the cloud function: no key found; write it on a line of its own")
	}
	if len(key) > maxKeyLength {
		return Key{}, fmt.Errorf("the key of the cloud function has %d characters; %d are possible", len(key), maxKeyLength)
	}
	for _, c := range []byte(key) {
		if c <= ' ' || c > '~' {
			return Key{}, errors.New("the key of the cloud function: a key is made of visible ASCII characters without spaces")
		}
	}
	return Key{text: &key}, nil
}

// hide takes the key out of a text that came from the function.
func (k Key) hide(text string) string {
	if k.text == nil {
		return text
	}
	return strings.ReplaceAll(text, *k.text, redacted)
}
