// SPDX-License-Identifier: Apache-2.0

package sealedkeys

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"filippo.io/age"
)

// ErrIdentity is wrapped by every complaint about an identity's text, which is never quoted.
var ErrIdentity = errors.New("not a gateway's identity")

// ErrRecipient is wrapped by every complaint about a recipient.
var ErrRecipient = errors.New("not a gateway's recipient")

// maxIdentity bounds an identity's file, in bytes: one line of 74 characters and its comments.
const maxIdentity = 4 << 10

const redacted = "[redacted]"

// Identity is a gateway's private half (age, X25519). It is made on the gateway and never leaves it, and prints as
// "[redacted]"; only [Identity.Reveal] gives it out, for its file. The zero value is none.
type Identity struct{ secret func() *age.X25519Identity }

// NewIdentity makes an identity.
func NewIdentity() (Identity, error) {
	made, err := age.GenerateX25519Identity()
	if err != nil {
		return Identity{}, fmt.Errorf("making an identity: %w", err)
	}
	return Identity{secret: func() *age.X25519Identity { return made }}, nil
}

// ParseIdentity reads an identity's file: one line that begins with AGE-SECRET-KEY-1, and comments, as age-keygen
// writes it. Errors wrap [ErrIdentity].
func ParseIdentity(text string) (Identity, error) {
	if len(text) > maxIdentity {
		return Identity{}, fmt.Errorf("%w: larger than %d KiB", ErrIdentity, maxIdentity>>10)
	}
	var found []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			found = append(found, line)
		}
	}
	if len(found) != 1 {
		return Identity{}, fmt.Errorf("%w: it has %d lines besides comments, not one", ErrIdentity, len(found))
	}
	parsed, err := age.ParseX25519Identity(found[0])
	if err != nil { // not passed on: it may quote the line
		return Identity{}, fmt.Errorf("%w: the line is not a whole AGE-SECRET-KEY-1…", ErrIdentity)
	}
	return Identity{secret: func() *age.X25519Identity { return parsed }}, nil
}

// Recipient is the public half, "age1…", to which keys are sealed.
func (i Identity) Recipient() string {
	if i.secret == nil {
		return ""
	}
	return i.secret().Recipient().String()
}

// Reveal is the text of the identity's file.
func (i Identity) Reveal() string {
	if i.secret == nil {
		return ""
	}
	return "# The identity of this gateway. Whoever reads it can open the keys that are sealed to it.\n" +
		"# public key: " + i.Recipient() + "\n" + i.secret().String() + "\n"
}

// IsZero reports whether there is no identity.
func (i Identity) IsZero() bool { return i.secret == nil }

// Format prints "[redacted]" for every verb and flag.
func (i Identity) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue keeps the identity out of structured logs.
func (i Identity) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText keeps the identity out of JSON and of every other text encoding.
func (i Identity) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// maxRecipient bounds a recipient's text before it is parsed; one has 62 characters.
const maxRecipient = 100

func parseRecipient(text string) (*age.X25519Recipient, error) {
	if len(text) > maxRecipient {
		return nil, fmt.Errorf("%w: it has %d characters", ErrRecipient, len(text))
	}
	recipient, err := age.ParseX25519Recipient(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %q is not age1 and 58 lower-case letters and digits", ErrRecipient, text)
	}
	return recipient, nil
}
