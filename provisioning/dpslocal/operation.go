// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"time"
)

// operation is a register call whose outcome is being worked out.
type operation struct {
	record Operation     // as it was when it was started; never changed
	done   chan struct{} // closed when it ended or was given up
}

// begin stores an operation and starts it, or returns the one that runs already
// and false.
func (s *service) begin(ctx context.Context, registrationID string, admitted admission, payload []byte) (Operation, bool, error) {
	now := time.Now()
	r, err := s.store.Registration(ctx, registrationID)
	if errors.Is(err, ErrNotFound) {
		r, err = Registration{ID: registrationID, Created: now}, nil
	}
	if err != nil {
		return Operation{}, false, err
	}
	r.EnrollmentKind, r.EnrollmentID = admitted.enrollment.Kind, admitted.enrollment.ID
	r.Updated, r.Status, r.State = now, Assigning, assigningState(r.ID)

	record := Operation{
		ID:             s.newOperationID(),
		RegistrationID: registrationID,
		Begun:          now,
		Status:         Assigning,
		EnrollmentKind: admitted.enrollment.Kind,
		EnrollmentID:   admitted.enrollment.ID,
		KeyID:          admitted.keyID,
		Certificates:   joinCertificates(admitted.certificates),
		Payload:        payload,
		NextCall:       now,
	}
	// A device that hangs up must not leave an operation stored that nobody runs.
	stored, err := s.store.BeginOperation(context.WithoutCancel(ctx), record, r)
	if err != nil {
		s.lease.lose() // a shared store may have it all the same, with nobody who runs it
		return Operation{}, false, err
	}
	if stored.ID != record.ID {
		return stored, false, nil
	}
	s.logger.Info("registration begun", "registration_id", registrationID, "operation_id", record.ID)
	s.start(record)
	return record, true, nil
}

// start runs a stored operation in a goroutine of its own.
func (s *service) start(record Operation) {
	op := &operation{record: record, done: make(chan struct{})}
	s.mu.Lock()
	s.running[record.ID] = op
	s.mu.Unlock()
	ctx := s.operationContext()
	s.group.Go(func() {
		err := s.run(ctx, op)
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, ErrNotOurs) || errors.Is(err, ErrNotFound):
			s.logger.Info("registration given up", "registration_id", record.RegistrationID, "operation_id", record.ID, "err", err)
		default:
			s.logger.Error("operation not ended: see to the store, then start dpslocal again",
				"registration_id", record.RegistrationID, "operation_id", record.ID, "err", err)
		}
		s.mu.Lock()
		delete(s.running, record.ID)
		s.mu.Unlock()
		close(op.done)
	})
}

// resume starts what an earlier run of the program left unfinished, or what
// other instances have left.
func (s *service) resume() error {
	if s.shared != nil {
		return s.seeToLease(s.ctx)
	}
	records, err := s.store.UnfinishedOperations(s.ctx)
	if err != nil {
		return fmt.Errorf("reading unfinished operations: %w", err)
	}
	for _, record := range records {
		s.logger.Info("registration resumed", "registration_id", record.RegistrationID, "operation_id", record.ID)
		s.start(record)
	}
	return nil
}

// run works out the outcome of an operation and stores it. An error leaves the
// operation unfinished in the store.
func (s *service) run(ctx context.Context, op *operation) error {
	record := op.record
	var r Registration
	err := s.insist(ctx, "reading a registration", func() (err error) {
		r, err = s.store.Registration(ctx, record.RegistrationID)
		return err
	})
	if err != nil {
		return fmt.Errorf("reading the registration: %w", err)
	}
	verdict, err := s.decide(ctx, &record, r)
	if err != nil {
		return err
	}
	now := time.Now()
	place := s.settle(&r, verdict, now)
	record.Ended, record.Status, record.State = now, r.Status, r.State
	// The outcome is known, so it is written even if the server is just stopping.
	err = s.insist(ctx, "storing an outcome", func() error {
		return s.store.FinishOperation(context.WithoutCancel(ctx), record, r, place)
	})
	if err != nil {
		return fmt.Errorf("storing the outcome: %w", err)
	}
	if place != nil && place.From != "" {
		s.hubs.disconnect(place.From, place.Device.ID)
	}
	s.logger.Info("registration ended", "registration_id", record.RegistrationID, "operation_id", record.ID,
		"status", string(r.Status), "hub", r.AssignedHub, "error_code", verdict.code)
	return nil
}

