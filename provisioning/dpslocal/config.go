// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Config says what the service is: its identity, its hubs and the entries that
// exist from the start. LoadConfig reads it from a file; a program may as well
// write it as a literal. New refuses one that is not valid, with a ConfigError.
type Config struct {
	// IDScope names the service instance to devices, such as "0ne00ABCDEF".
	// Required. Compared without case.
	IDScope string

	// Name is the first label of the service's own host name,
	// NAME.azure-devices-provisioning.net. Default "dpslocal".
	Name string

	// RetryAfter is what a 202 tells the device to wait: whole seconds, 0 to 300.
	// With 0 an operation status call is held for up to a second until its
	// operation ends, so that fast tests need one poll only.
	RetryAfter time.Duration

	// Strict answers a second register of a device whose operation still runs
	// with 409203 instead of that operation's ID (dps-protocol 11.4).
	Strict bool

	// StoreFile is the name of the SQLite file in Options.Dir. Default "dpslocal.db".
	StoreFile string

	// StoreURL names a PostgreSQL database to be used instead, such as
	// "postgres://dpslocal@db.example/dpslocal". It may hold a password. This
	// package opens none: give Options.Store.
	StoreURL Secret

	// Hubs are the linked hubs, in the order in which webhooks see them. At
	// least one.
	Hubs []Hub

	// EnrollmentGroups and Enrollments are made when the store has none of that
	// name; a stored one is left as it is, since it may have been changed since.
	EnrollmentGroups []EnrollmentGroup
	Enrollments      []IndividualEnrollment

	// Throttle limits the calls of devices. The zero value limits nothing.
	Throttle Throttle

	// Faults is the fault script from the start.
	Faults []FaultRule

	// PolicyKeys are the shared access policies of the service API, which answers
	// 401 to everybody when there are none.
	PolicyKeys []PolicyKey

	// CACertificates are what enrollment groups refer to by name in
	// X509Attestation.CAReferences.
	CACertificates []CACertificate

	// TLSNames are further DNS names or IP addresses for the server's certificate.
	TLSNames []string
}

// Hub is one linked IoT hub.
type Hub struct {
	// Name is the hub's whole host name, such as "contoso-toasters-hub-1098.azure-devices.net".
	Name string

	// Weight is the hub's share of the devices that are allocated by Hashed, 1 to
	// 1000. Default 1.
	Weight int

	// PolicyKeys are the shared access policies of the hub's service API, which
	// answers 401 to everybody when there are none.
	PolicyKeys []PolicyKey
}

// maxWeight is the largest allocation weight of a hub (dps-protocol 10.3).
const maxWeight = 1000

// AllocationPolicy says who picks the hub of a device (dps-protocol 10.3).
type AllocationPolicy string

// The allocation policies that this service knows.
const (
	Hashed AllocationPolicy = "hashed" // spread over the hubs by their weights and a hash of the registration ID; the default
	Static AllocationPolicy = "static" // the first hub of the enrollment
	Custom AllocationPolicy = "custom" // the webhook decides

	// GeoLatency is "lowest latency", which has no meaning here: it takes the
	// first of Config.Hubs that the enrollment allows.
	GeoLatency AllocationPolicy = "geoLatency"
)

// ProvisioningStatus says whether an enrollment lets devices in.
type ProvisioningStatus string

// The two provisioning statuses.
const (
	Enabled  ProvisioningStatus = "enabled" // the default
	Disabled ProvisioningStatus = "disabled"
)

// ReprovisionPolicy says what happens to a device that registers again
// (dps-protocol 19.1).
type ReprovisionPolicy string

// The three documented reprovision policies.
const (
	ReprovisionMigrate ReprovisionPolicy = "migrate" // allocate again; the twin moves along; the default
	ReprovisionReset   ReprovisionPolicy = "reset"   // allocate again; a moved device starts from the initial twin
	ReprovisionNever   ReprovisionPolicy = "never"   // the hub stays
)

