// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// certRequest is a device's call with a certificate, without a transport.
func certRequest(registrationID string, chain []*x509.Certificate) call {
	c := request(RegisterCall, registrationID)
	c.token, c.chain = "", chain
	return c
}

// groupOf is an enrollment group that goes by certificates.
func groupOf(id string, certificates X509Attestation) EnrollmentGroup {
	return EnrollmentGroup{ID: id, X509: certificates, AllocationPolicy: Static}
}

// TestX509Admission tries certificates, good and bad, without a transport.
func TestX509Admission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
		early := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }
		forServers := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }

		root := issue(t, "root", nil, true)
		floor := issue(t, "floor 1", root, true)
		room := issue(t, "room 11", floor, true)
		oldRoom := issue(t, "room 12", floor, true, expired)
		otherRoot := issue(t, "root", nil, true) // the same name, another key
		barredCA := issue(t, "barred CA", root, true)
		signer := issue(t, "signer", nil, true)
		oldSigner := issue(t, "old signer", nil, true, expired)
		namesake := issue(t, "signer", nil, true)
		own, spare, stale := issue(t, "Own-1", nil, false), issue(t, "own-1", nil, false), issue(t, "stale", nil, false, expired)

		cfg := Config{
			IDScope: testScope, RetryAfter: 3 * time.Second, Hubs: []Hub{{Name: toasters}},
			CACertificates: []CACertificate{{"building", root.pem()}},
			EnrollmentGroups: []EnrollmentGroup{
				groupOf("by-ca", X509Attestation{CAReferences: Slots{Secondary: "building"}}),
				groupOf("by-signer", X509Attestation{SigningCertificates: Slots{oldSigner.pem(), signer.pem()}}),
				groupOf("of-room", X509Attestation{SigningCertificates: Slots{Primary: room.pem()}}),
				groupOf("barred", X509Attestation{SigningCertificates: Slots{Primary: barredCA.pem()}}),
				groupOf("a-namesake", X509Attestation{SigningCertificates: Slots{Primary: namesake.pem()}}),
				{ID: "with-keys", PrimaryKey: testPrimary, AllocationPolicy: Static},
			},
			Enrollments: []IndividualEnrollment{
				{RegistrationID: "own-1", X509: X509Attestation{ClientCertificates: Slots{own.pem(), spare.pem()}}, AllocationPolicy: Static},
				{RegistrationID: "stale", X509: X509Attestation{ClientCertificates: Slots{Primary: stale.pem()}}},
				{RegistrationID: "off-1", X509: X509Attestation{ClientCertificates: Slots{Primary: own.pem()}}, ProvisioningStatus: Disabled},
				{RegistrationID: "key-1", PrimaryKey: testPrimary},
				{RegistrationID: "tpm-1", TPM: TPMAttestation{EndorsementKey: "AAAA"}, Attestation: AttestationTPM},
			},
		}
		cfg.EnrollmentGroups[3].ProvisioningStatus = Disabled
		s := newCore(t, cfg, nil)

		tests := []struct {
			name, id string
			chain    []*x509.Certificate
			want     string // the group, "individual", "disabled" or "401"
		}{
			{"own certificate, ID in another case", "own-1", own.chain(), "individual"},
			{"spare certificate", "own-1", spare.chain(), "individual"},
			{"same name, another certificate", "own-1", issue(t, "own-1", nil, false).chain(), "401"},
			{"same name, of a group", "own-1", issue(t, "own-1", signer, false).chain(), "401"},
			{"another's certificate", "own-2", own.chain(), "401"},
			{"expired", "stale", stale.chain(), "401"},
			{"of the signer", "a-1", issue(t, "a-1", signer, false).chain(), "by-signer"},
			{"of another signer of that name", "a-1", issue(t, "a-1", namesake, false).chain(), "a-namesake"},
			{"of the signer, another name", "a-2", issue(t, "a-1", signer, false).chain(), "401"},
			{"of the signer, expired", "a-1", issue(t, "a-1", signer, false, expired).chain(), "401"},
			{"of the signer, not valid yet", "a-1", issue(t, "a-1", signer, false, early).chain(), "401"},
			{"of the signer, for servers", "a-1", issue(t, "a-1", signer, false, forServers).chain(), "401"},
			{"of an expired signer", "a-1", issue(t, "a-1", oldSigner, false).chain(), "401"},
			{"of the CA", "a-1", issue(t, "a-1", root, false).chain(), "by-ca"},
			{"of the CA over two", "a-1", issue(t, "a-1", issue(t, "room 13", floor, true), false).chain(), "by-ca"},
			{"an issuer expired", "a-1", issue(t, "a-1", oldRoom, false).chain(), "401"},
			{"an issuer left out", "a-1", issue(t, "a-1", floor, false).chain()[:1], "401"},
			{"an issuer that is none", "a-1", append(issue(t, "a-1", nil, false).chain(), floor.cert), "401"},
			{"a CA of the same name", "a-1", issue(t, "a-1", otherRoot, false).chain(), "401"},
			{"nearest group wins", "a-1", issue(t, "a-1", room, false).chain(), "of-room"},
			{"nearest group is disabled", "a-1", issue(t, "a-1", barredCA, false).chain(), "disabled"},
			{"self-signed", "a-1", issue(t, "a-1", nil, false).chain(), "401"},
			{"barred by its own entry", "off-1", issue(t, "off-1", signer, false).chain(), "disabled"},
			{"the certificate of its entry, another name", "off-1", own.chain(), "401"},
			{"stranger to a barred entry", "off-1", issue(t, "off-1", nil, false).chain(), "401"},
			{"an entry with keys", "key-1", issue(t, "key-1", signer, false).chain(), "401"},
			{"an entry of a TPM", "tpm-1", issue(t, "tpm-1", signer, false).chain(), "401"},
		}
		for _, tt := range tests {
			t.Log(tt.name)
			c := certRequest(tt.id, tt.chain)
			if a := s.service.serve(t.Context(), c); tt.want == "401" || a.status != 202 {
				if a.status != 401 || tt.want != "401" {
					t.Errorf("%s: got %d %s, want %s", tt.name, a.status, a.body, tt.want)
				}
				continue
			}
			got := register(t, s, c)
			outcome := got.Status
			if x509 := got.RegistrationState.X509; x509 != nil {
				outcome = x509.EnrollmentGroupID
				if outcome == "" {
					outcome = "individual"
				}
			}
			if outcome != tt.want || got.RegistrationState.SymmetricKey != nil {
				t.Errorf("%s: got %s, %+v; want %s", tt.name, outcome, got, tt.want)
			}
		}

		t.Log("a token counts before a certificate")
		c := certRequest("own-1", own.chain())
		c.token = deviceToken("own-1", testSecondary)
		if a := s.service.serve(t.Context(), c); a.status != 401 {
			t.Errorf("wrong token, right certificate: got %d", a.status)
		}
		t.Log("an entry with a certificate has no key that could be guessed")
		c = request(RegisterCall, "own-1")
		c.token = deviceToken("own-1", derive(testPrimary, "own-1"))
		if a := s.service.serve(t.Context(), c); a.status != 401 {
			t.Errorf("a group's token for an entry with a certificate: got %d", a.status)
		}
		c.idScope, c.token, c.chain = "0ne1", "", own.chain()
		if a := s.service.serve(t.Context(), c); a.status != 401 {
			t.Errorf("another ID scope: got %d", a.status)
		}
	})
}

