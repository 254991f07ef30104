// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/provisioning/dpslocal/dpslocaltest"
)

// TestRegisterOnATerminal registers several devices at a terminal: there is a
// progress line, it is gone at the end, and the lines above it are whole.
func TestRegisterOnATerminal(t *testing.T) {
	keyboard, terminal := openTerminal(t)
	if err := pty.Setsize(terminal, &pty.Winsize{Rows: 24, Cols: 60}); err != nil {
		t.Fatal(err)
	}
	service := dpslocaltest.Start(t, func(cfg *dpslocal.Config, _ *dpslocal.Options) {
		cfg.Enrollments = []dpslocal.IndividualEnrollment{{RegistrationID: "device-2", PrimaryKey: groupKey, ProvisioningStatus: dpslocal.Disabled}}
	})
	key, _, err := service.GroupKeys(dpslocaltest.GroupID)
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(t.TempDir(), "group-key")
	if err := os.WriteFile(keyFile, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}

	var shown bytes.Buffer
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(&shown, keyboard) }) // ends with an error when the terminal is closed
	args := []string{"register", "--endpoint", service.HTTPSAddr(), "--ca-file", service.CAFile(), "--id-scope", dpslocaltest.IDScope, "--group-key-file", keyFile}
	for n := 1; n <= 4; n++ {
		args = append(args, "--registration-id", fmt.Sprintf("device-%d", n))
	}
	status := run(args, nil, terminal, terminal)
	_ = terminal.Close()
	reading.Wait()

	if status != exitFailed {
		t.Errorf("exit status %d, want %d, because one is disabled", status, exitFailed)
	}
	text := strings.ReplaceAll(shown.String(), "\r\n", "\n")
	for _, want := range []string{
		"\r\x1b[K4 of 4 done, 1 failed, 0 waiting",
		"\r\x1b[Kdevice-1: assigned to " + dpslocaltest.Hub + ", deviceId: device-1\n",
		"\r\x1b[Kdevice-2: disabled\n",
		"\r\x1b[K\n4 devices: 3 assigned, 1 failed (1 disabled), in ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not there:\n%q", want, text)
		}
	}
	if strings.Contains(text, "submitting") {
		t.Errorf("every status is shown beside a progress line:\n%q", text)
	}
}

// TestProgress words the progress line, and cuts it to the terminal.
func TestProgress(t *testing.T) {
	began := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name         string
		done, failed int
		after        time.Duration
		want         string
	}{
		{"at the start", 0, 0, time.Minute, "0 of 200 done, 0 failed, 200 waiting"},
		{"too early to guess", 10, 0, time.Second, "10 of 200 done, 0 failed, 190 waiting"},
		{"under way", 50, 2, 10 * time.Second, "50 of 200 done, 2 failed, 150 waiting, about 30s left"},
		{"nearly there", 199, 2, 4 * time.Second, "199 of 200 done, 2 failed, 1 waiting, about 1s left"},
		{"at the end", 200, 2, 10 * time.Second, "200 of 200 done, 2 failed, 0 waiting"},
	} {
		tally := tally{total: 200, done: test.done, failed: test.failed, began: began}
		if got := tally.progress(began.Add(test.after)); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
	var drawn strings.Builder
	(&progressLine{to: &drawn, width: func() int { return 10 }}).draw("0 of 200 done")
	if got, want := drawn.String(), "\r\x1b[K0 of 200 "; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestElapsed counts from the first request, not from the wait for a turn.
func TestElapsed(t *testing.T) {
	o := outcome{began: time.Now().Add(-time.Hour)}
	o.observe(provisioning.Progress{Step: provisioning.StepWaiting, Wait: time.Minute})
	o.settle()
	if o.elapsed != 0 {
		t.Errorf("a wait for the first turn counts: %s", o.elapsed)
	}
	o = outcome{began: time.Now().Add(-time.Hour)}
	o.observe(provisioning.Progress{Step: provisioning.StepSubmitting})
	o.observe(provisioning.Progress{Step: provisioning.StepWaiting, Wait: time.Minute})
	o.settle()
	if o.elapsed < time.Hour {
		t.Errorf("a later wait does not count: %s", o.elapsed)
	}
}

// TestFailuresHelp holds the table in register's help to the client's.
func TestFailuresHelp(t *testing.T) {
	var help strings.Builder
	cmd := newRegisterCommand()
	cmd.SetOut(&help)
	if err := cmd.Help(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(help.String(), "\n")
	for _, line := range lines {
		if len(line) > 100 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
	for _, f := range provisioning.Failures() {
		if !strings.Contains(help.String(), "\n  "+f.Kind+" ") || !strings.Contains(help.String(), "\n    "+f.Verdict+"\n") {
			t.Errorf("%s is not in the help", f.Kind)
		}
	}
}

// TestRegisterBehindAPage gets through where a page answers whatever is asked, but
// WebSockets are let through: a person who runs the command again would meet the
// page again.
func TestRegisterBehindAPage(t *testing.T) {
	service := dpslocaltest.Start(t)
	key, _, err := service.GroupKeys(dpslocaltest.GroupID)
	if err != nil {
		t.Fatal(err)
	}
	onward := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "https", Host: service.HTTPSAddr()}) },
		Transport: service.HTTPClient().Transport,
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	page := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			onward.ServeHTTP(w, r)
			return
		}
		_, _ = io.WriteString(w, "<html>Please log in.</html>")
	}))
	defer page.Close()
	folder := t.TempDir()
	keyFile, caFile := filepath.Join(folder, "group-key"), filepath.Join(folder, "ca.pem")
	if err := errors.Join(
		os.WriteFile(keyFile, []byte(key), 0o600),
		os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: page.Certificate().Raw}), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	for transport, want := range map[string]int{"auto": exitOK, "https": exitFailed} {
		var out, errOut strings.Builder
		status := run([]string{
			"register", "--endpoint", page.Listener.Addr().String(), "--ca-file", caFile, "--id-scope", dpslocaltest.IDScope,
			"--group-key-file", keyFile, "--registration-id", "device-1", "--transport", transport, "-o", "json",
		}, nil, &out, &errOut)
		if status != want || strings.Contains(out.String(), `"status":"assigned"`) != (want == exitOK) {
			t.Errorf("%s: exit status %d, want %d\n%s%s", transport, status, want, out.String(), errOut.String())
		}
	}
}

