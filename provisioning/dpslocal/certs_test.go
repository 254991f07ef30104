// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func openTestCertificates(t *testing.T, dir string, cfg Config) *certificates {
	t.Helper()
	c, err := openCertificates(dir, cfg.withDefaults(), testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCertificateNames(t *testing.T) {
	cfg := testConfig()
	cfg.Name = "contoso-provisioning-service-1098"
	cfg.TLSNames = []string{"dps.building.example", "192.0.2.7"}
	dir := t.TempDir()
	c := openTestCertificates(t, dir, cfg)
	roots := x509.NewCertPool()
	roots.AddCert(c.caCert)
	leaf := c.current.Load().Leaf
	for _, name := range []string{
		"localhost", "127.0.0.1", "::1", "global.azure-devices-provisioning.net",
		"contoso-provisioning-service-1098.azure-devices-provisioning.net", toasters, heatPumps, "dps.building.example", "192.0.2.7",
	} {
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if lifetime := leaf.NotAfter.Sub(leaf.NotBefore); lifetime != leafLifetime+clockSkew {
		t.Errorf("lifetime %s, want 90 days", lifetime)
	}
	for _, file := range []string{caKeyFile, serverKeyFile} {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: mode %v, %v; want 0600", file, info.Mode(), err)
		}
	}
}

// TestCAIsConstrained signs a certificate for a foreign name with the CA's key:
// nobody who trusts the CA takes it.
func TestCAIsConstrained(t *testing.T) {
	c := openTestCertificates(t, t.TempDir(), testConfig())
	roots := x509.NewCertPool()
	roots.AddCert(c.caCert)
	c.names = append(c.names, "bank.example")
	if err := c.renew(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.current.Load().Leaf.Verify(x509.VerifyOptions{DNSName: "bank.example", Roots: roots}); err == nil {
		t.Error("a certificate for bank.example was taken")
	}
	if !c.caCert.MaxPathLenZero || !c.caCert.PermittedDNSDomainsCritical {
		t.Error("the CA may sign another CA, or its constraints are not critical")
	}
}

func TestCAIsKept(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig()
	first := openTestCertificates(t, dir, cfg)
	again := openTestCertificates(t, dir, cfg)
	if string(again.caPEM) != string(first.caPEM) || !again.current.Load().Leaf.Equal(first.current.Load().Leaf) {
		t.Error("the second start made new certificates")
	}
	cfg.Hubs = cfg.Hubs[:1]
	if fewer := openTestCertificates(t, dir, cfg); string(fewer.caPEM) != string(first.caPEM) {
		t.Error("a hub that went away made a new CA")
	}
	cfg.Hubs = append(cfg.Hubs, Hub{Name: "new.azure-devices.net"})
	more := openTestCertificates(t, dir, cfg)
	if string(more.caPEM) == string(first.caPEM) {
		t.Error("a CA that may not sign for the new hub was kept")
	}
	if err := more.current.Load().Leaf.VerifyHostname("new.azure-devices.net"); err != nil {
		t.Error(err)
	}
}

func TestDamagedCA(t *testing.T) {
	dir := t.TempDir()
	openTestCertificates(t, dir, testConfig())
	if err := os.WriteFile(filepath.Join(dir, caKeyFile), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openCertificates(dir, testConfig(), testLogger(t)); err == nil {
		t.Error("a CA whose key is damaged was taken or replaced in silence")
	}
}

// TestRenewalAtStart: a certificate that came of age while the program was off.
func TestRenewalAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		first := openTestCertificates(t, dir, testConfig())
		time.Sleep(leafRenewal - time.Minute)
		if again := openTestCertificates(t, dir, testConfig()); !again.current.Load().Leaf.Equal(first.current.Load().Leaf) {
			t.Error("renewed before it was due")
		}
		time.Sleep(2 * time.Minute)
		again := openTestCertificates(t, dir, testConfig())
		if again.current.Load().Leaf.Equal(first.current.Load().Leaf) || string(again.caPEM) != string(first.caPEM) {
			t.Error("want a new certificate of the old CA")
		}
		time.Sleep(caLifetime)
		if last := openTestCertificates(t, dir, testConfig()); string(last.caPEM) == string(first.caPEM) {
			t.Error("an expired CA was kept")
		}
	})
}

// TestRenewal runs for a year: a fresh certificate every 60 days, the same CA.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := openTestCertificates(t, dir, testConfig())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go c.keepFresh(ctx)
		first := c.current.Load().Leaf
		time.Sleep(leafRenewal - time.Minute)
		if !c.current.Load().Leaf.Equal(first) {
			t.Error("renewed before two thirds of the lifetime")
		}
		time.Sleep(2 * time.Minute)
		if c.current.Load().Leaf.Equal(first) {
			t.Error("not renewed at two thirds of the lifetime")
		}
		for range 365 {
			time.Sleep(24 * time.Hour)
			if left := time.Until(c.current.Load().Leaf.NotAfter); left < leafLifetime-leafRenewal-time.Minute {
				t.Fatalf("%s left, want renewed", left)
			}
		}
		stored, err := tls.LoadX509KeyPair(filepath.Join(dir, serverCertFile), filepath.Join(dir, serverKeyFile))
		if err != nil || !stored.Leaf.Equal(c.current.Load().Leaf) {
			t.Errorf("the stored certificate is not the served one: %v", err)
		}
	})
}
