// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// ErrKey is wrapped by every complaint about a key's text.
// The complaint names the rule that was broken and never quotes the key.
var ErrKey = errors.New("not a usable key")

// The service stores keys of 16 to 64 bytes (dps-protocol 13.1). A group key may be longer here,
// because deriving from it works all the same and Azure's own command line does it; a device key is one the
// service holds, so its rule applies as it stands.
const (
	minKeyBytes       = 16
	maxDeviceKeyBytes = 64
	maxGroupKeyBytes  = 1024
)

// redacted stands in for every secret that something tries to print.
const redacted = "[redacted]"

// secret holds key material within a function, so that even a printer which walks unexported fields and follows
// their pointers (fmt does both, given a wrong verb) finds an address and not the bytes.
type secret func() []byte

func keep(material []byte) secret { return func() []byte { return material } }

// GroupKey is the primary or secondary symmetric key of an enrollment group: the secret from which the key of
// every device of the group follows. It never leaves the process and prints as "[redacted]" for every verb, in
// slog and in JSON. The zero value holds no key.
type GroupKey struct{ secret secret }

// ParseGroupKey reads a group key as the portal shows it: standard base64 with padding. White space around it
// is ignored (a file ends with a newline), anything else outside the alphabet is refused, and so is a key shorter
// than the 16 bytes that the service demands. The error wraps [ErrKey] and does not quote the text.
func ParseGroupKey(text string) (GroupKey, error) {
	material, err := decodeKey(text, maxGroupKeyBytes)
	if err != nil {
		return GroupKey{}, fmt.Errorf("group key: %w", err)
	}
	return GroupKey{secret: material}, nil
}

// Derive computes the device key of one registration ID: HMAC-SHA256 of the ID, spelled exactly as given, under
// the group key (dps-protocol 13.2). No client folds the ID's case, so "Dev-01" and "dev-01" have different keys.
func (k GroupKey) Derive(registrationID string) DeviceKey {
	return DeviceKey{secret: keep(k.secret.sign(registrationID))}
}

// Fingerprint names the key without giving it away: the first eight hexadecimal digits of a SHA-256 over it.
// Two people can compare fingerprints over the phone; "none" stands for no key.
func (k GroupKey) Fingerprint() string { return k.secret.fingerprint() }

// IsZero reports whether k holds no key.
func (k GroupKey) IsZero() bool { return k.secret == nil }

// DeviceKey is the symmetric key of one device: derived from a group key, or an individual enrollment's own.
// It signs the device's tokens, for the provisioning service and for the assigned hub alike. It prints as
// "[redacted]"; only [DeviceKey.Reveal] gives it out. The zero value holds no key.
type DeviceKey struct{ secret secret }

// ParseDeviceKey reads a device key: standard base64 of 16 to 64 bytes (a derived one has 32), white space around
// it ignored. The error wraps [ErrKey] and does not quote the text.
func ParseDeviceKey(text string) (DeviceKey, error) {
	material, err := decodeKey(text, maxDeviceKeyBytes)
	if err != nil {
		return DeviceKey{}, fmt.Errorf("device key: %w", err)
	}
	return DeviceKey{secret: material}, nil
}

// Reveal returns the key as base64, for the one place that must show it: derive-key's output.
func (k DeviceKey) Reveal() string {
	if k.secret == nil {
		return ""
	}
	return base64.StdEncoding.EncodeToString(k.secret())
}

// Fingerprint names the key without giving it away, like [GroupKey.Fingerprint].
func (k DeviceKey) Fingerprint() string { return k.secret.fingerprint() }

// IsZero reports whether k holds no key.
func (k DeviceKey) IsZero() bool { return k.secret == nil }

// decodeKey is strict where encoding/base64 is not: that decoder skips line breaks inside the text and, unless
// told otherwise, ignores stray bits at the end. A byte order mark, with which some editors begin a file, does no harm.
func decodeKey(text string, most int) (secret, error) {
	text = strings.TrimSpace(strings.TrimPrefix(text, "\ufeff"))
	if text == "" {
		return nil, fmt.Errorf("%w: it is empty", ErrKey)
	}
	if strings.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("%w: it spans several lines", ErrKey)
	}
	material, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: it is not standard base64 with padding", ErrKey)
	}
	if len(material) < minKeyBytes || len(material) > most {
		return nil, fmt.Errorf("%w: it has %d bytes, not %d to %d", ErrKey, len(material), minKeyBytes, most)
	}
	return keep(material), nil
}

// sign is HMAC-SHA256 of text. A missing key signs like an empty one: the result is of no use to anybody, and
// callers check for a key before they sign anything that is sent.
func (s secret) sign(text string) []byte {
	var material []byte
	if s != nil {
		material = s()
	}
	mac := hmac.New(sha256.New, material)
	_, _ = io.WriteString(mac, text) // a hash never fails to write
	return mac.Sum(nil)
}

func (s secret) fingerprint() string {
	if s == nil {
		return "none"
	}
	// The prefix keeps a fingerprint from ever being the hash of the key in some other protocol.
	sum := sha256.Sum256(append([]byte("gatewayd key fingerprint\n"), s()...))
	return hex.EncodeToString(sum[:4])
}

// Format prints "[redacted]" for every verb and flag.
func (k GroupKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue keeps the key out of structured logs.
func (k GroupKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText keeps the key out of JSON and of every other text encoding.
func (k GroupKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Format prints "[redacted]" for every verb and flag.
func (k DeviceKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue keeps the key out of structured logs.
func (k DeviceKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText keeps the key out of JSON and of every other text encoding.
func (k DeviceKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }
