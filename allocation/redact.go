// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"encoding/json"
	"strings"
)

// quotedRedacted stands in a document for a secret value.
const quotedRedacted = `"` + redacted + `"`

// redact returns a valid JSON document without its secrets, everything else
// byte for byte as it was: for a log that shows the exact request.
//
// Masked are all texts and numbers in members whose names say that they are
// secret, and texts that carry one: the query of a URL becomes **** as in the
// webhook URL that the service shows (dps-protocol 12.1), and a connection string
// or SAS token goes as a whole. The service sends neither today; a payload may.
//
// It scans instead of decoding because it runs for every request. A document
// without secrets is returned as it is, not as a copy.
func redact(document []byte) []byte {
	var out []byte
	copied := 0                   // document[:copied] is in out
	secret := false               // the value that comes next is a secret, or in one
	within := make([]bool, 1, 16) // of each open bracket: whether all in it is secret
	for i := 0; i < len(document); {
		end, masked := i+1, []byte(nil)
		switch c := document[i]; {
		case c == '"':
			end = endOfString(document, i)
			if isMemberName(document, end) {
				secret = within[len(within)-1] || isSecretName(document[i:end])
			} else {
				masked = maskText(document[i:end], secret)
			}
		case c == '{' || c == '[':
			within = append(within, secret)
		case c == '}' || c == ']':
			within = within[:len(within)-1]
			secret = within[len(within)-1]
		case secret && (c == '-' || '0' <= c && c <= '9'):
			end = endOfLiteral(document, i)
			masked = []byte(quotedRedacted)
		}
		if masked != nil {
			out = append(append(out, document[copied:i]...), masked...)
			copied = end
		}
		i = end
	}
	if copied == 0 {
		return document
	}
	return append(out, document[copied:]...)
}

// maskText gives what to show for one quoted text: nil for the text itself.
func maskText(quoted []byte, secret bool) []byte {
	if secret {
		return []byte(quotedRedacted)
	}
	if !mayHoldSecret(quoted) {
		return nil
	}
	text := unquote(quoted)
	for _, sign := range secretSigns {
		if strings.Contains(text, sign) {
			return []byte(quotedRedacted)
		}
	}
	if hasPassword(text) {
		return []byte(quotedRedacted)
	}
	address, query, found := strings.Cut(text, "?")
	if !found || query == "****" || !strings.Contains(address, "://") {
		return nil
	}
	masked, err := json.Marshal(address + "?****")
	if err != nil {
		return []byte(quotedRedacted)
	}
	return masked
}

// secretSigns stand before a secret in the middle of a text.
var secretSigns = []string{"SharedAccessKey=", "SharedAccessSignature ", "AccountKey=", "Password=", "password=", "Pwd=", "pwd="}

// hasPassword tells of a URL with a user's password, such as a database's.
func hasPassword(text string) bool {
	_, rest, isURL := strings.Cut(text, "://")
	user, _, hasUser := strings.Cut(rest, "@")
	return isURL && hasUser && strings.Contains(user, ":") && !strings.Contains(user, "/")
}

// mayHoldSecret is quick to clear the many texts that hold neither a query nor a
// name with its value nor a user. Of the escapes only \u can hide the sign of one.
func mayHoldSecret(quoted []byte) bool {
	for i, c := range quoted {
		if c == '?' || c == '=' || c == '@' || c == '\\' && quoted[i+1] == 'u' {
			return true
		}
	}
	return false
}

// secretEndings are what the name of a secret ends in, in lower case.
var secretEndings = []string{"key", "password", "passwd", "pwd", "passphrase", "secret", "credential", "token", "connectionstring"}

// isSecretName tells by a member's name that its value is not for a log. A
// plural is as secret as its singular.
func isSecretName(quoted []byte) bool {
	name := textOf(quoted)
	if n := len(name) - 1; n > 0 && name[n]|0x20 == 's' {
		name = name[:n]
	}
	for _, ending := range secretEndings {
		start := len(name) - len(ending)
		if start >= 0 && name[len(name)-1]|0x20 == ending[len(ending)-1] && strings.EqualFold(string(name[start:]), ending) {
			return true
		}
	}
	return false
}

// isMemberName tells whether the string that ends at end is followed by a colon.
func isMemberName(document []byte, end int) bool {
	for _, c := range document[end:] {
		switch c {
		case ' ', '\t', '\r', '\n':
			continue
		default:
			return c == ':'
		}
	}
	return false
}
