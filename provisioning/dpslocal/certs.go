// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"
)

const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	leafLifetime = 90 * 24 * time.Hour

	// leafRenewal is the age at which a certificate is replaced: two thirds.
	leafRenewal = leafLifetime / 3 * 2

	// globalEndpoint is the host name under which devices know the service.
	globalEndpoint = "global.azure-devices-provisioning.net"

	serviceDomain = ".azure-devices-provisioning.net"
)

// The files that certificates keeps in its directory.
const (
	caCertFile     = "ca.pem"
	caKeyFile      = "ca-key.pem"
	serverCertFile = "server.pem"
	serverKeyFile  = "server-key.pem"
)

// certificates are the local CA and the server certificate that it signed.
// The CA is constrained to the server's names, so trusting it on a machine
// lets nobody forge another site's certificate with it.
type certificates struct {
	dir    string
	names  []string // DNS names
	ips    []net.IP
	caPEM  []byte
	caCert *x509.Certificate
	caKey  *ecdsa.PrivateKey
	logger *slog.Logger

	current atomic.Pointer[tls.Certificate]
}

// openCertificates loads the CA of dir or makes one, and sees to a server
// certificate that is good for now.
func openCertificates(dir string, cfg Config, logger *slog.Logger) (*certificates, error) {
	c := newCertificates(dir, cfg, logger)
	return c, c.open()
}

// newCertificates knows what names and addresses there must be certificates for.
func newCertificates(dir string, cfg Config, logger *slog.Logger) *certificates {
	c := &certificates{dir: dir, logger: logger, names: []string{"localhost", globalEndpoint, cfg.Name + serviceDomain}}
	for _, hub := range cfg.Hubs {
		c.names = append(c.names, hub.Name)
	}
	c.ips = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	for _, name := range cfg.TLSNames {
		if ip := net.ParseIP(name); ip != nil {
			c.ips = append(c.ips, ip)
		} else {
			c.names = append(c.names, name)
		}
	}
	return c
}

// open loads what is in the directory and makes what is not.
func (c *certificates) open() error {
	if err := c.loadCA(); err != nil {
		return fmt.Errorf("loading the CA: %w", err)
	}
	if c.caCert == nil || !c.caServes(time.Now()) {
		if err := c.makeCA(time.Now()); err != nil {
			return fmt.Errorf("making a CA: %w", err)
		}
	}
	if err := c.loadServer(time.Now()); err != nil {
		return fmt.Errorf("seeing to the server certificate: %w", err)
	}
	return nil
}

// path is where a file of the directory is.
func (c *certificates) path(file string) string { return filepath.Join(c.dir, file) }

