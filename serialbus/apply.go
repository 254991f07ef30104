// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Settings are what an appliance is to be brought to.
type Settings struct {
	AssignedHub string
	DeviceID    string
	// Desired maps a property's name to its value in the twin's JSON, without $version.
	Desired map[string]json.RawMessage
	// Payload is what the allocation policy sent back, nil = nothing.
	Payload json.RawMessage
	// RegistrationID is whose settings they are, and Revision the twin's $version of them: under both the write is noted
	// in the [Journal]. An empty ID leaves the journal out.
	RegistrationID string
	Revision       int64
}

// Applied is what an appliance was found to hold after [Bus.Apply].
type Applied struct {
	// Reported maps a property's name to the value read back from the appliance, in the JSON type that Desired had:
	// what was the text "65" stays text. A property that the appliance itself refused is reported as it holds it; one
	// that the profile's bounds refused was not asked about and is absent.
	Reported map[string]json.RawMessage
	// Unmapped lists the desired properties that the profile has no place for, sorted. They were left alone.
	Unmapped []string
	// Wrote is false if the appliance held everything already, and nothing was written.
	Wrote bool
}

// RejectedError says that one property was refused for good: by the bounds of the profile or by the appliance. Trying
// the same value again is of no use. The other properties were applied all the same.
type RejectedError struct {
	Property string
	Reason   string
}

// Error names the property and the reason.
func (e *RejectedError) Error() string {
	return fmt.Sprintf("property %q was refused: %s", e.Property, e.Reason)
}

// plan is a set of desired properties held against a profile.
type plan struct {
	wanted   map[string]json.RawMessage // may be set
	unmapped []string                   // the profile has no place for them, sorted
	refused  []*RejectedError           // by the profile's bounds, sorted by property
}

// rejections joins the refusals of the plan and those that came later; nil if there are none.
func (p plan) rejections(later ...error) error {
	all := make([]error, 0, len(p.refused)+len(later))
	for _, r := range p.refused {
		all = append(all, r)
	}
	return errors.Join(append(all, later...)...)
}

// plan sorts desired properties into what may be set, what has no place, and what the profile's bounds refuse.
func (p profile) plan(desired map[string]json.RawMessage) plan {
	out := plan{wanted: make(map[string]json.RawMessage)}
	for _, name := range slices.Sorted(maps.Keys(desired)) {
		value := desired[name]
		prop, known := p.property(name)
		switch {
		case !json.Valid(value):
			out.refused = append(out.refused, &RejectedError{Property: name, Reason: "the value is no JSON"})
		case !known && !p.AnySetting:
			out.unmapped = append(out.unmapped, name)
		case !known:
			out.wanted[name] = value
		default:
			if reason := prop.refuse(value); reason != "" {
				out.refused = append(out.refused, &RejectedError{Property: name, Reason: reason})
				continue
			}
			out.wanted[name] = value
		}
	}
	return out
}
