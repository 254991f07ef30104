// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits for texts that the service names (rule 9), in bytes unless said otherwise.
const (
	maxBody        = 64 << 10 // a whole answer; the service's own message limit is 96 KB
	maxMessage     = 512      // an error message, in characters, as kept for logs and pages
	maxTrackingID  = 128
	maxOperationID = 256
	maxHostName    = 253
	maxDeviceID    = 128
	maxETag        = 256
	maxGroupID     = 128
)

// printable makes a text from the service fit to be shown: bad encoding and control characters become spaces,
// runs of white space one space, and what exceeds most characters is cut off, marked with an ellipsis.
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

// separators are the characters that separate the parts of a URL, of an MQTT topic or of a quoted text.
const separators = `/?#&+%"\`

// isPlain tells whether text is 1 to most printable ASCII characters, without white space and separators.
func isPlain(text string, most int) bool {
	return isPrintableASCII(text, most) && !strings.ContainsAny(text, separators)
}

// isDeviceID tells whether text can be a device ID: the service allows more punctuation there than in a registration
// ID (dps-protocol 2.2), of which only what would break a topic or a resource is refused.
func isDeviceID(text string) bool {
	return isPrintableASCII(text, maxDeviceID) && !strings.ContainsAny(text, `/#+&"\`)
}

func isPrintableASCII(text string, most int) bool {
	beyond := func(r rune) bool { return r <= ' ' || r > '~' }
	return text != "" && len(text) <= most && strings.IndexFunc(text, beyond) < 0
}

// isHostName tells whether text can be dialled as a host name: letters, digits, dots and dashes.
func isHostName(text string) bool {
	return text != "" && len(text) <= maxHostName && indexNotIn(text, alphanumeric+".-") < 0 &&
		strings.Contains(alphanumeric, text[:1]) && !strings.Contains(text, "..")
}
