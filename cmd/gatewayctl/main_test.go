// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/allocation/directory"
	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// groupKey is the bytes 0x00 to 0x3f, a published vector.
const groupKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"gatewayctl": main})
}

// policyKey is 32 bytes of 0x07, a published vector.
const policyKey = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="

// TestScripts runs the program as its users do. Scripts whose names begin with
// register or service have a local service of their own, with the tutorial's
// policy behind a real webhook, and find it in the environment.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("GROUP_KEY", groupKey)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // or each command takes a second longer under the race detector
			name := strings.TrimPrefix(filepath.Base(env.WorkDir), "script-")
			if strings.HasPrefix(name, "register") || strings.HasPrefix(name, "service") {
				return startService(t, env)
			}
			if strings.HasPrefix(name, "allocate-against") {
				return startFunction(env)
			}
			if strings.HasPrefix(name, "allocate") {
				return makeDirectory(env)
			}
			if strings.HasPrefix(name, "capture") || strings.HasPrefix(name, "scan") {
				return startLines(env)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"again": scriptAgain, "holds": scriptHolds},
	})
}

// makeDirectory makes a site's directory of devices, site.db.
func makeDirectory(env *testscript.Env) error {
	const devices = "registration_id,floor,room\nbreakroom499-contoso-tstrsd-007,5,499\n"
	_, err := directory.Import(context.Background(), directory.Config{File: filepath.Join(env.WorkDir, "site.db")},
		strings.NewReader(devices), directory.ImportOptions{Types: map[string]allocation.ColumnType{"floor": allocation.ColumnNumber}})
	return err
}

// startFunction runs a cloud function until the script has ended. It does nearly
// what the tutorial's does, and writes its answers another way; one device in
// four brings it down.
func startFunction(env *testscript.Env) error {
	function := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		switch {
		case err != nil || r.Header.Get("x-functions-key") != "s3cret-function-key":
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(string(body), `"broken`):
			w.WriteHeader(http.StatusInternalServerError)
		case strings.Contains(string(body), `-contoso-tstrsd-007"`):
			_, _ = io.WriteString(w, `{"payload": null, "initialTwin": {"tags": {"deviceType": "toaster"}, "properties": {"desired": {"darknessSetting": "medium", "state": "ready"}}}, "iotHubHostName": "contoso-toasters-hub-1098.azure-devices.net"}`)
		case strings.Contains(string(body), `-contoso-hpsd-088"`):
			_, _ = io.WriteString(w, `{"iotHubHostName":"contoso-heatpumps-hub-1098.azure-devices.net","initialTwin":{"properties":{"desired":{"state":"on","temperatureSetting":"70"}},"tags":{"deviceType":"heatpump"}}}`)
		default:
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, "Unknown device.")
		}
	}))
	env.Defer(function.Close)
	env.Setenv("FUNCTION", function.URL+"/api/HttpTrigger1")
	return nil
}

// startLines makes a line on which another master talks with a unit, and a silent one, until the script has ended.
func startLines(env *testscript.Env) error {
	busy, err := serialbustest.NewUnitsLine([]serialbustest.Unit{{Address: 3, Registers: map[uint16]uint16{0: 0}}},
		serialbustest.WithStranger(serialbustest.Stranger{Kind: serialbustest.AnotherMaster, Unit: 3, Every: 50 * time.Millisecond}))
	if err != nil {
		return err
	}
	env.Defer(func() { _ = busy.Close() })
	silent, err := serialbustest.NewUnitsLine(nil)
	if err != nil {
		return err
	}
	env.Defer(func() { _ = silent.Close() })
	pump, err := serialbustest.NewUnitsLine([]serialbustest.Unit{{
		Address: 2, Registers: map[uint16]uint16{0: 0}, Objects: map[byte]string{0: "Acme", 1: "H1", 2: "1.0"},
	}})
	if err != nil {
		return err
	}
	env.Defer(func() { _ = pump.Close() })
	env.Setenv("PUMP", pump.Path())
	env.Setenv("LINE", busy.Path())
	env.Setenv("SILENT", silent.Path())
	return nil
}

