// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/contoso/gatewayd/allocation"
)

// seen is what a condition looks at: one member of the request or of the
// device's row. A member that is null counts as absent.
type seen struct {
	present bool
	text    string   // the value as text; a number or boolean as it is spelled
	value   any      // int64, float64, bool, or what has no text; nil: text says it all
	several []string // the values of a member that is a list of texts
}

// fieldKind says which matchers a field takes.
type fieldKind int

const (
	textField    fieldKind = iota // text
	listField                     // several texts, one of which must fit
	versionField                  // text that is compared by its numbers
	numberField                   // a number
	boolField                     // true or false
	anyField                      // any JSON value
)

// field is something that a condition can look at.
type field struct {
	name string
	kind fieldKind
	read func(*subject) seen

	// fold, where it is set, brings both sides of a comparison into one spelling.
	fold func(string) string

	// words, where they are set, are all values that there are.
	words []string
}

// fields are those with a name of their own. Groups of fields (certificate,
// payload, device) are in fieldGroup.
var fields = []field{
	{name: "registration_id", read: func(s *subject) seen { return optionalText(s.request.DeviceRuntimeContext.RegistrationID) }},
	{name: "model", read: payloadMember("model")},
	{name: "firmware", kind: versionField, read: payloadMember("MyDeviceFirmwareVersion")},
	{name: "current_hub", read: func(s *subject) seen { return textOrAbsent(s.request.DeviceRuntimeContext.CurrentIoTHubHostName) }},
	{name: "current_device_id", read: func(s *subject) seen { return textOrAbsent(s.request.DeviceRuntimeContext.CurrentDeviceID) }},
	{name: "enrollment_group", read: func(s *subject) seen { return toSeen(s.readEnrollmentGroup()["enrollmentGroupId"]) }},
	{name: "individual_enrollment", read: func(s *subject) seen { return toSeen(s.readIndividual()["registrationId"]) }},
	{name: "attestation", words: []string{"symmetricKey", "x509", "tpm"}, read: func(s *subject) seen {
		return textOrAbsent(s.request.DeviceRuntimeContext.Attestation())
	}},
	{name: "linked_hubs", kind: listField, read: func(s *subject) seen {
		return seen{present: s.request.LinkedHubs != nil, several: s.request.LinkedHubs}
	}},
}

// certificateFields are those of the group "certificate".
var certificateFields = []field{
	{name: "subject", read: func(s *subject) seen { return textOrAbsent(s.readCertificate().SubjectName) }},
	{name: "issuer", read: func(s *subject) seen { return textOrAbsent(s.readCertificate().IssuerName) }},
	{name: "serial_number", fold: hexDigits, read: func(s *subject) seen { return textOrAbsent(s.readCertificate().SerialNumber) }},
	{name: "thumbprint", kind: listField, fold: hexDigits, read: func(s *subject) seen {
		read := s.readCertificate()
		prints := []string{read.SHA256Thumbprint, read.SHA1Thumbprint}
		return seen{present: read.found, several: prints}
	}},
}

// The groups of fields, which have keys of their own.
const (
	certificateGroup = "certificate"
	payloadGroup     = "payload"
	deviceGroup      = "device"
	expressionKey    = "cel"
)

// conditionNames are all keys of a "when" table.
func conditionNames() []string {
	names := fieldNames(fields)
	return append(names, certificateGroup, payloadGroup, deviceGroup, expressionKey)
}

func fieldNames(of []field) []string {
	names := make([]string, len(of))
	for i, f := range of {
		names[i] = f.name
	}
	return names
}

func findField(of []field, name string) (field, bool) {
	for _, f := range of {
		if f.name == name {
			return f, true
		}
	}
	return field{}, false
}

// payloadField is a member of the device's payload by its path: names with dots
// between them, or a JSON pointer where a name has a dot itself.
func payloadField(path string) field {
	return field{name: "payload." + path, kind: anyField, read: payloadMember(splitPath(path)...)}
}

func splitPath(path string) []string {
	pointer, isPointer := strings.CutPrefix(path, "/")
	if !isPointer {
		return strings.Split(path, ".")
	}
	names := strings.Split(pointer, "/")
	for i, name := range names {
		names[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
	}
	return names
}

func payloadMember(path ...string) func(*subject) seen {
	return func(s *subject) seen {
		value := s.readPayload()
		for _, name := range path {
			switch at := value.(type) {
			case map[string]any:
				value = at[name]
			case []any:
				index, err := strconv.Atoi(name)
				if err != nil || index < 0 || index >= len(at) {
					return seen{}
				}
				value = at[index]
			default:
				return seen{}
			}
		}
		return toSeen(value)
	}
}

// deviceField is a column of the device directory.
func deviceField(column string, holds allocation.ColumnType) field {
	kinds := map[allocation.ColumnType]fieldKind{allocation.ColumnText: textField, allocation.ColumnNumber: numberField, allocation.ColumnBool: boolField}
	return field{name: "device." + column, kind: kinds[holds], read: func(s *subject) seen { return toSeen(s.device[column]) }}
}

// toSeen takes a value of a JSON document or of a row.
func toSeen(value any) seen {
	switch v := value.(type) {
	case nil:
		return seen{}
	case string:
		return seen{present: true, text: v}
	case bool:
		return seen{present: true, text: strconv.FormatBool(v), value: v}
	case json.Number:
		return seen{present: true, text: v.String(), value: number(v)}
	case int64:
		return seen{present: true, text: strconv.FormatInt(v, 10), value: v}
	case float64:
		return seen{present: true, text: strconv.FormatFloat(v, 'g', -1, 64), value: v}
	default:
		return seen{present: true, value: v}
	}
}

// number gives an int64 where the number is one, and else the nearest float64.
func number(n json.Number) any {
	if whole, err := n.Int64(); err == nil {
		return whole
	}
	nearest, _ := n.Float64() // out of range: an infinity, which compares as it should
	return nearest
}

func optionalText(value *string) seen {
	if value == nil {
		return seen{}
	}
	return seen{present: true, text: *value}
}

func textOrAbsent(value string) seen { return seen{present: value != "", text: value} }

// hexDigits brings a thumbprint or serial number into one spelling: tools write
// them in either case, with colons or with spaces.
func hexDigits(value string) string {
	return strings.ToLower(strings.NewReplacer(":", "", " ", "").Replace(value))
}

// String shows what was seen, for an explanation.
func (s seen) String() string {
	switch {
	case !s.present:
		return "absent"
	case s.several != nil:
		return quoteList(s.several)
	case s.text != "" && s.value != nil:
		return clip(s.text)
	case s.value != nil:
		document, err := json.Marshal(s.value)
		if err != nil {
			return "a JSON value"
		}
		return clip(string(document))
	default:
		return strconv.Quote(clip(s.text))
	}
}

func quoteList(values []string) string {
	if len(values) == 0 {
		return "an empty list"
	}
	quoted := make([]string, 0, len(values))
	for _, value := range values {
		quoted = append(quoted, strconv.Quote(value))
	}
	return clip(strings.Join(quoted, ", "))
}

// maxShown bounds how much of a value an explanation or an error shows, in
// bytes.
const maxShown = 200

// clip cuts text for showing, between two characters.
func clip(value string) string {
	if len(value) <= maxShown {
		return value
	}
	cut := maxShown
	for cut > 0 && value[cut]&0xC0 == 0x80 {
		cut--
	}
	return value[:cut] + "…"
}
