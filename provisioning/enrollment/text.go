// SPDX-License-Identifier: Apache-2.0

package enrollment

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits for texts, in characters unless said otherwise.
const (
	maxMessage    = 512
	maxTrackingID = 128
	maxHostName   = 253
	maxID         = 128  // of entries and registrations (dps-protocol 2.2)
	maxToken      = 8192 // a continuation, in bytes
)

// ErrID is wrapped by the complaint about an ID that cannot be sent.
var ErrID = errors.New("not an ID")

// checkID refuses an ID that would make another request of it. Which ones it
// takes is the service's affair: it knows some that were made under older rules.
func checkID(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("%w: it is empty", ErrID)
	case len(id) > maxID:
		return fmt.Errorf("%w: it has %d bytes, the service takes %d", ErrID, len(id), maxID)
	case id == "." || id == ".." || !utf8.ValidString(id) || strings.IndexFunc(id, unicode.IsControl) >= 0:
		return fmt.Errorf("%w: %q is no name", ErrID, id)
	}
	return nil
}

// isHostName tells whether text can be dialled and signed for as a host.
func isHostName(text string) bool {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-."
	beyond := func(r rune) bool { return !strings.ContainsRune(allowed, r) }
	return text != "" && len(text) <= maxHostName && strings.IndexFunc(text, beyond) < 0 &&
		!strings.ContainsAny(text[:1], "-.") && !strings.Contains(text, "..")
}

// printable makes a text from the service fit to be shown: control characters
// and bad encoding become spaces, runs of them one, and what exceeds most
// characters is cut off.
func printable(text string, most int) string {
	if len(text) > 4*most {
		text = text[:4*most] // bounds the work; the cut by characters below is the exact one
	}
	clean := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	clean = strings.Join(strings.Fields(clean), " ")
	if utf8.RuneCountInString(clean) > most {
		clean = string([]rune(clean)[:most-1]) + "…"
	}
	return clean
}
