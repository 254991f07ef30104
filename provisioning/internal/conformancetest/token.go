// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// tokenShape is rule 10's form of a SAS token (dps-protocol 5.1): this order, and escapes in upper case.
var tokenShape = regexp.MustCompile(`^SharedAccessSignature sr=([^&= ]+)&sig=([^&= ]+)&se=([0-9]+)&skn=registration$`)

// lowerEscape is an escape that is not in upper case.
var lowerEscape = regexp.MustCompile(`%([0-9a-fA-F][a-f]|[a-f][0-9a-fA-F])`)

// tokenLifetime is how long a token lives.
const tokenLifetime = time.Hour

// CheckToken tells what is wrong with the token of a device that was signed at a time; nothing is "". It shares no code
// with a client: it takes the token apart by dps-protocol 5 and checks the signature over the text as it came.
func CheckToken(token, registrationID, key string, signed time.Time) string {
	if wrong := lowerEscape.FindString(token); wrong != "" {
		return fmt.Sprintf("the escape %s is not in upper case", wrong)
	}
	parts := tokenShape.FindStringSubmatch(token)
	if parts == nil {
		return fmt.Sprintf("the token is not SharedAccessSignature sr=…&sig=…&se=…&skn=registration, in this order: %.60q", token)
	}
	resource, signature, expiry := parts[1], parts[2], parts[3]
	if want := escaped(IDScope + "/registrations/" + registrationID); resource != want {
		return fmt.Sprintf("sr is %q, want %q", resource, want)
	}
	secret, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		return "the key is not base64"
	}
	mac := hmac.New(sha256.New, secret)
	_, _ = mac.Write([]byte(resource + "\n" + expiry))
	if want := escaped(base64.StdEncoding.EncodeToString(mac.Sum(nil))); signature != want {
		return "the signature is not that of sr, a line feed and se with the device's key"
	}
	ends, err := strconv.ParseInt(expiry, 10, 64)
	if err != nil {
		return "se is not a number of seconds"
	}
	if lives := time.Unix(ends, 0).Sub(signed.Truncate(time.Second)); lives <= 0 || lives > tokenLifetime {
		return fmt.Sprintf("se lies %v ahead, want up to %v", lives, tokenLifetime)
	}
	return ""
}

// escaped leaves letters, digits and - . _ ~ as they are (RFC 3986) and writes the rest as %XX.
func escaped(text string) string {
	var out strings.Builder
	for _, b := range []byte(text) {
		switch {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', strings.IndexByte("-._~", b) >= 0:
			out.WriteByte(b)
		default:
			fmt.Fprintf(&out, "%%%02X", b)
		}
	}
	return out.String()
}
