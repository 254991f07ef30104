// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Response is the AllocationResponse (dps-protocol 12.2).
type Response struct {
	// Rule names the rule of the policy that gave the answer, for the record; it
	// is not part of the document.
	Rule string `json:"-"`

	// IoTHubHostName is the hub to assign; it must be one of the request's
	// LinkedHubs.
	IoTHubHostName string `json:"iotHubHostName"`

	// InitialTwin takes the place of the enrollment's own initial twin; nil
	// leaves that one in force.
	InitialTwin *InitialTwin `json:"initialTwin,omitempty"`

	// Payload is handed to the device with its assignment; nil sends none.
	Payload json.RawMessage `json:"payload,omitempty"`
}

// InitialTwin is the twin that a device gets at its first assignment, or at a
// move under "reprovision and reset" (dps-protocol 19.2).
type InitialTwin struct {
	Properties InitialProperties `json:"properties"`

	// Tags is a JSON object, or nil for none.
	Tags json.RawMessage `json:"tags,omitempty"`
}

// InitialProperties holds the desired properties of an InitialTwin.
type InitialProperties struct {
	// Desired is a JSON object, or nil for an empty one. It is raw so that its
	// members keep the order in which the policy lists them.
	Desired json.RawMessage `json:"desired"`
}

// Encode gives the response's bytes on the wire: compact, members in the
// published order, no newline, and text as it is, without HTML escapes. It
// fails when a raw member is not valid JSON, or a part of the twin no object.
func (r Response) Encode() ([]byte, error) {
	if r.InitialTwin != nil {
		twin, err := r.InitialTwin.checked()
		if err != nil {
			return nil, fmt.Errorf("encoding the allocation response: %w", err)
		}
		r.InitialTwin = &twin
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(r); err != nil {
		return nil, fmt.Errorf("encoding the allocation response: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// checked gives the twin as it is on the wire.
func (t InitialTwin) checked() (InitialTwin, error) {
	if t.Properties.Desired == nil {
		t.Properties.Desired = json.RawMessage(`{}`)
	}
	if !isObject(t.Properties.Desired) {
		return t, errors.New("the desired properties of the initial twin are not an object")
	}
	if t.Tags != nil && !isObject(t.Tags) {
		return t, errors.New("the tags of the initial twin are not an object")
	}
	return t, nil
}

// isObject tells objects from other JSON.
func isObject(raw json.RawMessage) bool { return bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) }

// Refusal is a policy's No. The webhook answers it with status 400 and the
// message as plain text, and the service ends the registration with 400207.
type Refusal struct {
	// Message is one line for the person who looks after the enrollment.
	Message string

	// Rule names the rule of the policy that refused, or is empty when the
	// request did not get as far as the policy.
	Rule string
}

// Error gives the message.
func (r Refusal) Error() string { return r.Message }
