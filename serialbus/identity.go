// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The values of [Identity].Source: the rung of the identity ladder that answered (serial 2.1). An appliance that is
// there but has no way to name itself has an Identity with an empty Source.
const (
	SourceALP                  = "alp"                   // the line protocol's identify
	SourceDeviceIdentification = "device-identification" // Modbus 0x2B/0x0E
	SourceServerID             = "server-id"             // Modbus 0x11
	SourceSunSpec              = "sunspec"               // the common model of SunSpec
	SourceUSB                  = "usb"                   // USB descriptors of an appliance that is the USB device itself
	// SourceRegisters: registers that the profile names. They may fill what another source left empty; it stands first
	// then: "device-identification+registers".
	SourceRegisters = "registers"
	SourceText      = "text" // the queries of a text profile
)

// maxIdentityText bounds each text of an Identity, in bytes. A registration ID has at most 128 characters and a
// Modbus object at most 245 bytes; what is longer is cut.
const maxIdentityText = 245

// Identity is what the appliance said of itself on the line. Every field may be empty, and every field is text from
// an unauthenticated line: valid UTF-8, printable, at most 245 bytes, but nothing more. Two Identities are equal
// (==) if the appliance said the same.
type Identity struct {
	Vendor       string
	Model        string // product code, e.g. "HPSD-088"
	Serial       string
	Firmware     string
	Provisioning string // version of the appliance's provisioning data
	// RegistrationID is the appliance's own name for itself, "" if it has none or says something that cannot be one.
	RegistrationID string
	Source         string // one of the Source constants, or "" if it only answers
}

// Confidence says how far an Identity can be relied on. Whatever it is, the identity was read twice alike, and the line
// has authenticated nobody.
type Confidence string

// The confidences, the highest first.
const (
	// SureOfOne: a registration ID or a serial number, read with a checksum: this appliance and no other.
	SureOfOne Confidence = "one"
	// SureUnchecked: the same, read as plain text, which a disturbed line can change.
	SureUnchecked Confidence = "unchecked"
	// SureOfProduct: only the product is known. Two of them look alike, and one that was swapped for another is not
	// noticed.
	SureOfProduct Confidence = "product"
	// SureOfPresence: it answers and tells nothing of itself.
	SureOfPresence Confidence = "presence"
)

// Sure says how far the identity can be relied on.
func (id Identity) Sure() Confidence {
	switch {
	case id.Source == "":
		return SureOfPresence
	case id.RegistrationID == "" && id.Serial == "":
		return SureOfProduct
	case id.Source == SourceText:
		return SureUnchecked
	default:
		return SureOfOne
	}
}

// registrationIDPattern is the intersection of the rules that the service documents (serial 2.3), in any case.
var registrationIDPattern = regexp.MustCompile(`^(?i:[a-z0-9]([a-z0-9-]{0,126}[a-z0-9])?)$`)

// cleaned returns the identity with its texts made safe to show, and without a registration ID that cannot be one.
func (id Identity) cleaned() Identity {
	for _, text := range []*string{&id.Vendor, &id.Model, &id.Serial, &id.Firmware, &id.Provisioning, &id.RegistrationID} {
		*text = cleanText(*text)
	}
	if !registrationIDPattern.MatchString(id.RegistrationID) {
		id.RegistrationID = ""
	}
	return id
}

// cleanText makes a text from the wire safe to show: padding goes, what cannot be printed becomes U+FFFD. Control
// characters would otherwise reach terminals and logs.
func cleanText(text string) string {
	text = strings.Trim(text, "\x00 \t\r\n")
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, text)
	if len(text) <= maxIdentityText {
		return text
	}
	cut := maxIdentityText
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut]
}
