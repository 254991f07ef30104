// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"crypto/sha1" //nolint:gosec // a name for a certificate, not a protection
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// attestationMechanism is how devices prove who they are (dps-protocol 17.5). Keys
// and whole certificates are shown by the answer to PUT and by
// attestationmechanism, and by nothing else.
type attestationMechanism struct {
	Type         AttestationType `json:"type"`
	TPM          *TPMAttestation `json:"tpm,omitempty"`
	X509         *x509Document   `json:"x509,omitempty"`
	SymmetricKey *keysDocument   `json:"symmetricKey,omitempty"`
}

// keysDocument are two keys in base64, in the open.
type keysDocument struct {
	PrimaryKey   string `json:"primaryKey"`
	SecondaryKey string `json:"secondaryKey"`
}

// x509Document is one of three ways to know a certificate.
type x509Document struct {
	ClientCertificates  *certificatePair `json:"clientCertificates,omitempty"`
	SigningCertificates *certificatePair `json:"signingCertificates,omitempty"`
	CAReferences        *Slots           `json:"caReferences,omitempty"`
}

// certificatePair are the two places for a certificate.
type certificatePair struct {
	Primary   *certificateDocument `json:"primary,omitempty"`
	Secondary *certificateDocument `json:"secondary,omitempty"`
}

// certificateDocument is a certificate, PEM or the base64 of its DER, and what
// the service read out of it, which is ignored when it comes in.
type certificateDocument struct {
	Certificate string               `json:"certificate,omitempty"`
	Info        *certificateContents `json:"info,omitempty"`
}

// certificateContents are the parts of a certificate that an operator looks for.
type certificateContents struct {
	SubjectName      string `json:"subjectName"`
	SHA1Thumbprint   string `json:"sha1Thumbprint"`
	SHA256Thumbprint string `json:"sha256Thumbprint"`
	IssuerName       string `json:"issuerName"`
	NotBeforeUTC     string `json:"notBeforeUtc"`
	NotAfterUTC      string `json:"notAfterUtc"`
	SerialNumber     string `json:"serialNumber"`
	Version          int    `json:"version"`
}

// attestation shows how the entry's devices prove who they are, with keys and
// whole certificates or without.
func (e Enrollment) attestation(whole bool) *attestationMechanism {
	d := &attestationMechanism{Type: e.Attestation}
	switch e.Attestation {
	case AttestationX509:
		d.X509 = &x509Document{
			ClientCertificates:  certificatesOf(e.X509.ClientCertificates, whole),
			SigningCertificates: certificatesOf(e.X509.SigningCertificates, whole),
		}
		if e.X509.CAReferences != (Slots{}) {
			d.X509.CAReferences = &e.X509.CAReferences
		}
	case AttestationTPM:
		d.TPM = &e.TPM
	default:
		if whole {
			d.SymmetricKey = &keysDocument{string(e.PrimaryKey), string(e.SecondaryKey)}
		}
	}
	return d
}

// certificatesOf shows the certificates of two places, or nothing when both are
// empty.
func certificatesOf(slots Slots, whole bool) *certificatePair {
	if slots == (Slots{}) {
		return nil
	}
	return &certificatePair{certificateOf(slots.Primary, whole), certificateOf(slots.Secondary, whole)}
}

// certificateOf shows one certificate.
func certificateOf(text string, whole bool) *certificateDocument {
	certificate, err := parseCertificate(text)
	if err != nil {
		return nil // the place is empty: what is stored was checked
	}
	d := &certificateDocument{Info: contentsOf(certificate)}
	if whole {
		d.Certificate = text
	}
	return d
}

// contentsOf reads the parts that are shown.
func contentsOf(certificate *x509.Certificate) *certificateContents {
	thumbprint1 := sha1.Sum(certificate.Raw) //nolint:gosec // as above
	upper := func(sum []byte) string { return strings.ToUpper(hex.EncodeToString(sum)) }
	return &certificateContents{
		SubjectName:      certificate.Subject.String(),
		SHA1Thumbprint:   upper(thumbprint1[:]),
		SHA256Thumbprint: thumbprint(certificate),
		IssuerName:       certificate.Issuer.String(),
		NotBeforeUTC:     certificate.NotBefore.UTC().Format("2006-01-02T15:04:05Z"),
		NotAfterUTC:      certificate.NotAfter.UTC().Format("2006-01-02T15:04:05Z"),
		SerialNumber:     upper(certificate.SerialNumber.Bytes()),
		Version:          certificate.Version,
	}
}

// setAttestation takes over how the entry's devices prove who they are. That the
// parts fit together is checked when the entry is stored.
func (e *Enrollment) setAttestation(d *attestationMechanism) error {
	if d == nil {
		return errors.New("the attestation is missing")
	}
	switch d.Type {
	case AttestationSymmetricKey, AttestationX509, AttestationTPM:
	default:
		return fmt.Errorf("the attestation type %q is none of symmetricKey, x509 and tpm", d.Type)
	}
	e.Attestation = d.Type
	if d.SymmetricKey != nil {
		e.PrimaryKey, e.SecondaryKey = Secret(d.SymmetricKey.PrimaryKey), Secret(d.SymmetricKey.SecondaryKey)
	}
	if d.TPM != nil {
		e.TPM = *d.TPM
	}
	if d.X509 == nil {
		return nil
	}
	if d.X509.CAReferences != nil {
		e.X509.CAReferences = *d.X509.CAReferences
	}
	var err1, err2 error
	e.X509.ClientCertificates, err1 = d.X509.ClientCertificates.slots()
	e.X509.SigningCertificates, err2 = d.X509.SigningCertificates.slots()
	return errors.Join(err1, err2)
}

// slots reads the certificates of two places, PEM whatever they were. A place
// whose certificate is left out is empty.
func (p *certificatePair) slots() (Slots, error) {
	if p == nil {
		return Slots{}, nil
	}
	primary, err1 := p.Primary.pem()
	secondary, err2 := p.Secondary.pem()
	return Slots{primary, secondary}, errors.Join(err1, err2)
}

// pem reads one certificate.
func (d *certificateDocument) pem() (string, error) {
	if d == nil || d.Certificate == "" {
		return "", nil
	}
	certificate, err := parseCertificate(d.Certificate)
	if err != nil {
		return "", err
	}
	return encodeCertificate(certificate), nil
}

// keepCertificates puts the stored certificates into an entry that comes back
// without any: a client that changes one member of what it has read sends the
// descriptions only.
func (e *Enrollment) keepCertificates(existing Enrollment) {
	if e.Attestation == AttestationX509 && existing.Attestation == AttestationX509 && e.X509 == (X509Attestation{}) {
		e.X509 = existing.X509
	}
}
