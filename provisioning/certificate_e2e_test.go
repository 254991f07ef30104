// SPDX-License-Identifier: Apache-2.0

package provisioning_test

import (
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/provisioning/dpslocal/dpslocaltest"
	"github.com/contoso/gatewayd/provisioning/hub"
)

// TestEndToEndCertificates registers with certificates of every kind at the local service, and opens the hub with them.
func TestEndToEndCertificates(t *testing.T) {
	issue, ecdsaKey := provisioning.Issue, provisioning.ECDSAKey
	root := issue(t, "root", nil, ecdsaKey(t, elliptic.P384()), provisioning.AsCA)
	floor := issue(t, "floor 1", root, ecdsaKey(t, elliptic.P256()), provisioning.AsCA)
	barred := issue(t, "barred", nil, ecdsaKey(t, elliptic.P256()), provisioning.AsCA)
	own := issue(t, "own-1", nil, ecdsaKey(t, elliptic.P256()))
	spare := issue(t, "own-1", nil, provisioning.RSAKey())
	entry := func(id string, status dpslocal.ProvisioningStatus, certificates ...*provisioning.Issued) dpslocal.IndividualEnrollment {
		slots := dpslocal.Slots{Primary: string(certificates[0].PEM())}
		if len(certificates) > 1 {
			slots.Secondary = string(certificates[1].PEM())
		}
		return dpslocal.IndividualEnrollment{
			RegistrationID: id, ProvisioningStatus: status, AllocationPolicy: dpslocal.Static,
			X509: dpslocal.X509Attestation{ClientCertificates: slots},
		}
	}
	barredDevice := issue(t, "barred-1", nil, ecdsaKey(t, elliptic.P256()))
	dps := dpslocaltest.Start(t, func(cfg *dpslocal.Config, _ *dpslocal.Options) {
		cfg.CACertificates = []dpslocal.CACertificate{{Name: "building", Certificate: string(root.PEM())}}
		cfg.EnrollmentGroups = []dpslocal.EnrollmentGroup{
			{ID: "of-ca", AllocationPolicy: dpslocal.Static, X509: dpslocal.X509Attestation{CAReferences: dpslocal.Slots{Primary: "building"}}},
			{ID: "barred", ProvisioningStatus: dpslocal.Disabled, X509: dpslocal.X509Attestation{SigningCertificates: dpslocal.Slots{Primary: string(barred.PEM())}}},
		}
		cfg.Enrollments = []dpslocal.IndividualEnrollment{entry("own-1", "", own, spare), entry("barred-1", dpslocal.Disabled, barredDevice)}
	})

	tests := []struct {
		name, id string
		with     *provisioning.Issued
		want     string // the group, "individual", or the verdict's kind
	}{
		{"individual, ECDSA", "own-1", own, "individual"},
		{"individual, RSA, secondary", "own-1", spare, "individual"},
		{"group, ECDSA P-256", "a-1", issue(t, "a-1", root, ecdsaKey(t, elliptic.P256())), "of-ca"},
		{"group, ECDSA P-384", "a-2", issue(t, "A-2", root, ecdsaKey(t, elliptic.P384())), "of-ca"},
		{"group, ECDSA P-521 over an intermediate", "a-3", issue(t, "a-3", floor, ecdsaKey(t, elliptic.P521())), "of-ca"},
		{"group, RSA over an intermediate", "a-4", issue(t, "a-4", floor, provisioning.RSAKey()), "of-ca"},
		{"CA that the service does not know", "b-1", issue(t, "b-1", issue(t, "root", nil, ecdsaKey(t, elliptic.P256()), provisioning.AsCA), ecdsaKey(t, elliptic.P256())), "unauthorized-certificate"},
		{"another certificate of that name", "own-1", issue(t, "own-1", nil, ecdsaKey(t, elliptic.P256())), "unauthorized-certificate"},
		{"barred group", "c-1", issue(t, "c-1", barred, ecdsaKey(t, elliptic.P256())), "disabled"},
		{"barred device", "barred-1", barredDevice, "disabled"},
	}
	for _, transport := range []provisioning.Transport{provisioning.TransportHTTPS, provisioning.TransportMQTTWS, provisioning.TransportMQTT} {
		endpoint := dps.HTTPSAddr()
		if transport == provisioning.TransportMQTT {
			endpoint = dps.MQTTAddr()
		}
		client, err := provisioning.New(provisioning.Config{
			Endpoint: endpoint, IDScope: dpslocaltest.IDScope, Transport: transport, RootCAs: dps.TLSConfig().RootCAs,
			RegistersPerMinute: 1e6, PollsPerSecond: 1e6,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		for _, test := range tests {
			t.Run(string(transport)+", "+test.name, func(t *testing.T) {
				certificate := test.with.Certificate(t)
				got, err := client.Register(t.Context(), provisioning.Request{RegistrationID: test.id, Certificate: certificate})
				if err != nil {
					if kind := provisioning.Verdict(err).Kind; kind != test.want {
						t.Errorf("got %s (%v), want %s", kind, err, test.want)
					}
					return
				}
				if outcome := or(got.EnrollmentGroupID, "individual"); outcome != test.want || got.AssignedHub != dpslocaltest.Hub {
					t.Errorf("got %s, %+v; want %s", outcome, got, test.want)
				}
				visit(t, dps, got, certificate)
			})
		}
	}
}

// visit opens a session with the assigned hub by certificate, and is refused with another one.
func visit(t *testing.T, dps *dpslocaltest.Server, to provisioning.Assignment, certificate *provisioning.Certificate) {
	t.Helper()
	cfg := hub.Config{
		Host: to.AssignedHub, Address: dps.MQTTAddr(), DeviceID: to.DeviceID, RootCAs: dps.TLSConfig().RootCAs,
		Certificate: func() (*tls.Certificate, error) { return certificate.TLS(), nil },
	}
	session, err := hub.Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if _, err := session.Twin(t.Context()); err != nil {
		t.Error(err)
	}
	other := provisioning.Issue(t, to.DeviceID, nil, provisioning.ECDSAKey(t, elliptic.P256()), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Hour) })
	cfg.Certificate = func() (*tls.Certificate, error) { return other.Certificate(t).TLS(), nil }
	stranger, err := hub.Connect(t.Context(), cfg)
	var refused *hub.RefusedError
	if !errors.As(err, &refused) {
		t.Errorf("with another certificate: %v, want a RefusedError", err)
	}
	if stranger != nil {
		stranger.Close()
	}
}

func or(text, other string) string {
	if text == "" {
		return other
	}
	return text
}
