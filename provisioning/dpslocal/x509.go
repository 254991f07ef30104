// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// maxChain is how many certificates of a client are looked at.
const maxChain = 10

// The ways in which a certificate can fail. The device is told that it is not
// authorized and no more; the log has the reason.
var (
	errCertName     = errors.New("the registration ID is not the common name (CN) of the device's certificate")
	errCertValidity = errors.New("the device's certificate has expired or is not valid yet")
	errCertUnknown  = errors.New("the device's certificate is not that of an enrollment, nor is any of its issuers")
)

// authenticateX509 finds the enrollment that admits a device with a certificate
// (dps-protocol 10.1 and 14). The chain is what the client presented, leaf first;
// TLS has made sure that the client has the leaf's key and of nothing else.
func (s *service) authenticateX509(registrationID string, chain []*x509.Certificate, now time.Time) (admission, error) {
	leaf := chain[0]
	if !strings.EqualFold(leaf.Subject.CommonName, registrationID) {
		return admission{}, errCertName
	}
	if !validAt(leaf, now) {
		return admission{}, errCertValidity
	}
	individual, ok := s.enrollments.find(Individual, registrationID)
	if ok && slices.ContainsFunc(individual.certificates, leaf.Equal) {
		return admission{individual, registrationID, []*x509.Certificate{leaf}}, nil
	}
	if ok && individual.ProvisioningStatus != Disabled {
		return admission{}, errCertUnknown
	}
	group, issuer, found := s.nearestGroup(chain)
	if !found {
		return admission{}, errCertUnknown
	}
	if err := verifyChain(chain, issuer, now); err != nil {
		return admission{}, fmt.Errorf("%s: %w", group, err)
	}
	if ok { // a disabled individual entry bars a device of a group
		return admission{individual, registrationID, []*x509.Certificate{leaf}}, nil
	}
	return admission{group, registrationID, []*x509.Certificate{leaf, issuer}}, nil
}

// validAt tells whether a certificate may be used at a moment.
func validAt(certificate *x509.Certificate, now time.Time) bool {
	return !now.Before(certificate.NotBefore) && !now.After(certificate.NotAfter)
}

// nearestGroup walks from the leaf towards the root and returns the first group
// one of whose certificates issued what it has come to, with that certificate.
// A disabled group ends the walk as any other does.
func (s *service) nearestGroup(chain []*x509.Certificate) (group Enrollment, issuer *x509.Certificate, ok bool) {
	groups := s.enrollments.groups()
	current, rest := chain[0], chain[1:min(len(chain), maxChain)]
	for {
		for _, group := range groups {
			for _, certificate := range s.issuersOf(group) {
				if issued(certificate, current) {
					return group, certificate, true
				}
			}
		}
		next := slices.IndexFunc(rest, func(c *x509.Certificate) bool { return issued(c, current) })
		if next < 0 {
			return Enrollment{}, nil, false
		}
		current, rest = rest[next], slices.Delete(slices.Clone(rest), next, next+1)
	}
}

// issuersOf are the certificates that a group's devices may descend from.
func (s *service) issuersOf(group Enrollment) []*x509.Certificate {
	issuers := group.certificates
	for _, name := range group.X509.CAReferences.all() {
		if ca := s.cas[name]; ca != nil { // it can have left the configuration since
			issuers = append(slices.Clip(issuers), ca)
		}
	}
	return issuers
}

// issued tells whether one certificate signed another. The names are compared
// first, since signatures cost.
func issued(issuer, certificate *x509.Certificate) bool {
	return bytes.Equal(issuer.RawSubject, certificate.RawIssuer) && certificate.CheckSignatureFrom(issuer) == nil
}

