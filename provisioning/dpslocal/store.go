// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// ErrNotFound is what a Store returns for a registration, an operation or a
// device that it does not hold.
var ErrNotFound = errors.New("not in the store")

// ErrNotOurs is what a Store returns, having changed nothing, when an operation
// has ended already, was deleted with its registration, or was taken over by
// another instance.
var ErrNotOurs = errors.New("the operation is not this instance's any more")

// Store keeps what outlives a restart. Every method is one transaction and is
// on disk when it returns nil; all are safe for concurrent use. Registration
// IDs are compared without case and returned in their first spelling. OpenStore
// and OpenMemoryStore make one. The server that is given a store closes it.
type Store interface {
	EnrollmentStore
	RegistrationStore
	DeviceStore

	Close() error
}

// EnrollmentStore keeps the entries with their keys.
type EnrollmentStore interface {
	Enrollments(ctx context.Context) ([]Enrollment, error)

	// PutEnrollment inserts an entry or replaces the one of the same kind and ID.
	PutEnrollment(ctx context.Context, e Enrollment) error

	DeleteEnrollment(ctx context.Context, kind EnrollmentKind, id string) error
}

// RegistrationStore keeps registrations and the operations that work on them.
type RegistrationStore interface {
	Registration(ctx context.Context, id string) (Registration, error)

	// RegistrationsOf returns up to limit registrations of an enrollment group in
	// the order of their lower-cased IDs, beginning behind the ID after.
	RegistrationsOf(ctx context.Context, groupID, after string, limit int) ([]Registration, error)

	// DeleteRegistration reads a registration, hands it to allow and deletes it
	// with its operations. An error of allow is returned as it is, and nothing is
	// deleted.
	DeleteRegistration(ctx context.Context, id string, allow func(Registration) error) error

	// Operation returns ErrNotFound too when the operation is of another registration.
	Operation(ctx context.Context, registrationID, operationID string) (Operation, error)

	// Operations returns the operations of one registration, oldest first.
	Operations(ctx context.Context, registrationID string) ([]Operation, error)

	// UnfinishedOperations returns what was begun and did not end, oldest first.
	UnfinishedOperations(ctx context.Context) ([]Operation, error)

	// BeginOperation stores a new operation with its registration and returns it.
	// While one of that registration runs, it stores nothing and returns that one.
	// The assignment of a known registration is left as it is. Operations that
	// ended more than a day before the new one are forgotten.
	BeginOperation(ctx context.Context, op Operation, r Registration) (Operation, error)

	// SaveProgress stores how far the webhook calls of an operation have come. It
	// returns ErrNotOurs for an operation that this instance must not go on with.
	SaveProgress(ctx context.Context, operationID string, calls int, next time.Time) error

	// FinishOperation ends an operation: its outcome, the registration and, when
	// a device was placed on a hub, that device, all or nothing. It returns
	// ErrNotOurs for an operation that this instance must not go on with.
	FinishOperation(ctx context.Context, op Operation, r Registration, place *Placement) error
}

// DeviceStore keeps the hubs' device identities and twins. Device IDs are
// compared with case, hub names without.
type DeviceStore interface {
	Device(ctx context.Context, hub, id string) (Device, error)

	// UpdateTwin reads a twin, hands it to change and writes it back. An error of
	// change is returned as it is, and nothing is written.
	UpdateTwin(ctx context.Context, hub, id string, change func(*Twin) error) error

	DeleteDevice(ctx context.Context, hub, id string) error
}

// Registration is what the service knows of one device.
type Registration struct {
	// ID is the registration ID in the spelling of the first registration.
	ID string

	EnrollmentKind EnrollmentKind
	EnrollmentID   string

	Created, Updated time.Time

	// Status and State are those of the last operation; State is the JSON that
	// the device is shown.
	Status Status
	State  json.RawMessage

	// AssignedHub, DeviceID and Substatus are the assignment in force. They are
	// empty before the first, and a failed operation leaves them as they were.
	AssignedHub, DeviceID, Substatus string
}

// Operation is one register call on its way to an end.
type Operation struct {
	ID string

	// RegistrationID is the spelling that the device presented.
	RegistrationID string

	Begun time.Time
	Ended time.Time // zero while it runs

	// Status is Assigning until the end.
	Status Status

	// State is the JSON that a poll shows after the end.
	State json.RawMessage

	// EnrollmentKind and EnrollmentID name the entry that let the device in.
	EnrollmentKind EnrollmentKind
	EnrollmentID   string

	// KeyID is the spelling of the registration ID from which the device's key
	// was derived.
	KeyID string

	// Certificates are PEM, of a device that came with a certificate: its own, and
	// for a group the one of the enrollment that vouched for it.
	Certificates string

	// Payload is what the device sent along, or nil.
	Payload json.RawMessage

	// WebhookCalls counts the calls made; NextCall is when the next is due.
	WebhookCalls int
	NextCall     time.Time
}

// Device is a device identity on a hub.
type Device struct {
	Hub, ID                  string
	PrimaryKey, SecondaryKey Secret

	// PrimaryThumbprint and SecondaryThumbprint are of the certificates that open
	// the hub: SHA-256, upper-case hex. A device has either these or keys.
	PrimaryThumbprint, SecondaryThumbprint string

	Twin Twin
}

// Placement puts a device on a hub. On the hub where it is already, it gets the
// keys and keeps its twin; Device.Twin is for a device that is new there.
type Placement struct {
	Device Device

	// From is the hub that the device leaves, or "".
	From string

	// Migrate takes the twin along from there.
	Migrate bool
}
