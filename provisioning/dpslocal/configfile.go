// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// maxConfigFile bounds what LoadConfig reads.
const maxConfigFile = 1 << 20

// rawConfig is the file as written; Config is what it means.
type rawConfig struct {
	IDScope         string          `toml:"id_scope"`
	Name            string          `toml:"name"`
	RetryAfter      *string         `toml:"retry_after"`
	Strict          bool            `toml:"strict"`
	Store           string          `toml:"store"`
	TLSNames        []string        `toml:"tls_names"`
	Throttle        rawThrottle     `toml:"throttle"`
	Fault           []rawFault      `toml:"fault"`
	Hub             []rawHub        `toml:"hub"`
	PolicyKey       []rawPolicyKey  `toml:"policy_key"`
	CACertificate   []rawCA         `toml:"ca_certificate"`
	EnrollmentGroup []rawGroup      `toml:"enrollment_group"`
	Enrollment      []rawIndividual `toml:"enrollment"`
}

// rawThrottle is [throttle].
type rawThrottle struct {
	Registrations int `toml:"registrations_per_minute"`
	Lookups       int `toml:"lookups_per_minute"`
	Polls         int `toml:"polls_per_10s"`
}

// rawHub is a [[hub]].
type rawHub struct {
	Name      string         `toml:"name"`
	Weight    int            `toml:"weight"`
	PolicyKey []rawPolicyKey `toml:"policy_key"`
}

// rawPolicyKey is a [[policy_key]] or a [[hub.policy_key]].
type rawPolicyKey struct {
	Name        string   `toml:"name"`
	Key         string   `toml:"key"`
	Permissions []string `toml:"permissions"`
}

// policyKeys turns what was written into policies.
func policyKeys(raw []rawPolicyKey) (keys []PolicyKey) {
	for _, r := range raw {
		policy := PolicyKey{Name: r.Name, Key: Secret(r.Key)}
		for _, permission := range r.Permissions {
			policy.Permissions = append(policy.Permissions, Permission(permission))
		}
		keys = append(keys, policy)
	}
	return keys
}

// rawCA is a [[ca_certificate]].
type rawCA struct {
	Name string `toml:"name"`
	File string `toml:"file"`
}

// rawGroup is an [[enrollment_group]].
type rawGroup struct {
	ID          string `toml:"id"`
	PrimaryCA   string `toml:"primary_ca"`
	SecondaryCA string `toml:"secondary_ca"`
	rawTerms
}

// rawIndividual is an [[enrollment]].
type rawIndividual struct {
	RegistrationID string `toml:"registration_id"`
	DeviceID       string `toml:"device_id"`
	EndorsementKey string `toml:"endorsement_key"`
	StorageRootKey string `toml:"storage_root_key"`
	rawTerms
}

// rawTerms are the keys that groups and individual enrollments share.
type rawTerms struct {
	Attestation string `toml:"attestation"`

	PrimaryKey   string `toml:"primary_key"`
	SecondaryKey string `toml:"secondary_key"`

	// The files hold the certificates of one device, or those of a group's issuers.
	PrimaryCertificateFile   string `toml:"primary_certificate_file"`
	SecondaryCertificateFile string `toml:"secondary_certificate_file"`

	IoTEdge            bool     `toml:"iot_edge"`
	ProvisioningStatus string   `toml:"provisioning_status"`
	AllocationPolicy   string   `toml:"allocation_policy"`
	WebhookURL         string   `toml:"webhook_url"`
	WebhookCAFile      string   `toml:"webhook_ca_file"`
	Hubs               []string `toml:"hubs"`
	ReprovisionPolicy  string   `toml:"reprovision_policy"`
	InitialTwin        string   `toml:"initial_twin"`
}

// defaultRetryAfter is what a 202 says unless the file says otherwise; every
// published trace of the service shows 3 seconds (dps-protocol 3.4).
const defaultRetryAfter = "3s"

