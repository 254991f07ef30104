// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// EnrollmentKind tells an enrollment group from an individual enrollment.
type EnrollmentKind string

// The two kinds of enrollment.
const (
	Group      EnrollmentKind = "group"
	Individual EnrollmentKind = "individual"
)

// Enrollment is an entry as the store keeps it, of either kind. Its fields are
// those of EnrollmentGroup and IndividualEnrollment with the defaults filled in.
type Enrollment struct {
	Kind EnrollmentKind

	// ID is the group's ID or the individual's registration ID, as first spelt.
	ID string

	// DeviceID is the wanted device ID of an individual enrollment, or "".
	DeviceID string

	// Attestation says which of the following counts: the keys, X509 or TPM.
	Attestation              AttestationType
	PrimaryKey, SecondaryKey Secret
	X509                     X509Attestation
	TPM                      TPMAttestation

	IoTEdge            bool
	ProvisioningStatus ProvisioningStatus
	AllocationPolicy   AllocationPolicy
	WebhookURL         Secret
	Hubs               []string
	ReprovisionPolicy  ReprovisionPolicy
	InitialTwin        json.RawMessage

	// WebhookAPIVersion is what the service API was told of the webhook, and
	// DeviceInformation the free object of an individual enrollment. Both are
	// kept and shown, and mean nothing here.
	WebhookAPIVersion string
	DeviceInformation json.RawMessage

	// ETag changes with each write. It is shown in quotes on the wire.
	ETag             string
	Created, Updated time.Time

	// certificates are those of X509, parsed, CA references left out.
	certificates []*x509.Certificate

	// webhookCAFile is of this process only, see EnrollmentGroup.WebhookCAFile.
	webhookCAFile string
}

// String names the entry in messages.
func (e Enrollment) String() string {
	if e.Kind == Group {
		return fmt.Sprintf("enrollment group %q", e.ID)
	}
	return fmt.Sprintf("enrollment %q", e.ID)
}

// key is what entries are told apart by: kind and ID without case.
func (e Enrollment) key() string { return string(e.Kind) + "/" + strings.ToLower(e.ID) }

// entry turns a group into the common form, with the documented defaults for what
// is not said.
func (g EnrollmentGroup) entry() Enrollment {
	return Enrollment{
		Kind:               Group,
		ID:                 g.ID,
		Attestation:        attestationOr(g.Attestation, g.X509),
		PrimaryKey:         g.PrimaryKey,
		SecondaryKey:       g.SecondaryKey,
		X509:               g.X509,
		IoTEdge:            g.IoTEdge,
		ProvisioningStatus: cmp.Or(g.ProvisioningStatus, Enabled),
		AllocationPolicy:   cmp.Or(g.AllocationPolicy, Hashed),
		WebhookURL:         g.WebhookURL,
		Hubs:               g.Hubs,
		ReprovisionPolicy:  cmp.Or(g.ReprovisionPolicy, ReprovisionMigrate),
		InitialTwin:        g.InitialTwin,
		webhookCAFile:      g.WebhookCAFile,
	}
}

// entry does the same for an individual enrollment.
func (i IndividualEnrollment) entry() Enrollment {
	return Enrollment{
		Kind:               Individual,
		ID:                 i.RegistrationID,
		DeviceID:           i.DeviceID,
		Attestation:        attestationOr(i.Attestation, i.X509),
		PrimaryKey:         i.PrimaryKey,
		SecondaryKey:       i.SecondaryKey,
		X509:               i.X509,
		TPM:                i.TPM,
		IoTEdge:            i.IoTEdge,
		ProvisioningStatus: cmp.Or(i.ProvisioningStatus, Enabled),
		AllocationPolicy:   cmp.Or(i.AllocationPolicy, Hashed),
		WebhookURL:         i.WebhookURL,
		Hubs:               i.Hubs,
		ReprovisionPolicy:  cmp.Or(i.ReprovisionPolicy, ReprovisionMigrate),
		InitialTwin:        i.InitialTwin,
		webhookCAFile:      i.WebhookCAFile,
	}
}

