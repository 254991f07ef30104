// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const (
	// maxSASToken bounds a token; real ones have 150 to 400 bytes.
	maxSASToken = 4096

	// clockSkew is how long after its expiry a token is still taken. The
	// service's own tolerance is not documented (dps-protocol 5.3 point 6).
	clockSkew = 5 * time.Minute
)

// The ways in which a token can fail. None of the texts shows any of it.
var (
	errSASForm      = errors.New("no shared access signature, or a malformed one")
	errSASResource  = errors.New("the token is for another resource")
	errSASExpired   = errors.New("the token has expired; check the device's clock")
	errSASSignature = errors.New("the signature does not match any key of an enrollment")
)

// sasToken is a shared access signature, taken apart but not yet believed.
type sasToken struct {
	resource  string    // sr, percent-decoded
	signed    string    // the text that was signed: sr and se as they stand in the token
	signature []byte    // sig, decoded
	expiry    time.Time // se
	policy    string    // skn, percent-decoded, or ""
}

// parseSASToken takes a token apart by dps-protocol 5.3: fields in any order,
// none twice, and the signed text exactly as it was sent, because clients
// encode the resource in four different ways.
func parseSASToken(text string) (sasToken, error) {
	scheme, rest, ok := strings.Cut(text, " ")
	if !ok || scheme != "SharedAccessSignature" || len(text) > maxSASToken {
		return sasToken{}, errSASForm
	}
	// A line feed parts what is signed, so it may not stand in the parts.
	if strings.ContainsFunc(rest, unicode.IsControl) {
		return sasToken{}, errSASForm
	}
	fields := make(map[string]string, 4)
	for part := range strings.SplitSeq(rest, "&") {
		name, value, ok := strings.Cut(part, "=")
		if _, twice := fields[name]; twice || !ok {
			return sasToken{}, errSASForm
		}
		fields[name] = value
	}
	sr, sig, se := fields["sr"], fields["sig"], fields["se"]
	if sr == "" || sig == "" || se == "" {
		return sasToken{}, errSASForm
	}
	// PathUnescape leaves "+" alone, which is a base64 digit here.
	resource, err := url.PathUnescape(sr)
	if err != nil {
		return sasToken{}, errSASForm
	}
	plain, err := url.PathUnescape(sig)
	if err != nil {
		return sasToken{}, errSASForm
	}
	signature, err := base64.StdEncoding.DecodeString(plain)
	if err != nil {
		return sasToken{}, errSASForm
	}
	policy, err := url.PathUnescape(fields["skn"])
	if err != nil {
		return sasToken{}, errSASForm
	}
	seconds, err := strconv.ParseUint(se, 10, 40)
	if err != nil {
		return sasToken{}, errSASForm
	}
	return sasToken{
		resource:  resource,
		signed:    sr + "\n" + se,
		signature: signature,
		expiry:    time.Unix(int64(seconds), 0),
		policy:    policy,
	}, nil
}

// check tells whether the token speaks of the resource and is still good.
// Resources are compared without case, since some clients lower-case theirs.
func (t sasToken) check(resource string, now time.Time) error {
	if !strings.EqualFold(t.resource, resource) {
		return errSASResource
	}
	if now.After(t.goodUntil()) {
		return errSASExpired
	}
	return nil
}

// goodUntil is the moment after which the token is refused.
func (t sasToken) goodUntil() time.Time { return t.expiry.Add(clockSkew) }

// signedBy tells whether key made the signature, in constant time.
func (t sasToken) signedBy(key []byte) bool {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(t.signed))
	return hmac.Equal(mac.Sum(nil), t.signature)
}

// deriveKey computes a device's key from a group's (dps-protocol 13.2). The
// registration ID is taken as spelt, no case is folded.
func deriveKey(groupKey []byte, registrationID string) []byte {
	mac := hmac.New(sha256.New, groupKey)
	mac.Write([]byte(registrationID))
	return mac.Sum(nil)
}
