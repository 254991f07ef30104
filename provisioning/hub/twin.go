// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// maxDocument bounds a twin document: 32 KB desired and as much reported (dps-protocol 18.4), with room for the
// metadata that some hubs add.
const maxDocument = 128 << 10

// Twin is what a device sees of its twin. Tags are for the cloud only.
type Twin struct {
	Desired  Properties // what the cloud wants
	Reported Properties // what the device last said it is
}

// Properties are one half of a twin, or a change of it.
type Properties struct {
	// Values by property name, as raw JSON so that "65" stays text and 65 a number. In a change, null deletes. The
	// hub's own members, which begin with "$", are left out.
	Values map[string]json.RawMessage

	// Version counts the changes from 1. It rises by one with each; a gap means that a change was missed.
	Version int64
}

// UnmarshalJSON reads the hub's document: the values and "$version" side by side.
func (p *Properties) UnmarshalJSON(text []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return err
	}
	p.Values, p.Version = make(map[string]json.RawMessage, len(members)), 0
	for name, value := range members {
		switch {
		case name == "$version":
			if err := json.Unmarshal(value, &p.Version); err != nil {
				return fmt.Errorf("$version: %w", err)
			}
		case !strings.HasPrefix(name, "$"):
			p.Values[name] = value
		}
	}
	return nil
}

// parseTwin reads the answer to a twin GET.
func parseTwin(body []byte) (Twin, error) {
	var document struct {
		Desired  *Properties `json:"desired"`
		Reported *Properties `json:"reported"`
	}
	if err := decodeObject(body, &document); err != nil {
		return Twin{}, err
	}
	if document.Desired == nil || document.Reported == nil {
		return Twin{}, fmt.Errorf("%w: the twin lacks its desired or reported half", ErrAnswer)
	}
	return Twin{Desired: *document.Desired, Reported: *document.Reported}, nil
}

// parseDesired reads a pushed change of the desired properties.
func parseDesired(body []byte) (Properties, error) {
	var change Properties
	if err := decodeObject(body, &change); err != nil {
		return Properties{}, err
	}
	if change.Version <= 0 {
		return Properties{}, fmt.Errorf("%w: a change without a version", ErrAnswer)
	}
	return change, nil
}

func decodeObject(body []byte, into any) error {
	if len(body) > maxDocument {
		return fmt.Errorf("%w: it is longer than %d bytes", ErrAnswer, maxDocument)
	}
	if text := bytes.TrimSpace(body); len(text) == 0 || text[0] != '{' {
		return fmt.Errorf("%w: it is not a JSON object", ErrAnswer)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%w: %v", ErrAnswer, err)
	}
	return nil
}
