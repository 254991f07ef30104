// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// apiVersion is the wire contract spoken over both transports (dps-protocol 3.2).
const apiVersion = "2021-06-01"

// reply is one answer of the service, the same for both transports.
type reply struct {
	status     int       // as in HTTP
	retryAfter string    // the hint as it came, "" if none
	at         time.Time // when it had arrived in full
	date       time.Time // of the answer's header; MQTT has none
	body       []byte    // at most maxBody bytes
	marked     bool      // a header that only the service sets was there
}

// operation is the state of a registration as an answer tells it.
type operation struct {
	id     string
	status Status
	state  registrationState
}

// operationBody is RegistrationOperationStatus (dps-protocol 3.4, 3.5).
type operationBody struct {
	OperationID       string             `json:"operationId"`
	Status            Status             `json:"status"`
	RegistrationState *registrationState `json:"registrationState"`
}

// registrationState is DeviceRegistrationResult (dps-protocol 9.2). Members that are not listed are ignored: the
// service grows some in previews.
type registrationState struct {
	RegistrationID         string          `json:"registrationId"`
	CreatedDateTimeUTC     string          `json:"createdDateTimeUtc"`
	AssignedHub            string          `json:"assignedHub"`
	DeviceID               string          `json:"deviceId"`
	Status                 Status          `json:"status"`
	Substatus              Substatus       `json:"substatus"`
	ErrorCode              int             `json:"errorCode"`
	ErrorMessage           string          `json:"errorMessage"`
	LastUpdatedDateTimeUTC string          `json:"lastUpdatedDateTimeUtc"`
	ETag                   string          `json:"etag"`
	Payload                json.RawMessage `json:"payload"`
	SymmetricKey           *enrolledBy     `json:"symmetricKey"`
	X509                   *enrolledBy     `json:"x509"`
}

// enrolledBy names the enrollment group within an attestation's result.
type enrolledBy struct {
	EnrollmentGroupID string `json:"enrollmentGroupId"`
}

// errorBody is ProvisioningServiceErrorDetails (dps-protocol 3.7).
type errorBody struct {
	ErrorCode  int    `json:"errorCode"`
	TrackingID string `json:"trackingId"`
	Message    string `json:"message"`

	TimestampUTC string `json:"timestampUtc"` // seven fractional digits
}

// registerBody is the document that register and the registration status lookup send (dps-protocol 3.4).
func registerBody(r Request) ([]byte, error) {
	document := struct {
		RegistrationID string          `json:"registrationId"`
		Payload        json.RawMessage `json:"payload,omitempty"`
	}{RegistrationID: r.RegistrationID}
	if r.hasPayload() {
		document.Payload = r.Payload
	}

	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // the payload goes out as the appliance spelled it
	if err := encoder.Encode(document); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrRequest, err)
	}
	return bytes.TrimRight(text.Bytes(), "\n"), nil
}

// parseOperation reads an answer below 300 to a register or a poll. An answer that makes no sense is an error that
// wraps [ErrNotService].
func parseOperation(body []byte, registrationID string) (operation, error) {
	var document operationBody
	if err := decodeObject(body, &document); err != nil {
		return operation{}, err
	}
	op := operation{id: document.OperationID, status: document.Status}
	if document.RegistrationState != nil {
		op.state = *document.RegistrationState
	}
	return op, op.check(registrationID)
}

// parseLookup reads an answer below 300 to a registration status lookup: the state without an operation around it.
func parseLookup(body []byte, registrationID string) (operation, error) {
	var document struct {
		registrationState
		RegistrationState *registrationState `json:"registrationState"`
	}
	if err := decodeObject(body, &document); err != nil {
		return operation{}, err
	}
	op := operation{status: document.Status, state: document.registrationState}
	if document.RegistrationState != nil {
		op.state = *document.RegistrationState
	}
	return op, op.check(registrationID)
}

// decodeObject reads one bounded JSON object and nothing after it.
func decodeObject(body []byte, into any) error {
	if len(body) > maxBody {
		return fmt.Errorf("%w: it is longer than %d bytes", ErrNotService, maxBody)
	}
	// "null" and "[]" would decode, the first even without an error.
	if text := bytes.TrimSpace(body); len(text) == 0 || text[0] != '{' {
		return fmt.Errorf("%w: it is not a JSON object", ErrNotService)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%w: %s", ErrNotService, printable(err.Error(), maxMessage))
	}
	return nil
}

