// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// entryDocument is an enrollment of either kind as the service API shows
// and takes it (dps-protocol 17.5). Members that only the service sets are
// ignored when they come in, as are unknown ones: a client that changes one
// member sends back all that it has read.
type entryDocument struct {
	EnrollmentGroupID string `json:"enrollmentGroupId,omitempty"`
	RegistrationID    string `json:"registrationId,omitempty"`

	// DeviceID, RegistrationState and OptionalDeviceInformation are of an
	// individual enrollment only; the state is shown on its own, not in a list.
	DeviceID                  string          `json:"deviceId,omitempty"`
	RegistrationState         json.RawMessage `json:"registrationState,omitempty"`
	OptionalDeviceInformation json.RawMessage `json:"optionalDeviceInformation,omitempty"`

	Attestation  *attestationMechanism `json:"attestation,omitempty"`
	Capabilities *capabilitiesDocument `json:"capabilities,omitempty"`
	InitialTwin  json.RawMessage       `json:"initialTwin,omitempty"`

	// ETag is in quotes within the text.
	ETag string `json:"etag,omitempty"`

	ProvisioningStatus ProvisioningStatus `json:"provisioningStatus,omitempty"`
	ReprovisionPolicy  *reprovisionFlags  `json:"reprovisionPolicy,omitempty"`

	CreatedDateTimeUTC     string `json:"createdDateTimeUtc,omitempty"`
	LastUpdatedDateTimeUTC string `json:"lastUpdatedDateTimeUtc,omitempty"`

	AllocationPolicy AllocationPolicy `json:"allocationPolicy,omitempty"`

	// IoTHubs are host names; none means all linked hubs. IoTHubHostName is the
	// single hub of old documents, taken but never shown.
	IoTHubs        []string `json:"iotHubs,omitempty"`
	IoTHubHostName string   `json:"iotHubHostName,omitempty"`

	// CustomAllocationDefinition is shown unmasked, unlike to the webhook itself: a
	// client that updates an enrollment writes back what it has read.
	CustomAllocationDefinition *customAllocationDefinition `json:"customAllocationDefinition,omitempty"`
}

// reprovisionFlags are the reprovision policy on the wire; a missing flag is
// true (dps-protocol 19.1).
type reprovisionFlags struct {
	UpdateHubAssignment *bool `json:"updateHubAssignment"`
	MigrateDeviceData   *bool `json:"migrateDeviceData"`
}

// document shows an entry, with its keys or without.
func (e Enrollment) document(keys bool) entryDocument {
	d := entryDocument{
		DeviceID:                  e.DeviceID,
		OptionalDeviceInformation: e.DeviceInformation,
		Attestation:               e.attestation(keys),
		Capabilities:              &capabilitiesDocument{e.IoTEdge},
		InitialTwin:               e.InitialTwin,
		ETag:                      `"` + e.ETag + `"`,
		ProvisioningStatus:        e.ProvisioningStatus,
		ReprovisionPolicy:         e.ReprovisionPolicy.flags(),
		CreatedDateTimeUTC:        utcTime(e.Created),
		LastUpdatedDateTimeUTC:    utcTime(e.Updated),
		AllocationPolicy:          e.AllocationPolicy,
		IoTHubs:                   e.Hubs,
	}
	if e.Kind == Group {
		d.EnrollmentGroupID = e.ID
	} else {
		d.RegistrationID = e.ID
	}
	if e.WebhookURL != "" {
		d.CustomAllocationDefinition = &customAllocationDefinition{string(e.WebhookURL), cmp.Or(e.WebhookAPIVersion, webhookAPIVersion)}
	}
	return d
}

// flags are the two flags of a policy.
func (p ReprovisionPolicy) flags() *reprovisionFlags {
	update, migrate := p != ReprovisionNever, p == ReprovisionMigrate
	return &reprovisionFlags{&update, &migrate}
}

// policy is the policy of two flags. The pair that is not documented, migrate
// without update, moves nothing either.
func (f *reprovisionFlags) policy() ReprovisionPolicy {
	isFalse := func(flag *bool) bool { return flag != nil && !*flag }
	switch {
	case f == nil:
		return ReprovisionMigrate
	case isFalse(f.UpdateHubAssignment):
		return ReprovisionNever
	case isFalse(f.MigrateDeviceData):
		return ReprovisionReset
	default:
		return ReprovisionMigrate
	}
}

// parseEnrollment reads the document of an entry. With an id, that of the path,
// the one inside may be missing but not differ. What the document says is checked
// when the entry is stored.
func parseEnrollment(kind EnrollmentKind, id string, body []byte) (Enrollment, error) {
	var d entryDocument
	if err := decodeJSON(body, &d); err != nil {
		return Enrollment{}, errors.New("the body is not the JSON object of an enrollment")
	}
	return d.entry(kind, id)
}

// id is the name that a document gives its entry.
func (d entryDocument) id(kind EnrollmentKind) string {
	if kind == Group {
		return d.EnrollmentGroupID
	}
	return d.RegistrationID
}

// entry turns a document into an entry, with the defaults filled in.
func (d entryDocument) entry(kind EnrollmentKind, id string) (Enrollment, error) {
	inside := d.id(kind)
	if id != "" && inside != "" && !strings.EqualFold(id, inside) {
		return Enrollment{}, fmt.Errorf("the body is of %q and the path of %q", inside, id)
	}
	e := Enrollment{
		Kind:               kind,
		ID:                 cmp.Or(inside, id),
		ProvisioningStatus: cmp.Or(d.ProvisioningStatus, Enabled),
		AllocationPolicy:   cmp.Or(d.AllocationPolicy, Hashed),
		Hubs:               d.IoTHubs,
		ReprovisionPolicy:  d.ReprovisionPolicy.policy(),
	}
	if len(d.IoTHubs) == 0 && d.IoTHubHostName != "" {
		e.Hubs = []string{d.IoTHubHostName}
	}
	if kind == Individual {
		e.DeviceID = d.DeviceID
		if present(d.OptionalDeviceInformation) {
			e.DeviceInformation = compactJSON(d.OptionalDeviceInformation)
		}
	}
	if present(d.InitialTwin) {
		e.InitialTwin = compactJSON(d.InitialTwin)
	}
	if d.CustomAllocationDefinition != nil {
		e.WebhookURL = Secret(d.CustomAllocationDefinition.WebhookURL)
		e.WebhookAPIVersion = d.CustomAllocationDefinition.APIVersion
	}
	e.IoTEdge = d.Capabilities != nil && d.Capabilities.IoTEdge
	return e, e.setAttestation(d.Attestation)
}

// registrationDocument shows a registration to an operator: what its device
// sees, but with the etag as quoted text, which is how it is compared.
func registrationDocument(r Registration) (document []byte, etag string, err error) {
	var state registrationState
	if err := json.Unmarshal(r.State, &state); err != nil {
		return nil, "", fmt.Errorf("reading the state of registration %q: %w", r.ID, err)
	}
	if state.ETag != "" {
		etag = quotedETag(state.ETag)
		state.ETag = etag
	}
	return encodeJSON(state), etag, nil
}
