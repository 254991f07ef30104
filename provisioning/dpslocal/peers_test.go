// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// peer skips a test unless PEERS=1, and fails it when a program is missing then.
func peer(t *testing.T, programs ...string) {
	t.Helper()
	if os.Getenv("PEERS") != "1" {
		t.Skip("needs " + strings.Join(programs, ", ") + ": set PEERS=1")
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("PEERS=1, but there is no %s: %v", program, err)
		}
	}
}

// peerTime is after which a script is killed, so that one that waits in vain
// fails its test and not the whole run.
const peerTime = 2 * time.Minute

// nodePeers installs Microsoft's packages once and returns how to run a script
// that uses them, trusting the server.
func nodePeers(t *testing.T, s *Server) func(script string, args ...string) *exec.Cmd {
	t.Helper()
	peer(t, "node", "npm")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "gatewayd-peers", "dpslocal")
	if output, err := exec.CommandContext(t.Context(), "testdata/peers/install.sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("installing the packages: %v\n%s", err, output)
	}
	return func(script string, args ...string) *exec.Cmd {
		ctx, cancel := context.WithTimeout(t.Context(), peerTime)
		t.Cleanup(cancel)
		cmd := exec.CommandContext(ctx, "node", append([]string{filepath.Join("testdata/peers", script)}, args...)...)
		cmd.Env = append(os.Environ(), "NODE_PATH="+filepath.Join(dir, "node_modules"), "NODE_EXTRA_CA_CERTS="+s.CAFile(), "NODE_NO_WARNINGS=1")
		return cmd
	}
}

// viaLocalhost spells an address with the name that certificates are for.
func viaLocalhost(t *testing.T, address string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return "localhost:" + port
}

// TestNodeRegisters: Microsoft's Node client cannot tell this from the service.
func TestNodeRegisters(t *testing.T) {
	peer(t, "node", "npm")
	cfg := testConfig()
	cfg.RetryAfter = 0
	cfg.Enrollments = []IndividualEnrollment{{RegistrationID: "barred", PrimaryKey: testPrimary, ProvisioningStatus: Disabled}}
	hook := &scriptedWebhook{answers: []webhookAnswer{
		{status: 200, body: strings.TrimSuffix(goodAnswer, "}") + `,"payload":{"property1":"value1"}}`, delay: 1500 * time.Millisecond},
	}}
	s := start(t, cfg, Options{WebhookTransport: hook})
	node := nodePeers(t, s)
	addresses := map[string]string{
		"mqtt":    viaLocalhost(t, s.MQTTAddr()),
		"mqtt-ws": viaLocalhost(t, s.HTTPSAddr()),
		"http":    viaLocalhost(t, s.HTTPSAddr()),
	}
	for kind, address := range addresses {
		tests := []struct {
			name, id, key, payload string
			want                   []string
		}{
			{
				"assigned", toaster + "-" + kind, derive(testPrimary, toaster+"-"+kind), `{"MyDeviceFirmwareVersion":"12.0.2.5"}`,
				[]string{`"assignedHub":"` + toasters + `"`, `"status":"assigned"`, `"substatus":"initialAssignment"`, `"payload":{"property1":"value1"}`},
			},
			{"again", toaster + "-" + kind, derive(testSecondary, toaster+"-"+kind), "", []string{`"substatus":"initialAssignment"`}},
			{"mixed case", "Dev-01." + kind, derive(testPrimary, "Dev-01."+kind), "", []string{`"registrationId":"Dev-01.` + kind + `"`}},
			{"bad key", toaster + "-" + kind, derive(testPrimary, "other"), "", []string{`"error":"UnauthorizedError"`}},
			{"barred", "barred", testPrimary, "", []string{`"message":"status is disabled"`}},
		}
		for _, tt := range tests {
			t.Run(kind+" "+tt.name, func(t *testing.T) {
				output, err := node("register.js", kind, address, testScope, tt.id, tt.key, tt.payload).CombinedOutput()
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
	}
	if !strings.Contains(hook.body(0), `"payload":{"MyDeviceFirmwareVersion":"12.0.2.5"}`) {
		t.Errorf("request %s, want the payload in it", hook.body(0))
	}
}

// TestNodeOpensHub: Microsoft's device client reads and reports a twin, sends
// telemetry and is told of a change.
func TestNodeOpensHub(t *testing.T) {
	peer(t, "node", "npm")
	s := start(t, testConfig(), Options{WebhookTransport: always(200, goodAnswer)})
	register(t, s, request(RegisterCall, toaster))
	useHub(t, s, toaster, nodePeers(t, s)("hub.js", "mqtt", viaLocalhost(t, s.MQTTAddr()), toasters, toaster, derive(testPrimary, toaster)))
}

// useHub follows hub.js of a device through a conversation with its hub.
func useHub(t *testing.T, s *Server, deviceID string, cmd *exec.Cmd) {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	next := func(want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Errorf("got %s\nwant %s\n%s", lines.Text(), want, stderr.String())
		}
	}
	next(`{"desired":{"$version":1,"darknessSetting":"medium","state":"ready"}}`)
	next(`{"reported":true}`)
	if twin, _ := s.Twin(toasters, deviceID); sectionText(twin.Reported) != `{"nested":{"a":1},"state":"ready"}` {
		t.Errorf("reported %s", sectionText(twin.Reported))
	}
	if err := s.SetDesired(toasters, deviceID, map[string]json.RawMessage{"darknessSetting": []byte(`"dark"`)}); err != nil {
		t.Fatal(err)
	}
	next(`{"delta":{"$version":2,"darknessSetting":"dark"}}`)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, stderr.String())
	}
}

