// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"sync"
	"testing"
	"time"
)

// Issued is a certificate made for a test, with its key.
type Issued struct {
	Cert *x509.Certificate
	Key  crypto.Signer
	Up   *Issued // the issuer; nil for a self-signed one
}

// Issue makes a certificate, in force from 1990 to 2090, because a bubble begins in the year 2000. Without an issuer it is
// self-signed.
func Issue(t testing.TB, name string, up *Issued, key crypto.Signer, change ...func(*x509.Certificate)) *Issued {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, f := range change {
		f(template)
	}
	made := &Issued{Key: key, Up: up}
	issuer, signer := template, key
	if up != nil {
		issuer, signer = up.Cert, up.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	if made.Cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return made
}

// AsCA makes the certificate an issuer's.
func AsCA(c *x509.Certificate) {
	c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
}

// ECDSAKey makes a key on a curve.
func ECDSAKey(t testing.TB, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// RSAKey is one key for all tests, because making one takes long.
var RSAKey = sync.OnceValue(func() crypto.Signer {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// PEM is the certificate as a file holds it.
func (i *Issued) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Cert.Raw})
}

// KeyPEM is the key in PKCS #8.
func (i *Issued) KeyPEM() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(i.Key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Certificate reads certificate, intermediates and key back; the root stays out of it.
func (i *Issued) Certificate(t testing.TB) *Certificate {
	t.Helper()
	chain := i.PEM()
	for up := i.Up; up != nil && up.Up != nil; up = up.Up {
		chain = append(chain, up.PEM()...)
	}
	c, err := ParseCertificate(chain, i.KeyPEM())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
