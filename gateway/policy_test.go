// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/contoso/gatewayd/gateway/config"
)

// policyOf is a policy whose answers show in two places which one gave them, by
// plain rules and by expressions.
func policyOf(letter string) string {
	return fmt.Sprintf(`[[rule]]
name = "by expression"
when.cel = "request.deviceRuntimeContext.registrationId.startsWith('cel-')"
hub = { contains = "-%[1]s-" }
tags = { policy = "%[1]s" }

[[rule]]
name = "plain"
hub = { contains = "-%[1]s-" }
tags = { policy = "%[1]s" }
`, letter)
}

const hubsAB = `{"deviceRuntimeContext":{"registrationId":"%s-1"},"linkedHubs":["hub-a-1","hub-b-1"]}`

// replaceFile puts text into the place of a file in one step, as an editor or a
// package does.
func replaceFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// TestReloadUnderLoad swaps two policies under 64 callers: every request is
// answered, and by one policy from its hub to its tag.
func TestReloadUnderLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.toml")
	replaceFile(t, file, policyOf("a"))
	cfg := config.Allocation{Listen: "127.0.0.1:0", Policy: file}
	w, err := newWebhook(cfg, nil, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	stop := serveWebhook(t, w)
	url := "http://" + w.listener.Addr().String() + "/api/f"
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	client := &http.Client{Transport: transport}
	var byA, byB atomic.Int64
	var callers sync.WaitGroup
	reloaded := make(chan struct{})
	for i := range 64 {
		body := fmt.Sprintf(hubsAB, []string{"plain", "cel"}[i%2])
		callers.Go(func() {
			for {
				select {
				case <-reloaded:
					return
				default:
				}
				response, err := client.Post(url, "application/json", strings.NewReader(body))
				if err != nil {
					t.Errorf("a request was lost: %v", err)
					return
				}
				answer, err := io.ReadAll(response.Body)
				response.Body.Close()
				switch {
				case err != nil || response.StatusCode != http.StatusOK:
					t.Errorf("got %s: %s, %v", response.Status, answer, err)
					return
				case string(answer) == answerOf("a"):
					byA.Add(1)
				case string(answer) == answerOf("b"):
					byB.Add(1)
				default:
					t.Errorf("answered by half a policy: %s", answer)
					return
				}
			}
		})
	}
	// Each policy stays until it has answered somebody.
	for i := range 60 {
		letter, count := "b", &byB
		if i%2 == 1 {
			letter, count = "a", &byA
		}
		replaceFile(t, file, policyOf(letter))
		before := count.Load()
		if err := w.reload(cfg); err != nil {
			t.Errorf("reload %d: %v", i, err)
		}
		for tries := 0; count.Load() == before && !t.Failed(); tries++ {
			if tries == 10 {
				t.Errorf("reload %d: the new policy does not answer", i)
			}
			if response, err := client.Post(url, "application/json", strings.NewReader(fmt.Sprintf(hubsAB, "plain"))); err == nil {
				if answer, err := io.ReadAll(response.Body); err == nil && string(answer) == answerOf(letter) {
					count.Add(1)
				}
				response.Body.Close()
			}
		}
	}
	close(reloaded)
	callers.Wait()
	transport.CloseIdleConnections()
	stop()
}

func answerOf(letter string) string {
	return fmt.Sprintf(`{"iotHubHostName":"hub-%[1]s-1","initialTwin":{"properties":{"desired":{}},"tags":{"policy":"%[1]s"}}}`, letter)
}

