// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"crypto/sha1" //nolint:gosec // a name for a certificate, not a protection
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"strings"
	"time"
)

// Attestation gives how the device proved who it is, in the service's words:
// "symmetricKey", "x509" or "tpm", or empty when the request does not tell.
func (c DeviceRuntimeContext) Attestation() string {
	switch {
	case !isNull(c.X509):
		return "x509"
	case !isNull(c.TPM):
		return "tpm"
	case !isNull(c.SymmetricKey):
		return "symmetricKey"
	default:
		return ""
	}
}

// Certificate is what the service tells of one certificate: its
// X509CertificateInfo (dps-protocol 14). Any member may be empty.
type Certificate struct {
	// SubjectName and IssuerName are distinguished names as text, such as
	// "CN=breakroom499, O=Contoso". The service's spelling of them is not
	// documented: some write a space after each comma, some do not.
	SubjectName string `json:"subjectName"`
	IssuerName  string `json:"issuerName"`

	// SHA1Thumbprint and SHA256Thumbprint are in hexadecimal digits.
	SHA1Thumbprint   string `json:"sha1Thumbprint"`
	SHA256Thumbprint string `json:"sha256Thumbprint"`

	// NotBeforeUTC and NotAfterUTC are times such as 2026-11-22T06:00:00Z.
	NotBeforeUTC string `json:"notBeforeUtc"`
	NotAfterUTC  string `json:"notAfterUtc"`

	SerialNumber string `json:"serialNumber"`
	Version      int    `json:"version"`
}

// Certificate gives the certificate that the device showed, and false when it
// showed none that can be read. That the certificate is valid is the service's
// word; a webhook cannot check it.
//
// How the service writes deviceRuntimeContext.x509 is documented by the type's
// name only, so that all shapes that its models have for a client certificate
// are read: clientCertificates with a primary or else a secondary one, each
// with the service's info or else the certificate itself, and the
// certificateInfo of a registration result (dps-protocol 14, 17.5).
func (c DeviceRuntimeContext) Certificate() (Certificate, bool) {
	x := c.readX509()
	return firstOf(x.ClientCertificates.Primary, x.ClientCertificates.Secondary, certificateDocument{Info: x.CertificateInfo})
}

// SigningCertificate gives the certificate that the enrollment knows as the
// signer of the device's, if the request tells it.
func (c DeviceRuntimeContext) SigningCertificate() (Certificate, bool) {
	x := c.readX509()
	return firstOf(x.SigningCertificates.Primary, x.SigningCertificates.Secondary, certificateDocument{Info: x.SigningCertificateInfo})
}

// TPMKeys are the public keys of a device's security chip, in base64
// (dps-protocol 15).
type TPMKeys struct {
	EndorsementKey string `json:"endorsementKey"`
	StorageRootKey string `json:"storageRootKey"`
}

// TPMKeys gives the keys of the device's chip, and false when it has none.
func (c DeviceRuntimeContext) TPMKeys() (TPMKeys, bool) {
	var keys TPMKeys
	decode(c.TPM, &keys)
	return keys, keys != TPMKeys{}
}

// x509Document is every shape of deviceRuntimeContext.x509 that is understood.
type x509Document struct {
	ClientCertificates     certificatePair `json:"clientCertificates"`
	SigningCertificates    certificatePair `json:"signingCertificates"`
	CertificateInfo        *Certificate    `json:"certificateInfo"`
	SigningCertificateInfo *Certificate    `json:"signingCertificateInfo"`
}

type certificatePair struct {
	Primary   certificateDocument `json:"primary"`
	Secondary certificateDocument `json:"secondary"`
}

// certificateDocument is a certificate and what the service read in it.
type certificateDocument struct {
	Certificate string       `json:"certificate"`
	Info        *Certificate `json:"info"`
}

func (c DeviceRuntimeContext) readX509() x509Document {
	var document x509Document
	decode(c.X509, &document)
	return document
}

// decode fills target with what fits. A member of another type is left out and
// is no error: the request is well-formed, and a policy that needs the member
// finds it empty.
func decode(raw json.RawMessage, target any) {
	if !isNull(raw) {
		_ = json.Unmarshal(raw, target)
	}
}

func firstOf(documents ...certificateDocument) (Certificate, bool) {
	for _, document := range documents {
		if document.Info != nil && *document.Info != (Certificate{}) {
			return *document.Info, true
		}
		if certificate, ok := readCertificate(document.Certificate); ok {
			return certificate, true
		}
	}
	return Certificate{}, false
}

// readCertificate reads a certificate, PEM or the base64 of its DER, in the
// place of the info that the service left out.
func readCertificate(text string) (Certificate, bool) {
	if text == "" {
		return Certificate{}, false
	}
	var der []byte
	if block, _ := pem.Decode([]byte(text)); block != nil {
		der = block.Bytes
	} else if decoded, err := base64.StdEncoding.DecodeString(text); err == nil {
		der = decoded
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return Certificate{}, false
	}
	sha1Sum, sha256Sum := sha1.Sum(der), sha256.Sum256(der) //nolint:gosec // as above
	return Certificate{
		SubjectName: parsed.Subject.String(), IssuerName: parsed.Issuer.String(),
		SHA1Thumbprint: upperHex(sha1Sum[:]), SHA256Thumbprint: upperHex(sha256Sum[:]),
		NotBeforeUTC: parsed.NotBefore.UTC().Format(time.RFC3339), NotAfterUTC: parsed.NotAfter.UTC().Format(time.RFC3339),
		SerialNumber: upperHex(parsed.SerialNumber.Bytes()), Version: parsed.Version,
	}, true
}

func upperHex(b []byte) string { return strings.ToUpper(hex.EncodeToString(b)) }
