// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc/mqttrpctest"
)

// block is PEM of a type that the test chooses.
func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func sec1(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestParseCertificate(t *testing.T) {
	root := Issue(t, "root", nil, ECDSAKey(t, elliptic.P256()), AsCA)
	floor := Issue(t, "floor 1", root, ECDSAKey(t, elliptic.P384()), AsCA)
	room := Issue(t, "room 11", floor, ECDSAKey(t, elliptic.P521()), AsCA)
	device := Issue(t, "device-1", room, ECDSAKey(t, elliptic.P256()))
	alone := Issue(t, "alone-1", nil, RSAKey())
	stranger := Issue(t, "stranger", nil, ECDSAKey(t, elliptic.P256()), AsCA)
	namesake := Issue(t, "room 11", floor, ECDSAKey(t, elliptic.P256()), AsCA)
	small := Issue(t, "small", nil, ECDSAKey(t, elliptic.P224()))
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed := Issue(t, "ed", nil, edKey)
	weakKey, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weak := Issue(t, "weak", nil, weakKey)
	der := sec1(t, device.Key)
	locked := pem.EncodeToMemory(&pem.Block{
		Type: "EC PRIVATE KEY", Bytes: der,
		Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"},
	})

	tests := []struct {
		name      string
		cert, key []byte
		want      string // names of the chain, or part of the error
	}{
		{"alone, PKCS #8", alone.PEM(), alone.KeyPEM(), "alone-1"},
		{"alone, PKCS #1", alone.PEM(), block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(alone.Key.(*rsa.PrivateKey))), "alone-1"},
		{"SEC 1 after its parameters", device.PEM(), join(block("EC PARAMETERS", []byte{6, 0}), block("EC PRIVATE KEY", der)), "device-1"},
		{"chain", join(device.PEM(), room.PEM(), floor.PEM()), device.KeyPEM(), "device-1, room 11, floor 1"},
		{"chain with root", join(device.PEM(), room.PEM(), floor.PEM(), root.PEM()), device.KeyPEM(), "device-1, room 11, floor 1, root"},
		{"wrong order", join(root.PEM(), room.PEM(), floor.PEM(), device.PEM()), device.KeyPEM(), "device-1, room 11, floor 1, root"},
		{"words between", join([]byte("subject=device-1\n"), device.PEM(), []byte("issuer=room\n"), room.PEM()), device.KeyPEM(), "device-1, room 11"},
		{"all in one file", join(device.KeyPEM(), device.PEM()), join(device.PEM(), device.KeyPEM()), "device-1"},

		{"gap", join(device.PEM(), floor.PEM()), device.KeyPEM(), `"floor 1" has issued none of the others`},
		{"a stranger among them", join(device.PEM(), room.PEM(), stranger.PEM()), device.KeyPEM(), `"stranger" has issued none`},
		{"issuer of the same name", join(device.PEM(), namesake.PEM()), device.KeyPEM(), `"room 11" has issued none`},
		{"twice the same", join(device.PEM(), device.PEM()), device.KeyPEM(), `"device-1" has issued none`},
		{"another's key", device.PEM(), room.KeyPEM(), "belongs to none of the certificates"},
		{"no certificate", nil, device.KeyPEM(), "no PEM certificate found"},
		{"DER", device.Cert.Raw, device.KeyPEM(), "openssl x509 -inform DER"},
		{"damaged certificate", block("CERTIFICATE", device.Cert.Raw[:99]), device.KeyPEM(), "certificate 1 is damaged"},
		{"too many", bytes.Repeat(device.PEM(), 9), device.KeyPEM(), "more than 8 certificates"},
		{"too large", bytes.Repeat([]byte("x"), maxPEM+1), device.KeyPEM(), "the certificate file is larger than 64 KiB"},
		{"key too large", device.PEM(), bytes.Repeat([]byte("x"), maxPEM+1), "the key file is larger than 64 KiB"},
		{"no key", device.PEM(), device.PEM(), "no PEM private key found"},
		{"damaged key", device.PEM(), block("PRIVATE KEY", der), "the PRIVATE KEY is damaged"},
		{"encrypted, PKCS #8", device.PEM(), block("ENCRYPTED PRIVATE KEY", der), "openssl pkey -in KEY -out PLAIN"},
		{"encrypted, old", device.PEM(), locked, "encrypted with a passphrase"},
		{"small curve", small.PEM(), small.KeyPEM(), "other than P-256"},
		{"Ed25519", ed.PEM(), ed.KeyPEM(), "neither ECDSA nor RSA"},
		{"short RSA", weak.PEM(), weak.KeyPEM(), "has 1024 bits"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseCertificate(test.cert, test.key)
			if err != nil {
				if !errors.Is(err, ErrCertificate) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want ErrCertificate and %q", err, test.want)
				}
				for _, material := range []string{fmt.Sprintf("%x", der[8:16]), fmt.Sprintf("%v", der[8:16]), string(block("", der)[20:40])} {
					if strings.Contains(err.Error(), material) {
						t.Errorf("the error shows the key: %v", err)
					}
				}
				return
			}
			var names []string
			for _, c := range got.chain {
				names = append(names, c.Subject.CommonName)
			}
			pair := got.TLS()
			if text := strings.Join(names, ", "); text != test.want || got.CommonName() != names[0] || len(pair.Certificate) != len(names) {
				t.Errorf("got %s with %d on the wire, want %s", text, len(pair.Certificate), test.want)
			}
			if !bytes.Equal(pair.Certificate[0], got.chain[0].Raw) || pair.Leaf != got.chain[0] {
				t.Error("the leaf does not come first")
			}
		})
	}
}