// validate reports everything that is wrong with an entry at once.
func (e Enrollment) validate(linked []Hub) error {
	var errs []error
	report := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{e}, args...)...))
	}
	if !registrationIDPattern.MatchString(e.ID) {
		report("the ID must be 1 to 128 of letters, digits and -._: and end in a letter, a digit or a dash")
	}
	if e.DeviceID != "" && !deviceIDPattern.MatchString(e.DeviceID) {
		report("device_id %q: a hub takes 1 to 128 of letters, digits and -:.+%%_#*?!(),=@$'", e.DeviceID)
	}
	if e.PrimaryKey != "" {
		if _, err := decodeKey(string(e.PrimaryKey)); err != nil {
			report("primary_key: %w", err)
		}
	}
	if e.SecondaryKey != "" {
		if _, err := decodeKey(string(e.SecondaryKey)); err != nil {
			report("secondary_key: %w", err)
		}
	}
	if err := e.validateAttestation(); err != nil {
		report("%w", err)
	}
	if e.ProvisioningStatus != Enabled && e.ProvisioningStatus != Disabled {
		report("provisioning_status %q: use enabled or disabled", e.ProvisioningStatus)
	}
	switch e.ReprovisionPolicy {
	case ReprovisionMigrate, ReprovisionReset, ReprovisionNever:
	default:
		report("reprovision_policy %q: use migrate, reset or never", e.ReprovisionPolicy)
	}
	switch e.AllocationPolicy {
	case Hashed, GeoLatency, Static:
	case Custom:
		if e.WebhookURL == "" {
			report("allocation_policy custom needs a webhook_url")
		} else if err := checkWebhookURL(string(e.WebhookURL)); err != nil {
			report("webhook_url: %w", err)
		}
	default:
		report("allocation_policy %q: use hashed, geoLatency, static or custom", e.AllocationPolicy)
	}
	for _, name := range e.Hubs {
		if !slices.ContainsFunc(linked, func(h Hub) bool { return strings.EqualFold(h.Name, name) }) {
			report("hub %q is not linked: add a [[hub]] of that name", name)
		}
	}
	if e.InitialTwin != nil {
		if _, err := parseInitialTwin(e.InitialTwin); err != nil {
			report("initial_twin: %w", err)
		}
	}
	return errors.Join(errs...)
}

// generateKey makes a symmetric key of 64 bytes, the length that the service
// generates (dps-protocol 13.1).
func generateKey() Secret {
	key := make([]byte, 64)
	_, _ = rand.Read(key) // never fails
	return Secret(base64.StdEncoding.EncodeToString(key))
}

// enrollments are the entries in memory: every register call looks through
// them, and there are at most a few hundred.
type enrollments struct {
	writing sync.Mutex // held from the look at a stored entry to its change

	mu      sync.RWMutex
	entries map[string]Enrollment // Enrollment.key → entry
}

// put inserts an entry or replaces the one of its kind and ID.
func (s *enrollments) put(e Enrollment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries == nil {
		s.entries = make(map[string]Enrollment)
	}
	e.certificates = e.parsedCertificates()
	s.entries[e.key()] = e
}

// remove takes an entry out.
func (s *enrollments) remove(e Enrollment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, e.key())
}

// replace puts all stored entries in the place of those in memory. What is of
// this process only stays.
func (s *enrollments) replace(stored []Enrollment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := make(map[string]Enrollment, len(stored))
	for _, e := range stored {
		e.webhookCAFile = s.entries[e.key()].webhookCAFile
		e.certificates = e.parsedCertificates()
		entries[e.key()] = e
	}
	s.entries = entries
}

// find returns the entry of a kind and ID, spelt in any case.
func (s *enrollments) find(kind EnrollmentKind, id string) (Enrollment, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, ok := s.entries[Enrollment{Kind: kind, ID: id}.key()]
	return e, ok
}

// groups returns the groups in the order of their IDs.
func (s *enrollments) groups() []Enrollment { return s.list(Group) }

