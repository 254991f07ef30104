// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"net"
	"os/exec"
	"strings"
	"testing"
)

// TestNodeUsesCertificates registers Microsoft's Node client with certificates
// over every transport, and opens the hub with them. A wrong one fails as on
// Azure: when the device registers, not when it connects.
func TestNodeUsesCertificates(t *testing.T) {
	peer(t, "node", "npm")
	root := issue(t, "root", nil, true)
	floor := issue(t, "floor 1", root, true)
	own := issue(t, "own-1", nil, false)
	cfg := testConfig()
	cfg.RetryAfter = 0
	cfg.CACertificates = []CACertificate{{Name: "building", Certificate: root.pem()}}
	cfg.EnrollmentGroups = []EnrollmentGroup{{
		ID: "by-ca", X509: X509Attestation{CAReferences: Slots{Primary: "building"}},
		AllocationPolicy: Custom, WebhookURL: testHook,
	}}
	cfg.Enrollments = []IndividualEnrollment{{
		RegistrationID: "own-1", X509: X509Attestation{ClientCertificates: Slots{Secondary: own.pem()}},
		AllocationPolicy: Static, Hubs: []string{heatPumps},
	}}
	s := start(t, cfg, Options{WebhookTransport: always(200, goodAnswer)})
	node := nodePeers(t, s)
	files := func(i *identity) string {
		cert, key := i.write(t)
		return cert + "," + key
	}
	mqtt, https := viaLocalhost(t, s.MQTTAddr()), viaLocalhost(t, s.HTTPSAddr())
	for kind, address := range map[string]string{"mqtt": mqtt, "mqtt-ws": https, "http": https} {
		member := "member-" + kind
		memberFiles := files(issue(t, member, floor, false))
		tests := []struct {
			name, id, files string
			want            []string
		}{
			{"individual", "own-1", files(own), []string{`"x509":{}`, `"status":"assigned"`, `"assignedHub":"` + heatPumps}},
			{"group", member, memberFiles, []string{`"enrollmentGroupId":"by-ca"`, `"subjectName":"CN=` + member, `"assignedHub":"` + toasters}},
			{"stranger", "own-1", files(issue(t, "own-1", nil, false)), []string{`"error":"UnauthorizedError"`}},
			{"another name", "own-2", files(own), []string{`"error":"UnauthorizedError"`}},
		}
		for _, tt := range tests {
			t.Run(kind+" "+tt.name, func(t *testing.T) {
				output, err := node("register.js", kind, address, testScope, tt.id, tt.files).CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, output)
				}
				for _, want := range tt.want {
					if !strings.Contains(string(output), want) {
						t.Errorf("got %s\nwant %s in it", output, want)
					}
				}
			})
		}
		if kind == "http" {
			continue // hubs are not over HTTPS
		}
		t.Run(kind+" hub", func(t *testing.T) {
			useHub(t, s, member, node("hub.js", kind, address, toasters, member, memberFiles))
		})
		t.Run(kind+" hub, another's certificate", func(t *testing.T) {
			output, err := node("hub.js", kind, address, toasters, member, files(issue(t, member, floor, false))).CombinedOutput()
			if err == nil || !strings.Contains(string(output), `"error":"UnauthorizedError"`) {
				t.Errorf("got %v, %s; want a refusal", err, output)
			}
		})
	}
}

// TestNodeOpensHubOverWebSocket does it with a key.
func TestNodeOpensHubOverWebSocket(t *testing.T) {
	peer(t, "node", "npm")
	s := start(t, testConfig(), Options{WebhookTransport: always(200, goodAnswer)})
	register(t, s, request(RegisterCall, toaster))
	useHub(t, s, toaster, nodePeers(t, s)("hub.js", "mqtt-ws", viaLocalhost(t, s.HTTPSAddr()), toasters, toaster, derive(testPrimary, toaster)))
}

// TestCertificatesOfOthers registers with curl as Microsoft's page on HTTPS without
// an SDK does it with certificates, and opens the hub with mosquitto.
func TestCertificatesOfOthers(t *testing.T) {
	peer(t, "curl", "mosquitto_pub")
	own := issue(t, "own-1", nil, false)
	cfg := testConfig()
	cfg.RetryAfter = 0
	cfg.Enrollments = []IndividualEnrollment{{
		RegistrationID: "own-1", X509: X509Attestation{ClientCertificates: Slots{Primary: own.pem()}},
		AllocationPolicy: Static, Hubs: []string{toasters},
	}}
	s := start(t, cfg, Options{})
	right, wrong := own, issue(t, "own-1", nil, false)
	base := "https://" + viaLocalhost(t, s.HTTPSAddr()) + "/" + testScope + "/registrations/own-1"
	curl := func(with *identity, args ...string) (string, error) {
		cert, key := with.write(t)
		common := []string{
			"--silent", "--show-error", "--fail-with-body", "--noproxy", "*", "--cacert", s.CAFile(), "--cert", cert, "--key", key,
			"-H", "Content-Type: application/json", "-H", "Content-Encoding: utf-8",
		}
		output, err := exec.CommandContext(t.Context(), "curl", append(common, args...)...).CombinedOutput()
		return string(output), err
	}
	register := []string{"-X", "PUT", "-d", `{"registrationId":"own-1"}`, base + "/register?api-version=2021-06-01"}
	if output, err := curl(wrong, register...); err == nil || !strings.Contains(output, "401002") {
		t.Errorf("wrong certificate: got %v, %s; want 401", err, output)
	}
	output, err := curl(right, register...)
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	output, err = curl(right, base+"/operations/"+decodeStatus(t, []byte(output)).OperationID+"?api-version=2021-06-01")
	if err != nil || decodeStatus(t, []byte(output)).RegistrationState.AssignedHub != toasters {
		t.Fatalf("got %v, %s; want it assigned", err, output)
	}

	_, port, err := net.SplitHostPort(s.MQTTAddr())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		with *identity
		want bool
	}{{"right", right, true}, {"wrong", wrong, false}} {
		cert, key := tt.with.write(t)
		output, err := exec.CommandContext(t.Context(), "mosquitto_pub", "-h", "localhost", "-p", port, "--cafile", s.CAFile(),
			"--cert", cert, "--key", key, "-V", "mqttv311", "-i", "own-1", "-u", toasters+"/own-1/?api-version=2021-04-12",
			"-q", "1", "-t", "devices/own-1/messages/events/", "-m", "telemetry").CombinedOutput()
		if (err == nil) != tt.want {
			t.Errorf("mosquitto, %s certificate: got %v, %s", tt.name, err, output)
		}
	}
}
