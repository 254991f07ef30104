// SPDX-License-Identifier: Apache-2.0

package enrollment

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// ErrKey is wrapped by every complaint about a key's text, which is never quoted.
var ErrKey = errors.New("not a usable key")

// redacted stands in for every key that something tries to print.
const redacted = "[redacted]"

// What the service takes and generates, in bytes (dps-protocol 13.1).
const (
	minKeyBytes       = 16
	maxKeyBytes       = 64
	generatedKeyBytes = 64
)

// Key is a symmetric key: of an enrollment, or of a shared access policy. It
// prints as "[redacted]". The zero value holds none.
//
// The text is kept within a function, so that a printer which walks unexported
// fields and follows pointers finds an address and not the key.
type Key struct{ text func() string }

// ParseKey reads a key as the portal shows it: standard base64 of 16 to 64
// bytes, with padding. White space around it is ignored. The error wraps
// [ErrKey].
func ParseKey(text string) (Key, error) {
	text = strings.TrimSpace(text)
	material, err := decodeKey(text)
	switch {
	case err != nil:
		return Key{}, err
	case len(material) < minKeyBytes || len(material) > maxKeyBytes:
		return Key{}, fmt.Errorf("%w: it has %d bytes, not %d to %d", ErrKey, len(material), minKeyBytes, maxKeyBytes)
	}
	return keep(text), nil
}

// GenerateKey makes a key of 64 random bytes, as the service does.
func GenerateKey() Key {
	material := make([]byte, generatedKeyBytes)
	_, _ = rand.Read(material) // never fails
	return keep(base64.StdEncoding.EncodeToString(material))
}

func keep(text string) Key { return Key{text: func() string { return text }} }

// decodeKey is strict where encoding/base64 is not: that decoder skips line
// breaks and, unless told otherwise, ignores stray bits at the end.
func decodeKey(text string) ([]byte, error) {
	if text == "" {
		return nil, fmt.Errorf("%w: it is empty", ErrKey)
	}
	material, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("%w: it is not standard base64 with padding", ErrKey)
	}
	return material, nil
}

// Reveal returns the key in base64, or "".
func (k Key) Reveal() string {
	if k.text == nil {
		return ""
	}
	return k.text()
}

// IsZero reports whether k holds no key.
func (k Key) IsZero() bool { return k.Reveal() == "" }

// Format prints "[redacted]" for every verb and flag.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue keeps the key out of structured logs.
func (k Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText keeps the key out of JSON.
func (k Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalText takes a key from an answer as it is: what the service stores is
// its own affair.
func (k *Key) UnmarshalText(text []byte) error {
	*k = keep(string(text))
	return nil
}

// WebhookURL is the address of an allocation webhook. Its query carries the
// function key and prints as "****", the form in which the service shows it to
// the webhook itself (dps-protocol 12.1). The zero value holds none.
type WebhookURL struct{ text func() string }

// NewWebhookURL keeps an address as it is given; the service checks it.
func NewWebhookURL(text string) WebhookURL { return WebhookURL{text: func() string { return text }} }

// Reveal returns the address with its query.
func (u WebhookURL) Reveal() string {
	if u.text == nil {
		return ""
	}
	return u.text()
}

// String returns the address without its query, and without a user's password.
func (u WebhookURL) String() string {
	address, _, query := strings.Cut(u.Reveal(), "?")
	if scheme, rest, ok := strings.Cut(address, "://"); ok {
		authority, path, _ := strings.Cut(rest, "/")
		if at := strings.LastIndexByte(authority, '@'); at >= 0 {
			address = scheme + "://****@" + authority[at+1:] + "/" + path
		}
	}
	if query {
		address += "?****"
	}
	return address
}

// Format prints what String returns, for every verb and flag.
func (u WebhookURL) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, u.String()) }

// LogValue keeps the query out of structured logs.
func (u WebhookURL) LogValue() slog.Value { return slog.StringValue(u.String()) }

// MarshalText keeps the query out of JSON.
func (u WebhookURL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText takes an address from an answer.
func (u *WebhookURL) UnmarshalText(text []byte) error {
	*u = NewWebhookURL(string(text))
	return nil
}
