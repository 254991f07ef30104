// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
)

// ErrCertificate is wrapped by every complaint about a client certificate or its key. The complaint never shows the key.
var ErrCertificate = errors.New("not a usable client certificate")

// Limits of what [ParseCertificate] reads.
const (
	maxPEM     = 64 << 10 // bytes, of each of the two texts
	maxChain   = 8        // certificates, the leaf included; Azure's chains have up to four
	minRSABits = 2048
)

// Warnings of expiry. A certificate of a few weeks' life is renewed when a third of it is left, so it is not warned of sooner.
const (
	warnAhead     = 30 * 24 * time.Hour
	warnPart      = 10 // the last tenth of its life
	warnShortPart = 3
)

// Certificate is a device's X.509 client certificate with the issuers that go with it and its private key: what a
// device shows in the TLS handshake in place of a token (dps-protocol 14). It prints as "[redacted]" for every
// verb, in slog and in JSON; the methods give out what is public. [ParseCertificate] makes one, and nothing changes it.
type Certificate struct {
	chain []*x509.Certificate // leaf first, then each one's issuer
	pair  func() *tls.Certificate
}

// ParseCertificate reads a client certificate and its private key from PEM, as files hold them.
//
// The first text has the device's own certificate and, if the service was given a certificate further up, the
// intermediates that lead there; whichever order they are in, the leaf comes first in [Certificate]. The second
// text has the leaf's key, not encrypted: PKCS #8, SEC 1 (EC PRIVATE KEY) or PKCS #1 (RSA PRIVATE KEY), of
// ECDSA on P-256, P-384 or P-521, or RSA of 2048 bits or more. Both texts may be the same. Whether the
// certificate is in force is not checked here but for each registration. Errors wrap [ErrCertificate].
func ParseCertificate(certPEM, keyPEM []byte) (*Certificate, error) {
	certificates, err := readCertificates(certPEM)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	key, err := readPrivateKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	chain, err := orderChain(certificates, key.Public())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	pair := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return &Certificate{chain: chain, pair: func() *tls.Certificate { return pair }}, nil
}

// TLS returns certificate, chain and key in the form that [tls.Config] wants: for the session with the assigned hub,
// which takes the same certificate. The caller must not print it.
func (c *Certificate) TLS() *tls.Certificate { return c.pair() }

// CommonName is the subject's, which the registration ID must equal.
func (c *Certificate) CommonName() string { return c.chain[0].Subject.CommonName }

// NotBefore and NotAfter bound the time in which the certificate is in force.
func (c *Certificate) NotBefore() time.Time { return c.chain[0].NotBefore }

// NotAfter is the end of the time in which the certificate is in force.
func (c *Certificate) NotAfter() time.Time { return c.chain[0].NotAfter }

// Thumbprint is the SHA-256 of the certificate in upper-case hexadecimal digits, as the portal shows it.
func (c *Certificate) Thumbprint() string {
	sum := sha256.Sum256(c.chain[0].Raw)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// Warning says that the certificate, or an issuer that is shown with it, has run out or is about to: in less than
// 30 days or a tenth of its life, or for one of a short life in less than a third of that. It is "" when there is
// nothing to see to.
func (c *Certificate) Warning(now time.Time) string {
	for i, one := range c.chain {
		left, life := one.NotAfter.Sub(now), one.NotAfter.Sub(one.NotBefore)
		if left > min(max(warnAhead, life/warnPart), life/warnShortPart) {
			continue
		}
		what := "the client certificate"
		if i > 0 {
			what = "an issuer of the client certificate"
		}
		what += fmt.Sprintf(" %q", printable(one.Subject.CommonName, maxRegistrationID))
		if left < 0 {
			return what + " ran out on " + date(one.NotAfter) + "; renew it"
		}
		return fmt.Sprintf("%s runs out on %s, in %d days; renew it before", what, date(one.NotAfter), int(left/(24*time.Hour)))
	}
	return ""
}

// checkFor refuses a certificate that the service would refuse for this registration: another name, or not in force.
func (c *Certificate) checkFor(registrationID string, now time.Time) error {
	// Registration IDs are documented as case-insensitive (dps-protocol 2.2). Of equal length, because folding
	// knows letters outside ASCII that stand for some within.
	name := c.CommonName()
	if len(name) != len(registrationID) || !strings.EqualFold(name, registrationID) {
		return fmt.Errorf("%w: its common name is %q, and the service wants that to be the registration ID; register under that name or have a certificate made for this one",
			ErrCertificate, printable(name, maxRegistrationID))
	}
	if now.Before(c.NotBefore()) {
		return fmt.Errorf("%w: it is in force from %s on and it is %s now; look at this machine's clock, or wait", ErrCertificate, date(c.NotBefore()), date(now))
	}
	if now.After(c.NotAfter()) {
		return fmt.Errorf("%w: it ran out on %s and it is %s now; have it renewed, or look at this machine's clock", ErrCertificate, date(c.NotAfter()), date(now))
	}
	return nil
}

// date is a time as people and the certificate's tools read it.
func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// readCertificates reads all certificates of a text and skips what else is in it.
func readCertificates(text []byte) ([]*x509.Certificate, error) {
	if len(text) > maxPEM {
		return nil, fmt.Errorf("the certificate file is larger than %d KiB, so it is not what it should be", maxPEM>>10)
	}
	var all []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if len(all) == maxChain {
			return nil, fmt.Errorf("there are more than %d certificates; give the device's own and its intermediates only", maxChain)
		}
		one, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d is damaged: %w", len(all)+1, err)
		}
		all = append(all, one)
	}
	if len(all) == 0 {
		return nil, errors.New("no PEM certificate found (-----BEGIN CERTIFICATE-----); convert DER with \"openssl x509 -inform DER\", a PFX file with \"openssl pkcs12\"")
	}
	return all, nil
}

