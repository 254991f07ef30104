// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Request is the AllocationRequest that the provisioning service posts
// (dps-protocol 12.1). Members that no policy here reads keep the bytes they
// came in.
type Request struct {
	// IndividualEnrollment is the entry of one device, EnrollmentGroup that of
	// many. The service sends exactly one of them; the other is nil.
	IndividualEnrollment json.RawMessage `json:"individualEnrollment,omitempty"`
	EnrollmentGroup      json.RawMessage `json:"enrollmentGroup,omitempty"`

	DeviceRuntimeContext DeviceRuntimeContext `json:"deviceRuntimeContext"`

	// LinkedHubs are the host names of the only hubs an answer may name. It is
	// nil when the member is absent or null, and empty when it is an empty list.
	LinkedHubs []string `json:"linkedHubs"`
}

// DeviceRuntimeContext is what the service knows of the device that registers.
type DeviceRuntimeContext struct {
	// RegistrationID arrives as the device spelled it, in any case. It is nil
	// when the member is absent or null, which is not the same as empty text.
	RegistrationID *string `json:"registrationId,omitempty"`

	// CurrentIoTHubHostName and CurrentDeviceID tell the assignment in force;
	// both are empty when the device was never assigned.
	CurrentIoTHubHostName string `json:"currentIotHubHostName,omitempty"`
	CurrentDeviceID       string `json:"currentDeviceId,omitempty"`

	// X509, SymmetricKey and TPM describe the attestation; one of them is set.
	// SymmetricKey is an empty object on the wire: no keys leave the service.
	X509         json.RawMessage `json:"x509,omitempty"`
	SymmetricKey json.RawMessage `json:"symmetricKey,omitempty"`
	TPM          json.RawMessage `json:"tpm,omitempty"`

	// Payload is what the device sent along with its registration, if anything.
	Payload json.RawMessage `json:"payload,omitempty"`
}

// ParseRequest reads an AllocationRequest. An empty body and null give the zero
// Request, as they do in the tutorial's function. Anything else that is not an
// AllocationRequest is an error of type [Refusal].
//
// Member names are matched exactly and the last of several equal ones counts,
// because that is how the function's JSON library reads them; encoding/json's
// own matching of struct fields would also take LINKEDHUBS for linkedHubs.
func ParseRequest(body []byte) (Request, error) {
	body = bytes.TrimSpace(withoutByteOrderMark(body))
	if len(body) == 0 {
		return Request{}, nil
	}
	top, err := parseObject(body, "the body")
	if err != nil {
		return Request{}, err
	}
	device, err := parseDeviceRuntimeContext(top["deviceRuntimeContext"])
	if err != nil {
		return Request{}, err
	}
	hubs, err := parseLinkedHubs(top["linkedHubs"])
	if err != nil {
		return Request{}, err
	}
	return Request{
		IndividualEnrollment: top["individualEnrollment"],
		EnrollmentGroup:      top["enrollmentGroup"],
		DeviceRuntimeContext: device,
		LinkedHubs:           hubs,
	}, nil
}

func parseDeviceRuntimeContext(raw json.RawMessage) (DeviceRuntimeContext, error) {
	if isNull(raw) {
		return DeviceRuntimeContext{}, nil
	}
	members, err := parseObject(raw, "deviceRuntimeContext")
	if err != nil {
		return DeviceRuntimeContext{}, err
	}
	registrationID, err := parseText(members["registrationId"], "deviceRuntimeContext.registrationId")
	if err != nil {
		return DeviceRuntimeContext{}, err
	}
	hub, err := parseText(members["currentIotHubHostName"], "deviceRuntimeContext.currentIotHubHostName")
	if err != nil {
		return DeviceRuntimeContext{}, err
	}
	deviceID, err := parseText(members["currentDeviceId"], "deviceRuntimeContext.currentDeviceId")
	if err != nil {
		return DeviceRuntimeContext{}, err
	}
	return DeviceRuntimeContext{
		RegistrationID:        registrationID,
		CurrentIoTHubHostName: orEmpty(hub),
		CurrentDeviceID:       orEmpty(deviceID),
		X509:                  members["x509"],
		SymmetricKey:          members["symmetricKey"],
		TPM:                   members["tpm"],
		Payload:               members["payload"],
	}, nil
}

func parseLinkedHubs(raw json.RawMessage) ([]string, error) {
	if isNull(raw) {
		return nil, nil
	}
	var elements []json.RawMessage
	if err := json.Unmarshal(raw, &elements); err != nil {
		return nil, notAllocationRequest("linkedHubs is not a list")
	}
	hubs := make([]string, 0, len(elements))
	for i, element := range elements {
		hub, err := parseText(element, fmt.Sprintf("linkedHubs[%d]", i))
		if err != nil {
			return nil, err
		}
		if hub == nil {
			return nil, notAllocationRequest(fmt.Sprintf("linkedHubs[%d] is null", i))
		}
		hubs = append(hubs, *hub)
	}
	return hubs, nil
}

// parseObject reads the members of one object; name says in an error which.
func parseObject(raw []byte, name string) (map[string]json.RawMessage, error) {
	var members map[string]json.RawMessage
	err := json.Unmarshal(raw, &members)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return nil, notAllocationRequest(fmt.Sprintf("%s is not valid JSON at byte %d", name, syntax.Offset))
	}
	if err != nil {
		return nil, notAllocationRequest(name + " is not an object")
	}
	return members, nil
}

// parseText reads text, or nil when the member is absent or null. A number or a
// boolean counts as its own spelling, because the tutorial's function converts
// them too instead of failing.
func parseText(raw json.RawMessage, name string) (*string, error) {
	if isNull(raw) {
		return nil, nil
	}
	switch raw[0] {
	case '{', '[':
		return nil, notAllocationRequest(name + " is not text")
	case '"':
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return nil, notAllocationRequest(name + " is not text")
		}
		return &text, nil
	default:
		text := string(raw)
		return &text, nil
	}
}

// isNull tells whether a member is absent or null.
func isNull(raw json.RawMessage) bool { return raw == nil || string(raw) == "null" }

func orEmpty(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

// withoutByteOrderMark drops the mark that editors put before UTF-8 text. The
// tutorial's function does not see it either.
func withoutByteOrderMark(body []byte) []byte {
	return bytes.TrimPrefix(body, []byte("\ufeff"))
}

func notAllocationRequest(reason string) Refusal {
	return Refusal{Message: "The request is not an AllocationRequest: " + reason + "."}
}
