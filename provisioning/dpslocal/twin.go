// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
)

// The sizes that a hub allows (dps-protocol 18.4), in bytes of JSON.
const (
	maxTwinSection = 32 << 10 // desired and reported, each
	maxTwinTags    = 8 << 10
	maxTwinDepth   = 10
)

// Twin is a device twin. The maps hold the JSON of each member; they never hold
// "$version", which the two counters are.
type Twin struct {
	// Tags are for the service side only; no device ever sees them.
	Tags map[string]json.RawMessage

	// Desired is what the cloud wants, Reported what the device says.
	Desired, Reported map[string]json.RawMessage

	// The versions start at 1 and rise by 1 with each accepted patch.
	TagsVersion, DesiredVersion, ReportedVersion int
}

// initialTwin is the twin that an enrollment or a webhook gives a new device.
type initialTwin struct {
	Tags       map[string]json.RawMessage `json:"tags"`
	Properties struct {
		Desired map[string]json.RawMessage `json:"desired"`
	} `json:"properties"`
}

// parseInitialTwin reads {"tags":{},"properties":{"desired":{}}}, every part of
// which may be absent or null.
func parseInitialTwin(document []byte) (Twin, error) {
	var initial initialTwin
	if err := json.Unmarshal(document, &initial); err != nil {
		return Twin{}, errors.New(`not of the form {"tags":{},"properties":{"desired":{}}}`)
	}
	twin := Twin{TagsVersion: 1, DesiredVersion: 1, ReportedVersion: 1, Reported: map[string]json.RawMessage{}}
	var err error
	if twin.Tags, err = mergeSection(nil, initial.Tags, maxTwinTags); err != nil {
		return Twin{}, fmt.Errorf("tags: %w", err)
	}
	if twin.Desired, err = mergeSection(nil, initial.Properties.Desired, maxTwinSection); err != nil {
		return Twin{}, fmt.Errorf("desired properties: %w", err)
	}
	return twin, nil
}

// mergeSection applies a JSON merge patch to one section of a twin and returns
// the new section; the old one is left alone. A null removes a member.
func mergeSection(section, patch map[string]json.RawMessage, limit int) (map[string]json.RawMessage, error) {
	merged, err := merge(section, patch, 1)
	if err != nil {
		return nil, err
	}
	if size := len(encodeJSON(merged)); size > limit {
		return nil, fmt.Errorf("%d bytes long, at most %d are allowed", size, limit)
	}
	return merged, nil
}

// merge is RFC 7396 with the rules of a twin: names that a hub takes, and no more
// than ten objects within each other, which bounds the recursion too.
func merge(target, patch map[string]json.RawMessage, depth int) (map[string]json.RawMessage, error) {
	if depth > maxTwinDepth {
		return nil, fmt.Errorf("nested deeper than %d objects", maxTwinDepth)
	}
	merged := maps.Clone(target)
	if merged == nil {
		merged = make(map[string]json.RawMessage, len(patch))
	}
	for name, value := range patch {
		if name == "" || strings.ContainsFunc(name, forbiddenInTwin) {
			return nil, fmt.Errorf("%q cannot name a property: leave out $, dots, spaces and control characters", name)
		}
		value = bytes.TrimSpace(value)
		if !present(value) {
			delete(merged, name)
			continue
		}
		if !json.Valid(value) {
			return nil, fmt.Errorf("%q: not JSON", name)
		}
		if value[0] != '{' {
			merged[name] = compactJSON(value)
			continue
		}
		inner, err := merge(objectOf(merged[name]), objectOf(value), depth+1)
		if err != nil {
			return nil, err
		}
		merged[name] = encodeJSON(inner)
	}
	return merged, nil
}

// objectOf decodes an object, and anything else as an empty one.
func objectOf(value json.RawMessage) map[string]json.RawMessage {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(value, &object); err != nil {
		return nil
	}
	return object
}

// forbiddenInTwin tells the characters that a hub refuses in a name; "$" is kept
// for its own members.
func forbiddenInTwin(r rune) bool {
	return r == '$' || r == '.' || r == ' ' || r < 0x20 || r == 0x7f
}

// document is the answer to a twin GET: both sections with their versions.
func (t Twin) document() []byte {
	return encodeJSON(struct {
		Desired  map[string]json.RawMessage `json:"desired"`
		Reported map[string]json.RawMessage `json:"reported"`
	}{
		withVersion(t.Desired, t.DesiredVersion),
		withVersion(t.Reported, t.ReportedVersion),
	})
}

// withVersion returns a copy of a section with its "$version".
func withVersion(section map[string]json.RawMessage, version int) map[string]json.RawMessage {
	versioned := maps.Clone(section)
	if versioned == nil {
		versioned = make(map[string]json.RawMessage, 1)
	}
	versioned["$version"] = encodeJSON(version)
	return versioned
}
