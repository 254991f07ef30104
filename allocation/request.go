// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
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
// because that is how the function's JSON library reads them. A document of more
// than 64 levels or 8,192 members, more than 256 linked hubs, host names of more
// than 253 characters and IDs of more than 128 are no AllocationRequest either.
// The result shares the memory of body.
func ParseRequest(body []byte) (Request, error) {
	body = bytes.TrimSpace(withoutByteOrderMark(body))
	if len(body) == 0 {
		return Request{}, nil
	}
	if err := checkDocument(body); err != nil {
		return Request{}, err
	}
	if isNull(body) {
		return Request{}, nil
	}
	if body[0] != '{' {
		return Request{}, notAllocationRequest("the body is not an object")
	}
	var request Request
	var device, hubs json.RawMessage
	for name, value := range members(body) {
		switch string(name) {
		case "individualEnrollment":
			request.IndividualEnrollment = value
		case "enrollmentGroup":
			request.EnrollmentGroup = value
		case "deviceRuntimeContext":
			device = value
		case "linkedHubs":
			hubs = value
		}
	}
	var err error
	if request.DeviceRuntimeContext, err = parseDeviceRuntimeContext(device); err != nil {
		return Request{}, err
	}
	if request.LinkedHubs, err = parseLinkedHubs(hubs); err != nil {
		return Request{}, err
	}
	if err := request.checkLengths(); err != nil {
		return Request{}, err
	}
	return request, nil
}

func parseDeviceRuntimeContext(raw json.RawMessage) (DeviceRuntimeContext, error) {
	var device DeviceRuntimeContext
	if isNull(raw) {
		return device, nil
	}
	if raw[0] != '{' {
		return device, notAllocationRequest("deviceRuntimeContext is not an object")
	}
	var registrationID, hub, deviceID json.RawMessage
	for name, value := range members(raw) {
		switch string(name) {
		case "registrationId":
			registrationID = value
		case "currentIotHubHostName":
			hub = value
		case "currentDeviceId":
			deviceID = value
		case "x509":
			device.X509 = value
		case "symmetricKey":
			device.SymmetricKey = value
		case "tpm":
			device.TPM = value
		case "payload":
			device.Payload = value
		}
	}
	var err error
	if device.RegistrationID, err = parseText(registrationID, "deviceRuntimeContext.registrationId"); err != nil {
		return DeviceRuntimeContext{}, err
	}
	currentHub, err := parseText(hub, "deviceRuntimeContext.currentIotHubHostName")
	if err != nil {
		return DeviceRuntimeContext{}, err
	}
	currentID, err := parseText(deviceID, "deviceRuntimeContext.currentDeviceId")
	if err != nil {
		return DeviceRuntimeContext{}, err
	}
	device.CurrentIoTHubHostName = orEmpty(currentHub)
	device.CurrentDeviceID = orEmpty(currentID)
	return device, nil
}

func parseLinkedHubs(raw json.RawMessage) ([]string, error) {
	if isNull(raw) {
		return nil, nil
	}
	if raw[0] != '[' {
		return nil, notAllocationRequest("linkedHubs is not a list")
	}
	hubs := []string{}
	for element := range elements(raw) {
		name := "linkedHubs[" + strconv.Itoa(len(hubs)) + "]"
		hub, err := parseText(element, name)
		if err != nil {
			return nil, err
		}
		if hub == nil {
			return nil, notAllocationRequest(name + " is null")
		}
		hubs = append(hubs, *hub)
	}
	return hubs, nil
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
		return new(unquote(raw)), nil
	default:
		return new(string(raw)), nil
	}
}

// errorOffset tells where a document stops being JSON, counted from 1.
func errorOffset(document []byte) int64 {
	var ignored any
	syntax, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(document, &ignored))
	if !ok {
		return 0
	}
	return syntax.Offset
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
