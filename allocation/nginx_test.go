// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestNginx puts the shipped configuration of a real nginx in front of the webhook.
func TestNginx(t *testing.T) {
	if os.Getenv("PEERS") == "" {
		t.Skip("needs nginx: run make test-peers")
	}
	webhook := httptest.NewServer(NewHandler(Config{Setup: Setup{Policy: Tutorial(), FunctionKeys: parseKeys(t, keyTwo)}}))
	defer webhook.Close()
	dir := t.TempDir()
	front := startNginx(t, dir, webhook)
	client := &http.Client{Transport: front}
	defer front.CloseIdleConnections()

	toaster := golden(t, "tutorial-toaster.request.json")
	ask := func(method, path string, body []byte) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "https://gateway.example.com"+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(text)
	}
	const good = "/api/HttpTrigger1?code=" + keyTwo
	for _, test := range []struct {
		name, method, path string
		body               []byte
		status             int
		text               string // a part of it
	}{
		{"assigned", "POST", good, toaster, 200, string(golden(t, "tutorial-toaster.response.json"))},
		{"refused", "POST", good, []byte(`{"deviceRuntimeContext":{"registrationId":"kettle"},"linkedHubs":[]}`), 400, "Unrecognized device registration."},
		{"wrong key", "POST", "/api/HttpTrigger1?code=another-key-0123456789", toaster, 401, "The function key is missing or wrong"},
		{"too large for either", "POST", good, bytes.Repeat([]byte("x"), 300<<10), 413, ""},
		{"not the webhook's", "POST", "/metrics", toaster, 404, "nginx"},
		{"another method", "GET", good, nil, 405, "The allocation webhook answers POST only."},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, text := ask(test.method, test.path, test.body)
			if status != test.status || !strings.Contains(text, test.text) {
				t.Errorf("got %d %s, want %d %s", status, text, test.status, test.text)
			}
		})
	}
	webhook.Close()
	if status, _ := ask("POST", good, toaster); status != http.StatusBadGateway {
		t.Errorf("without gatewayd: got %d, want 502, after which DPS asks again", status)
	}
	for _, name := range []string{"access.log", "error.log"} {
		logged, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(logged), keyTwo) {
			t.Errorf("%s shows the function key:\n%s", name, logged)
		}
		if name == "access.log" && !strings.Contains(string(logged), `"POST /api/HttpTrigger1" 200`) {
			t.Errorf("%s does not tell of the request:\n%s", name, logged)
		}
	}
}

// startNginx runs the shipped configuration with the test's addresses and files
// until the test ends, and gives the way to it.
func startNginx(t *testing.T, dir string, webhook *httptest.Server) *http.Transport {
	t.Helper()
	shipped, err := os.ReadFile("../packaging/nginx-webhook.conf")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "nginx.sock")
	certificate := httptest.NewUnstartedServer(nil)
	certificate.StartTLS() // for its certificate, which is good for example.com
	defer certificate.Close()
	pair := certificate.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	text := string(shipped)
	for _, change := range [][2]string{
		{"server 127.0.0.1:7071", "server " + strings.TrimPrefix(webhook.URL, "http://")},
		{"listen 443 ssl", "listen unix:" + socket + " ssl"},
		{"/etc/nginx/gateway.example.com.pem", filepath.Join(dir, "cert.pem")},
		{"/etc/nginx/gateway.example.com.key", filepath.Join(dir, "key.pem")},
		{"/var/log/nginx/allocation.log", filepath.Join(dir, "access.log")},
		{"/var/log/nginx/allocation-error.log", filepath.Join(dir, "error.log")},
	} {
		if strings.Count(text, change[0]) != 1 {
			t.Fatalf("the shipped configuration does not have %q once", change[0])
		}
		text = strings.ReplaceAll(text, change[0], change[1])
	}
	conf := "daemon off; pid " + dir + "/pid; worker_processes 1; error_log stderr;\nevents {}\nhttp {\n"
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		conf += kind + "_temp_path " + dir + "/" + kind + ";\n"
	}
	for name, content := range map[string][]byte{
		"nginx.conf": []byte(conf + text + "}\n"),
		"cert.pem":   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}),
		"key.pem":    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	said := t.Output()
	nginx := exec.Command("nginx", "-p", dir, "-c", filepath.Join(dir, "nginx.conf"))
	nginx.Stdout, nginx.Stderr = said, said
	if err := nginx.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = nginx.Wait() // what it says is in the log
	}()
	t.Cleanup(func() {
		nginx.Process.Signal(os.Interrupt) //nolint:errcheck // it may have ended
		<-ended
	})
	roots := x509.NewCertPool()
	roots.AddCert(certificate.Certificate())
	return &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "example.com"},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			for {
				connection, err := dialer.DialContext(ctx, "unix", socket)
				if err == nil || ctx.Err() != nil {
					return connection, err
				}
				select {
				case <-ended: // it has never served
					return nil, err
				case <-time.After(10 * time.Millisecond):
				}
			}
		},
	}
}
