// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
)

// visible makes text from a request fit for a log and for a line on somebody's
// terminal: one line in which every character can be seen. What moves the cursor,
// changes the direction of writing or hides is written as JSON writes it, \u001b,
// so that a document keeps its meaning; white space becomes a space.
func visible(text string) string {
	if isVisible(text) {
		return text
	}
	var out strings.Builder
	for _, r := range text { // what is no UTF-8 comes as U+FFFD
		switch {
		case r == '\t', r == '\r', r == '\n':
			out.WriteByte(' ')
		case unicode.IsPrint(r):
			out.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.String()
}

// loggable gives what a log may show of text from a request, in at most limit
// bytes and a mark.
func loggable(text string, limit int) string {
	return shorten(visible(shorten(text, limit)), limit)
}

// isVisible tells of the usual text that there is nothing to do.
func isVisible[T string | []byte | json.RawMessage](text T) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' {
			return false
		}
	}
	return true
}
