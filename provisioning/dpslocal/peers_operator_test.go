// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"bufio"
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// connectionString is what Azure's portal shows for a policy.
func connectionString(host, policy, key string) string {
	return "HostName=" + host + ";SharedAccessKeyName=" + policy + ";SharedAccessKey=" + key
}

// TestNodeOperatesService: Microsoft's service client, through its whole surface,
// under the name of Azure and under a local one.
func TestNodeOperatesService(t *testing.T) {
	peer(t, "node", "npm")
	for _, host := range []string{testName + serviceDomain, "localhost"} {
		t.Run(host, func(t *testing.T) {
			cfg := operatorConfig()
			cfg.RetryAfter = 0
			s := start(t, cfg, Options{WebhookTransport: always(200, goodAnswer)})
			for _, id := range []string{toaster, "second", "third"} {
				register(t, s, request(RegisterCall, id))
			}
			node := nodePeers(t, s)
			address := viaLocalhost(t, s.HTTPSAddr())
			output, err := node("service.js", address, connectionString(host, testPolicy, testPolicyKey), testGroup, toaster).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, output)
			}
			want := []string{
				`{"made":"node-group","keyLength":64}`,
				`{"read":{"type":"symmetricKey"},"sameETag":true}`,
				`{"keys":"symmetricKey","same":true}`,
				`{"updated":"disabled","keysKept":true}`,
				`{"oldETag":"InvalidEtagError"}`,
				`{"groups":[["` + testGroup + `"],["node-group"]]}`,
				`{"oldDelete":"InvalidEtagError"}`,
				`{"gone":"Error"}`,
				`{"made":"Node-01","twin":{"tags":{"floor":4},"properties":{"desired":{"state":"ready"}}},"information":{"made":1999}}`,
				`{"again":"DeviceAlreadyExistsError"}`,
				`{"read":{"type":"symmetricKey"},"deviceId":"kettle","keys":["primaryKey","secondaryKey"]}`,
				`{"bulk":{"isSuccessful":false,"errors":[{"registrationId":"Node-01","errorCode":409001,"errorStatus":"It exists already; send If-Match to replace it."}]}}`,
				`{"enrollments":[["a","b"],["Node-01"]]}`,
				`{"bulk":{"isSuccessful":true,"errors":[]}}`,
				`{"bulk":{"isSuccessful":true,"errors":[]}}`,
				`{"gone":"Error"}`,
				`{"registrations":[["` + toaster + `","second"],["third"]]}`,
				`{"status":"assigned","hub":"` + toasters + `"}`,
				`{"gone":"Error"}`,
			}
			if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(string(output)), "\n")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			output, err = node("service.js", address, connectionString(host, testPolicy, testPrimary), testGroup, toaster).CombinedOutput()
			if err == nil || !strings.Contains(string(output), `"error":"UnauthorizedError"`) {
				t.Errorf("with a wrong key: %v\n%s", err, output)
			}
		})
	}
}

// TestNodeOperatesHub: Microsoft's client for operators changes a twin, and its
// client for devices hears of it.
func TestNodeOperatesHub(t *testing.T) {
	peer(t, "node", "npm")
	s := start(t, operatorConfig(), Options{WebhookTransport: always(200, goodAnswer)})
	register(t, s, request(RegisterCall, toaster))
	node := nodePeers(t, s)
	device := node("hub.js", "mqtt", viaLocalhost(t, s.MQTTAddr()), toasters, toaster, derive(testPrimary, toaster))
	var stderr bytes.Buffer
	device.Stderr = &stderr
	stdout, err := device.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := device.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && lines.Text() != `{"reported":true}` {
		t.Log(lines.Text())
	}
	address := viaLocalhost(t, s.HTTPSAddr())
	output, err := node("registry.js", address, connectionString(toasters, testHubPolicy, testPolicyKey), toaster).CombinedOutput()
	want := []string{
		`{"tags":{"deviceType":"toaster"},"desired":{"$version":1,"darknessSetting":"medium","state":"ready"},"connectionState":"Connected"}`,
		`{"tags":{"deviceType":"toaster","floor":4},"desired":{"$version":2,"darknessSetting":"dark","state":"ready"},"changed":true}`,
		`{"old":"InvalidEtagError"}`,
		`{"tags":{"deviceType":"toaster"}}`,
		`{"absent":"DeviceNotFoundError"}`,
	}
	if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(string(output)), "\n")); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if !lines.Scan() || lines.Text() != `{"delta":{"$version":2,"darknessSetting":"dark"}}` {
		t.Errorf("the device heard %s\n%s", lines.Text(), stderr.String())
	}
	if err := device.Wait(); err != nil {
		t.Errorf("%v\n%s", err, stderr.String())
	}
	output, err = node("registry.js", address, connectionString(toasters, testHubPolicy, testPrimary), toaster).CombinedOutput()
	if err == nil || !strings.Contains(string(output), `"error":"UnauthorizedError"`) {
		t.Errorf("with a wrong key: %v\n%s", err, output)
	}
}
