// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestStoreKeepsEverything writes one of each, closes, opens and compares. The
// directory's name is one that a URL would trip over.
func TestStoreKeepsEverything(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b?c#d%20")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "store.db")
	at := time.Date(2026, 11, 22, 10, 0, 0, 123456789, time.UTC)
	enrollment := Enrollment{
		Kind: Individual, ID: "Dev-01", DeviceID: "D", Attestation: AttestationX509, PrimaryKey: testPrimary, SecondaryKey: testSecondary,
		X509: X509Attestation{
			ClientCertificates:  Slots{"c1", "c2"},
			SigningCertificates: Slots{"s1", "s2"},
			CAReferences:        Slots{"r1", "r2"},
		},
		TPM: TPMAttestation{"e", "s"}, IoTEdge: true,
		ProvisioningStatus: Disabled, AllocationPolicy: Custom, WebhookURL: testHook, Hubs: []string{toasters},
		ReprovisionPolicy: ReprovisionReset, InitialTwin: []byte(`{"tags":{}}`), WebhookAPIVersion: "2021-10-01",
		DeviceInformation: []byte(`{"a":1}`), ETag: "e", Created: at, Updated: at.Add(time.Second),
	}
	registration := Registration{
		ID: "Dev-01", EnrollmentKind: Individual, EnrollmentID: "Dev-01", Created: at, Updated: at, Status: Assigned,
		State: []byte(`{"a":1}`), AssignedHub: toasters, DeviceID: "D", Substatus: initialAssignment,
	}
	operation := Operation{
		ID: "5.0.1", RegistrationID: "dev-01", Begun: at, Ended: at.Add(time.Minute), Status: Assigned, State: []byte(`{"a":1}`),
		EnrollmentKind: Individual, EnrollmentID: "Dev-01", KeyID: "dev-01", Certificates: "PEM", Payload: []byte(`{"p":1}`), WebhookCalls: 3, NextCall: at.Add(30 * time.Second),
	}
	twin, err := parseInitialTwin([]byte(`{"tags":{"t":1},"properties":{"desired":{"d":{"e":2}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	twin.TagsVersion = 7
	device := Device{Hub: toasters, ID: "D", PrimaryKey: testPrimary, SecondaryKey: testSecondary, PrimaryThumbprint: "T1", SecondaryThumbprint: "T2", Twin: twin}

	store, err := OpenStore(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	begun := operation
	begun.Ended, begun.Status, begun.State, begun.WebhookCalls, begun.NextCall = time.Time{}, Assigning, nil, 0, at
	for _, err := range []error{
		store.PutEnrollment(ctx, enrollment),
		second(store.BeginOperation(ctx, begun, Registration{ID: "Dev-01", EnrollmentKind: Individual, EnrollmentID: "x", Created: at, Updated: at, Status: Assigning, State: []byte("{}")})),
		store.SaveProgress(ctx, operation.ID, operation.WebhookCalls, operation.NextCall),
		store.FinishOperation(ctx, operation, registration, &Placement{Device: device}),
		store.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 || info.Size() == 0 {
		t.Errorf("%+v, %v; want a file with mode 0600, there are keys in it", info, err)
	}

	store, err = OpenStore(path)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	enrollments, err1 := store.Enrollments(ctx)
	gotRegistration, err2 := store.Registration(ctx, "DEV-01")
	gotOperation, err3 := store.Operation(ctx, "DEV-01", "5.0.1")
	gotDevice, err4 := store.Device(ctx, strings.ToUpper(toasters), "D")
	unfinished, err5 := store.UnfinishedOperations(ctx)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		t.Fatal(err)
	}
	want := []any{[]Enrollment{enrollment}, registration, operation, device, 0}
	got := []any{enrollments, gotRegistration, gotOperation, gotDevice, len(unfinished)}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Enrollment{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, err := range map[string]error{
		"registration":         second(store.Registration(ctx, "other")),
		"operation":            second(store.Operation(ctx, "dev-01", "other")),
		"another's operation":  second(store.Operation(ctx, "other", "5.0.1")),
		"device in other case": second(store.Device(ctx, toasters, "d")),
		"twin":                 store.UpdateTwin(ctx, toasters, "other", nil),
		"deleting":             store.DeleteDevice(ctx, toasters, "other"),
		"enrollment":           store.DeleteEnrollment(ctx, Group, "Dev-01"),
		"old registration":     store.DeleteRegistration(ctx, "other", nil),
	} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: got %v, want ErrNotFound", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestStoreListsAndDeletes reads a group's registrations in pages, and deletes.
func TestStoreListsAndDeletes(t *testing.T) {
	store, err := OpenMemoryStore()
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ctx := t.Context()
	for _, r := range []Registration{
		{ID: "b", EnrollmentKind: Group, EnrollmentID: "G"},
		{ID: "C", EnrollmentKind: Group, EnrollmentID: "g"},
		{ID: "a", EnrollmentKind: Group, EnrollmentID: "g"},
		{ID: "g", EnrollmentKind: Individual, EnrollmentID: "g"},
		{ID: "d", EnrollmentKind: Group, EnrollmentID: "other"},
	} {
		r.State = []byte("{}")
		if _, err := store.BeginOperation(ctx, Operation{ID: "op-" + r.ID, RegistrationID: r.ID}, r); err != nil {
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
	if err := store.DeleteRegistration(ctx, "A", func(Registration) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("got %v, want the error of allow", err)
	}
	var seen string
	if err := store.DeleteRegistration(ctx, "A", func(r Registration) error { seen = r.ID; return nil }); err != nil || seen != "a" {
		t.Errorf("allow saw %q, %v", seen, err)
	}
	if diff := cmp.Diff([]string{"b", "C"}, page("", 9)); diff != "" {
		t.Errorf("after deleting a (-want +got):\n%s", diff)
	}
	if operations, err := store.Operations(ctx, "a"); err != nil || len(operations) != 0 {
		t.Errorf("operations of a deleted registration: %+v, %v", operations, err)
	}
	if err := store.PutEnrollment(ctx, Enrollment{Kind: Group, ID: "G"}); err != nil {
		t.Fatal(err)
	}
	if err := store.DeleteEnrollment(ctx, Group, "g"); err != nil {
		t.Errorf("deleting an enrollment: %v", err)
	}
	if left, err := store.Enrollments(ctx); err != nil || len(left) != 0 {
		t.Errorf("enrollments left: %+v, %v", left, err)
	}
}

// An ended operation can be polled for a day.
func TestStoreForgetsOldOperations(t *testing.T) {
	store, err := OpenMemoryStore()
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	r := Registration{ID: "d", State: []byte("{}")}
	old := Operation{ID: "old", RegistrationID: "d", Begun: at}
	running := Operation{ID: "running", RegistrationID: "e", Begun: at}
	for _, op := range []Operation{old, running} {
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
		{"f", old.Ended.Add(operationLifetime), true},
		{"g", old.Ended.Add(operationLifetime + time.Second), false},
	} {
		r.ID = step.id
		if _, err := store.BeginOperation(t.Context(), Operation{ID: step.id, RegistrationID: step.id, Begun: step.begun}, r); err != nil {
			t.Fatal(err)
		}
		_, err1 := store.Operation(t.Context(), "d", "old")
		_, err2 := store.Operation(t.Context(), "e", "running")
		if (err1 == nil) != step.remembers || err2 != nil {
			t.Errorf("after %s: ended %v, running %v; want remembered: %v, true", step.id, err1, err2, step.remembers)
		}
	}
}

// One operation at most runs for a registration, and what ended stays as it is.
func TestStoreRunsOneOperation(t *testing.T) {
	store, err := OpenMemoryStore()
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ctx := t.Context()
	r := Registration{ID: "Dev", Status: Assigning, State: []byte("{}")}
	first := Operation{ID: "1", RegistrationID: "Dev", Status: Assigning}
	if got, err := store.BeginOperation(ctx, first, r); err != nil || got.ID != "1" {
		t.Errorf("got %+v, %v; want the new one", got, err)
	}
	if got, err := store.BeginOperation(ctx, Operation{ID: "2", RegistrationID: "dEV"}, r); err != nil || got.ID != "1" {
		t.Errorf("got %+v, %v; want the running one", got, err)
	}
	assigned := r
	assigned.Status, assigned.AssignedHub, assigned.DeviceID, assigned.Substatus = Assigned, "h", "D", initialAssignment
	first.Ended, first.Status = time.Now(), Assigned
	if err := store.FinishOperation(ctx, first, assigned, nil); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"progress of an ended one": store.SaveProgress(ctx, "1", 3, time.Now()),
		"ending it again":          store.FinishOperation(ctx, first, r, nil),
		"ending an unknown one":    store.FinishOperation(ctx, Operation{ID: "3", Ended: time.Now()}, r, nil),
	} {
		if !errors.Is(err, ErrNotOurs) {
			t.Errorf("%s: got %v, want ErrNotOurs", what, err)
		}
	}
	// The registration was read before the first operation ended.
	if got, err := store.BeginOperation(ctx, Operation{ID: "4", RegistrationID: "Dev", Status: Assigning}, r); err != nil || got.ID != "4" {
		t.Errorf("got %+v, %v; want a new one", got, err)
	}
	want := assigned
	want.Status = Assigning
	if got, err := store.Registration(ctx, "dev"); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%v (-want +got):\n%s", err, cmp.Diff(want, got))
	}
}

// A transaction that fails half-way leaves nothing behind.
func TestBeginIsAllOrNothing(t *testing.T) {
	store, err := OpenMemoryStore()
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	stray := Operation{ID: "o", RegistrationID: "another"} // refused: its registration is not there
	if _, err := store.BeginOperation(t.Context(), stray, Registration{ID: "d", State: []byte("{}")}); err == nil {
		t.Fatal("an operation without its registration was stored")
	}
	if _, err := store.Registration(t.Context(), "d"); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want the registration not stored either", err)
	}
}

// A change that is refused writes nothing.
func TestUpdateTwinIsAllOrNothing(t *testing.T) {
	store, err := OpenMemoryStore()
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	r := Registration{ID: "d", State: []byte("{}")}
	twin, _ := parseInitialTwin([]byte("{}"))
	op := Operation{ID: "o", RegistrationID: "d"}
	if _, err := store.BeginOperation(t.Context(), op, r); err != nil {
		t.Fatal(err)
	}
	op.Ended = time.Now()
	if err := store.FinishOperation(t.Context(), op, r, &Placement{Device: Device{Hub: "h", ID: "d", Twin: twin}}); err != nil {
		t.Fatal(err)
	}
	refusal := errors.New("no")
	err = store.UpdateTwin(t.Context(), "h", "d", func(twin *Twin) error {
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

func TestNewerStoreIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	store, err := OpenStore(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(path); err == nil || !strings.Contains(err.Error(), "use the newer program") {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestDamagedStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want an error that names the file", err)
	}
}