// TestX509ByServiceAPI makes an enrollment as an operator does, registers with it,
// and learns that a CA without a name cannot be referred to.
// TestCertificatesAfterReload: what another instance has changed is read from
// the store, where certificates are text, and must still let devices in.
func TestCertificatesAfterReload(t *testing.T) {
	own := issue(t, "own-1", nil, false)
	entry := Enrollment{Kind: Individual, ID: "own-1", Attestation: AttestationX509, X509: X509Attestation{ClientCertificates: Slots{Primary: own.pem()}}}
	var e enrollments
	e.put(entry)
	before, _ := e.find(Individual, "own-1")
	e.replace([]Enrollment{entry})
	after, _ := e.find(Individual, "own-1")
	if len(before.certificates) != 1 || len(after.certificates) != 1 {
		t.Errorf("got %d certificates, and %d after a reload; want one each", len(before.certificates), len(after.certificates))
	}
}

func TestX509ByServiceAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := operatorConfig()
		root := issue(t, "root", nil, true)
		cfg.CACertificates = []CACertificate{{"building", root.pem()}}
		s := newCore(t, cfg, nil)
		own := issue(t, "own-1", nil, false)
		document := func(kind, id, x509 string) string {
			return `{"` + kind + `":"` + id + `","allocationPolicy":"static","attestation":{"type":"x509","x509":` + x509 + `}}`
		}
		for _, tt := range []struct {
			path, body string
			status     int
		}{
			{"/enrollments/own-1", document("registrationId", "own-1", `{"clientCertificates":{"primary":{"certificate":`+string(encodeJSON(own.pem()))+`}}}`), 200},
			{"/enrollmentGroups/of-ca", document("enrollmentGroupId", "of-ca", `{"caReferences":{"primary":"building"}}`), 200},
			{"/enrollmentGroups/of-none", document("enrollmentGroupId", "of-none", `{"caReferences":{"primary":"nobody"}}`), 400},
		} {
			if w := operate(s, "PUT", tt.path, tt.body); w.Code != tt.status {
				t.Errorf("%s: %d %s, want %d", tt.path, w.Code, w.Body, tt.status)
			}
		}
		for id, chain := range map[string][]*x509.Certificate{"own-1": own.chain(), "a-1": issue(t, "a-1", root, false).chain()} {
			if got := register(t, s, certRequest(id, chain)); got.Status != "assigned" || got.RegistrationState.X509 == nil {
				t.Errorf("%s: got %+v", id, got)
			}
		}
	})
}