// EnrollmentGroup is an entry for many devices that share a group key, or whose
// certificates have a common issuer.
type EnrollmentGroup struct {
	// ID is the group's name, by the rule of registration IDs. Required.
	ID string

	// Attestation, default AttestationX509 when X509 is given, otherwise
	// AttestationSymmetricKey. A group has no TPM.
	Attestation AttestationType

	// PrimaryKey and SecondaryKey are base64 of 16 to 64 bytes. Absent ones are
	// generated, 64 bytes, or kept when the group is stored already.
	PrimaryKey, SecondaryKey Secret

	// X509 names the issuers of the devices' certificates.
	X509 X509Attestation

	// IoTEdge makes the devices edge devices, as far as webhooks are told.
	IoTEdge bool

	// ProvisioningStatus, default Enabled.
	ProvisioningStatus ProvisioningStatus

	// AllocationPolicy, default Hashed.
	AllocationPolicy AllocationPolicy

	// WebhookURL is called for Custom: https, or http on loopback. A function key
	// goes into its query, which no request and no log shows.
	WebhookURL Secret

	// WebhookCAFile holds PEM roots that are trusted for the webhook beside the
	// system's. Local to this process: it is not part of the stored enrollment.
	WebhookCAFile string

	// Hubs are the names of the hubs to choose from; empty means all linked hubs.
	Hubs []string

	// ReprovisionPolicy, default ReprovisionMigrate.
	ReprovisionPolicy ReprovisionPolicy

	// InitialTwin is {"tags":{},"properties":{"desired":{}}} or nil.
	InitialTwin json.RawMessage
}

// IndividualEnrollment is an entry for one device. It wins over any group; a
// disabled one bars its device (dps-protocol 10.1).
type IndividualEnrollment struct {
	// RegistrationID is the device's name with the service. Required.
	RegistrationID string

	// DeviceID is the name that the device gets on its hub; default the registration ID.
	DeviceID string

	// The rest is as in EnrollmentGroup; the keys are the device's own, nothing
	// is derived from them, and so are the certificates.

	Attestation              AttestationType
	PrimaryKey, SecondaryKey Secret
	X509                     X509Attestation
	TPM                      TPMAttestation
	IoTEdge                  bool
	ProvisioningStatus       ProvisioningStatus
	AllocationPolicy         AllocationPolicy
	WebhookURL               Secret
	WebhookCAFile            string
	Hubs                     []string
	ReprovisionPolicy        ReprovisionPolicy
	InitialTwin              json.RawMessage
}

// ConfigError says that the configuration, not the machine, is at fault.
type ConfigError struct {
	Err error
}

func (e *ConfigError) Error() string { return "configuration: " + e.Err.Error() }

// Unwrap returns what is wrong; several findings are joined.
func (e *ConfigError) Unwrap() error { return e.Err }

// defaultStoreFile is the store's name in Options.Dir.
const defaultStoreFile = "dpslocal.db"

// SetStore says where the store is, as the configuration file and the command
// line write it: the name of a SQLite file, or the URL of a PostgreSQL database.
func (c *Config) SetStore(store string) {
	c.StoreFile, c.StoreURL = store, ""
	if strings.HasPrefix(store, "postgres://") || strings.HasPrefix(store, "postgresql://") {
		c.StoreFile, c.StoreURL = "", Secret(store)
	}
}

// withDefaults fills in what the configuration leaves out.
func (c Config) withDefaults() Config {
	if c.Name == "" {
		c.Name = "dpslocal"
	}
	if c.StoreFile == "" {
		c.StoreFile = defaultStoreFile
	}
	return c
}

