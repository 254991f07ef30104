// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// maxBody is the documented message size, 96 KB (dps-protocol 2.4).
const maxBody = 96 << 10

// Status is where a registration stands (dps-protocol 9.1). The service emits
// these four only: others lead real clients astray.
type Status string

// The four statuses.
const (
	Assigning       Status = "assigning"
	Assigned        Status = "assigned"
	Failed          Status = "failed"
	DisabledOutcome Status = "disabled"
)

// The substatuses of an assigned registration (dps-protocol 9.1).
const (
	initialAssignment  = "initialAssignment"
	deviceDataMigrated = "deviceDataMigrated"
	deviceDataReset    = "deviceDataReset"
)

// The service's error codes (dps-protocol 4). Those marked "ours" keep to the
// pattern of status times 1000 plus a number, because the real digits are not
// known.
const (
	codeInvalid          = 400004
	codeCustomFailed     = 400207
	codeCustomNoHub      = 400208
	codeCustomAccess     = 400209
	codeUnauthorized     = 401002
	codeUnknown          = 404201
	codeGroupUnknown     = 404204
	codeMethodNotAllowed = 405001 // ours
	codeExists           = 409001 // ours
	codeConflict         = 409203
	codeETag             = 412001 // ours
	codeTooLarge         = 413001 // ours
	codeMediaType        = 415001 // ours
	codeThrottled        = 429001 // ours
	codeInternal         = 500001 // ours
)

// deviceRegistration is the body of a register call. Everything in it is
// optional; the registration ID of the URL or the connection is authoritative.
type deviceRegistration struct {
	RegistrationID *string         `json:"registrationId"`
	Payload        json.RawMessage `json:"payload"`
	TPM            json.RawMessage `json:"tpm"`
	CSR            json.RawMessage `json:"csr"`
}

// errTPM is the answer to a device that wants to prove itself by its TPM.
var errTPM = errors.New("TPM attestation is not offered here; use a symmetric key or a certificate")

// namesTPM tells a register of a TPM, which has no other credentials at first
// (dps-protocol 15), from one without any.
func namesTPM(body []byte) bool {
	var r deviceRegistration
	return decodeJSON(body, &r) == nil && present(r.TPM)
}

// csrSince is the first api-version whose csr member means something; before
// that it is one more unknown member (dps-protocol 3.2).
const csrSince = "2025-07-01"

// parseRegistration reads a register body for the device that sent it and
// returns its payload, compact, or nil. An empty body is an empty object:
// C# sends one over MQTT.
func parseRegistration(body []byte, registrationID, apiVersion string) (json.RawMessage, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, nil
	}
	var r deviceRegistration
	if err := decodeJSON(body, &r); err != nil {
		return nil, errors.New("the body is not a JSON object of a device registration")
	}
	if r.RegistrationID != nil && !strings.EqualFold(*r.RegistrationID, registrationID) {
		return nil, errors.New("the registrationId of the body is not the one that registers")
	}
	if present(r.TPM) {
		return nil, errTPM
	}
	if present(r.CSR) && apiVersion >= csrSince {
		return nil, errors.New("certificates are not issued here; leave csr out")
	}
	if !present(r.Payload) {
		return nil, nil
	}
	if r.Payload[0] != '{' {
		return nil, errors.New("the payload must be a JSON object")
	}
	return compactJSON(r.Payload), nil
}

// present tells a member with a value from one that is absent or null.
func present(member json.RawMessage) bool {
	return len(member) > 0 && string(member) != "null"
}

// operationStatus is the answer to register and to operation status.
type operationStatus struct {
	OperationID       string          `json:"operationId"`
	Status            Status          `json:"status"`
	RegistrationState json.RawMessage `json:"registrationState,omitempty"`
}

// registrationState is what the service knows of one registration, in the
// order in which a captured answer of the real service has its members.
type registrationState struct {
	// SymmetricKey or X509 is there once a device is assigned.
	SymmetricKey       *symmetricKeyState `json:"symmetricKey,omitempty"`
	X509               *x509State         `json:"x509,omitempty"`
	RegistrationID     string             `json:"registrationId"`
	CreatedDateTimeUTC string             `json:"createdDateTimeUtc,omitempty"`

	// AssignedHub, DeviceID and Substatus are of an assigned registration only; a
	// failed one does not repeat the assignment that is still in force.
	AssignedHub string `json:"assignedHub,omitempty"`
	DeviceID    string `json:"deviceId,omitempty"`
	Status      Status `json:"status"`
	Substatus   string `json:"substatus,omitempty"`

	// ErrorCode and ErrorMessage are of a failed one only.
	ErrorCode    int    `json:"errorCode,omitempty"`
	ErrorMessage string `json:"errorMessage,omitempty"`

	LastUpdatedDateTimeUTC string `json:"lastUpdatedDateTimeUtc,omitempty"`

	// ETag is base64 of the quoted tag, an opaque text to everybody.
	ETag string `json:"etag,omitempty"`

	// Payload is the webhook's, never the device's own.
	Payload json.RawMessage `json:"payload,omitempty"`
}

// symmetricKeyState names the group of an assigned device; it is empty for an
// individual enrollment.
type symmetricKeyState struct {
	EnrollmentGroupID string `json:"enrollmentGroupId,omitempty"`
}

// errorBody is what comes with every error status; several clients fail on an
// empty one (dps-protocol 3.7).
type errorBody struct {
	ErrorCode    int    `json:"errorCode"`
	TrackingID   string `json:"trackingId"`
	Message      string `json:"message"`
	TimestampUTC string `json:"timestampUtc"`
}

// utcTime writes a time as the service does: seven fractional digits and a Z.
func utcTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000Z") }

// decodeJSON is json.Unmarshal for documents that are passed on: bytes that
// are not UTF-8, which the package lets pass within texts, are refused.
func decodeJSON(document []byte, v any) error {
	if !utf8.Valid(document) {
		return errors.New("not UTF-8")
	}
	return json.Unmarshal(document, v)
}

// encodeJSON writes v compactly, without the newline and without the HTML
// escapes that encoding/json adds by default. v must be encodable.
func encodeJSON(v any) []byte {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(fmt.Sprintf("encoding %T: %v", v, err))
	}
	return bytes.TrimSuffix(buffer.Bytes(), []byte("\n"))
}

// compactJSON removes the white space of a valid document.
func compactJSON(document []byte) json.RawMessage {
	var buffer bytes.Buffer
	if err := json.Compact(&buffer, document); err != nil {
		return bytes.Clone(document)
	}
	return buffer.Bytes()
}

// newGUID returns a random UUID, as tracking IDs, ETags and operation IDs are.
func newGUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