// LoadConfig reads a TOML file. Unknown keys are refused with file, line and
// the nearest known key; relative names of files are taken from the file's
// directory. Every error is a *ConfigError, and none shows a value of the file
// that may be a key.
func LoadConfig(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, &ConfigError{err}
	}
	if len(data) > maxConfigFile {
		return Config{}, &ConfigError{fmt.Errorf("%s: larger than %d bytes", path, maxConfigFile)}
	}
	raw, err := parseConfig(path, data)
	if err != nil {
		return Config{}, &ConfigError{err}
	}
	cfg, err := raw.config(path)
	if err != nil {
		return Config{}, &ConfigError{err}
	}
	if err := cfg.validate(); err != nil {
		return Config{}, &ConfigError{fmt.Errorf("%s: %w", path, errors.Unwrap(err))}
	}
	return cfg, nil
}

// parseConfig decodes the text. The decoder's own excerpts are left out, because
// the line at fault may hold a key.
func parseConfig(path string, data []byte) (rawConfig, error) {
	var raw rawConfig
	decoder := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	err := decoder.Decode(&raw)
	if unknown, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		var errs []error
		for _, e := range unknown.Errors {
			line, _ := e.Position()
			key := e.Key()
			text := fmt.Sprintf("%s:%d: unknown key %q", path, line, strings.Join(key, "."))
			if near := nearestKey(key); near != "" {
				text += fmt.Sprintf(", did you mean %q?", near)
			}
			errs = append(errs, errors.New(text))
		}
		return raw, errors.Join(errs...)
	}
	if syntax, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, column := syntax.Position()
		return raw, fmt.Errorf("%s:%d:%d: %s", path, line, column, strings.TrimPrefix(syntax.Error(), "toml: "))
	}
	if err != nil {
		return raw, fmt.Errorf("%s: %w", path, err)
	}
	return raw, nil
}

// config turns what was written into a Config, with the defaults of a file.
func (raw rawConfig) config(path string) (Config, error) {
	cfg := Config{
		IDScope:  raw.IDScope,
		Name:     raw.Name,
		Strict:   raw.Strict,
		TLSNames: raw.TLSNames,
		Throttle: Throttle(raw.Throttle),
	}
	cfg.SetStore(raw.Store)
	retryAfter := defaultRetryAfter
	if raw.RetryAfter != nil {
		retryAfter = *raw.RetryAfter
	}
	var err error
	if cfg.RetryAfter, err = time.ParseDuration(retryAfter); err != nil {
		return Config{}, fmt.Errorf("%s: retry_after %q: write whole seconds, such as \"3s\"", path, retryAfter)
	}
	for i, f := range raw.Fault {
		rule, err := f.rule()
		if err != nil {
			return Config{}, fmt.Errorf("%s: fault %d: %w", path, i+1, err)
		}
		cfg.Faults = append(cfg.Faults, rule)
	}
	for _, hub := range raw.Hub {
		cfg.Hubs = append(cfg.Hubs, Hub{Name: hub.Name, Weight: hub.Weight, PolicyKeys: policyKeys(hub.PolicyKey)})
	}
	for _, ca := range raw.CACertificate {
		certificate, err := readCertificate(path, ca.File)
		if err != nil {
			return Config{}, fmt.Errorf("%s: ca_certificate %q: %w", path, ca.Name, err)
		}
		cfg.CACertificates = append(cfg.CACertificates, CACertificate{Name: ca.Name, Certificate: certificate})
	}
	cfg.PolicyKeys = policyKeys(raw.PolicyKey)
	for _, g := range raw.EnrollmentGroup {
		certificates, err := g.certificates(path)
		if err != nil {
			return Config{}, fmt.Errorf("%s: enrollment_group %q: %w", path, g.ID, err)
		}
		cfg.EnrollmentGroups = append(cfg.EnrollmentGroups, EnrollmentGroup{
			ID:           g.ID,
			Attestation:  AttestationType(g.Attestation),
			PrimaryKey:   Secret(g.PrimaryKey),
			SecondaryKey: Secret(g.SecondaryKey),
			X509: X509Attestation{
				SigningCertificates: certificates,
				CAReferences:        Slots{Primary: g.PrimaryCA, Secondary: g.SecondaryCA},
			},
			IoTEdge:            g.IoTEdge,
			ProvisioningStatus: ProvisioningStatus(g.ProvisioningStatus),
			AllocationPolicy:   AllocationPolicy(g.AllocationPolicy),
			WebhookURL:         Secret(g.WebhookURL),
			WebhookCAFile:      resolve(path, g.WebhookCAFile),
			Hubs:               g.Hubs,
			ReprovisionPolicy:  ReprovisionPolicy(g.ReprovisionPolicy),
			InitialTwin:        rawJSON(g.InitialTwin),
		})
	}
	for _, e := range raw.Enrollment {
		certificates, err := e.certificates(path)
		if err != nil {
			return Config{}, fmt.Errorf("%s: enrollment %q: %w", path, e.RegistrationID, err)
		}
		cfg.Enrollments = append(cfg.Enrollments, IndividualEnrollment{
			RegistrationID:     e.RegistrationID,
			DeviceID:           e.DeviceID,
			Attestation:        AttestationType(e.Attestation),
			PrimaryKey:         Secret(e.PrimaryKey),
			SecondaryKey:       Secret(e.SecondaryKey),
			X509:               X509Attestation{ClientCertificates: certificates},
			TPM:                TPMAttestation{EndorsementKey: e.EndorsementKey, StorageRootKey: e.StorageRootKey},
			IoTEdge:            e.IoTEdge,
			ProvisioningStatus: ProvisioningStatus(e.ProvisioningStatus),
			AllocationPolicy:   AllocationPolicy(e.AllocationPolicy),
			WebhookURL:         Secret(e.WebhookURL),
			WebhookCAFile:      resolve(path, e.WebhookCAFile),
			Hubs:               e.Hubs,
			ReprovisionPolicy:  ReprovisionPolicy(e.ReprovisionPolicy),
			InitialTwin:        rawJSON(e.InitialTwin),
		})
	}
	return cfg.withDefaults(), nil
}

