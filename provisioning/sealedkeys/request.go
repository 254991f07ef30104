// SPDX-License-Identifier: Apache-2.0

package sealedkeys

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/contoso/gatewayd/provisioning"
)

// version is that of both file formats.
const version = 1

// Limits of both files. A building has hundreds of appliances.
const (
	// MaxDevices is how many registration IDs a request or a grant may hold.
	MaxDevices = 4096

	// MaxRequest bounds a request's file, in bytes.
	MaxRequest = 1 << 20

	// MaxSealed bounds a grant's file, in bytes.
	MaxSealed = 4 << 20

	maxOpened = 2 << 20 // bytes of JSON in a grant
	maxSite   = 64
)

// ErrRequest is wrapped by every complaint about a request.
var ErrRequest = errors.New("not a usable request for keys")

// Request asks for the keys of some devices, to be sealed to one gateway. It holds no secret.
type Request struct {
	Version         int       `json:"version"`         // 1
	Site            string    `json:"site"`            // lower-case letters, digits and hyphens, at most 64
	Recipient       string    `json:"recipient"`       // the gateway's public half, age1…
	RegistrationIDs []string  `json:"registrationIds"` // 1 to MaxDevices, each once in whatever case
	Created         time.Time `json:"created"`
}

// NewRequest makes a request. The error wraps [ErrRequest].
func NewRequest(site, recipient string, registrationIDs []string, now time.Time) (Request, error) {
	r := Request{
		Version: version, Site: site, Recipient: recipient, RegistrationIDs: registrationIDs,
		Created: now.UTC().Truncate(time.Second),
	}
	return r, r.check()
}

// ParseRequest reads a request's file and checks all of it: it comes from elsewhere. The error wraps [ErrRequest].
func ParseRequest(text []byte) (Request, error) {
	if len(text) > MaxRequest {
		return Request{}, fmt.Errorf("%w: larger than %d KiB", ErrRequest, MaxRequest>>10)
	}
	var r Request
	if err := decode(text, &r); err != nil {
		return Request{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return r, r.check()
}

// Encode gives the request's file.
func (r Request) Encode() ([]byte, error) {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing the request: %w", err)
	}
	return append(text, '\n'), nil
}

func (r Request) check() error {
	if err := checkSite(r.Site); err != nil {
		return fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if _, err := parseRecipient(r.Recipient); err != nil {
		return fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if err := checkDevices(r.RegistrationIDs); err != nil {
		return fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if r.Created.IsZero() {
		return fmt.Errorf("%w: it does not say when it was made", ErrRequest)
	}
	return nil
}

// checkSite takes the names that a gateway's configuration takes, which are safe to show.
func checkSite(site string) error {
	odd := strings.IndexFunc(site, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-", r)
	})
	if site == "" || len(site) > maxSite || odd >= 0 {
		return fmt.Errorf("the site's name must be 1 to %d lower-case letters, digits and hyphens", maxSite)
	}
	return nil
}

// checkDevices checks each registration ID, and that none comes twice: the service does not tell spellings apart
// (dps-protocol 2.2) but derivation does, so two of one device would have two keys.
func checkDevices(ids []string) error {
	if len(ids) == 0 || len(ids) > MaxDevices {
		return fmt.Errorf("it names %d registration IDs, not 1 to %d", len(ids), MaxDevices)
	}
	seen := make(map[string]string, len(ids))
	for i, id := range ids {
		if err := provisioning.CheckRegistrationID(id); err != nil {
			return fmt.Errorf("registration ID %d: %w", i+1, err)
		}
		folded := strings.ToLower(id)
		if first, twice := seen[folded]; twice {
			return fmt.Errorf("%q and %q are the same registration ID to the service; name it once, spelled as it registers", first, id)
		}
		seen[folded] = id
	}
	return nil
}

// errNewer is for files of later programs.
var errNewer = errors.New("it was written by a newer program than this one; update this one")

// decode reads one JSON value of our version. Errors do not quote the text, which may hold keys.
func decode(text []byte, into any) error {
	var header struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(text, &header); err != nil { // also when something follows the object
		return errors.New("it is not a JSON object with a version number")
	}
	if header.Version > version {
		return errNewer
	}
	if header.Version != version {
		return fmt.Errorf("it has no version number that is known (%d)", version)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		var unfit *json.UnmarshalTypeError
		if errors.As(err, &unfit) {
			return fmt.Errorf("its member %q is of another type", unfit.Field)
		}
		return errors.New("it has a member that is not known or not what it should be")
	}
	return nil
}
