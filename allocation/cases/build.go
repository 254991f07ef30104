// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
)

// build makes an AllocationRequest of a case's own members and the defaults.
func (r *reader) build(raw *rawCase) json.RawMessage {
	short := r.withDefaults(raw)
	if short.CurrentDeviceID == nil && short.CurrentHub != nil {
		short.CurrentDeviceID = short.RegistrationID
	}
	device := object{}
	device.add("registrationId", short.RegistrationID)
	device.add("currentIotHubHostName", short.CurrentHub)
	device.add("currentDeviceId", short.CurrentDeviceID)
	attestation := "symmetricKey"
	if short.Certificate != nil {
		attestation = "x509"
		info := object{}
		info.add("subjectName", &short.Certificate.Subject)
		info.add("issuerName", &short.Certificate.Issuer)
		device.add("x509", &object{{"clientCertificates", object{{"primary", object{{"info", info}}}}}})
	} else {
		device.add("symmetricKey", &object{})
	}
	if payload := r.json("payload", short.Payload); payload != nil {
		device.add("payload", &payload)
	}

	request := object{}
	proof := object{{"attestation", object{{"type", attestation}}}}
	individual := short.Individual != nil && *short.Individual
	switch {
	case individual && raw.Group != nil:
		r.fail("group", "a request comes from an enrollment group or from an individual enrollment; leave out group or individual")
	case individual:
		entry := object{}
		entry.add("registrationId", short.RegistrationID)
		request.add("individualEnrollment", new(append(entry, proof...)))
	case short.Group != nil:
		entry := object{{"enrollmentGroupId", *short.Group}}
		request.add("enrollmentGroup", new(append(entry, proof...)))
	}
	request.add("deviceRuntimeContext", &device)
	request.add("linkedHubs", short.Hubs)
	document, err := json.Marshal(request)
	if err != nil {
		r.fail("", "%v", err)
	}
	return document
}

// withDefaults fills in what the case does not give and does not do without.
func (r *reader) withDefaults(raw *rawCase) rawRequest {
	merged := raw.rawRequest
	own, defaults := reflect.ValueOf(&merged).Elem(), reflect.ValueOf(r.defaults)
	known := keysOf(own.Type(), nil)
	for _, key := range raw.Without {
		if !slices.Contains(known, key) {
			r.fail("without", "without: there is no %q%s", key, didYouMean(key, known))
		}
	}
	for i := range own.NumField() {
		key := own.Type().Field(i).Tag.Get("toml")
		switch without := slices.Contains(raw.Without, key); {
		case without && !own.Field(i).IsZero():
			r.fail("without", "%s is given and left out at the same time", key)
		case !without && own.Field(i).IsZero():
			own.Field(i).Set(defaults.Field(i))
		}
	}
	return merged
}

// object is a JSON object whose members keep their order, the service's.
type object []member

type member struct {
	name  string
	value any
}

// add adds a member; nil is none.
func (o *object) add(name string, value any) {
	if pointer := reflect.ValueOf(value); !pointer.IsNil() {
		*o = append(*o, member{name, pointer.Elem().Interface()})
	}
}

// MarshalJSON writes the members in their order.
func (o object) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			out.WriteByte(',')
		}
		name, err := json.Marshal(m.name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&out, "%s:%s", name, value)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// object reads a value that must be a table, or nothing.
func (r *reader) object(key string, value any) json.RawMessage {
	if _, ok := value.(map[string]any); value != nil && !ok {
		r.fail(key, "%s is a table, such as { name = \"value\" }", key)
		return nil
	}
	return r.json(key, value)
}

// json turns a value of the file into JSON; no value is nil.
func (r *reader) json(key string, value any) json.RawMessage {
	if value == nil {
		return nil
	}
	if err := checkJSON(value); err != nil {
		r.fail(key, "%s: %v", key, err)
		return nil
	}
	document, err := json.Marshal(value)
	if err != nil {
		r.fail(key, "%s: %v", key, err)
		return nil
	}
	return document
}

// checkJSON finds what TOML has and JSON does not.
func checkJSON(value any) error {
	switch value := value.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(value)) {
			if err := checkJSON(value[name]); err != nil {
				return err
			}
		}
	case []any:
		for _, element := range value {
			if err := checkJSON(element); err != nil {
				return err
			}
		}
	case float64:
		if math.IsInf(value, 0) || math.IsNaN(value) {
			return fmt.Errorf("JSON has no number %v", value)
		}
	case string, int64, bool:
	default:
		return fmt.Errorf("JSON has no dates and times; write \"%v\" between quotes", value)
	}
	return nil
}

// didYouMean ends a message about an unknown word with the nearest known one.
func didYouMean(word string, known []string) string {
	best, distance := "", 1<<30
	if len(word) > 256 {
		return "" // nobody's slip
	}
	for _, candidate := range known {
		d := edits(strings.ToLower(word), strings.ToLower(candidate))
		if d < distance && d <= max(1, len(candidate)/3) {
			best, distance = candidate, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		previous := slices.Clone(row)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(previous[j]+cost, previous[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
