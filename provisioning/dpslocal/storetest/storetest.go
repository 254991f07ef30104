// SPDX-License-Identifier: Apache-2.0

// Package storetest tests what every dpslocal.Store must do, whatever it keeps
// its data in.
package storetest

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/contoso/gatewayd/provisioning/dpslocal"
)

const toasters = "contoso-toasters-hub-1098.azure-devices.net"

// Run runs all tests. For each of them, place returns how to open a store that is
// empty at first; opened again, it holds what was stored.
func Run(t *testing.T, place func(t *testing.T) (open func() dpslocal.Store)) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, open func() dpslocal.Store)
	}{
		{"keeps everything", keepsEverything},
		{"lists and deletes", listsAndDeletes},
		{"forgets old operations", forgetsOldOperations},
		{"runs one operation", runsOneOperation},
		{"begin is all or nothing", beginIsAllOrNothing},
		{"update twin is all or nothing", updateTwinIsAllOrNothing},
		{"keeps any bytes of a payload", keepsAnyBytes},
		{"a deleted assignment stays deleted", deletedStaysDeleted},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, place(t)) })
	}
}

// keepsAnyBytes: a payload may hold what is not UTF-8 and escapes for zero bytes.
func keepsAnyBytes(t *testing.T, open func() dpslocal.Store) {
	store := open()
	defer store.Close()
	op := dpslocal.Operation{ID: "o", RegistrationID: "d", Payload: json.RawMessage("\"\xff\\u0000?\"")}
	if _, err := store.BeginOperation(t.Context(), op, dpslocal.Registration{ID: "d", State: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	if got, err := store.Operation(t.Context(), "d", "o"); err != nil || !strings.Contains(string(got.Payload), `\u0000?`) {
		t.Errorf("got %q, %v", got.Payload, err)
	}
}

// keepsEverything writes one of each, closes, opens and compares.
func keepsEverything(t *testing.T, open func() dpslocal.Store) {
	at := time.Date(2026, 11, 22, 10, 0, 0, 123456789, time.UTC)
	enrollment := dpslocal.Enrollment{
		Kind: dpslocal.Individual, ID: "Dev-01", DeviceID: "D", Attestation: dpslocal.AttestationX509, PrimaryKey: "cHJpbWFyeQ==", SecondaryKey: "c2Vjb25kYXJ5",
		X509: dpslocal.X509Attestation{
			ClientCertificates:  dpslocal.Slots{Primary: "c1", Secondary: "c2"},
			SigningCertificates: dpslocal.Slots{Primary: "s1", Secondary: "s2"},
			CAReferences:        dpslocal.Slots{Primary: "r1", Secondary: "r2"},
		},
		TPM: dpslocal.TPMAttestation{EndorsementKey: "e", StorageRootKey: "s"}, IoTEdge: true,
		ProvisioningStatus: dpslocal.Disabled, AllocationPolicy: dpslocal.Custom, WebhookURL: "https://webhook.example/api?code=SECRET", Hubs: []string{toasters},
		ReprovisionPolicy: dpslocal.ReprovisionReset, InitialTwin: []byte(`{"tags":{}}`), WebhookAPIVersion: "2021-10-01",
		DeviceInformation: []byte(`{"a":1}`), ETag: "e", Created: at, Updated: at.Add(time.Second),
	}
	registration := dpslocal.Registration{
		ID: "Dev-01", EnrollmentKind: dpslocal.Individual, EnrollmentID: "Dev-01", Created: at, Updated: at, Status: dpslocal.Assigned,
		State: []byte(`{"a":1}`), AssignedHub: toasters, DeviceID: "D", Substatus: "initialAssignment",
	}
	operation := dpslocal.Operation{
		ID: "5.0.1", RegistrationID: "dev-01", Begun: at, Ended: at.Add(time.Minute), Status: dpslocal.Assigned, State: []byte(`{"a":1}`),
		EnrollmentKind: dpslocal.Individual, EnrollmentID: "Dev-01", KeyID: "dev-01", Certificates: "PEM", Payload: []byte(`{"p":1}`), WebhookCalls: 3, NextCall: at.Add(30 * time.Second),
	}
	twin := dpslocal.Twin{
		Tags:           map[string]json.RawMessage{"t": []byte(`1`)},
		Desired:        map[string]json.RawMessage{"d": []byte(`{"e":2}`)},
		Reported:       map[string]json.RawMessage{},
		TagsVersion:    7,
		DesiredVersion: 1, ReportedVersion: 1,
	}
	device := dpslocal.Device{Hub: toasters, ID: "D", PrimaryKey: "cHJpbWFyeQ==", SecondaryKey: "c2Vjb25kYXJ5", PrimaryThumbprint: "T1", SecondaryThumbprint: "T2", Twin: twin}

	store := open()
	ctx := t.Context()
	begun := operation
	begun.Ended, begun.Status, begun.State, begun.WebhookCalls, begun.NextCall = time.Time{}, dpslocal.Assigning, nil, 0, at
	for _, err := range []error{
		store.PutEnrollment(ctx, enrollment),
		second(store.BeginOperation(ctx, begun, dpslocal.Registration{ID: "Dev-01", EnrollmentKind: dpslocal.Individual, EnrollmentID: "x", Created: at, Updated: at, Status: dpslocal.Assigning, State: []byte("{}")})),
		store.SaveProgress(ctx, operation.ID, operation.WebhookCalls, operation.NextCall),
		store.FinishOperation(ctx, operation, registration, &dpslocal.Placement{Device: device}),
		store.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}

	store = open()
	defer store.Close()
	enrollments, err1 := store.Enrollments(ctx)
	gotRegistration, err2 := store.Registration(ctx, "DEV-01")
	gotOperation, err3 := store.Operation(ctx, "DEV-01", "5.0.1")
	gotDevice, err4 := store.Device(ctx, strings.ToUpper(toasters), "D")
	unfinished, err5 := store.UnfinishedOperations(ctx)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		t.Fatal(err)
	}
	want := []any{[]dpslocal.Enrollment{enrollment}, registration, operation, device, 0}
	got := []any{enrollments, gotRegistration, gotOperation, gotDevice, len(unfinished)}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(dpslocal.Enrollment{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, err := range map[string]error{
		"registration":         second(store.Registration(ctx, "other")),
		"operation":            second(store.Operation(ctx, "dev-01", "other")),
		"another's operation":  second(store.Operation(ctx, "other", "5.0.1")),
		"device in other case": second(store.Device(ctx, toasters, "d")),
		"twin":                 store.UpdateTwin(ctx, toasters, "other", nil),
		"deleting":             store.DeleteDevice(ctx, toasters, "other"),
		"enrollment":           store.DeleteEnrollment(ctx, dpslocal.Group, "Dev-01"),
		"old registration":     store.DeleteRegistration(ctx, "other", nil),
	} {
		if !errors.Is(err, dpslocal.ErrNotFound) {
			t.Errorf("%s: got %v, want ErrNotFound", name, err)
		}
	}
}

// deletedStaysDeleted: a registration that was read before it was deleted does
// not bring its assignment back when its operation begins.
func deletedStaysDeleted(t *testing.T, open func() dpslocal.Store) {
	store := open()
	defer store.Close()
	stale := dpslocal.Registration{ID: "d", AssignedHub: toasters, DeviceID: "d", Substatus: "initialAssignment", State: []byte("{}")}
	if _, err := store.BeginOperation(t.Context(), dpslocal.Operation{ID: "o", RegistrationID: "d"}, stale); err != nil {
		t.Fatal(err)
	}
	if got, err := store.Registration(t.Context(), "d"); err != nil || got.AssignedHub != "" || got.DeviceID != "" {
		t.Errorf("got %+v, %v; want a registration without an assignment", got, err)
	}
}

func second[T any](_ T, err error) error { return err }

// listsAndDeletes reads a group's registrations in pages, and deletes.
func listsAndDeletes(t *testing.T, open func() dpslocal.Store) {
	store := open()
	defer store.Close()
	ctx := t.Context()
	for _, r := range []dpslocal.Registration{
		{ID: "b", EnrollmentKind: dpslocal.Group, EnrollmentID: "G"},
		{ID: "C", EnrollmentKind: dpslocal.Group, EnrollmentID: "g"},
		{ID: "a", EnrollmentKind: dpslocal.Group, EnrollmentID: "g"},
		{ID: "g", EnrollmentKind: dpslocal.Individual, EnrollmentID: "g"},
		{ID: "d", EnrollmentKind: dpslocal.Group, EnrollmentID: "other"},
	} {
		r.State = []byte("{}")
		if _, err := store.BeginOperation(ctx, dpslocal.Operation{ID: "op-" + r.ID, RegistrationID: r.ID}, r); err != nil {
			t.Fatal(err)
		}
	}
	page := func(after string, limit int) (ids []string) {
		t.Helper()
		registrations, err := store.RegistrationsOf(ctx, "G", after, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range registrations {
			ids = append(ids, r.ID)
		}
		return ids
	}
	if diff := cmp.Diff([][]string{{"a", "b"}, {"C"}, nil}, [][]string{page("", 2), page("B", 2), page("c", 2)}); diff != "" {
		t.Errorf("pages (-want +got):\n%s", diff)
	}
	refused := errors.New("not this one")
	if err := store.DeleteRegistration(ctx, "A", func(dpslocal.Registration) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("got %v, want the error of allow", err)
	}
	var seen string
	if err := store.DeleteRegistration(ctx, "A", func(r dpslocal.Registration) error { seen = r.ID; return nil }); err != nil || seen != "a" {
		t.Errorf("allow saw %q, %v", seen, err)
	}
	if diff := cmp.Diff([]string{"b", "C"}, page("", 9)); diff != "" {
		t.Errorf("after deleting a (-want +got):\n%s", diff)
	}
	if operations, err := store.Operations(ctx, "a"); err != nil || len(operations) != 0 {
		t.Errorf("operations of a deleted registration: %+v, %v", operations, err)
	}
	if err := store.PutEnrollment(ctx, dpslocal.Enrollment{Kind: dpslocal.Group, ID: "G"}); err != nil {
		t.Fatal(err)
	}
	if err := store.DeleteEnrollment(ctx, dpslocal.Group, "g"); err != nil {
		t.Errorf("deleting an enrollment: %v", err)
	}
	if left, err := store.Enrollments(ctx); err != nil || len(left) != 0 {
		t.Errorf("enrollments left: %+v, %v", left, err)
	}
}

// forgetsOldOperations: an ended operation can be polled for a day.
func forgetsOldOperations(t *testing.T, open func() dpslocal.Store) {
	store := open()
	defer store.Close()
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	r := dpslocal.Registration{ID: "d", State: []byte("{}")}
	old := dpslocal.Operation{ID: "old", RegistrationID: "d", Begun: at}
	running := dpslocal.Operation{ID: "running", RegistrationID: "e", Begun: at}
	for _, op := range []dpslocal.Operation{old, running} {
		r.ID = op.RegistrationID
		if _, err := store.BeginOperation(t.Context(), op, r); err != nil {
			t.Fatal(err)
		}
	}
	old.Ended = at.Add(time.Minute)
	if err := store.FinishOperation(t.Context(), old, r, nil); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		id        string
		begun     time.Time
		remembers bool
	}{
		{"f", old.Ended.Add(24 * time.Hour), true},
		{"g", old.Ended.Add(24*time.Hour + time.Second), false},
	} {
		r.ID = step.id
		if _, err := store.BeginOperation(t.Context(), dpslocal.Operation{ID: step.id, RegistrationID: step.id, Begun: step.begun}, r); err != nil {
			t.Fatal(err)
		}
		_, err1 := store.Operation(t.Context(), "d", "old")
		_, err2 := store.Operation(t.Context(), "e", "running")
		if (err1 == nil) != step.remembers || err2 != nil {
			t.Errorf("after %s: ended %v, running %v; want remembered: %v, true", step.id, err1, err2, step.remembers)
		}
	}
}

// runsOneOperation: one operation at most runs for a registration, and what ended stays as it is.
func runsOneOperation(t *testing.T, open func() dpslocal.Store) {
	store := open()
	defer store.Close()
	ctx := t.Context()
	r := dpslocal.Registration{ID: "Dev", Status: dpslocal.Assigning, State: []byte("{}")}
	first := dpslocal.Operation{ID: "1", RegistrationID: "Dev", Status: dpslocal.Assigning}
	if got, err := store.BeginOperation(ctx, first, r); err != nil || got.ID != "1" {
		t.Errorf("got %+v, %v; want the new one", got, err)
	}
	if got, err := store.BeginOperation(ctx, dpslocal.Operation{ID: "2", RegistrationID: "dEV"}, r); err != nil || got.ID != "1" {
		t.Errorf("got %+v, %v; want the running one", got, err)
	}
	assigned := r
	assigned.Status, assigned.AssignedHub, assigned.DeviceID, assigned.Substatus = dpslocal.Assigned, "h", "D", "initialAssignment"
	first.Ended, first.Status = time.Now(), dpslocal.Assigned
	if err := store.FinishOperation(ctx, first, assigned, nil); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"progress of an ended one": store.SaveProgress(ctx, "1", 3, time.Now()),
		"ending it again":          store.FinishOperation(ctx, first, r, nil),
		"ending an unknown one":    store.FinishOperation(ctx, dpslocal.Operation{ID: "3", Ended: time.Now()}, r, nil),
	} {
		if !errors.Is(err, dpslocal.ErrNotOurs) {
			t.Errorf("%s: got %v, want ErrNotOurs", what, err)
		}
	}
	// The registration was read before the first operation ended.
	if got, err := store.BeginOperation(ctx, dpslocal.Operation{ID: "4", RegistrationID: "Dev", Status: dpslocal.Assigning}, r); err != nil || got.ID != "4" {
		t.Errorf("got %+v, %v; want a new one", got, err)
	}
	want := assigned
	want.Status = dpslocal.Assigning
	if got, err := store.Registration(ctx, "dev"); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%v (-want +got):\n%s", err, cmp.Diff(want, got))
	}
}

// beginIsAllOrNothing: a transaction that fails half-way leaves nothing behind.
func beginIsAllOrNothing(t *testing.T, open func() dpslocal.Store) {
	store := open()
	defer store.Close()
	stray := dpslocal.Operation{ID: "o", RegistrationID: "another"} // refused: its registration is not there
	if _, err := store.BeginOperation(t.Context(), stray, dpslocal.Registration{ID: "d", State: []byte("{}")}); err == nil {
		t.Fatal("an operation without its registration was stored")
	}
	if _, err := store.Registration(t.Context(), "d"); !errors.Is(err, dpslocal.ErrNotFound) {
		t.Errorf("got %v, want the registration not stored either", err)
	}
}

// updateTwinIsAllOrNothing: a change that is refused writes nothing.
func updateTwinIsAllOrNothing(t *testing.T, open func() dpslocal.Store) {
	store := open()
	defer store.Close()
	r := dpslocal.Registration{ID: "d", State: []byte("{}")}
	twin := dpslocal.Twin{DesiredVersion: 1, ReportedVersion: 1}
	op := dpslocal.Operation{ID: "o", RegistrationID: "d"}
	if _, err := store.BeginOperation(t.Context(), op, r); err != nil {
		t.Fatal(err)
	}
	op.Ended = time.Now()
	if err := store.FinishOperation(t.Context(), op, r, &dpslocal.Placement{Device: dpslocal.Device{Hub: "h", ID: "d", Twin: twin}}); err != nil {
		t.Fatal(err)
	}
	refusal := errors.New("no")
	err := store.UpdateTwin(t.Context(), "h", "d", func(twin *dpslocal.Twin) error {
		twin.ReportedVersion = 7
		return refusal
	})
	if !errors.Is(err, refusal) {
		t.Errorf("got %v, want the refusal", err)
	}
	if d, err := store.Device(t.Context(), "h", "d"); err != nil || d.Twin.ReportedVersion != 1 {
		t.Errorf("got %+v, %v; want nothing written", d, err)
	}
}