// loadCA reads the CA of an earlier start; it leaves caCert nil when there is none.
func (c *certificates) loadCA() error {
	certPEM, err := os.ReadFile(c.path(caCertFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(c.path(caCertFile), c.path(caKeyFile))
	if err != nil {
		return fmt.Errorf("%w (move %s and %s away to have new ones made)", err, caCertFile, caKeyFile)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return fmt.Errorf("%s: not an ECDSA key", c.path(caKeyFile))
	}
	c.caPEM, c.caCert, c.caKey = certPEM, pair.Leaf, key
	return nil
}

// caServes tells whether the CA may sign for all the names and will outlive a
// server certificate signed now.
func (c *certificates) caServes(now time.Time) bool {
	if now.Before(c.caCert.NotBefore) || now.Add(leafLifetime).After(c.caCert.NotAfter) {
		c.logger.Warn("the local CA is about to expire and is replaced: trust the new one", "file", c.path(caCertFile))
		return false
	}
	for _, name := range c.names {
		if !slices.Contains(c.caCert.PermittedDNSDomains, name) {
			c.logger.Warn("the local CA may not sign for a new name and is replaced: trust the new one",
				"name", name, "file", c.path(caCertFile))
			return false
		}
	}
	for _, ip := range c.ips {
		if !slices.ContainsFunc(c.caCert.PermittedIPRanges, func(n *net.IPNet) bool { return n.Contains(ip) }) {
			c.logger.Warn("the local CA may not sign for a new address and is replaced: trust the new one",
				"name", ip.String(), "file", c.path(caCertFile))
			return false
		}
	}
	return true
}

// makeCA makes a CA that may sign for the names and addresses of this server, for
// no other and for no further CA, and stores it.
func (c *certificates) makeCA(now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber:                newSerial(),
		Subject:                     pkix.Name{CommonName: "dpslocal CA " + now.UTC().Format(time.DateOnly)},
		NotBefore:                   now.Add(-clockSkew),
		NotAfter:                    now.Add(caLifetime),
		IsCA:                        true,
		BasicConstraintsValid:       true,
		MaxPathLenZero:              true,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         c.names,
	}
	for _, ip := range c.ips {
		template.PermittedIPRanges = append(template.PermittedIPRanges, hostNet(ip))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	if c.caCert, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	c.caKey, c.caPEM = key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	// The key goes first: a certificate without its key would be refused at the
	// next start, a key without certificate is overwritten.
	if err := c.writeKey(caKeyFile, key); err != nil {
		return err
	}
	return writeFile(c.path(caCertFile), c.caPEM, 0o644)
}

// hostNet is the network of one address, as name constraints want it.
func hostNet(ip net.IP) *net.IPNet {
	if v4 := ip.To4(); v4 != nil {
		return &net.IPNet{IP: v4, Mask: net.CIDRMask(32, 32)}
	}
	return &net.IPNet{IP: ip, Mask: net.CIDRMask(128, 128)}
}

// loadServer takes the stored server certificate if it still serves, and makes
// a new one otherwise.
func (c *certificates) loadServer(now time.Time) error {
	pair, err := tls.LoadX509KeyPair(c.path(serverCertFile), c.path(serverKeyFile))
	if err == nil && c.serverServes(pair.Leaf, now) {
		c.current.Store(&pair)
		return nil
	}
	return c.renew(now)
}

// serverServes tells whether a stored server certificate is of this CA, of the
// right age, and good for every name and address.
func (c *certificates) serverServes(leaf *x509.Certificate, now time.Time) bool {
	if leaf.CheckSignatureFrom(c.caCert) != nil || now.Before(leaf.NotBefore) || !now.Before(renewalTime(leaf)) {
		return false
	}
	for _, name := range c.names {
		if leaf.VerifyHostname(name) != nil {
			return false
		}
	}
	for _, ip := range c.ips {
		if leaf.VerifyHostname(ip.String()) != nil {
			return false
		}
	}
	return true
}

// renewalTime is when a certificate is to be replaced.
func renewalTime(leaf *x509.Certificate) time.Time {
	return leaf.NotAfter.Add(leafRenewal - leafLifetime)
}

// renew makes a server certificate, stores it and serves it from now on.
// Connections that are open keep the old one.
func (c *certificates) renew(now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(),
		Subject:      pkix.Name{CommonName: globalEndpoint},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(leafLifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     c.names,
		IPAddresses:  c.ips,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.caCert, key.Public(), c.caKey)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if err := c.writeKey(serverKeyFile, key); err != nil {
		return err
	}
	if err := writeFile(c.path(serverCertFile), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return err
	}
	c.current.Store(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf})
	return nil
}

// keepFresh renews the server certificate whenever it is due, until ctx ends.
func (c *certificates) keepFresh(ctx context.Context) {
	for {
		timer := time.NewTimer(time.Until(renewalTime(c.current.Load().Leaf)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if err := c.renew(time.Now()); err != nil {
			c.logger.Error("renewing the server certificate: check the directory, then start dpslocal again", "err", err)
			return
		}
		c.logger.Info("server certificate renewed", "until", c.current.Load().Leaf.NotAfter)
	}
}

// tlsConfig serves the current certificate to every client, also to one that
// sends no server name. TLS 1.2 is what the service itself speaks; Python's
// client never offers 1.3. The protocols are for ALPN; with none, whatever a
// client offers is let pass.
func (c *certificates) tlsConfig(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: protocols,
		ClientAuth: tls.RequestClientCert, // what it is worth is asked when its device is known
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current.Load(), nil
		},
	}
}

// writeKey stores a private key so that only the owner can read it.
func (c *certificates) writeKey(file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writeFile(c.path(file), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// newSerial returns a random serial number of 127 bits.
func newSerial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

// writeFile replaces a file as a whole: a reader sees the old or the new one,
// also after a power cut.
func writeFile(path string, data []byte, mode fs.FileMode) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	_, err = file.Write(data)
	err = errors.Join(err, file.Chmod(mode), file.Sync(), file.Close())
	if err != nil {
		return err
	}
	if err = os.Rename(file.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
