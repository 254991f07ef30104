// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxCertificate bounds a certificate in an enrollment, as PEM text.
const maxCertificate = 16 << 10

// AttestationType says how a device proves that it is the one of an enrollment
// (dps-protocol 17.5).
type AttestationType string

// The attestation types. An enrollment with AttestationTPM is kept and shown, but
// lets no device in: nothing here issues a TPM its challenge.
const (
	AttestationSymmetricKey AttestationType = "symmetricKey" // the default
	AttestationX509         AttestationType = "x509"
	AttestationTPM          AttestationType = "tpm"
)

// X509Attestation is what AttestationX509 goes by. An individual enrollment has
// ClientCertificates; a group has either SigningCertificates or CAReferences. One
// of the two places of each is enough.
type X509Attestation struct {
	// ClientCertificates are the certificates of the device itself, which may be
	// self-signed; they are compared as a whole.
	ClientCertificates Slots `json:"clientCertificates,omitzero"`

	// SigningCertificates issue the certificates of a group's devices.
	SigningCertificates Slots `json:"signingCertificates,omitzero"`

	// CAReferences are the names of certificates of Config.CACertificates, which
	// issue the devices' certificates or those of further issuers.
	CAReferences Slots `json:"caReferences,omitzero"`
}

// Slots are the two places that let one value be replaced by another without an
// interruption. Certificates are PEM.
type Slots struct {
	Primary   string `json:"primary,omitempty"`
	Secondary string `json:"secondary,omitempty"`
}

// all returns the values that are set.
func (s Slots) all() []string {
	return slices.DeleteFunc([]string{s.Primary, s.Secondary}, func(text string) bool { return text == "" })
}

// TPMAttestation is what AttestationTPM goes by: the public parts of a TPM's
// endorsement and storage root keys, base64.
type TPMAttestation struct {
	EndorsementKey string `json:"endorsementKey,omitempty"`
	StorageRootKey string `json:"storageRootKey,omitempty"`
}

// CACertificate is a certificate that groups refer to by name. Whoever writes it
// into the configuration vouches for it; there is no proof of possession.
type CACertificate struct {
	Name        string
	Certificate string // PEM
}

// attestationOr is the type that was given, or what the rest implies.
func attestationOr(given AttestationType, certificates X509Attestation) AttestationType {
	if given == "" && certificates != (X509Attestation{}) {
		return AttestationX509
	}
	return cmp.Or(given, AttestationSymmetricKey)
}

// validateAttestation reports what is wrong with how an entry's devices prove
// themselves.
func (e Enrollment) validateAttestation() error {
	switch e.Attestation {
	case AttestationSymmetricKey:
	case AttestationX509, AttestationTPM:
		if e.PrimaryKey != "" || e.SecondaryKey != "" {
			return fmt.Errorf("attestation %s goes without primary_key and secondary_key", e.Attestation)
		}
	default:
		return fmt.Errorf("attestation %q: use symmetricKey, x509 or tpm", e.Attestation)
	}
	if e.Attestation != AttestationX509 && e.X509 != (X509Attestation{}) {
		return fmt.Errorf("certificates are for attestation x509, not for %s", e.Attestation)
	}
	if e.Attestation != AttestationTPM && e.TPM != (TPMAttestation{}) {
		return fmt.Errorf("an endorsement key is for attestation tpm, not for %s", e.Attestation)
	}
	switch {
	case e.Attestation == AttestationX509 && e.Kind == Individual:
		return e.X509.validateIndividual()
	case e.Attestation == AttestationX509:
		return e.X509.validateGroup()
	case e.Attestation == AttestationTPM:
		return e.TPM.validate(e.Kind)
	}
	return nil
}

// validateIndividual holds the rules for one device's certificates.
func (a X509Attestation) validateIndividual() error {
	if a.SigningCertificates != (Slots{}) || a.CAReferences != (Slots{}) {
		return errors.New("an individual enrollment has client certificates, not those of an issuer")
	}
	if a.ClientCertificates == (Slots{}) {
		return errors.New("attestation x509 needs a client certificate")
	}
	return validateCertificates(a.ClientCertificates)
}

// validateGroup holds the rules for a group's issuers.
func (a X509Attestation) validateGroup() error {
	if a.ClientCertificates != (Slots{}) {
		return errors.New("an enrollment group has signing certificates or CA references, not client certificates")
	}
	if (a.SigningCertificates == Slots{}) == (a.CAReferences == Slots{}) {
		return errors.New("attestation x509 needs either signing certificates or CA references")
	}
	for _, name := range a.CAReferences.all() {
		if len(name) > 128 {
			return errors.New("the name of a CA certificate has at most 128 characters")
		}
	}
	return validateCertificates(a.SigningCertificates)
}

// validateCertificates parses the certificates of both places.
func validateCertificates(certificates Slots) error {
	for _, text := range certificates.all() {
		if _, err := parseCertificate(text); err != nil {
			return err
		}
	}
	return nil
}

// validate holds the rules for a TPM's keys, which are kept and nothing else.
func (a TPMAttestation) validate(kind EnrollmentKind) error {
	if kind == Group {
		return errors.New("attestation tpm is for individual enrollments")
	}
	if a.EndorsementKey == "" {
		return errors.New("attestation tpm needs an endorsement key")
	}
	for _, text := range []string{a.EndorsementKey, a.StorageRootKey} {
		if key, err := base64.StdEncoding.DecodeString(text); err != nil || len(key) > 4096 {
			return errors.New("a TPM's key must be base64 of at most 4096 bytes")
		}
	}
	return nil
}

// parseCertificate reads one certificate: PEM, or the base64 of the DER alone,
// which some clients of the service API send.
func parseCertificate(text string) (*x509.Certificate, error) {
	if len(text) > maxCertificate {
		return nil, fmt.Errorf("a certificate of more than %d bytes", maxCertificate)
	}
	block, rest := pem.Decode([]byte(text))
	der, err := []byte(nil), error(nil)
	switch {
	case block == nil:
		if der, err = base64.StdEncoding.DecodeString(strings.TrimSpace(text)); err != nil {
			return nil, errors.New("a certificate must be PEM")
		}
	case block.Type != "CERTIFICATE":
		return nil, errors.New("PEM without a certificate in it")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("more than one certificate; give one")
	default:
		der = block.Bytes
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("a certificate that cannot be read: %w", err)
	}
	return certificate, nil
}

// encodeCertificate is the reverse of parseCertificate.
func encodeCertificate(certificate *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
}