// full is a disk without room after some bytes.
type full struct{ room int }

// Write writes what there is room for.
func (f *full) Write(text []byte) (int, error) {
	n := min(len(text), f.room)
	f.room -= n
	if n < len(text) {
		return n, errors.New("no space left")
	}
	return n, nil
}

// TestRegisterUnwritten fails where outcomes were lost, though all devices are
// assigned: a script goes by the exit status.
func TestRegisterUnwritten(t *testing.T) {
	service := dpslocaltest.Start(t)
	key, _, err := service.GroupKeys(dpslocaltest.GroupID)
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(t.TempDir(), "group-key")
	if err := os.WriteFile(keyFile, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, output := range []string{"text", "json"} {
		var errOut strings.Builder
		status := run([]string{
			"register", "--endpoint", service.HTTPSAddr(), "--ca-file", service.CAFile(), "--id-scope", dpslocaltest.IDScope,
			"--group-key-file", keyFile, "--registration-id", "device-1", "-o", output,
		}, nil, &full{room: 60}, &errOut)
		if want := "gatewayctl: not all that was registered could be shown: no space left\n"; status != exitFailed || errOut.String() != want {
			t.Errorf("%s: exit status %d and %q, want %d and %q", output, status, errOut.String(), exitFailed, want)
		}
	}
}

// TestShownJSON keeps what could steer a terminal out of what the policy sends.
func TestShownJSON(t *testing.T) {
	for document, want := range map[string]string{
		`{ "a" : "ü" }`:                `{"a":"ü"}`,
		"{\"a\":\"\u009b2J\"}":         `{"a":"\u009b2J"}`,
		`{"a":"` + "\u202e" + `"}`:     `{"a":"\u202e"}`,
		`{"a":"` + "\U000e0001" + `"}`: `{"a":"\udb40\udc01"}`,
		`{`:                            "(not JSON)",
	} {
		if got := shownJSON(json.RawMessage(document)); got != want {
			t.Errorf("%q: got %s, want %s", document, got, want)
		}
	}
}

// TestWarnings shows the client's warnings but for retries.
func TestWarnings(t *testing.T) {
	var shown strings.Builder
	log := slog.New(warnings{screen: newScreen(io.Discard, &shown, 1)})
	log.Info("not this")
	log.Warn("nor this", "retry_in", time.Second, "err", errors.New("busy"))
	log.Warn("the clock is wrong", "service", time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC), "off_by", time.Hour)
	log.With("registration_id", "a").Warn("the other key")
	want := "gatewayctl: warning: the clock is wrong (service=2026-11-21T10:00:00Z off_by=1h0m0s)\n" +
		"gatewayctl: warning: the other key (registration_id=a)\n"
	if got := shown.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
