// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"text/template"
	"time"

	"github.com/contoso/gatewayd/provisioning/dpslocal"
)

// Files of the webhook's certificate in the demo's directory. It is its own CA:
// the enrollment group trusts exactly this one.
const (
	webhookCA   = "webhook.pem"
	webhookKey  = "webhook-key.pem"
	certificate = 30 * 24 * time.Hour
)

// writeCertificate makes a fresh certificate for 127.0.0.1.
func writeCertificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "gatewayd demo webhook"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certificate),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("making the webhook's certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(dir, webhookCA), chain, 0o600); err != nil {
		return err
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return os.WriteFile(filepath.Join(dir, webhookKey), private, 0o600)
}

// configuration fills the file that the real gateway then reads.
type configuration struct {
	Dir, Transport string
	Service        *dpslocal.Server
	Buses          []bus
}

// Endpoint is the local DPS's address for the wanted transport.
func (c configuration) Endpoint() string {
	if c.Transport == "mqtt" {
		return c.Service.MQTTAddr()
	}
	return c.Service.HTTPSAddr()
}

// ToasterHub and HeatPumpHub name the tutorial's hubs.
func (configuration) ToasterHub() string  { return toasterHub }
func (configuration) HeatPumpHub() string { return heatPumpHub }

// The registration rate is far above the default: the local DPS has no
// throttle, and a demo of 64 toasters is not to take a minute for Azure's sake.
var configurationFile = template.Must(template.New("gatewayd.toml").Parse(`# Written by the demo.
site = "mainbuilding"
state_dir = {{printf "%q" .Dir}}

[dps]
endpoint = {{printf "%q" .Endpoint}}
id_scope = {{printf "%q" .Service.IDScope}}
transport = {{printf "%q" .Transport}}
group_key = {{printf "%q" (print .Dir "/group-key")}}
ca_file = {{printf "%q" .Service.CAFile}}
registers_per_minute = 6000
polls_per_second = 200

[hub]
mode = "stay"
resolve = { {{printf "%q" .ToasterHub}} = {{printf "%q" .Service.MQTTAddr}}, {{printf "%q" .HeatPumpHub}} = {{printf "%q" .Service.MQTTAddr}} }

[allocation]
function_keys = {{printf "%q" (print .Dir "/function-keys")}}
tls_cert = {{printf "%q" (print .Dir "/webhook.pem")}}
tls_key = {{printf "%q" (print .Dir "/webhook-key.pem")}}
{{range .Buses}}
[[bus]]
name = {{printf "%q" .Name}}
place = {{printf "%q" .Place}}
port = {{printf "%q" .Port}}
driver = {{printf "%q" .Driver}}
profile = {{printf "%q" .Profile}}
{{- with .Units}}
units = {{printf "%q" .}}
{{- end}}
allow = [{{printf "%q" .Allow}}]
{{end}}`))

func writeConfig(path string, c configuration) error {
	var text bytes.Buffer
	if err := configurationFile.Execute(&text, c); err != nil {
		return err
	}
	return os.WriteFile(path, text.Bytes(), 0o600)
}
