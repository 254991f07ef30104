// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// identity is a certificate with its key, and those above it.
type identity struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	above []*x509.Certificate // issuers, nearest first, without the root
}

// issue makes a certificate for a name, signed by parent, or by itself when
// parent is nil; change, if given, changes the template.
func issue(t *testing.T, name string, parent *identity, isCA bool, change ...func(*x509.Certificate)) *identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		BasicConstraintsValid: true,
		IsCA:                  isCA,
		KeyUsage:              x509.KeyUsageDigitalSignature,
	}
	if isCA {
		template.KeyUsage = x509.KeyUsageCertSign
	} else {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	for _, f := range change {
		f(template)
	}
	made := &identity{key: key}
	issuer, signer := template, key
	if parent != nil {
		issuer, signer = parent.cert, parent.key
		if parent.cert.Issuer.String() != parent.cert.Subject.String() {
			made.above = append([]*x509.Certificate{parent.cert}, parent.above...)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	if made.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return made
}

// pem is the certificate as text.
func (i *identity) pem() string { return encodeCertificate(i.cert) }

// chain is what the identity presents in a TLS handshake.
func (i *identity) chain() []*x509.Certificate {
	return append([]*x509.Certificate{i.cert}, i.above...)
}

// tls is the identity as a client uses it.
func (i *identity) tls() tls.Certificate {
	var c tls.Certificate
	for _, certificate := range i.chain() {
		c.Certificate = append(c.Certificate, certificate.Raw)
	}
	c.PrivateKey = i.key
	return c
}

// write stores certificate chain and key as PEM files and returns their names.
func (i *identity) write(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	var chain strings.Builder
	for _, certificate := range i.chain() {
		chain.WriteString(encodeCertificate(certificate))
	}
	der, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		t.Fatal(err)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := errors.Join(os.WriteFile(certFile, []byte(chain.String()), 0o600), os.WriteFile(keyFile, key, 0o600)); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile
}

// TestLoadConfigCertificates reads every way in which a file can speak of
// certificates.
func TestLoadConfigCertificates(t *testing.T) {
	root := issue(t, "root", nil, true)
	device := issue(t, "heater-1", nil, false)
	path := writeConfig(t, `
id_scope = "0ne1"
[[hub]]
name = "h.example"
[[ca_certificate]]
name = "building root"
file = "root.pem"
[[enrollment_group]]
id = "by-ca"
primary_ca = "building root"
[[enrollment_group]]
id = "by-signer"
attestation = "x509"
primary_certificate_file = "root.pem"
iot_edge = true
[[enrollment]]
registration_id = "heater-1"
secondary_certificate_file = "device.pem"
[[enrollment]]
registration_id = "tpm-1"
attestation = "tpm"
endorsement_key = "AToAAQALAAMAsgAg"
`)
	dir := filepath.Dir(path)
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "root.pem"), []byte("# of the building\n"+root.pem()), 0o600),
		os.WriteFile(filepath.Join(dir, "device.pem"), []byte(device.pem()), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	got, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		IDScope: "0ne1", Name: "dpslocal", RetryAfter: 3 * time.Second, StoreFile: "dpslocal.db", Hubs: got.Hubs,
		CACertificates: []CACertificate{{Name: "building root", Certificate: root.pem()}},
		EnrollmentGroups: []EnrollmentGroup{
			{ID: "by-ca", X509: X509Attestation{CAReferences: Slots{Primary: "building root"}}},
			{ID: "by-signer", Attestation: AttestationX509, X509: X509Attestation{SigningCertificates: Slots{Primary: root.pem()}}, IoTEdge: true},
		},
		Enrollments: []IndividualEnrollment{
			{RegistrationID: "heater-1", X509: X509Attestation{ClientCertificates: Slots{Secondary: device.pem()}}},
			{RegistrationID: "tpm-1", Attestation: AttestationTPM, TPM: TPMAttestation{EndorsementKey: "AToAAQALAAMAsgAg"}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	s := newCore(t, got, nil)
	for _, e := range []Enrollment{{Kind: Group, ID: "by-ca"}, {Kind: Individual, ID: "heater-1"}} {
		stored, ok := s.service.enrollments.find(e.Kind, e.ID)
		if !ok || stored.Attestation != AttestationX509 || stored.PrimaryKey != "" {
			t.Errorf("%s: attestation %q, key %t; want x509 without a key", e, stored.Attestation, stored.PrimaryKey != "")
		}
	}
}

// TestAttestationRules tries what an enrollment must not say.
func TestAttestationRules(t *testing.T) {
	root := issue(t, "root", nil, true).pem()
	tests := []struct {
		name  string
		entry Enrollment
		want  string // a part of the error, or ""
	}{
		{"client certificate", Enrollment{Kind: Individual, Attestation: AttestationX509, X509: X509Attestation{ClientCertificates: Slots{Primary: root}}}, ""},
		{"client certificate in bare base64", Enrollment{Kind: Individual, Attestation: AttestationX509, X509: X509Attestation{ClientCertificates: Slots{Primary: bare(root)}}}, ""},
		{"no certificate", Enrollment{Kind: Individual, Attestation: AttestationX509}, "needs a client certificate"},
		{"issuer of one device", Enrollment{Kind: Individual, Attestation: AttestationX509, X509: X509Attestation{SigningCertificates: Slots{Primary: root}}}, "has client certificates"},
		{"one device's of a group", Enrollment{Kind: Group, Attestation: AttestationX509, X509: X509Attestation{ClientCertificates: Slots{Primary: root}}}, "not client certificates"},
		{"nothing for a group", Enrollment{Kind: Group, Attestation: AttestationX509}, "either signing certificates or CA references"},
		{"both for a group", Enrollment{Kind: Group, Attestation: AttestationX509, X509: X509Attestation{SigningCertificates: Slots{Primary: root}, CAReferences: Slots{Primary: "r"}}}, "either"},
		{"key beside a certificate", Enrollment{Kind: Individual, Attestation: AttestationX509, PrimaryKey: testPrimary}, "without primary_key"},
		{"certificate beside a key", Enrollment{Kind: Individual, Attestation: AttestationSymmetricKey, X509: X509Attestation{ClientCertificates: Slots{Primary: root}}}, "not for symmetricKey"},
		{"two certificates", Enrollment{Kind: Group, Attestation: AttestationX509, X509: X509Attestation{SigningCertificates: Slots{Primary: root + root}}}, "more than one"},
		{"no PEM", Enrollment{Kind: Group, Attestation: AttestationX509, X509: X509Attestation{SigningCertificates: Slots{Primary: "?"}}}, "must be PEM"},
		{"damaged", Enrollment{Kind: Group, Attestation: AttestationX509, X509: X509Attestation{SigningCertificates: Slots{Primary: "AAAA"}}}, "cannot be read"},
		{"a key file", Enrollment{Kind: Group, Attestation: AttestationX509, X509: X509Attestation{SigningCertificates: Slots{Primary: "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}}}, "without a certificate"},
		{"too long", Enrollment{Kind: Group, Attestation: AttestationX509, X509: X509Attestation{SigningCertificates: Slots{Primary: strings.Repeat(" ", maxCertificate+1)}}}, "more than 16384 bytes"},
		{"TPM", Enrollment{Kind: Individual, Attestation: AttestationTPM, TPM: TPMAttestation{EndorsementKey: "AAAA"}}, ""},
		{"TPM of a group", Enrollment{Kind: Group, Attestation: AttestationTPM, TPM: TPMAttestation{EndorsementKey: "AAAA"}}, "individual enrollments"},
		{"TPM without a key", Enrollment{Kind: Individual, Attestation: AttestationTPM}, "endorsement key"},
		{"TPM key not base64", Enrollment{Kind: Individual, Attestation: AttestationTPM, TPM: TPMAttestation{EndorsementKey: "?"}}, "base64"},
		{"unknown", Enrollment{Kind: Individual, Attestation: "none"}, `attestation "none"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.entry.validateAttestation()
			if (err != nil) != (tt.want != "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	s := newCore(t, testConfig(), nil)
	err := s.SetGroup(EnrollmentGroup{ID: "g", X509: X509Attestation{CAReferences: Slots{Primary: "nobody"}}})
	if err == nil || !strings.Contains(err.Error(), `no CA certificate "nobody"`) {
		t.Errorf("got %v, want the CA missed", err)
	}
}

// bare is a certificate's DER in base64, without the PEM lines.
func bare(text string) string {
	block, _ := pem.Decode([]byte(text))
	return base64.StdEncoding.EncodeToString(block.Bytes)
}