// TestMosquittoTalksToHub: another MQTT library, which listens for changes and
// sends telemetry.
func TestMosquittoTalksToHub(t *testing.T) {
	peer(t, "mosquitto_sub", "mosquitto_pub")
	s := start(t, testConfig(), Options{WebhookTransport: always(200, goodAnswer)})
	register(t, s, request(RegisterCall, toaster))
	_, port, err := net.SplitHostPort(s.MQTTAddr())
	if err != nil {
		t.Fatal(err)
	}
	common := []string{
		"-h", "localhost", "-p", port, "--cafile", s.CAFile(), "-V", "mqttv311", "-i", toaster, "-q", "1",
		"-u", toasters + "/" + toaster + "/?api-version=2021-04-12",
		"-P", sign(toasters+"/devices/"+toaster, derive(testSecondary, toaster), time.Now().Add(time.Hour)),
	}
	// It does not tell when it has subscribed, so changes are made until it heard one.
	heard := make(chan struct{})
	var changes sync.WaitGroup
	changes.Go(func() {
		for i := 0; ; i++ {
			if err := s.SetDesired(toasters, toaster, map[string]json.RawMessage{"n": encodeJSON(i)}); err != nil {
				t.Error(err)
			}
			select {
			case <-heard:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	output, err := exec.CommandContext(t.Context(), "mosquitto_sub", append(common, "-W", "20", "-C", "1", "-t", twinDesiredFilter, "-F", "%t %p")...).CombinedOutput()
	close(heard)
	changes.Wait()
	want := regexp.MustCompile(`^\$iothub/twin/PATCH/properties/desired/\?\$version=\d+ \{"\$version":\d+,"n":\d+\}\n$`)
	if err != nil || !want.Match(output) {
		t.Errorf("got %s, %v\nwant %s", output, err, want)
	}
	output, err = exec.CommandContext(t.Context(), "mosquitto_pub", append(common, "-t", "devices/"+toaster+"/messages/events/", "-m", "telemetry")...).CombinedOutput()
	if err != nil {
		t.Errorf("telemetry: %v\n%s", err, output)
	}
	for i, arg := range common {
		if arg == "-P" {
			common[i+1] = sign(toasters+"/devices/"+toaster, testPrimary, time.Now().Add(time.Hour))
		}
	}
	output, err = exec.CommandContext(t.Context(), "mosquitto_pub", append(common, "-t", "devices/"+toaster+"/messages/events/", "-m", "telemetry")...).CombinedOutput()
	if err == nil || !strings.Contains(string(output), "not authorised") {
		t.Errorf("with the group key: got %v, %s; want a refusal", err, output)
	}
}

// TestCurlRegisters does what Microsoft's page on HTTPS without an SDK does,
// nonsense header included.
func TestCurlRegisters(t *testing.T) {
	peer(t, "curl")
	cfg := testConfig()
	cfg.RetryAfter = 0
	s := start(t, cfg, Options{WebhookTransport: always(200, goodAnswer)})
	base := "https://" + viaLocalhost(t, s.HTTPSAddr()) + "/" + testScope + "/registrations/" + toaster
	curl := func(args ...string) []byte {
		t.Helper()
		common := []string{
			"--silent", "--show-error", "--fail-with-body", "--noproxy", "*", "--cacert", s.CAFile(), "-L",
			"-H", "Content-Type: application/json", "-H", "Content-Encoding: utf-8",
			"-H", "Authorization: " + deviceToken(toaster, derive(testPrimary, toaster)),
		}
		output, err := exec.CommandContext(t.Context(), "curl", append(common, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
		return output
	}
	operation := decodeStatus(t, curl("-X", "PUT", "-d", `{"registrationId":"`+toaster+`"}`, base+"/register?api-version=2021-06-01")).OperationID
	got := decodeStatus(t, curl("-X", "GET", base+"/operations/"+operation+"?api-version=2021-06-01"))
	if got.Status != "assigned" || got.RegistrationState.AssignedHub != toasters {
		t.Errorf("got %+v", got)
	}
}
