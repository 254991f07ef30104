// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Status is what the service says of a registration (dps-protocol 9.1).
type Status string

// The statuses. Assigned, failed and disabled are final; they all arrive with HTTP status 200.
const (
	StatusUnassigned Status = "unassigned" // not begun; old services say it for assigning
	StatusAssigning  Status = "assigning"  // keep polling, for up to seven minutes (rule 6)
	StatusAssigned   Status = "assigned"
	StatusFailed     Status = "failed"
	StatusDisabled   Status = "disabled" // the enrollment is disabled
)

// Substatus says how an assigned device came to its hub (dps-protocol 9.1). Values that are not listed here are
// passed on as they are.
type Substatus string

// The substatuses.
const (
	SubstatusInitialAssignment                Substatus = "initialAssignment"
	SubstatusDeviceDataMigrated               Substatus = "deviceDataMigrated" // moved, the twin came along
	SubstatusDeviceDataReset                  Substatus = "deviceDataReset"    // moved, with a new twin
	SubstatusReprovisionedToInitialAssignment Substatus = "reprovisionedToInitialAssignment"
)

// maxPayload bounds the custom payload, in bytes; the service takes messages of 96 KB in all (dps-protocol 2.4).
const maxPayload = 64 << 10

// ErrRequest is wrapped by complaints about a [Request] other than its registration ID and keys.
var ErrRequest = errors.New("not a valid registration request")

// Request is one registration to be made.
type Request struct {
	// RegistrationID is the name to register under, checked by [CheckRegistrationID] before anything is sent. Required.
	RegistrationID string

	// Keys are the device's keys, primary first. The client begins with the one that the service accepted last, from
	// whatever device, and goes on to the other when it is refused, so that a rollover loses none. Required without a
	// Certificate: one at least.
	Keys []DeviceKey

	// Certificate is what the device shows instead of signing with a key. Its common name must equal RegistrationID,
	// in whatever case, and it must be in force; both are checked before anything is sent. Required without Keys.
	Certificate *Certificate

	// Payload is a JSON object for the allocation policy, at most 64 KiB; nil sends none.
	Payload json.RawMessage

	// OperationID resumes a registration that an earlier attempt began: it is polled, and a new one is begun only
	// when the service no longer knows it (rule 3).
	OperationID string

	// Interrupted says that an earlier attempt may have reached the service though it left no operation ID. Then the
	// registration status is looked up first where the transport can (HTTPS), and a registration is begun only if
	// that says anything but assigned. An assignment that is found this way may be older than Payload.
	Interrupted bool

	// Observe, if set, is called for every step before anything is done because of it, from the goroutine that called
	// Register: it is the place to write the operation ID to disk. An error from it ends the attempt.
	Observe func(Progress) error
}

// Step is a point that an attempt has reached.
type Step string

// The steps. Each is reported before the attempt acts on it.
const (
	StepWaiting    Step = "waiting"    // for its turn in the budget, or because the service throttles a neighbour; Wait says how long
	StepConnected  Step = "connected"  // the MQTT connection is up; HTTPS shares connections and has no such step
	StepLookingUp  Step = "looking up" // about to ask for the registration status
	StepSubmitting Step = "submitting" // about to send the register request
	StepAssigning  Step = "assigning"  // the service works on it; OperationID is set, the next poll comes after Wait
	StepThrottled  Step = "throttled"  // answered 429; again after Wait
	StepRetrying   Step = "retrying"   // answered 5xx, or 409203, again after Wait; or 401, which the service's time or the other key may mend
	StepRestarting Step = "restarting" // the service does not know the operation any more; a new registration follows
)

// Progress is what [Request.Observe] is told.
type Progress struct {
	Step        Step
	Status      Status        // what the service said last; "" before its first answer
	OperationID string        // once known
	Wait        time.Duration // until the next thing happens; 0 = at once
	Attempt     int           // consecutive failures of the current request, from 1; 0 outside of failures
	Err         error         // why: the service's answer in StepThrottled, StepRetrying and StepRestarting
}

// Assignment is the outcome of a registration that ended assigned. All texts are the service's and were checked
// for length and characters: AssignedHub is a host name, DeviceID can stand in a topic.
type Assignment struct {
	RegistrationID string // as it was asked for
	AssignedHub    string // host name of the hub
	DeviceID       string // the name at the hub; case counts there
	Substatus      Substatus

	// Payload is what the allocation policy sent back; nil if nothing.
	Payload json.RawMessage

	EnrollmentGroupID      string    // "" for an individual enrollment
	CreatedDateTimeUTC     time.Time // of the device's first registration; zero if the service named none
	LastUpdatedDateTimeUTC time.Time
	ETag                   string // opaque
	OperationID            string // "" when the assignment was looked up

	// Key is the index of the key in Request.Keys that the service accepted; it opens the hub too.
	Key int
}

// check refuses what must not be sent, before anything is.
func (r Request) check() error {
	if err := CheckRegistrationID(r.RegistrationID); err != nil {
		return err
	}
	switch {
	case r.Certificate != nil && len(r.Keys) > 0:
		return fmt.Errorf("%w: both keys and a certificate are given; a device proves itself with one of them", ErrRequest)
	case r.Certificate == nil && (len(r.Keys) == 0 || slices.ContainsFunc(r.Keys, DeviceKey.IsZero)):
		return fmt.Errorf("%w: no device key given, and no certificate", ErrKey)
	}
	if len(r.Payload) > maxPayload {
		return fmt.Errorf("%w has %d bytes, the limit is %d", ErrPayload, len(r.Payload), maxPayload)
	}
	if r.hasPayload() {
		var members map[string]json.RawMessage
		if err := json.Unmarshal(r.Payload, &members); err != nil {
			return fmt.Errorf("%w is not a JSON object: %v", ErrPayload, err)
		}
	}
	if r.OperationID != "" && !isPlain(r.OperationID, maxOperationID) {
		return fmt.Errorf("%w: the stored operation ID is damaged; forget it and register again", ErrRequest)
	}
	return nil
}

// hasPayload takes null for no payload, as the service does (dps-protocol 3.4).
func (r Request) hasPayload() bool {
	text := bytes.TrimSpace(r.Payload)
	return len(text) > 0 && !bytes.Equal(text, []byte("null"))
}
