// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestWholeServerInABubble shows that a test may bring its own listeners and
// drive the clock of the whole server, TLS included.
func TestWholeServerInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		https := newPipeListener()
		store, err := OpenMemoryStore()
		if err != nil {
			t.Fatal(err)
		}
		s := start(t, testConfig(), Options{
			HTTPSListener: https, MQTTListener: newPipeListener(), Store: store,
			WebhookTransport: &scriptedWebhook{answers: []webhookAnswer{{status: 500}, {status: 500}, {status: 200, body: goodAnswer}}},
		})
		client := caller(t, s)
		client.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) { return https.dial() }
		base := "https://" + globalEndpoint + "/" + testScope + "/registrations/" + toaster
		token := deviceToken(toaster, derive(testPrimary, toaster))
		begun := time.Now()
		_, body := do(t, client, "PUT", base+"/register?api-version=2021-06-01", token, "{}")
		operation := decodeStatus(t, body).OperationID
		for decodeStatus(t, body).Status == "assigning" {
			time.Sleep(3 * time.Second)
			_, body = do(t, client, "GET", base+"/operations/"+operation+"?api-version=2021-06-01", token, "")
		}
		if got := time.Since(begun); decodeStatus(t, body).Status != "assigned" || got != 12*time.Second {
			t.Errorf("got %s after %s, want assigned after 12s", body, got)
		}
		client.CloseIdleConnections()
	})
}

// TestWebhookOverTLS calls a webhook whose certificate only its own CA file
// vouches for, and prints the exchange.
// lockedBuffer may be read while the server still writes: a registration that is begun while Run reads the unfinished
// ones asks the webhook twice.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements [io.Writer].
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// String returns what was written so far.
func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func TestWebhookOverTLS(t *testing.T) {
	hook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("code") != "SECRET" || r.Header.Get("Content-Type") != "application/json; charset=utf-8" || r.Method != "POST" {
			t.Errorf("got %s %s %v", r.Method, r.URL, r.Header)
		}
		_, _ = w.Write([]byte(goodAnswer))
	}))
	defer hook.Close()
	caFile := filepath.Join(t.TempDir(), "webhook-ca.pem")
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw})
	if err := os.WriteFile(caFile, caPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig()
	cfg.RetryAfter = 0
	var logWebhook lockedBuffer
	cfg.EnrollmentGroups[0].WebhookURL = Secret(hook.URL + "/api/HttpTrigger1?code=SECRET")
	cfg.EnrollmentGroups[0].WebhookCAFile = caFile
	s := start(t, cfg, Options{LogWebhook: &logWebhook})
	if got := register(t, s, request(RegisterCall, toaster)); got.Status != "assigned" {
		t.Errorf("got %+v, want assigned", got)
	}
	if text := logWebhook.String(); strings.Contains(text, "SECRET") || !strings.Contains(text, "HttpTrigger1?****") {
		t.Errorf("log %s, want the URL masked", text)
	}
}

func TestNewErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	badCA := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(badCA, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*Config, *Options)
		want   string
		config bool
	}{
		{"configuration", func(c *Config, _ *Options) { c.IDScope = "" }, "id_scope", true},
		{"webhook CA absent", func(c *Config, _ *Options) { c.EnrollmentGroups[0].WebhookCAFile = "absent.pem" }, "webhook_ca_file: open absent.pem", true},
		{"webhook CA no PEM", func(c *Config, _ *Options) { c.EnrollmentGroups[0].WebhookCAFile = badCA }, "no certificate in it", true},
		{"no directory", func(_ *Config, o *Options) { o.Dir = "" }, "no directory", false},
		{"port taken, HTTPS", func(_ *Config, o *Options) { o.HTTPS = taken.Addr().String() }, "listening for HTTPS", false},
		{"port taken, MQTT", func(_ *Config, o *Options) { o.MQTT = taken.Addr().String() }, "listening for MQTT", false},
	}
	for _, tt := range tests {
		cfg, opts := testConfig(), Options{Dir: t.TempDir()}
		tt.change(&cfg, &opts)
		s, err := New(cfg, opts)
		if s != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q in it", tt.name, err, tt.want)
		}
		if _, ok := errors.AsType[*ConfigError](err); ok != tt.config {
			t.Errorf("%s: a ConfigError: %v, want %v", tt.name, ok, tt.config)
		}
	}
}

// TestStoredEnrollmentCounts: a second start with another configuration keeps
// what is stored, and says so.
func TestStoredEnrollmentCounts(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig()
	cfg.EnrollmentGroups[0].PrimaryKey = "" // generated
	open := func() (*Server, string) {
		var log bytes.Buffer
		s, err := New(cfg, Options{Dir: dir, Logger: slogTo(&log)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		return s, log.String()
	}
	s, log := open()
	first, secondary, err := s.GroupKeys(testGroup)
	if err != nil || first == "" || secondary != testSecondary || strings.Contains(log, "not applied") {
		t.Fatalf("keys %q, %q, %v; log %s", first, secondary, err, log)
	}
	cfg.EnrollmentGroups[0].WebhookURL = "https://elsewhere.example/?code=SECRET2"
	cfg.EnrollmentGroups[0].WebhookCAFile = s.CAFile() // not part of the enrollment
	s, log = open()
	if again, _, _ := s.GroupKeys(testGroup); again != first {
		t.Error("the generated key changed with a restart")
	}
	if group, _ := s.service.enrollments.find(Group, testGroup); group.WebhookURL != testHook || group.webhookCAFile != s.CAFile() {
		t.Errorf("webhook %s with CA file %q, want the stored one with the configured file", string(group.WebhookURL), group.webhookCAFile)
	}
	if !strings.Contains(log, "differs_in=webhook_url") || strings.Contains(log, "SECRET") {
		t.Errorf("log %q, want a warning without the key", log)
	}
}

func TestLimitedListener(t *testing.T) {
	listener := newPipeListener()
	limited := limitListener(listener, newGate())
	defer limited.Close()
	accept := func() net.Conn {
		accepted := make(chan net.Conn)
		go func() {
			conn, err := limited.Accept()
			if err != nil {
				t.Error(err)
			}
			accepted <- conn
		}()
		if _, err := listener.dial(); err != nil {
			t.Fatal(err)
		}
		return <-accepted
	}
	var conns []net.Conn
	for range maxConnectionsPerAddress {
		conns = append(conns, accept())
	}
	accepted := make(chan net.Conn)
	go func() {
		for {
			conn, err := limited.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- conn
		}
	}()
	beyond := func() {
		t.Helper()
		conn, err := listener.dial()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a connection beyond the cap was served")
		}
	}
	beyond()
	conns[0].Close()
	conns[0].Close() // counts once
	if _, err := listener.dial(); err != nil {
		t.Fatal(err)
	}
	(<-accepted).Close()
	if _, err := listener.dial(); err != nil {
		t.Fatal(err)
	}
	<-accepted
	beyond()
	limited.Close()
	<-accepted
}