// readPrivateKey reads the first private key of a text. No error of a parser is passed on: it might say what it saw.
func readPrivateKey(text []byte) (crypto.Signer, error) {
	if len(text) > maxPEM {
		return nil, fmt.Errorf("the key file is larger than %d KiB, so it is not what it should be", maxPEM>>10)
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return nil, errors.New("the private key is encrypted with a passphrase, and nobody is there to type it; write it without one (openssl pkey -in KEY -out PLAIN) and let only its user read the file")
		case block.Type == "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case block.Type == "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case block.Type == "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default: // a certificate, EC PARAMETERS
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("the %s is damaged or of a kind that is not known", block.Type)
		}
		return supportedKey(key)
	}
	return nil, errors.New("no PEM private key found (PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY)")
}

// supportedKey takes the kinds that the service takes.
func supportedKey(key any) (crypto.Signer, error) {
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return key, nil
		}
		return nil, errors.New("the private key is on a curve other than P-256, P-384 and P-521")
	case *rsa.PrivateKey:
		if bits := key.N.BitLen(); bits < minRSABits {
			return nil, fmt.Errorf("the RSA key has %d bits, too few to be safe; %d is the least", bits, minRSABits)
		}
		return key, nil
	default:
		return nil, errors.New("the private key is neither ECDSA nor RSA")
	}
}

// orderChain puts the certificate of the key first and each one's issuer after it, however they came. One that
// belongs to no other is refused: it is a sign of a file put together from the wrong parts.
func orderChain(given []*x509.Certificate, key crypto.PublicKey) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	take := func(fits func(*x509.Certificate) bool) bool {
		for i, one := range given {
			if fits(one) {
				chain, given = append(chain, one), append(given[:i:i], given[i+1:]...)
				return true
			}
		}
		return false
	}
	if !take(func(c *x509.Certificate) bool { return isKeyOf(key, c) }) {
		return nil, errors.New("the private key belongs to none of the certificates; the files are of different devices, or one was renewed without the other")
	}
	for len(given) > 0 {
		last := chain[len(chain)-1]
		if !take(func(c *x509.Certificate) bool { return issued(c, last) }) {
			return nil, fmt.Errorf("certificate %q has issued none of the others; give the device's own certificate and the chain of its issuers without a gap",
				printable(given[0].Subject.CommonName, maxRegistrationID))
		}
	}
	return chain, nil
}

// isKeyOf tells whether a certificate is for a key.
func isKeyOf(key crypto.PublicKey, c *x509.Certificate) bool {
	public, ok := key.(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(c.PublicKey)
}

func issued(issuer, c *x509.Certificate) bool {
	return bytes.Equal(issuer.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(issuer) == nil
}

// Format prints "[redacted]" for every verb and flag.
func (c Certificate) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue keeps the key out of structured logs.
func (c Certificate) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText keeps the key out of JSON and of every other text encoding.
func (c Certificate) MarshalText() ([]byte, error) { return []byte(redacted), nil }