// TestTPMRegister: such a device comes without credentials at first, and is told
// what is wrong.
func TestTPMRegister(t *testing.T) {
	s := newCore(t, testConfig(), nil)
	c := certRequest("tpm-1", nil)
	c.body = []byte(`{"registrationId":"tpm-1","tpm":{"endorsementKey":"AAAA","storageRootKey":"AAAA"}}`)
	a := s.service.serve(t.Context(), c)
	if a.status != 400 || !strings.Contains(string(a.body), "TPM attestation is not offered here") {
		t.Errorf("got %d %s, want 400 and why", a.status, a.body)
	}
	c.body = []byte(`{"tpm":null}`)
	if a := s.service.serve(t.Context(), c); a.status != 401 {
		t.Errorf("without a TPM: got %d, want 401", a.status)
	}
}

// TestX509Documents holds what webhook and device are shown of a certificate.
func TestX509Documents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signer := issue(t, "signer", nil, true)
		device := issue(t, "a-1", signer, false)
		cfg := testConfig()
		cfg.EnrollmentGroups = []EnrollmentGroup{{
			ID: "g", X509: X509Attestation{SigningCertificates: Slots{Primary: signer.pem()}}, IoTEdge: true,
			AllocationPolicy: Custom, WebhookURL: testHook,
		}}
		hook := always(200, goodAnswer)
		s := newCore(t, cfg, hook)
		if got := register(t, s, certRequest("a-1", device.chain())); got.Status != "assigned" {
			t.Fatalf("got %+v", got)
		}
		var request struct {
			EnrollmentGroup struct {
				Attestation, Capabilities json.RawMessage
			}
			DeviceRuntimeContext map[string]json.RawMessage
		}
		if err := json.Unmarshal([]byte(hook.body(0)), &request); err != nil {
			t.Fatal(err)
		}
		info := func(c *x509.Certificate) string { return string(encodeJSON(contentsOf(c))) }
		state, _ := s.store.Registration(t.Context(), "a-1")
		for _, tt := range []struct{ name, got, want string }{
			{"attestation", string(request.EnrollmentGroup.Attestation), `{"type":"x509"}`},
			{"capabilities", string(request.EnrollmentGroup.Capabilities), `{"iotEdge":true}`},
			{"context", string(request.DeviceRuntimeContext["x509"]), `{"clientCertificates":{"primary":{"certificate":"` +
				base64.StdEncoding.EncodeToString(device.cert.Raw) + `","info":` + info(device.cert) + `}}}`},
			{"no key", string(request.DeviceRuntimeContext["symmetricKey"]), ""},
		} {
			if tt.got != tt.want {
				t.Errorf("%s: got %s, want %s", tt.name, tt.got, tt.want)
			}
		}
		want := `{"x509":{"certificateInfo":` + info(device.cert) + `,"enrollmentGroupId":"g","signingCertificateInfo":` + info(signer.cert) + `},"registrationId":"a-1"`
		if !strings.HasPrefix(string(state.State), want) {
			t.Errorf("got %s, want it to begin with %s", state.State, want)
		}
		for _, part := range []string{`"subjectName":"CN=a-1"`, `"issuerName":"CN=signer"`, `"version":3`, `"notAfterUtc":"2000-01-01T01:00:00Z"`} {
			if !strings.Contains(info(device.cert), part) {
				t.Errorf("info %s, want %s in it", info(device.cert), part)
			}
		}
	})
}