// verifyChain checks everything between the leaf and a group's certificate, which
// is the anchor, root or not: signatures, validity, constraints, and that the
// leaf is for clients.
func verifyChain(chain []*x509.Certificate, anchor *x509.Certificate, now time.Time) error {
	if !validAt(anchor, now) {
		return errors.New("the certificate of the group has expired or is not valid yet")
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(anchor)
	for _, certificate := range chain[1:min(len(chain), maxChain)] {
		intermediates.AddCert(certificate)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}

// parsedCertificates are an entry's certificates, ready to be compared: those of
// the device, or of the issuers. Names of CAs are not among them.
func (e Enrollment) parsedCertificates() []*x509.Certificate {
	var parsed []*x509.Certificate
	for _, text := range append(e.X509.ClientCertificates.all(), e.X509.SigningCertificates.all()...) {
		if certificate, err := parseCertificate(text); err == nil { // checked when it was stored
			parsed = append(parsed, certificate)
		}
	}
	return parsed
}

// joinCertificates is how an operation keeps the certificates that let its device in.
func joinCertificates(certificates []*x509.Certificate) string {
	var text strings.Builder
	for _, certificate := range certificates {
		text.WriteString(encodeCertificate(certificate))
	}
	return text.String()
}

// splitCertificates is the reverse of joinCertificates. What cannot be read is
// left out: it is shown to people, and decides nothing.
func splitCertificates(text string) []*x509.Certificate {
	var certificates []*x509.Certificate
	for part := range strings.SplitAfterSeq(text, "-----END CERTIFICATE-----\n") {
		if certificate, err := parseCertificate(part); err == nil {
			certificates = append(certificates, certificate)
		}
	}
	return certificates
}

// x509State is what an assigned device is told of its certificate: for an
// individual enrollment nothing, as seen of the real service.
type x509State struct {
	CertificateInfo        *certificateContents `json:"certificateInfo,omitempty"`
	EnrollmentGroupID      string               `json:"enrollmentGroupId,omitempty"`
	SigningCertificateInfo *certificateContents `json:"signingCertificateInfo,omitempty"`
}

// newX509State describes the certificates that let a device into its enrollment.
func newX509State(e Enrollment, certificates []*x509.Certificate) *x509State {
	state := new(x509State)
	if e.Kind != Group {
		return state
	}
	state.EnrollmentGroupID = e.ID
	if len(certificates) > 0 {
		state.CertificateInfo = contentsOf(certificates[0])
	}
	if len(certificates) > 1 {
		state.SigningCertificateInfo = contentsOf(certificates[1])
	}
	return state
}

// x509Context is what a webhook is told of a device's certificate.
type x509Context struct {
	ClientCertificates struct {
		Primary clientCertificateDocument `json:"primary"`
	} `json:"clientCertificates"`
}

// clientCertificateDocument is a certificate, base64 of its DER, with its parts.
type clientCertificateDocument struct {
	Certificate string               `json:"certificate"`
	Info        *certificateContents `json:"info"`
}

// newX509Context makes the context of a device that came with certificates, the
// first of which is its own.
func newX509Context(certificates []*x509.Certificate) *x509Context {
	leaf := certificates[0]
	d := new(x509Context)
	d.ClientCertificates.Primary = clientCertificateDocument{
		Certificate: base64.StdEncoding.EncodeToString(leaf.Raw),
		Info:        contentsOf(leaf),
	}
	return d
}

// deviceThumbprints are those of the certificates that open the hub: both of an
// individual enrollment, so that the device may change over, or else the one
// with which the device of a group registered. A renewed one registers again.
func (v verdict) deviceThumbprints() (primary, secondary string) {
	if v.enrollment.Attestation != AttestationX509 {
		return "", ""
	}
	if v.enrollment.Kind == Group {
		if len(v.certificates) == 0 {
			return "", "" // the enrollment was of another type when the device registered
		}
		return thumbprint(v.certificates[0]), ""
	}
	slot := func(text string) string {
		certificate, err := parseCertificate(text)
		if err != nil {
			return "" // an empty place
		}
		return thumbprint(certificate)
	}
	return slot(v.enrollment.X509.ClientCertificates.Primary), slot(v.enrollment.X509.ClientCertificates.Secondary)
}

// thumbprint is the SHA-256 of a certificate in upper-case hex, by which a hub
// knows a device.
func thumbprint(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.Raw)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}