// check refuses an operation that cannot be acted on. What it lets through is safe to dial, store and show (rule 9).
func (op *operation) check(registrationID string) error {
	fault := func(what string) error { return fmt.Errorf("%w: %s", ErrNotService, what) }

	if op.id != "" && !isPlain(op.id, maxOperationID) {
		return fault("its operation ID is not plain text")
	}
	if named := op.state.RegistrationID; named != "" && !strings.EqualFold(named, registrationID) {
		return fault("it is about another registration ID")
	}
	switch op.status {
	case StatusUnassigned, StatusAssigning, StatusFailed, StatusDisabled:
		return nil
	case StatusAssigned:
		if !isHostName(op.state.AssignedHub) {
			return fault("it says assigned and names no hub")
		}
		if !isDeviceID(op.state.DeviceID) {
			return fault("it says assigned and names no device ID")
		}
		return nil
	case "":
		return fault("it has no status")
	default:
		return fault("its status is unknown: " + printable(string(op.status), 32))
	}
}

// assignment turns a final operation into its outcome: an Assignment, or a *FailedError.
func (op *operation) assignment(registrationID string) (Assignment, error) {
	if op.status != StatusAssigned {
		return Assignment{}, &FailedError{
			Status:  op.status,
			Code:    op.state.ErrorCode,
			Message: printable(op.state.ErrorMessage, maxMessage),
		}
	}
	result := Assignment{
		RegistrationID:         registrationID,
		AssignedHub:            op.state.AssignedHub,
		DeviceID:               op.state.DeviceID,
		Substatus:              Substatus(printable(string(op.state.Substatus), 64)),
		Payload:                op.state.Payload,
		CreatedDateTimeUTC:     parseTime(op.state.CreatedDateTimeUTC),
		LastUpdatedDateTimeUTC: parseTime(op.state.LastUpdatedDateTimeUTC),
		ETag:                   printable(op.state.ETag, maxETag),
		OperationID:            op.id,
	}
	if bytes.Equal(result.Payload, []byte("null")) {
		result.Payload = nil
	}
	for _, by := range []*enrolledBy{op.state.SymmetricKey, op.state.X509} {
		if by != nil && result.EnrollmentGroupID == "" {
			result.EnrollmentGroupID = printable(by.EnrollmentGroupID, maxGroupID)
		}
	}
	return result, nil
}

// parseTime reads the service's times: seven fractional digits and a Z in traces, none in one sample. A time that
// cannot be read is no reason to lose an assignment: it is left zero.
func parseTime(text string) time.Time {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999"} {
		if at, err := time.Parse(layout, text); err == nil {
			return at.UTC()
		}
	}
	return time.Time{}
}

// clock is what time it was for the service when it answered; zero if the answer does not tell.
func (r reply) clock() time.Time {
	if !r.date.IsZero() || r.status < 300 {
		return r.date
	}
	var document errorBody
	if decodeObject(r.body, &document) != nil {
		return time.Time{}
	}
	return parseTime(document.TimestampUTC)
}

// serviceError reads an answer of 300 and above. From 429 on the status alone counts: a front end may answer for the
// service without its JSON. Below that an answer must look like the service's, or a captive portal's 404 would end
// a registration: then the error wraps [ErrNotService] instead.
func (r reply) serviceError() error {
	var document errorBody
	err := decodeObject(r.body, &document)
	theirs := r.marked || err == nil && (document.ErrorCode != 0 || document.TrackingID != "" || document.Message != "")
	if r.status < 400 || r.status < statusLater && !theirs {
		return fmt.Errorf("%w: status %d", ErrNotService, r.status)
	}
	hint, _ := r.hint()
	return &ServiceError{
		HTTPStatus: r.status,
		Code:       document.ErrorCode,
		TrackingID: printable(document.TrackingID, maxTrackingID),
		Message:    printable(document.Message, maxMessage),
		RetryAfter: hint,
	}
}
