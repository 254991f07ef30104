// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"encoding/json"
	"strings"
)

// redact returns a valid JSON document without its secrets, everything else
// byte for byte as it was: for a log that shows the exact request.
//
// Masked are the values of members whose names say that they are secret, and
// texts that carry one: the query of a URL becomes **** as in the webhook URL
// that the service shows (dps-protocol 12.1), and a connection string or SAS
// token goes as a whole. The service sends neither today; a payload may.
//
// It scans instead of decoding because it runs for every request.
func redact(document []byte) []byte {
	out := make([]byte, 0, len(document))
	secret := false             // the value that comes next belongs to a secret member
	outer := make([]bool, 0, 8) // secret, as it was before each open bracket
	for i := 0; i < len(document); {
		switch c := document[i]; {
		case c == '"':
			end := endOfString(document, i)
			text := document[i:end]
			if isMemberName(document, end) {
				secret = isSecretName(text)
				out = append(out, text...)
			} else {
				out = append(out, redactText(text, secret)...)
			}
			i = end
		case secret && (c == '-' || '0' <= c && c <= '9'):
			out = append(out, `"`+redacted+`"`...)
			i = endOfNumber(document, i)
		default:
			switch c {
			case '{', '[':
				outer = append(outer, secret)
				secret = secret && c == '['
			case '}', ']':
				secret = outer[len(outer)-1]
				outer = outer[:len(outer)-1]
			}
			out = append(out, c)
			i++
		}
	}
	return out
}

// redactText masks one quoted text, if it is secret or carries a secret.
func redactText(quoted []byte, secret bool) []byte {
	if secret {
		return []byte(`"` + redacted + `"`)
	}
	if !bytes.ContainsAny(quoted, `\?=`) {
		return quoted
	}
	text := unquote(quoted)
	if strings.Contains(text, "SharedAccessKey=") || strings.Contains(text, "SharedAccessSignature ") || strings.Contains(text, "AccountKey=") {
		return []byte(`"` + redacted + `"`)
	}
	address, query, found := strings.Cut(text, "?")
	if !found || query == "****" || !strings.Contains(address, "://") {
		return quoted
	}
	masked, err := json.Marshal(address + "?****")
	if err != nil {
		return []byte(`"` + redacted + `"`)
	}
	return masked
}

// isSecretName tells by a member's name that its value is not for a log. A
// plural is as secret as its singular.
func isSecretName(quoted []byte) bool {
	name := strings.TrimSuffix(strings.ToLower(unquote(quoted)), "s")
	for _, ending := range []string{"key", "password", "secret", "token", "connectionstring"} {
		if strings.HasSuffix(name, ending) {
			return true
		}
	}
	return false
}

// unquote gives the text of a quoted string that is known to be valid.
func unquote(quoted []byte) string {
	if !bytes.ContainsRune(quoted, '\\') {
		return string(quoted[1 : len(quoted)-1])
	}
	var text string
	if err := json.Unmarshal(quoted, &text); err != nil {
		return ""
	}
	return text
}

// endOfString gives the offset behind the string that starts at start.
func endOfString(document []byte, start int) int {
	for i := start + 1; i < len(document); i++ {
		switch document[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(document)
}

// endOfNumber gives the offset behind the number that starts at start.
func endOfNumber(document []byte, start int) int {
	for i := start; i < len(document); i++ {
		if !bytes.ContainsRune([]byte("+-.0123456789eE"), rune(document[i])) {
			return i
		}
	}
	return len(document)
}

// isMemberName tells whether the string that ends at end is followed by a colon.
func isMemberName(document []byte, end int) bool {
	rest := bytes.TrimLeft(document[end:], " \t\r\n")
	return len(rest) > 0 && rest[0] == ':'
}