// validate reports everything that is wrong with c at once.
func (c Config) validate() error {
	var errs []error
	if !idScopePattern.MatchString(c.IDScope) {
		errs = append(errs, fmt.Errorf("id_scope %q: give 1 to 64 letters and digits, such as 0ne00ABCDEF", c.IDScope))
	}
	if !dnsLabelPattern.MatchString(c.Name) {
		errs = append(errs, fmt.Errorf("name %q: not a host name label", c.Name))
	}
	if c.RetryAfter < 0 || c.RetryAfter > 300*time.Second || c.RetryAfter%time.Second != 0 {
		errs = append(errs, fmt.Errorf("retry_after %q: give whole seconds from 0s to 300s; clients read nothing else", c.RetryAfter))
	}
	if strings.ContainsAny(c.StoreFile, `/\:?`) {
		errs = append(errs, fmt.Errorf("store %q: give the name of a SQLite file in the directory of --dir, or a postgres:// URL", c.StoreFile))
	}
	if len(c.Hubs) == 0 {
		errs = append(errs, errors.New("no [[hub]]: name at least one, devices need a place to go"))
	}
	if err := c.Throttle.validate(); err != nil {
		errs = append(errs, err)
	}
	for i, rule := range c.Faults {
		if err := rule.validate(); err != nil {
			errs = append(errs, fmt.Errorf("fault %d: %w", i+1, err))
		}
	}
	if len(c.Faults) > maxFaultRules {
		errs = append(errs, fmt.Errorf("%d faults: at most %d are taken", len(c.Faults), maxFaultRules))
	}
	for i, hub := range c.Hubs {
		if !validDNSName(hub.Name) {
			errs = append(errs, fmt.Errorf("hub %q: not a host name", hub.Name))
		}
		if hub.Weight < 0 || hub.Weight > maxWeight {
			errs = append(errs, fmt.Errorf("hub %q: weight %d: give 1 to %d", hub.Name, hub.Weight, maxWeight))
		}
		if slices.ContainsFunc(c.Hubs[:i], func(h Hub) bool { return strings.EqualFold(h.Name, hub.Name) }) {
			errs = append(errs, fmt.Errorf("hub %q: named twice", hub.Name))
		}
		if err := policies(hub.PolicyKeys).validate(fmt.Sprintf("hub %q: policy_key", hub.Name), hubPermissions); err != nil {
			errs = append(errs, err)
		}
	}
	for _, name := range c.TLSNames {
		if net.ParseIP(name) == nil && !validDNSName(name) {
			errs = append(errs, fmt.Errorf("tls_names: %q is neither a host name nor an IP address", name))
		}
	}
	if err := policies(c.PolicyKeys).validate("policy_key", servicePermissions); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, c.validateCAs()...)
	seen := make(map[string]bool)
	for _, e := range c.entries() {
		if seen[e.key()] {
			errs = append(errs, fmt.Errorf("%s: named twice", e))
		}
		seen[e.key()] = true
		if err := e.validate(c.Hubs); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return &ConfigError{errors.Join(errs...)}
	}
	return nil
}

// validateCAs reports CA certificates that cannot be used. Whether those exist
// that an enrollment refers to is asked when it is made.
func (c Config) validateCAs() []error {
	var errs []error
	known := make(map[string]bool)
	for _, ca := range c.CACertificates {
		if ca.Name == "" || known[ca.Name] {
			errs = append(errs, fmt.Errorf("ca_certificate %q: give each a name of its own", ca.Name))
		}
		known[ca.Name] = true
		if certificate, err := parseCertificate(ca.Certificate); err != nil {
			errs = append(errs, fmt.Errorf("ca_certificate %q: %w", ca.Name, err))
		} else if !certificate.IsCA {
			errs = append(errs, fmt.Errorf("ca_certificate %q: not the certificate of a CA", ca.Name))
		}
	}
	return errs
}

// entries returns groups and individual enrollments in the one form that the
// rest of the package works with.
func (c Config) entries() []Enrollment {
	entries := make([]Enrollment, 0, len(c.EnrollmentGroups)+len(c.Enrollments))
	for _, g := range c.EnrollmentGroups {
		entries = append(entries, g.entry())
	}
	for _, e := range c.Enrollments {
		entries = append(entries, e.entry())
	}
	return entries
}

var (
	idScopePattern  = regexp.MustCompile(`^[A-Za-z0-9]{1,64}$`)
	dnsLabelPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

	// registrationIDPattern is the rule of dps-protocol 2.2.
	registrationIDPattern = regexp.MustCompile(`^[A-Za-z0-9\-._:]{0,127}[A-Za-z0-9\-]$`)

	// deviceIDPattern is what a hub takes; more punctuation than a registration ID.
	deviceIDPattern = regexp.MustCompile(`^[A-Za-z0-9\-:.+%_#*?!(),=@$']{1,128}$`)
)

// validDNSName reports whether name consists of host name labels.
func validDNSName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if !dnsLabelPattern.MatchString(label) {
			return false
		}
	}
	return true
}

// decodeKey decodes a symmetric key by the rule of dps-protocol 13.1: base64
// of 16 to 64 bytes. The error never shows the key.
func decodeKey(text string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("not base64")
	}
	if len(key) < 16 || len(key) > 64 {
		return nil, fmt.Errorf("%d bytes long, want 16 to 64", len(key))
	}
	return key, nil
}

// checkWebhookURL refuses a URL that a function key should not travel to. The
// error never shows the query.
func checkWebhookURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil {
		return errors.New("not a URL such as https://host/api/name")
	}
	ip := net.ParseIP(u.Hostname())
	loopback := u.Hostname() == "localhost" || (ip != nil && ip.IsLoopback())
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback) {
		return fmt.Errorf("%s://%s: use https, since the URL carries a key; http is for loopback only", u.Scheme, u.Host)
	}
	return nil
}

// loadRoots returns the system's roots with those of a PEM file added.
func loadRoots(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in it; give PEM", path)
	}
	return pool, nil
}