// verdict is what became of an operation: a hub, an error code, or neither
// for a disabled enrollment.
type verdict struct {
	enrollment   Enrollment
	keyID        string
	certificates []*x509.Certificate // as in admission

	hub     string
	twin    *Twin  // the webhook's initial twin, or nil
	payload []byte // the webhook's payload, or nil

	code    int
	message string
}

// settle turns a verdict into the new state of the registration and says
// where its device goes, if anywhere.
func (s *service) settle(r *Registration, v verdict, now time.Time) *Placement {
	r.Updated = now
	state := registrationState{
		RegistrationID:         r.ID,
		CreatedDateTimeUTC:     utcTime(r.Created),
		LastUpdatedDateTimeUTC: utcTime(now),
		ETag:                   base64.StdEncoding.EncodeToString([]byte(`"` + newGUID() + `"`)),
	}
	var place *Placement
	switch {
	case v.code != 0:
		state.Status, state.ErrorCode, state.ErrorMessage = Failed, v.code, v.message
	case v.hub == "":
		state.Status = DisabledOutcome
	default:
		place = s.assign(r, v)
		state.Status = Assigned
		state.AssignedHub, state.DeviceID, state.Substatus = r.AssignedHub, r.DeviceID, r.Substatus
		state.Payload = v.payload
		if v.enrollment.Attestation == AttestationX509 {
			state.X509 = newX509State(v.enrollment, v.certificates)
			break
		}
		state.SymmetricKey = &symmetricKeyState{}
		if v.enrollment.Kind == Group {
			state.SymmetricKey.EnrollmentGroupID = v.enrollment.ID
		}
	}
	r.Status, r.State = state.Status, encodeJSON(state)
	return place
}

// assign writes a hub into the registration by dps-protocol 19: on the same
// hub nothing of the twin changes and the substatus stays, on another one the
// reprovision policy decides what moves along.
func (s *service) assign(r *Registration, v verdict) *Placement {
	place := &Placement{Device: Device{Hub: v.hub, ID: r.DeviceID, Twin: v.initialTwin()}}
	place.Device.PrimaryKey, place.Device.SecondaryKey = v.deviceKeys()
	place.Device.PrimaryThumbprint, place.Device.SecondaryThumbprint = v.deviceThumbprints()
	switch {
	case r.AssignedHub == "":
		r.Substatus = initialAssignment
	case strings.EqualFold(r.AssignedHub, v.hub):
	case v.enrollment.ReprovisionPolicy == ReprovisionMigrate:
		r.Substatus, place.From, place.Migrate = deviceDataMigrated, r.AssignedHub, true
	default:
		r.Substatus, place.From = deviceDataReset, r.AssignedHub
	}
	if r.DeviceID == "" {
		r.DeviceID = r.ID
		if v.enrollment.DeviceID != "" {
			r.DeviceID = v.enrollment.DeviceID
		}
		place.Device.ID = r.DeviceID
	}
	r.AssignedHub = v.hub
	return place
}

// initialTwin is the webhook's, or else the enrollment's, or else an empty one.
func (v verdict) initialTwin() Twin {
	if v.twin != nil {
		return *v.twin
	}
	document := v.enrollment.InitialTwin
	if document == nil {
		document = []byte("{}")
	}
	twin, err := parseInitialTwin(document)
	if err != nil {
		twin, _ = parseInitialTwin([]byte("{}")) // checked when it was stored
	}
	return twin
}

// deviceKeys are the keys that open the hub: those derived from the group's, or
// the individual enrollment's own.
func (v verdict) deviceKeys() (primary, secondary Secret) {
	if v.enrollment.Kind == Individual {
		return v.enrollment.PrimaryKey, v.enrollment.SecondaryKey
	}
	return deriveSecret(v.enrollment.PrimaryKey, v.keyID), deriveSecret(v.enrollment.SecondaryKey, v.keyID)
}

// deriveSecret is deriveKey on base64 text.
func deriveSecret(groupKey Secret, keyID string) Secret {
	key, err := decodeKey(string(groupKey))
	if err != nil {
		return "" // opens nothing
	}
	return Secret(base64.StdEncoding.EncodeToString(deriveKey(key, keyID)))
}

// assigningState is what a poll shows until the end. The registration ID must be
// in it: one client refuses the document without (dps-protocol 3.5).
func assigningState(registrationID string) []byte {
	return encodeJSON(registrationState{RegistrationID: registrationID, Status: Assigning})
}

// newOperationID has the shape of the service's own, {n}.{16 hex}.{guid}, and
// only characters that clients may put into URL paths and topics unescaped.
func (s *service) newOperationID() string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(strings.ToLower(s.idScope)))
	return fmt.Sprintf("5.%016x.%s", h.Sum64(), newGUID())
}