// resolve makes the name of a file relative to the configuration, not to wherever
// the program was started.
func resolve(path, file string) string {
	if file == "" || filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(filepath.Dir(path), file)
}

// certificates reads the certificate files of an entry.
func (t rawTerms) certificates(path string) (Slots, error) {
	primary, err := readCertificate(path, t.PrimaryCertificateFile)
	if err != nil {
		return Slots{}, fmt.Errorf("primary_certificate_file: %w", err)
	}
	secondary, err := readCertificate(path, t.SecondaryCertificateFile)
	if err != nil {
		return Slots{}, fmt.Errorf("secondary_certificate_file: %w", err)
	}
	return Slots{Primary: primary, Secondary: secondary}, nil
}

// readCertificate reads a certificate file; no name is no certificate. The
// certificate itself is returned in one spelling, so that a comment in the file
// makes no difference.
func readCertificate(path, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	file = resolve(path, file)
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	certificate, err := parseCertificate(string(text))
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return encodeCertificate(certificate), nil
}

// rawJSON is a document written as text; no text is no document.
func rawJSON(text string) json.RawMessage {
	if text == "" {
		return nil
	}
	return json.RawMessage(text)
}

// nearestKey returns the known key of the same table that is closest to the
// last part of key, or "" when none is close.
func nearestKey(key toml.Key) string {
	if len(key) == 0 {
		return ""
	}
	table := reflect.TypeFor[rawConfig]()
	for _, part := range key[:len(key)-1] {
		field, ok := fieldOf(table, part)
		if !ok {
			return ""
		}
		if field.Kind() == reflect.Slice {
			field = field.Elem()
		}
		table = field
	}
	if table.Kind() != reflect.Struct {
		return ""
	}
	wrong := key[len(key)-1]
	near := slices.MinFunc(keysOf(table), func(a, b string) int {
		return distance(wrong, a) - distance(wrong, b)
	})
	if distance(wrong, near) > max(2, len(wrong)/2) {
		return ""
	}
	return near
}

// keysOf lists the TOML keys of a struct, those of embedded structs included.
func keysOf(table reflect.Type) []string {
	var keys []string
	for _, field := range reflect.VisibleFields(table) {
		if tag := field.Tag.Get("toml"); tag != "" {
			keys = append(keys, tag)
		}
	}
	return keys
}

// fieldOf returns the type of the field that a TOML key is decoded into.
func fieldOf(table reflect.Type, key string) (reflect.Type, bool) {
	if table.Kind() != reflect.Struct {
		return nil, false
	}
	for _, field := range reflect.VisibleFields(table) {
		if field.Tag.Get("toml") == key {
			return field.Type, true
		}
	}
	return nil, false
}

// distance is the Levenshtein distance of two short words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j]+1, row[j+1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