// list returns the entries of a kind in the order of their lower-cased IDs.
func (s *enrollments) list(kind EnrollmentKind) []Enrollment {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var entries []Enrollment
	for _, e := range s.entries {
		if e.Kind == kind {
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, func(a, b Enrollment) int { return cmp.Compare(a.key(), b.key()) })
	return entries
}

// open loads the stored entries, makes the configured ones that are not stored
// yet, and warns of those that are stored differently: the stored ones count.
func (s *service) open(cfg Config) error {
	stored, err := s.store.Enrollments(s.ctx)
	if err != nil {
		return fmt.Errorf("reading enrollments: %w", err)
	}
	for _, e := range stored {
		s.enrollments.put(e)
	}
	for _, e := range cfg.entries() {
		existing, ok := s.enrollments.find(e.Kind, e.ID)
		if !ok {
			if err := s.setEnrollment(e, cfg.Hubs); err != nil {
				return err
			}
			continue
		}
		if what := existing.differsFrom(e); what != "" {
			s.logger.Warn("the configuration of a stored enrollment is not applied; the stored one counts",
				"enrollment", e.String(), "differs_in", what)
		}
		if err := s.webhook.trust(e.webhookCAFile); err != nil {
			return &ConfigError{fmt.Errorf("%s: %w", e, err)}
		}
		existing.webhookCAFile = e.webhookCAFile
		s.enrollments.put(existing)
	}
	return nil
}

// differsFrom names the first setting in which a configured entry asks for
// something else than is stored, or returns "".
func (e Enrollment) differsFrom(configured Enrollment) string {
	switch {
	case configured.Attestation != e.Attestation:
		return "attestation"
	case configured.X509 != e.X509:
		return "certificates"
	case configured.TPM != e.TPM:
		return "endorsement_key"
	case configured.IoTEdge != e.IoTEdge:
		return "iot_edge"
	case configured.PrimaryKey != "" && configured.PrimaryKey != e.PrimaryKey:
		return "primary_key"
	case configured.SecondaryKey != "" && configured.SecondaryKey != e.SecondaryKey:
		return "secondary_key"
	case configured.DeviceID != e.DeviceID:
		return "device_id"
	case configured.ProvisioningStatus != e.ProvisioningStatus:
		return "provisioning_status"
	case configured.AllocationPolicy != e.AllocationPolicy:
		return "allocation_policy"
	case configured.WebhookURL != e.WebhookURL:
		return "webhook_url"
	case !slices.Equal(configured.Hubs, e.Hubs):
		return "hubs"
	case configured.ReprovisionPolicy != e.ReprovisionPolicy:
		return "reprovision_policy"
	case string(configured.InitialTwin) != string(e.InitialTwin):
		return "initial_twin"
	}
	return ""
}

// setEnrollment makes or replaces an entry, whatever is stored.
func (s *service) setEnrollment(e Enrollment, linked []Hub) error {
	_, err := s.writeEnrollment(e, linked, func(Enrollment, bool) error { return nil })
	return err
}

// writeEnrollment makes or replaces an entry if allow, which is shown the stored
// one, has nothing against it, and returns what was stored. Its keys, if it has any,
// are the given ones, else the stored ones, else new ones.
func (s *service) writeEnrollment(e Enrollment, linked []Hub, allow func(existing Enrollment, found bool) error) (stored Enrollment, err error) {
	if err := e.validate(linked); err != nil {
		return Enrollment{}, &ConfigError{err}
	}
	for _, name := range e.X509.CAReferences.all() {
		if s.cas[name] == nil {
			return Enrollment{}, &ConfigError{fmt.Errorf("%s: no CA certificate %q: add a [[ca_certificate]] of that name", e, name)}
		}
	}
	err = s.changeEnrollments(func() error {
		stored, err = s.storeEnrollment(e, allow)
		return err
	})
	return stored, err
}

// storeEnrollment does it for an entry that is valid, within changeEnrollments.
func (s *service) storeEnrollment(e Enrollment, allow func(existing Enrollment, found bool) error) (Enrollment, error) {
	now := time.Now()
	existing, ok := s.enrollments.find(e.Kind, e.ID)
	if err := allow(existing, ok); err != nil {
		return Enrollment{}, err
	}
	if !ok {
		existing = Enrollment{ID: e.ID, Created: now}
	}
	e.webhookCAFile = cmp.Or(e.webhookCAFile, existing.webhookCAFile)
	if err := s.webhook.trust(e.webhookCAFile); err != nil {
		return Enrollment{}, &ConfigError{fmt.Errorf("%s: %w", e, err)}
	}
	e.ID, e.Created, e.Updated, e.ETag = existing.ID, existing.Created, now, newGUID()
	if e.Attestation == AttestationSymmetricKey {
		e.PrimaryKey = cmp.Or(e.PrimaryKey, existing.PrimaryKey, generateKey())
		e.SecondaryKey = cmp.Or(e.SecondaryKey, existing.SecondaryKey, generateKey())
	}
	if err := s.store.PutEnrollment(s.ctx, e); err != nil {
		return Enrollment{}, fmt.Errorf("storing %s: %w", e, err)
	}
	s.enrollments.put(e)
	return e, nil
}

// deleteEnrollment removes an entry if allow, which is shown it, has nothing
// against it. Registrations and devices that it made stay.
func (s *service) deleteEnrollment(kind EnrollmentKind, id string, allow func(Enrollment) error) error {
	return s.changeEnrollments(func() error {
		existing, ok := s.enrollments.find(kind, id)
		if !ok {
			return fmt.Errorf("%s: %w", Enrollment{Kind: kind, ID: id}, ErrNotFound)
		}
		if err := allow(existing); err != nil {
			return err
		}
		if err := s.store.DeleteEnrollment(s.ctx, kind, id); err != nil {
			return fmt.Errorf("deleting %s: %w", existing, err)
		}
		s.enrollments.remove(existing)
		return nil
	})
}

// changeEnrollments runs a change that looks at the stored entry first. No other
// runs meanwhile, of this instance or another one of a shared store.
func (s *service) changeEnrollments(change func() error) error {
	s.enrollments.writing.Lock()
	defer s.enrollments.writing.Unlock()
	if s.shared == nil {
		return change()
	}
	ctx, cancel := context.WithTimeout(s.ctx, storeTimeout)
	defer cancel()
	return s.shared.Exclusive(ctx, "enrollments", func() error {
		if err := s.reload(ctx); err != nil {
			return err
		}
		return change()
	})
}