// TestX509Transports registers and opens the hub with a certificate over each
// transport; with a wrong one MQTT lets the device connect to the service, and
// says no when it registers.
func TestX509Transports(t *testing.T) {
	signer := issue(t, "signer", nil, true)
	own := issue(t, "own-1", nil, false)
	cfg := testConfig()
	cfg.RetryAfter = 0
	cfg.EnrollmentGroups = []EnrollmentGroup{groupOf("g", X509Attestation{SigningCertificates: Slots{Primary: signer.pem()}})}
	cfg.Enrollments = []IndividualEnrollment{{
		RegistrationID: "own-1", DeviceID: "Own", X509: X509Attestation{ClientCertificates: Slots{Primary: own.pem()}}, AllocationPolicy: Static,
	}}
	s := start(t, cfg, Options{})
	mqtt := map[string]func(t *testing.T, certificate tls.Certificate) *rawClient{
		"mqtt": func(t *testing.T, certificate tls.Certificate) *rawClient {
			return dialMQTT(t, s, certificate)
		},
		"mqtt-ws": func(t *testing.T, certificate tls.Certificate) *rawClient {
			return mqttOver(t, dialWebSocket(t, s, "/$iothub/websocket", "mqtt", certificate))
		},
	}
	for name, dial := range mqtt {
		t.Run(name, func(t *testing.T) {
			member := issue(t, "member-"+name, signer, false)
			for _, tt := range []struct {
				id, deviceID string
				with         *identity
			}{{"member-" + name, "member-" + name, member}, {"own-1", "Own", own}} {
				c := dial(t, tt.with.tls())
				c.connectDPS(tt.id, "")
				_, body := c.request(registerTopic+"1", "")
				topic, body := c.request(pollTopic+"2&operationId="+decodeStatus(t, []byte(body)).OperationID, " ")
				if state := decodeStatus(t, []byte(body)).RegistrationState; state.DeviceID != tt.deviceID || state.AssignedHub != toasters {
					t.Fatalf("%s: got %s %s", tt.id, topic, body)
				}
				hub := dial(t, tt.with.tls())
				if code := hub.connect(tt.deviceID, toasters+"/"+tt.deviceID+"/?api-version=2021-04-12", ""); code != 0 {
					t.Errorf("%s: hub: CONNACK %d", tt.id, code)
				}
				hub.subscribe(twinResultFilter, 1)
				if topic, _ := hub.request(twinGetTopic+"?$rid=3", ""); topic != twinResultTopic+"200/?$rid=3" {
					t.Errorf("%s: twin: got %s", tt.id, topic)
				}
			}

			stranger := issue(t, "own-1", nil, false)
			c := dial(t, stranger.tls())
			c.connectDPS("own-1", "")
			if topic, body := c.request(registerTopic+"1", ""); topic != "$dps/registrations/res/401/?$rid=1" || decodeStatus(t, []byte(body)).ErrorCode != 401002 {
				t.Errorf("stranger: got %s %s, want 401", topic, body)
			}
			again := issue(t, "member-"+name, signer, false) // of the group, but it has not registered
			for _, with := range []*identity{stranger, again} {
				hub := dial(t, with.tls())
				if code := hub.connect("Own", toasters+"/Own/?api-version=2021-04-12", ""); code != 5 {
					t.Errorf("hub with a foreign certificate: CONNACK %d, want 5", code)
				}
			}
		})
	}
	for name, tt := range map[string]struct {
		with   *identity
		status int
	}{"right": {own, 202}, "wrong": {issue(t, "own-1", nil, false), 401}, "none": {nil, 401}} {
		t.Run("https "+name, func(t *testing.T) {
			client := caller(t, s)
			if tt.with != nil {
				client.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{tt.with.tls()}
			}
			response, body := do(t, client, "PUT", "https://"+s.HTTPSAddr()+"/"+testScope+"/registrations/own-1/register?api-version=2021-06-01", "", "{}")
			if response.StatusCode != tt.status {
				t.Errorf("got %d %s, want %d", response.StatusCode, body, tt.status)
			}
		})
	}
}