// TestCertificateIsRedacted prints a certificate in every way that a log, an error or an answer could.
func TestCertificateIsRedacted(t *testing.T) {
	issued := Issue(t, "device-1", nil, ECDSAKey(t, elliptic.P256()))
	certificate := issued.Certificate(t)
	d, err := issued.Key.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	request := Request{RegistrationID: "device-1", Certificate: certificate}
	values := map[string]any{
		"certificate": certificate, "value": *certificate, "request": request, "request pointer": &request,
		"session": httpsSession{credential: newCredential(Config{IDScope: testScope}, request)}, "credential": *newCredential(Config{IDScope: testScope}, request),
	}
	for name, value := range values {
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("a", "b", value)
		texts := map[string]string{"log": log.String()}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%U"} {
			texts[verb] = fmt.Sprintf(verb, value)
		}
		if text, err := json.Marshal(value); err == nil {
			texts["JSON"] = string(text)
		}
		for how, text := range texts {
			for _, secret := range []string{fmt.Sprintf("%x", d[4:12]), fmt.Sprintf("%X", d[4:12]), strings.Trim(fmt.Sprint(d[4:12]), "[]"), string(d[4:12]), new(big.Int).SetBytes(d).String()[:12]} {
				if strings.Contains(text, secret) {
					t.Errorf("%s of %s shows the key: %.80s", how, name, text)
				}
			}
		}
	}
	if got := fmt.Sprintf("%v %+v %#v %s", certificate, *certificate, certificate, *certificate); got != "[redacted] [redacted] [redacted] [redacted]" {
		t.Errorf("prints %s", got)
	}
	if got, err := json.Marshal(certificate); err != nil || string(got) != `"[redacted]"` {
		t.Errorf("as JSON %s, %v", got, err)
	}
}

