// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCertificate reads every shape that a certificate may come in. What the
// certificate of the test data holds was read by openssl.
func TestCertificate(t *testing.T) {
	t.Parallel()
	text := golden(t, "device-certificate.pem")
	block, _ := pem.Decode(text)
	der := base64.StdEncoding.EncodeToString(block.Bytes)
	quotedPEM, err := json.Marshal(string(text))
	if err != nil {
		t.Fatal(err)
	}
	read := Certificate{
		SubjectName: `CN=breakroom499-contoso-tstrsd-007,O=Contoso\, Toasters,C=US`, IssuerName: "CN=Contoso Devices CA,O=Contoso",
		SHA1Thumbprint:   "45EEC01F1FCAABFA1C010393E45D49DB228EB816",
		SHA256Thumbprint: "4EFB764BC6B5A2947F34131F2BC5E05015072388AB339287E57F5694CC0A33DC",
		NotBeforeUTC:     "2026-11-22T06:14:07Z", NotAfterUTC: "2036-11-19T06:14:07Z",
		SerialNumber: "1F03", Version: 1,
	}
	const info = `{"subjectName":"CN=a, O=b","sha1Thumbprint":"01","sha256Thumbprint":"02","issuerName":"CN=i","notBeforeUtc":"2026-01-01T00:00:00Z","notAfterUtc":"2027-01-01T00:00:00Z","serialNumber":"03","version":3}`
	told := Certificate{SubjectName: "CN=a, O=b", SHA1Thumbprint: "01", SHA256Thumbprint: "02", IssuerName: "CN=i", NotBeforeUTC: "2026-01-01T00:00:00Z", NotAfterUTC: "2027-01-01T00:00:00Z", SerialNumber: "03", Version: 3}
	none := Certificate{}

	tests := []struct {
		name, x509   string
		want, signer Certificate
	}{
		{"absent", ``, none, none},
		{"null", `null`, none, none},
		{"empty", `{}`, none, none},
		{"another type", `"x"`, none, none},
		{"list", `[{"info":` + info + `}]`, none, none},
		{"info", `{"clientCertificates":{"primary":{"info":` + info + `}}}`, told, none},
		{"info before certificate", `{"clientCertificates":{"primary":{"certificate":"` + der + `","info":` + info + `}}}`, told, none},
		{"info empty, certificate in base64", `{"clientCertificates":{"primary":{"certificate":"` + der + `","info":{}}}}`, read, none},
		{"info null, certificate in PEM", `{"clientCertificates":{"primary":{"certificate":` + string(quotedPEM) + `,"info":null}}}`, read, none},
		{"secondary alone", `{"clientCertificates":{"primary":null,"secondary":{"info":` + info + `}}}`, told, none},
		{"neither readable", `{"clientCertificates":{"primary":{"certificate":"AAAA"},"secondary":{"certificate":"not base64"}}}`, none, none},
		{"one member of another type", `{"clientCertificates":{"primary":{"info":{"subjectName":"CN=a","version":"3"}}}}`, Certificate{SubjectName: "CN=a"}, none},
		{"signer alone is not the device's", `{"signingCertificates":{"primary":{"info":` + info + `}}}`, none, told},
		{"as in a registration result", `{"enrollmentGroupId":"g","certificateInfo":{"subjectName":"CN=d"},"signingCertificateInfo":` + info + `}`, Certificate{SubjectName: "CN=d"}, told},
		{"unknown members", `{"x":1,"clientCertificates":{"tertiary":{},"primary":{"info":` + info + `,"y":[]}}}`, told, none},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			device := DeviceRuntimeContext{X509: json.RawMessage(test.x509)}
			if test.x509 == "" {
				device.X509 = nil
			}
			got, ok := device.Certificate()
			if diff := cmp.Diff(test.want, got); diff != "" || ok != (test.want != none) {
				t.Errorf("certificate, found %t (-want +got):\n%s", ok, diff)
			}
			got, ok = device.SigningCertificate()
			if diff := cmp.Diff(test.signer, got); diff != "" || ok != (test.signer != none) {
				t.Errorf("signing certificate, found %t (-want +got):\n%s", ok, diff)
			}
		})
	}
}

func TestAttestation(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, context string
		want          string
		wantKeys      TPMKeys
	}{
		{"symmetric key", `{"symmetricKey":{}}`, "symmetricKey", TPMKeys{}},
		{"X.509", `{"x509":{},"symmetricKey":null}`, "x509", TPMKeys{}},
		{"TPM", `{"tpm":{"endorsementKey":"e","storageRootKey":"s"}}`, "tpm", TPMKeys{"e", "s"}},
		{"TPM without a storage root key", `{"tpm":{"endorsementKey":"e","storageRootKey":null}}`, "tpm", TPMKeys{"e", ""}},
		{"TPM of another type", `{"tpm":7}`, "tpm", TPMKeys{}},
		{"none", `{}`, "", TPMKeys{}},
		{"null", `{"symmetricKey":null}`, "", TPMKeys{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			request, err := ParseRequest([]byte(`{"deviceRuntimeContext":` + test.context + `}`))
			if err != nil {
				t.Fatal(err)
			}
			device := request.DeviceRuntimeContext
			if got := device.Attestation(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			keys, ok := device.TPMKeys()
			if keys != test.wantKeys || ok != (test.wantKeys != TPMKeys{}) {
				t.Errorf("got keys %+v, %t, want %+v", keys, ok, test.wantKeys)
			}
		})
	}
}
