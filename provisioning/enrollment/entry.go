// SPDX-License-Identifier: Apache-2.0

package enrollment

import (
	"encoding/json"
	"reflect"
	"strings"
	"time"
)

// Group is an enrollment group: the service's entry for many devices, which prove
// themselves by keys derived from the group's, or by certificates that it signed.
type Group struct {
	ID string `json:"enrollmentGroupId"`
	Entry
}

// Individual is an individual enrollment: the service's entry for one device. It
// counts before any group (dps-protocol 10.1).
type Individual struct {
	RegistrationID            string          `json:"registrationId"`
	DeviceID                  string          `json:"deviceId,omitempty"`                  // the wanted one; "" for the registration ID
	OptionalDeviceInformation json.RawMessage `json:"optionalDeviceInformation,omitempty"` // a free object
	RegistrationState         *Registration   `json:"registrationState,omitempty"`         // set by the service, and missing in query results
	Entry
}

// Entry is what both kinds have in common (dps-protocol 17.5). What is left empty
// takes the service's default.
type Entry struct {
	Attestation            Attestation        `json:"attestation,omitzero"`
	Capabilities           *Capabilities      `json:"capabilities,omitempty"`
	InitialTwin            json.RawMessage    `json:"initialTwin,omitempty"` // {"tags":{…},"properties":{"desired":{…}}}
	ETag                   string             `json:"etag,omitempty"`        // with its quotes, as the service spells it
	ProvisioningStatus     ProvisioningStatus `json:"provisioningStatus,omitempty"`
	ReprovisionPolicy      *ReprovisionPolicy `json:"reprovisionPolicy,omitempty"`
	CreatedDateTimeUTC     Timestamp          `json:"createdDateTimeUtc,omitzero"`     // set by the service
	LastUpdatedDateTimeUTC Timestamp          `json:"lastUpdatedDateTimeUtc,omitzero"` // set by the service
	AllocationPolicy       AllocationPolicy   `json:"allocationPolicy,omitempty"`
	IoTHubs                []string           `json:"iotHubs,omitempty"`        // host names; none stands for all linked hubs
	IoTHubHostName         string             `json:"iotHubHostName,omitempty"` // the one hub of old entries, before there was IoTHubs
	CustomAllocation       *CustomAllocation  `json:"customAllocationDefinition,omitempty"`

	// Other holds the members that this package does not know, of a preview for
	// instance, so that an update writes them back. Known ones are not looked at.
	Other map[string]json.RawMessage `json:"-"`
}

// Attestation says how devices prove themselves.
type Attestation struct {
	Type         AttestationType `json:"type"`
	SymmetricKey *SymmetricKey   `json:"symmetricKey,omitempty"`
	X509         *X509           `json:"x509,omitempty"`
	TPM          *TPM            `json:"tpm,omitempty"`
}

// AttestationType is a kind of attestation.
type AttestationType string

// The kinds of attestation.
const (
	AttestationSymmetricKey AttestationType = "symmetricKey"
	AttestationX509         AttestationType = "x509"
	AttestationTPM          AttestationType = "tpm"
	AttestationNone         AttestationType = "none"
)

// SymmetricKey is the pair of keys of an entry, of which either is good at any
// time. An entry that is created without any gets both from the service.
type SymmetricKey struct {
	PrimaryKey   Key `json:"primaryKey,omitzero"`
	SecondaryKey Key `json:"secondaryKey,omitzero"`
}

// X509 holds one of its three: certificates of the one device, certificates that
// sign those of a group's devices, or the names of CA certificates that the
// service instance has.
type X509 struct {
	ClientCertificates  *Certificates `json:"clientCertificates,omitempty"`
	SigningCertificates *Certificates `json:"signingCertificates,omitempty"`
	CAReferences        *CAReferences `json:"caReferences,omitempty"`
}

// Certificates is a pair of which either is good.
type Certificates struct {
	Primary   *Certificate `json:"primary,omitempty"`
	Secondary *Certificate `json:"secondary,omitempty"`
}

// Certificate is one certificate, and what the service has read in it.
type Certificate struct {
	Certificate string          `json:"certificate,omitempty"` // PEM, or the base64 within
	Info        json.RawMessage `json:"info,omitempty"`        // set by the service
}

// CAReferences names CA certificates.
type CAReferences struct {
	Primary   string `json:"primary,omitempty"`
	Secondary string `json:"secondary,omitempty"`
}

// TPM holds the public keys of a device's TPM, in base64.
type TPM struct {
	EndorsementKey string `json:"endorsementKey"`
	StorageRootKey string `json:"storageRootKey,omitempty"`
}

// Capabilities are those of a device at its hub, fixed when it is made there.
type Capabilities struct {
	IoTEdge bool `json:"iotEdge"`
}

// ProvisioningStatus says whether an entry lets devices in.
type ProvisioningStatus string

// The two statuses. A disabled individual enrollment also bars its device from
// every group, which is the documented way to bar one device (dps-protocol 10.1).
const (
	Enabled  ProvisioningStatus = "enabled"
	Disabled ProvisioningStatus = "disabled"
)

// ReprovisionPolicy says what a registration after the first one does
// (dps-protocol 19.1). Both true, the default, moves the device's data with it;
// both false leaves the device where it is.
type ReprovisionPolicy struct {
	UpdateHubAssignment bool `json:"updateHubAssignment"`
	MigrateDeviceData   bool `json:"migrateDeviceData"`
}

// AllocationPolicy says who picks the hub (dps-protocol 10.3).
type AllocationPolicy string