func TestCertificateWarning(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	tests := []struct {
		name       string
		life, left time.Duration
		want       string
	}{
		{"a year, 37 days left", 365 * day, 37 * day, ""},
		{"a year, 36 days left", 365 * day, 36 * day, "in 36 days"},
		{"half a year, 31 days left", 180 * day, 31 * day, ""},
		{"half a year, 29 days left", 180 * day, 29 * day, "the client certificate \"device-1\" runs out on 2026-12-21 00:00 UTC, in 29 days; renew it before"},
		{"ten years, a year left", 3650 * day, 364 * day, "in 364 days"},
		{"a week, three days left", 7 * day, 3 * day, ""},
		{"a week, two days left", 7 * day, 2 * day, "in 2 days"},
		{"an hour left", 365 * day, time.Hour, "in 0 days"},
		{"run out", 365 * day, -time.Hour, "ran out on 2026-11-21 23:00 UTC; renew it"},
	}
	span := func(life, left time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotAfter = now.Add(left); c.NotBefore = c.NotAfter.Add(-life) }
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := Issue(t, "device-1", nil, ECDSAKey(t, elliptic.P256()), span(test.life, test.left)).Certificate(t)
			if got := c.Warning(now); (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("got %q, want %q in it", got, test.want)
			}
		})
	}
	t.Run("issuer", func(t *testing.T) {
		root := Issue(t, "root", nil, ECDSAKey(t, elliptic.P256()), AsCA)
		room := Issue(t, "room 11", root, ECDSAKey(t, elliptic.P256()), AsCA, span(365*day, 3*day))
		c := Issue(t, "device-1", room, ECDSAKey(t, elliptic.P256())).Certificate(t)
		if got, want := c.Warning(now), `an issuer of the client certificate "room 11" runs out on 2026-11-25`; !strings.HasPrefix(got, want) {
			t.Errorf("got %q, want it to begin with %q", got, want)
		}
	})
}

// TestCertificateIsCheckedBeforeSending gives what the service would refuse, and expects no connection.
func TestCertificateIsCheckedBeforeSending(t *testing.T) {
	certificate := func(t *testing.T, name string, change ...func(*x509.Certificate)) *Certificate {
		return Issue(t, name, nil, ECDSAKey(t, elliptic.P256()), change...).Certificate(t)
	}
	tests := []struct {
		name   string
		change func(t *testing.T, r *Request)
		is     error
		want   string
	}{
		{"another name", func(t *testing.T, r *Request) { r.Certificate = certificate(t, "device-2") }, ErrCertificate, `its common name is "device-2"`},
		{"a letter that folds to ours", func(t *testing.T, r *Request) { r.Certificate = certificate(t, "brea\u212aroom499-contoso-tstrsd-007") }, ErrCertificate, "its common name is"},
		{"no name", func(t *testing.T, r *Request) { r.Certificate = certificate(t, "") }, ErrCertificate, `its common name is ""`},
		{"run out", func(t *testing.T, r *Request) {
			r.Certificate = certificate(t, testID, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })
		}, ErrCertificate, "it ran out on 1999-12-31 23:59 UTC and it is 2000-01-01 00:00 UTC now"},
		{"too early", func(t *testing.T, r *Request) {
			r.Certificate = certificate(t, testID, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })
		}, ErrCertificate, "in force from 2000-01-01 01:00 UTC on and it is 2000-01-01 00:00 UTC now"},
		{"keys too", func(_ *testing.T, r *Request) { r.Keys = []DeviceKey{testKey()} }, ErrRequest, "both keys and a certificate"},
		{"neither", func(_ *testing.T, r *Request) { r.Certificate = nil }, ErrKey, "no device key given, and no certificate"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, service *dps) {
				r := Request{RegistrationID: testID, Certificate: certificate(t, testID)}
				test.change(t, &r)
				_, err := service.client(t).Register(t.Context(), r)
				if !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want %v and %q", err, test.is, test.want)
				}
				if n := service.network.Dials(testHost+":443") + service.network.Dials(testHost+":8883"); n != 0 {
					t.Errorf("%d connections were made", n)
				}
			})
		})
	}
}

