// SPDX-License-Identifier: Apache-2.0

package enrollment

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/provisioning/dpslocal/dpslocaltest"
)

// local makes a client of a local service, which shares no code with it.
func local(t *testing.T) *Client {
	t.Helper()
	server := dpslocaltest.Start(t, func(cfg *dpslocal.Config, _ *dpslocal.Options) {
		cfg.Name = "contoso-provisioning-service-1098"
		cfg.PolicyKeys = []dpslocal.PolicyKey{{Name: "provisioningserviceowner", Key: policyKey}}
	})
	policy, err := ParseConnectionString("HostName=contoso-provisioning-service-1098.azure-devices-provisioning.net;SharedAccessKeyName=provisioningserviceowner;SharedAccessKey=" + policyKey)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(server.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client, err := New(Config{ConnectionString: policy, Address: server.HTTPSAddr(), RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// refusedWith checks for an error answer of a status.
func refusedWith(t *testing.T, what string, err error, status int) {
	t.Helper()
	if refused, ok := errors.AsType[*ServiceError](err); !ok || refused.HTTPStatus != status {
		t.Errorf("%s: got %v, want a %d of the service", what, err, status)
	}
}

// TestETags walks through the table of dps-protocol 17.4.
func TestETags(t *testing.T) {
	groups, ctx := local(t).Groups(), t.Context()
	group := Group{ID: "g", Entry: Entry{Attestation: Attestation{Type: AttestationSymmetricKey}}}

	first, err := groups.Put(ctx, group)
	if err != nil {
		t.Fatal(err)
	}
	if first.ETag == "" || first.CreatedDateTimeUTC.IsZero() || first.Attestation.SymmetricKey == nil || first.Attestation.SymmetricKey.PrimaryKey.IsZero() {
		t.Errorf("created %+v without an etag, a date or keys", first)
	}
	_, err = groups.Put(ctx, group)
	refusedWith(t, "creating it twice", err, http.StatusConflict)

	second, err := groups.Update(ctx, "G", func(g *Group) error { g.ProvisioningStatus = Disabled; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if second.ETag == first.ETag || second.ProvisioningStatus != Disabled {
		t.Errorf("updated to %+v", second)
	}
	if got, want := second.Attestation.SymmetricKey.PrimaryKey.Reveal(), first.Attestation.SymmetricKey.PrimaryKey.Reveal(); got != want {
		t.Error("an update of something else changed the primary key")
	}
	_, err = groups.Put(ctx, first)
	refusedWith(t, "writing under an old etag", err, http.StatusPreconditionFailed)
	refusedWith(t, "deleting under an old etag", groups.Delete(ctx, "g", first.ETag), http.StatusPreconditionFailed)
	_, err = groups.Update(ctx, "g", func(*Group) error {
		_, err := groups.Update(ctx, "g", func(g *Group) error { g.ProvisioningStatus = Enabled; return nil })
		return err
	})
	refusedWith(t, "an update that somebody overtook", err, http.StatusPreconditionFailed)

	first.ETag = AnyETag
	if _, err := groups.Put(ctx, first); err != nil {
		t.Errorf("writing under any etag: %v", err)
	}
	if err := groups.Delete(ctx, "g", AnyETag); err != nil {
		t.Errorf("deleting under any etag: %v", err)
	}
	_, err = groups.Get(ctx, "g")
	refusedWith(t, "reading what is gone", err, http.StatusNotFound)
}

// TestPagesAndBulk makes more entries than a page holds, and removes them.
func TestPagesAndBulk(t *testing.T) {
	individuals, ctx := local(t).Individuals(), t.Context()
	var all []Individual
	for i := range 10 {
		all = append(all, Individual{RegistrationID: fmt.Sprintf("dev-%02d", i), Entry: Entry{Attestation: Attestation{Type: AttestationSymmetricKey}}})
	}
	result, err := individuals.Bulk(ctx, BulkCreate, all)
	if err != nil || !result.IsSuccessful {
		t.Fatalf("creating: %+v, %v", result, err)
	}
	var got []string
	for i, err := range individuals.Query(ctx, 3) {
		if err != nil {
			t.Fatal(err)
		}
		if i.Attestation.SymmetricKey != nil {
			t.Errorf("%s is listed with its keys", i.RegistrationID)
		}
		got = append(got, i.RegistrationID)
	}
	var want []string
	for _, i := range all {
		want = append(want, i.RegistrationID)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}

	result, err = individuals.Bulk(ctx, BulkCreate, all[:2])
	if err != nil || result.IsSuccessful || len(result.Errors) != 2 || result.Errors[0].RegistrationID != "dev-00" {
		t.Errorf("creating two again: %+v, %v", result, err)
	}
	result, err = individuals.Bulk(ctx, BulkDelete, all)
	if err != nil || !result.IsSuccessful {
		t.Errorf("deleting: %+v, %v", result, err)
	}
	for i, err := range individuals.Query(ctx, 0) {
		t.Errorf("still there: %+v, %v", i, err)
	}
}

// TestUpdateKeepsCertificates although an entry is read without them.
func TestUpdateKeepsCertificates(t *testing.T) {
	client, ctx := local(t), t.Context()
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: httptestCertificate(t)}))
	_, err := client.Individuals().Put(ctx, Individual{RegistrationID: "x", Entry: Entry{Attestation: Attestation{
		Type: AttestationX509,
		X509: &X509{ClientCertificates: &Certificates{Primary: &Certificate{Certificate: certificate}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	before, err := client.Individuals().Attestation(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Individuals().Update(ctx, "x", func(i *Individual) error { i.ProvisioningStatus = Disabled; return nil }); err != nil {
		t.Fatal(err)
	}
	after, err := client.Individuals().Attestation(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before.X509, after.X509); diff != "" || before.X509 == nil {
		t.Errorf("an update of something else changed the certificate (-before +after):\n%s", diff)
	}
}

// httptestCertificate borrows a certificate that is always there.
func httptestCertificate(t *testing.T) []byte {
	server := httptest.NewTLSServer(nil)
	t.Cleanup(server.Close)
	return server.Certificate().Raw
}
