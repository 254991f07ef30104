// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
)

// Bounds of a list of function keys. The shortest length keeps a guessable
// word out; keys made by Azure Functions have 44 characters and more.
const (
	minFunctionKeyLength = 16
	maxFunctionKeyLength = 256
	maxFunctionKeys      = 32
)

// FunctionKey is the secret in the webhook's URL (dps-protocol 12.3). Only its
// SHA-256 is kept, so that neither a formatting verb nor a look into the memory
// of a structure shows the key, and so that a comparison takes the same time
// for keys of all lengths.
type FunctionKey struct{ digest [sha256.Size]byte }

const redacted = "[redacted]"

// Format prints [redacted] for every verb.
func (FunctionKey) Format(state fmt.State, _ rune) { _, _ = state.Write([]byte(redacted)) }

// LogValue gives [redacted] to slog.
func (FunctionKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText gives [redacted] to JSON and its kind.
func (FunctionKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// ParseFunctionKeys reads function keys, one a line. Lines that are blank or
// start with # are passed over. A key has 16 to 256 visible ASCII characters.
//
// A text without a key is an error: taking it for "no keys wanted" would open
// the webhook to everyone. Errors name the line, never its content.
func ParseFunctionKeys(text string) ([]FunctionKey, error) {
	var keys []FunctionKey
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := checkFunctionKey(line); err != nil {
			return nil, fmt.Errorf("function keys, line %d: %w", number, err)
		}
		if len(keys) == maxFunctionKeys {
			return nil, fmt.Errorf("function keys, line %d: more than %d keys; remove the ones that no webhook URL uses any more", number, maxFunctionKeys)
		}
		keys = append(keys, FunctionKey{digest: sha256.Sum256([]byte(line))})
	}
	if len(keys) == 0 {
		return nil, errors.New("function keys: no key found; write one key a line")
	}
	return keys, nil
}

func checkFunctionKey(key string) error {
	if len(key) < minFunctionKeyLength || len(key) > maxFunctionKeyLength {
		return fmt.Errorf("a key has %d to %d characters, this one has %d", minFunctionKeyLength, maxFunctionKeyLength, len(key))
	}
	for _, c := range []byte(key) {
		if c <= ' ' || c > '~' {
			return errors.New("a key is made of visible ASCII characters without spaces; write one key a line")
		}
	}
	return nil
}

// authorized tells whether the request carries one of the keys, as ?code= or as
// the header x-functions-key. Without keys every request is authorized.
func authorized(r *http.Request, keys []FunctionKey) bool {
	if len(keys) == 0 {
		return true
	}
	inQuery := fits(codeOf(r.URL.RawQuery), keys)
	inHeader := fits(r.Header.Get("X-Functions-Key"), keys)
	return inQuery || inHeader
}

// codeOf gives what url.ParseQuery finds for code, without a table of all else.
//
// A plus sign that was put into the URL as it is arrives as a space. No key has a
// space, so reading it as a plus sign can only help.
func codeOf(query string) string {
	for parameter := range strings.SplitSeq(query, "&") {
		escapedName, escaped, _ := strings.Cut(parameter, "=")
		name, err := url.QueryUnescape(escapedName)
		if err != nil || name != "code" || strings.Contains(parameter, ";") {
			continue
		}
		if code, err := url.QueryUnescape(escaped); err == nil {
			return strings.ReplaceAll(code, " ", "+")
		}
	}
	return ""
}

// fits compares in a time that does not depend on which key fits, or whether.
func fits(candidate string, keys []FunctionKey) bool {
	digest := sha256.Sum256([]byte(candidate))
	found := 0
	for _, key := range keys {
		found |= subtle.ConstantTimeCompare(digest[:], key.digest[:])
	}
	return found == 1
}