// certifiedID is registered with a certificate that runs out in nine days.
const certifiedID = "certified-contoso-tstrsd-007"

// writeCertificate puts cert.pem and cert-key.pem where the script runs.
func writeCertificate(dir string) (certificate string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: certifiedID},
		NotBefore:    time.Now().AddDate(-1, 0, 0),
		NotAfter:     time.Now().Add(9*24*time.Hour + time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	pair := map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "cert-key.pem": {Type: "PRIVATE KEY", Bytes: keyDER}}
	for name, block := range pair {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return "", err
		}
	}
	return string(pem.EncodeToMemory(pair["cert.pem"])), nil
}

// startSecondWebhooks runs two webhooks over TLS until the script has ended, and
// puts their URLs, two with wrong keys among them, where it runs.
func startSecondWebhooks(env *testscript.Env) error {
	site, cloud := newWebhook(siteKey, nil), newWebhook(cloudKey, nil)
	env.Defer(site.Close)
	env.Defer(cloud.Close)
	for name, text := range map[string]string{
		"webhook-ca.pem": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: site.Certificate().Raw})),
		"site.url":       site.URL + "/api/HttpTrigger1?code=" + siteKey + "\n",
		"cloud.url":      cloud.URL + "/api/HttpTrigger1?code=" + cloudKey + "\n",
		"wrong-key.url":  site.URL + "/api/HttpTrigger1?code=sesame-sesame-sesame\n",
		"other-key.url":  cloud.URL + "/api/HttpTrigger1?code=another-key-0123456789\n",
		"service-key":    groupKey + "\n",
	} {
		if err := os.WriteFile(filepath.Join(env.WorkDir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// startService runs a local service until the script has ended.
func startService(t *testing.T, env *testscript.Env) error {
	certificate, err := writeCertificate(env.WorkDir)
	if err != nil {
		return err
	}
	webhook := httptest.NewServer(allocation.NewHandler(allocation.Config{Setup: allocation.Setup{Policy: allocation.Tutorial()}}))
	if err := startSecondWebhooks(env); err != nil {
		return err
	}
	hubs := []string{"contoso-toasters-hub-1098.azure-devices.net", "contoso-heatpumps-hub-1098.azure-devices.net"}
	service, err := dpslocal.New(dpslocal.Config{
		IDScope: "0ne00ABCDEF",
		Name:    "contoso-provisioning-service-1098",
		PolicyKeys: []dpslocal.PolicyKey{
			{Name: "provisioningserviceowner", Key: policyKey},
			{Name: "reader", Key: policyKey, Permissions: []dpslocal.Permission{dpslocal.EnrollmentRead}},
		},
		Hubs: []dpslocal.Hub{{Name: hubs[0]}, {Name: hubs[1]}},
		EnrollmentGroups: []dpslocal.EnrollmentGroup{{
			ID: "contoso-custom-allocated-devices", PrimaryKey: groupKey, Hubs: hubs, WebhookCAFile: filepath.Join(env.WorkDir, "webhook-ca.pem"),
			AllocationPolicy: dpslocal.Custom, WebhookURL: dpslocal.Secret(webhook.URL + "/api/HttpTrigger1"),
		}},
		Enrollments: []dpslocal.IndividualEnrollment{{
			RegistrationID: "barred-contoso-tstrsd-007", PrimaryKey: groupKey, ProvisioningStatus: dpslocal.Disabled,
		}, {
			RegistrationID: certifiedID, X509: dpslocal.X509Attestation{ClientCertificates: dpslocal.Slots{Primary: certificate}},
		}},
	}, dpslocal.Options{Dir: t.TempDir()})
	if err != nil {
		webhook.Close()
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	env.Defer(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the local service: %v", err)
		}
		webhook.Close()
	})
	env.Setenv("DPS_CONNECTION_STRING", "HostName=contoso-provisioning-service-1098.azure-devices-provisioning.net;SharedAccessKeyName=provisioningserviceowner;SharedAccessKey="+policyKey)
	env.Setenv("HTTPS", service.HTTPSAddr())
	env.Setenv("MQTT", service.MQTTAddr())
	env.Setenv("CA", service.CAFile())
	return nil
}