// TestCertificateOnTheWire looks at what takes the token's place: nothing (dps-protocol 6.1, 14).
func TestCertificateOnTheWire(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		connects := 0
		service.mqtt.Connect = func(c *mqttrpctest.Client) int {
			connects++
			if c.HasPassword {
				t.Error("CONNECT has a password")
			}
			return 0
		}
		service.script = inOrder(assigning("0"), assigned(testOp))
		issued := Issue(t, strings.ToUpper(testID), nil, ECDSAKey(t, elliptic.P256()))
		r := Request{RegistrationID: testID, Certificate: issued.Certificate(t)}
		if _, err := service.client(t).Register(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		for _, q := range service.requests() {
			if strings.Contains(q.Wire, "Authorization") || strings.Contains(q.Wire, "SharedAccessSignature") {
				t.Errorf("a token was sent:\n%s", q.Wire)
			}
		}
		if service.cfg.Transport != TransportHTTPS && connects != 1 {
			t.Errorf("%d connects, want 1", connects)
		}
	})
}

// TestCertificateExpiryIsLoggedOnce registers twice with a certificate that is about to run out.
func TestCertificateExpiryIsLoggedOnce(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		var log bytes.Buffer
		service.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		issued := Issue(t, testID, nil, ECDSAKey(t, elliptic.P256()), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(50 * time.Hour) })
		client := service.client(t)
		for range 2 {
			if _, err := client.Register(t.Context(), Request{RegistrationID: testID, Certificate: issued.Certificate(t)}); err != nil {
				t.Fatal(err)
			}
		}
		if n := strings.Count(log.String(), "runs out on 2000-01-03 02:00 UTC"); n != 1 || !strings.Contains(log.String(), "level=WARN") {
			t.Errorf("%d warnings, want 1:\n%s", n, log.String())
		}
	})
}

// TestRule12NoBleedingOfCertificates registers two devices with certificates and one with a key at a time: each
// certificate has connections of its own, which end with its attempt, and the key's stay.
func TestRule12NoBleedingOfCertificates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // over MQTT each device has a connection of its own anyway
		service := newDPS(t, TransportHTTPS)
		service.script = inOrder(assigning("1"), assigning("1"), assigned(testOp))
		open := countConnections(&service.cfg)
		client := service.client(t)
		register := func(r Request) {
			t.Helper()
			if _, err := client.Register(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		dials := func() int { return service.network.Dials(testHost + ":443") }
		register(request())
		if dials() != 1 || open() != 1 {
			t.Fatalf("a key made %d connections, %d open; want 1 and 1", dials(), open())
		}
		for i := range 2 {
			id := fmt.Sprintf("device-%d", i)
			register(Request{RegistrationID: id, Certificate: Issue(t, id, nil, ECDSAKey(t, elliptic.P256())).Certificate(t)})
			if dials() != 2+i || open() != 1 {
				t.Errorf("after certificate %d: %d connections, %d open; want %d and the key's", i, dials(), open(), 2+i)
			}
		}
		second := request()
		second.RegistrationID = "device-9"
		register(second)
		if dials() != 3 {
			t.Errorf("a second key made a connection more; want the pool used")
		}
	})
}

// FuzzParseCertificate reads anything: it must refuse in words or give a leaf that the key belongs to.
func FuzzParseCertificate(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	issued := Issue(f, "device-1", nil, key)
	f.Add(issued.PEM(), issued.KeyPEM())
	f.Add(join(issued.PEM(), issued.PEM()), issued.KeyPEM())
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), []byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END EC PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		c, err := ParseCertificate(cert, key)
		if err != nil {
			if !errors.Is(err, ErrCertificate) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		if !isKeyOf(c.TLS().PrivateKey.(crypto.Signer).Public(), c.chain[0]) || len(c.chain) > maxChain {
			t.Error("accepted a key of another certificate")
		}
		_ = c.Warning(time.Now())
		_ = c.checkFor("device-1", time.Now())
	})
}

// countConnections makes a configuration's dialling tell how many connections are open.
func countConnections(cfg *Config) (open func() int) {
	var n atomic.Int32
	dial := cfg.DialContext
	cfg.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		n.Add(1)
		return &countedConn{Conn: conn, gone: sync.OnceFunc(func() { n.Add(-1) })}, nil
	}
	return func() int {
		synctest.Wait()
		return int(n.Load())
	}
}

type countedConn struct {
	net.Conn
	gone func()
}

func (c *countedConn) Close() error {
	c.gone()
	return c.Conn.Close()
}