// TestX509HubExpires closes a hub connection when its certificate expires.
func TestX509HubExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := issue(t, "own-1", nil, false)
		h := &hubs{store: memoryStore(t)}
		user := userName{hub: toasters, deviceID: "own-1"}
		placed := Device{Hub: toasters, ID: "own-1", SecondaryThumbprint: thumbprint(own.cert)}
		if err := placeDevice(t, h.store.(Store), placed); err != nil {
			t.Fatal(err)
		}
		until, err := h.authenticateX509(user, own.cert)
		if err != nil || !until.Equal(own.cert.NotAfter) {
			t.Errorf("got %s, %v; want %s", until, err, own.cert.NotAfter)
		}
		time.Sleep(61 * time.Minute)
		if _, err := h.authenticateX509(user, own.cert); err == nil {
			t.Error("an expired certificate opens the hub")
		}
		user.deviceID = "own-2"
		if _, err := h.authenticateX509(user, issue(t, "own-2", nil, false).cert); err == nil {
			t.Error("a device that the hub does not have got in")
		}
	})
}

// memoryStore opens a store that is closed with the test.
func memoryStore(t *testing.T) Store {
	t.Helper()
	store, err := OpenMemoryStore()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// placeDevice puts a device on a hub as the end of an operation does.
func placeDevice(t *testing.T, store Store, device Device) error {
	op := Operation{ID: "op", RegistrationID: device.ID, Begun: time.Now(), Status: Assigning}
	r := Registration{ID: device.ID}
	if _, err := store.BeginOperation(t.Context(), op, r); err != nil {
		return err
	}
	return store.FinishOperation(t.Context(), op, r, &Placement{Device: device})
}

// FuzzCertificates parses certificates as configurations, requests and the store
// hold them; what is taken must survive being written.
func FuzzCertificates(f *testing.F) {
	f.Add("")
	f.Add("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	f.Add("MIIBAAAA")
	f.Add(fuzzCertificate)
	f.Add(bare(fuzzCertificate))
	f.Add(fuzzCertificate + fuzzCertificate)
	f.Fuzz(func(t *testing.T, text string) {
		for _, certificate := range splitCertificates(text) {
			again, err := parseCertificate(encodeCertificate(certificate))
			if err != nil || !again.Equal(certificate) {
				t.Errorf("%q: written and read again: %v", text, err)
			}
		}
	})
}

// fuzzCertificate is a small certificate to begin from.
const fuzzCertificate = `-----BEGIN CERTIFICATE-----
MIIBNDCB56ADAgECAhQNCvZe+J9rUFf+1iNA0C2D4j8VUjAFBgMrZXAwDzENMAsG
A1UEAwwEc2VlZDAgFw0yNjExMjIwMTUxNDdaGA8yMTI2MTAyOTAxNTE0N1owDzEN
MAsGA1UEAwwEc2VlZDAqMAUGAytlcAMhABKrcGqWFwxjPetXvFKdHjNyZ4+GBipW
66on/vmjI4rVo1MwUTAdBgNVHQ4EFgQUCPs9AxleXvswpsd60YtiwwlEEkswHwYD
VR0jBBgwFoAUCPs9AxleXvswpsd60YtiwwlEEkswDwYDVR0TAQH/BAUwAwEB/zAF
BgMrZXADQQBf/xvGmchTdwp1QjnVB2q4nkFO39JVE30qjJdHWWgJMGPWKeckxfF6
+YtDXH1yDnvEVGu3DVZGRDHOocqQvGEM
-----END CERTIFICATE-----
`
