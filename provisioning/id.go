// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"errors"
	"fmt"
	"strings"
)

// ErrRegistrationID is wrapped by every complaint about a registration ID.
var ErrRegistrationID = errors.New("not a valid registration ID")

// maxRegistrationID is the documented length limit, in characters, which are all ASCII (dps-protocol 2.2).
const maxRegistrationID = 128

const (
	lowerAlphanumeric = "abcdefghijklmnopqrstuvwxyz0123456789"
	alphanumeric      = lowerAlphanumeric + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// CheckRegistrationID tells whether the service takes id: 1 to 128 letters, digits, "-", ".", "_" or ":", the last
// one a letter, a digit or "-" (dps-protocol 2.2). It is checked before anything is sent (rule 11). The error wraps
// [ErrRegistrationID] and says which part of the rule was broken.
func CheckRegistrationID(id string) error {
	if id == "" {
		return fmt.Errorf("%w: it is empty", ErrRegistrationID)
	}
	if len(id) > maxRegistrationID {
		return fmt.Errorf("%w: it has %d characters, the service takes %d", ErrRegistrationID, len(id), maxRegistrationID)
	}
	if at := indexNotIn(id, alphanumeric+"-._:"); at >= 0 {
		return fmt.Errorf("%w: %q holds %q, allowed are - . _ : and letters and digits", ErrRegistrationID, id, firstRune(id[at:]))
	}
	if last := id[len(id)-1:]; !strings.Contains(alphanumeric+"-", last) {
		return fmt.Errorf("%w: %q ends with %q, it must end with a letter, a digit or -", ErrRegistrationID, id, last)
	}
	return nil
}

// CheckEmittedRegistrationID tells whether gatewayd itself may register under id. It is narrower than
// [CheckRegistrationID]: lower-case letters, digits and inner dashes only, since that is the one spelling on which
// every source agrees, whatever the case rules (serial 2.3, rule 11).
func CheckEmittedRegistrationID(id string) error {
	if err := CheckRegistrationID(id); err != nil {
		return err
	}
	if at := indexNotIn(id, lowerAlphanumeric+"-"); at >= 0 {
		return fmt.Errorf("%w: %q holds %q, gatewayd registers lower-case letters, digits and - only", ErrRegistrationID, id, firstRune(id[at:]))
	}
	if id[0] == '-' || id[len(id)-1] == '-' {
		return fmt.Errorf("%w: %q begins or ends with a dash", ErrRegistrationID, id)
	}
	return nil
}

// indexNotIn returns the index of the first character of text that is not in allowed, or -1.
func indexNotIn(text, allowed string) int {
	return strings.IndexFunc(text, func(r rune) bool { return !strings.ContainsRune(allowed, r) })
}

func firstRune(text string) string {
	for _, r := range text {
		return string(r)
	}
	return ""
}
