// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"encoding/base64"
	"strings"
)

// etagMatches tells whether an If-Match header lets a change of something with
// this etag pass. Clients send quotes or not (dps-protocol 17.4), one of them
// around the asterisk too.
func etagMatches(ifMatch, etag string) bool {
	wanted := unquote(strings.TrimSpace(ifMatch))
	return wanted == "*" || wanted == unquote(etag)
}

// unquote removes one pair of quotes.
func unquote(etag string) string {
	if len(etag) >= 2 && strings.HasPrefix(etag, `"`) && strings.HasSuffix(etag, `"`) {
		return etag[1 : len(etag)-1]
	}
	return etag
}

// quotedETag turns the etag of a registration as its device sees it, base64 of
// the quoted text, into that text.
func quotedETag(encoded string) string {
	text, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return encoded
	}
	return string(text)
}