// TestReloadOfABadPolicy: whatever is wrong with the new file, the old policy goes
// on and the log tells a person what to mend and where.
func TestReloadOfABadPolicy(t *testing.T) {
	dir := t.TempDir()
	file, keys := filepath.Join(dir, "policy.toml"), filepath.Join(dir, "keys")
	const key = "first-key-1234567890"
	replaceFile(t, file, policyOf("a"))
	replaceFile(t, keys, key)
	var log bytes.Buffer
	cfg := config.Allocation{Listen: "127.0.0.1:0", Policy: file, FunctionKeys: keys}
	w, err := newWebhook(cfg, nil, nil, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	serveWebhook(t, w)
	answer := func(key string) string {
		t.Helper()
		response, err := http.Post("http://"+w.listener.Addr().String()+"/api/f?code="+key, "application/json", strings.NewReader(fmt.Sprintf(hubsAB, "plain")))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	replaceFile(t, keys, "second-key-123456789")
	for _, test := range []struct{ name, text, want string }{
		{"no TOML", "[[rule]\n", "policy.toml:1:"},
		{"unknown key", strings.Replace(policyOf("b"), "tags", "tagz", 1), `policy.toml:5:1: rule "by expression": unknown key "tagz"`},
		{"misspelt field", strings.Replace(policyOf("b"), "registrationId", "registrationID", 1), "policy.toml:3:"},
		{"empty", "", "policy.toml:1:1: there is no [[rule]]"},
	} {
		replaceFile(t, file, test.text)
		if err := w.reload(cfg); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "the old ones stay in force") {
			t.Errorf("%s: got %v, want a part %q", test.name, err, test.want)
		}
		if got := answer(key); got != answerOf("a") {
			t.Errorf("%s: the old policy and key do not answer any more: %s", test.name, got)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := w.reload(cfg); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a file that is gone: got %v", err)
	}
	replaceFile(t, file, policyOf("b"))
	replaceFile(t, keys, "# none")
	if err := w.reload(cfg); err == nil {
		t.Error("the policy was reloaded without the keys beside it")
	}
	if got := answer(key); got != answerOf("a") {
		t.Errorf("half a reload took effect: %s", got)
	}
	open := cfg
	open.FunctionKeys = ""
	if err := w.reload(open); err == nil || answer(key) != answerOf("a") {
		t.Errorf("a configuration without function keys: got %v, and the policy's answer is %s", err, answer(key))
	}
	log.Reset()
	replaceFile(t, keys, key+"\nsecond-key-123456789")
	if err := w.reload(cfg); err != nil {
		t.Error(err)
	}
	if got := answer("second-key-123456789"); got != answerOf("b") {
		t.Errorf("the new policy and key do not answer: %s", got)
	}
	const want = ` level=INFO msg="webhook reloaded; other changes of the configuration need a restart" policy=`
	if got := log.String(); !strings.Contains(got, want) || !strings.Contains(got, "/policy.toml policy_digest=") || !strings.Contains(got, " rules=2 function_keys=2\n") {
		t.Errorf("got the log\n%s", got)
	}
}

// TestCheckFiles is what gatewayd --check finds in the files that a good
// configuration names.
func TestCheckFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		replaceFile(t, file, text)
		return file
	}
	good := write("good.toml", policyOf("a"))
	reading := write("reading.toml", "[directory]\ncolumns = { hub = \"text\" }\n"+policyOf("a"))
	for _, test := range []struct {
		name string
		cfg  config.Config
		want string
	}{
		{"no webhook", config.Config{}, ""},
		{"built-in", config.Config{Allocation: &config.Allocation{}}, ""},
		{"good", config.Config{Allocation: &config.Allocation{Policy: good}}, ""},
		{"bad", config.Config{Allocation: &config.Allocation{Policy: write("bad.toml", "[[rule]]\nhab = 1\n")}}, "bad.toml:2:1: "},
		{"away", config.Config{Allocation: &config.Allocation{Policy: filepath.Join(dir, "away.toml")}}, "no such file"},
		{"reads a directory", config.Config{Allocation: &config.Allocation{Policy: reading, Directory: "/devices.db"}}, ""},
		{"reads no directory", config.Config{Allocation: &config.Allocation{Policy: reading}}, "the policy reads the device directory, and there is none"},
	} {
		err := CheckFiles(test.cfg)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
		if configuration := (*ConfigError)(nil); err != nil && !errors.As(err, &configuration) {
			t.Errorf("%s: %v is no ConfigError, so the unit would be restarted", test.name, err)
		}
	}
}