// The allocation policies.
const (
	Hashed     AllocationPolicy = "hashed"
	GeoLatency AllocationPolicy = "geoLatency"
	Static     AllocationPolicy = "static"
	Custom     AllocationPolicy = "custom" // needs a CustomAllocation
)

// CustomAllocation names the webhook that picks the hub.
type CustomAllocation struct {
	WebhookURL WebhookURL `json:"webhookUrl"`
	APIVersion string     `json:"apiVersion"` // of the AllocationRequest, such as 2019-03-31
}

// Timestamp is a time of the service: seven fractional digits and a Z in traces,
// none in one sample. One that cannot be read is no reason to lose an entry: it
// is left zero.
type Timestamp struct{ time.Time }

// UnmarshalJSON reads either form, as UTC.
func (t *Timestamp) UnmarshalJSON(text []byte) error {
	t.Time = time.Time{}
	var value string
	if json.Unmarshal(text, &value) != nil {
		return nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999"} {
		if at, err := time.Parse(layout, value); err == nil && at.Year() >= 1 && at.Year() <= 9999 {
			t.Time = at.UTC()
			return nil
		}
	}
	return nil
}

// MarshalJSON writes the time in UTC, or null for none.
func (t Timestamp) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	return json.Marshal(t.UTC().Format("2006-01-02T15:04:05.0000000Z"))
}

// MarshalJSON shows the group with its secrets redacted.
func (g Group) MarshalJSON() ([]byte, error) {
	type members Group
	return withOther(members(g), g.Other)
}

// UnmarshalJSON reads a group as the service writes it.
func (g *Group) UnmarshalJSON(text []byte) error {
	type members Group
	var read members
	if err := json.Unmarshal(text, &read); err != nil {
		return err
	}
	*g = Group(read)
	g.Other = other(text, read)
	return nil
}

// MarshalJSON shows the enrollment with its secrets redacted.
func (i Individual) MarshalJSON() ([]byte, error) {
	type members Individual
	return withOther(members(i), i.Other)
}

// UnmarshalJSON reads an enrollment as the service writes it.
func (i *Individual) UnmarshalJSON(text []byte) error {
	type members Individual
	var read members
	if err := json.Unmarshal(text, &read); err != nil {
		return err
	}
	*i = Individual(read)
	i.Other = other(text, read)
	return nil
}

// withOther writes members and, beside them, those that are not known.
func withOther(members any, unknown map[string]json.RawMessage) ([]byte, error) {
	text, err := json.Marshal(members)
	if err != nil || len(unknown) == 0 {
		return text, err
	}
	document := make(map[string]json.RawMessage)
	if err := json.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	for name, value := range unknown {
		if !isMember(members, name) {
			document[name] = value
		}
	}
	return json.Marshal(document)
}

// other returns what a document has besides members.
func other(text []byte, members any) map[string]json.RawMessage {
	var document map[string]json.RawMessage
	_ = json.Unmarshal(text, &document) // it was read once already
	for name := range document {
		if isMember(members, name) {
			delete(document, name)
		}
	}
	if len(document) == 0 {
		return nil
	}
	return document
}

// isMember tells whether a struct has a member of that name, in any case, as
// encoding/json reads it.
func isMember(members any, name string) bool {
	for _, field := range reflect.VisibleFields(reflect.TypeOf(members)) {
		tag, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if tag != "" && tag != "-" && strings.EqualFold(tag, name) {
			return true
		}
	}
	return false
}

// Kind is one of the two kinds of entries.
type Kind interface{ Group | Individual }

// entity is what [Collection] asks of a kind.
type entity interface {
	base() *Entry
	name() string
}

var (
	_ entity = (*Group)(nil)
	_ entity = (*Individual)(nil)
)

func (e *Entry) base() *Entry      { return e }
func (g *Group) name() string      { return g.ID }
func (i *Individual) name() string { return i.RegistrationID }

// of gives access to what the kinds have in common.
func of[E Kind](e *E) entity { return any(e).(entity) }

// RevealJSON writes an entry as the service sends and takes it, with its keys and
// the query of its webhook's URL.
func RevealJSON[E Kind](e E) ([]byte, error) {
	document, err := reveal(e)
	if err != nil {
		return nil, err
	}
	return json.Marshal(document)
}

// reveal puts the secrets over the redacted form, so that a member that is
// forgotten here is one too few on the wire and not one too many in a log.
func reveal[E Kind](e E) (map[string]json.RawMessage, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	var document map[string]json.RawMessage
	if err := json.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	entry := of(&e).base()
	if keys := entry.Attestation.SymmetricKey; keys != nil {
		document["attestation"], err = json.Marshal(revealedAttestation{
			Attestation:  entry.Attestation,
			SymmetricKey: revealedKeys{keys.PrimaryKey.Reveal(), keys.SecondaryKey.Reveal()},
		})
		if err != nil {
			return nil, err
		}
	}
	if custom := entry.CustomAllocation; custom != nil {
		document["customAllocationDefinition"], err = json.Marshal(revealedAllocation{custom.WebhookURL.Reveal(), custom.APIVersion})
	}
	return document, err
}

// revealedAttestation is an Attestation with its keys: the outer member hides
// the embedded one of the same name.
type revealedAttestation struct {
	Attestation
	SymmetricKey revealedKeys `json:"symmetricKey"`
}

type revealedKeys struct {
	PrimaryKey   string `json:"primaryKey,omitempty"`
	SecondaryKey string `json:"secondaryKey,omitempty"`
}

type revealedAllocation struct {
	WebhookURL string `json:"webhookUrl"`
	APIVersion string `json:"apiVersion"`
}
