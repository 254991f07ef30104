// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// startNode runs the functions of testdata/function.js until the test ends and
// gives the address before their names.
func startNode(t *testing.T) string {
	t.Helper()
	if os.Getenv("PEERS") != "1" {
		t.Skip("needs nodejs: set PEERS=1 to run it")
	}
	node := exec.CommandContext(t.Context(), "node", "testdata/function.js")
	node.Env = append(os.Environ(), "KEY="+secret)
	node.Stderr = t.Output()
	stdin, err := node.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatalf("PEERS=1, but %v", err)
	}
	t.Cleanup(func() {
		_ = stdin.Close() // which ends it
		_ = node.Wait()
	})
	port, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("reading Node's port: %v", err)
	}
	return "http://127.0.0.1:" + strings.TrimSpace(port) + "/api/"
}

// TestNode asks functions that Node's HTTP server answers for.
func TestNode(t *testing.T) {
	base := startNode(t)
	const (
		toaster = `{"deviceRuntimeContext":{"registrationId":"a-contoso-tstrsd-007","new":{"ü":1}},"linkedHubs":["a-toasters-1","b"]}`
		kettle  = `{"deviceRuntimeContext":{"registrationId":"kettle"},"linkedHubs":["a-toasters-1","b"]}`
		nodes   = `answer: {"iotHubHostName":"a-toasters-1","initialTwin":{"tags":{"by":"node"}},"payload":{"sent":114}}` // characters
		moment  = 300 * time.Millisecond                                                                                  // for those that let it pass
	)
	tests := []struct {
		name, function, body string
		timeout              time.Duration
		key                  string
		want                 string
	}{
		{"assigned", "HttpTrigger1", toaster, 0, secret, nodes},
		{"refused", "HttpTrigger1", kettle, 0, secret, "refused: Unrecognized device registration."},
		{"wrong key", "HttpTrigger1", toaster, 0, "wrong", "away: it answers 401 Unauthorized: the function key is missing or wrong; give the current one (upstream_key and a reload, or gatewayctl's --key-file)"},
		{"no such function", "HttpTrigger2", toaster, 0, secret, "away: it answers 404 Not Found: there is no function at this address; compare upstream with the function's URL in the portal"},
		{"chunked", "chunked", toaster, 0, secret, `answer: {"iotHubHostName":"b"}`},
		{"two hiccups", "flaky", toaster, 0, secret, nodes},
		{"reset", "reset", toaster, 0, secret, "away: …"},
		{"hanging", "hang", toaster, moment, secret, "slow: no answer in time"},
		{"dripping", "drip", toaster, moment, secret, "slow: no answer in time"},
		{"cut short", "short", toaster, 0, secret, "away: reading the answer: …"},
		{"throttling", "throttled", toaster, 0, secret, "away: it answers 429 Too Many Requests"},
		{"stopped", "stopped", toaster, 0, secret, "away: it answers 403 Forbidden: the app is stopped, over its quota, or closed to this address"},
		{"redirecting", "login", toaster, 0, secret, `away: it answers 302 Found, a redirect to "/api/HttpTrigger1", which is not followed: it may be a login page, or the app has moved`},
		{"huge", "huge", toaster, 0, secret, "error: the cloud function answers more than 64 KiB, which no AllocationResponse has"},
		{"a page", "html", toaster, 0, secret, "away: it answers 200 OK with a page for people, so something else speaks for it"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.timeout == 0 {
				test.timeout = MaxTimeout
			}
			client, err := New(Config{URL: base + test.function, Key: parseKey(t, test.key), Timeout: test.timeout, Proxy: noProxy})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			got := outcome(client.Ask(t.Context(), []byte(test.body)))
			if start, found := strings.CutSuffix(test.want, "…"); found && strings.HasPrefix(got, start) {
				return // how a torn connection is noticed is up to the kernel
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
		})
	}
}
