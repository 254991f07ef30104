// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/contoso/gatewayd/gateway/config"
)

// TestOpenWebhookRefused: a socket-activated listener that others can reach needs keys too.
func TestOpenWebhookRefused(t *testing.T) {
	open, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	_, err = newWebhook(config.Allocation{Listen: "127.0.0.1:0"}, open, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "can be reached from other machines but has no function_keys") {
		t.Errorf("got %v, want a refusal", err)
	}
	if _, err := open.Accept(); err == nil {
		t.Error("the listener is still open")
	}
}

// TestReloadKeepsKeys: a reload that finds nothing leaves the old keys in force.
func TestReloadKeepsKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "function-keys")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first-key-1234567890\n")
	w, err := newWebhook(config.Allocation{Listen: "127.0.0.1:0", FunctionKeys: file}, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer w.listener.Close()
	write("first-key-1234567890\nsecond-key-1234567890\n")
	if err := w.reload(w.cfg); err != nil {
		t.Errorf("reloading two keys: %v", err)
	}
	write("# none\n")
	if err := w.reload(w.cfg); err == nil || strings.Contains(err.Error(), "first-key") {
		t.Errorf("reloading no key: got %v, want a refusal without a key in it", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := w.reload(w.cfg); err == nil || !strings.Contains(err.Error(), "the old ones stay in force") {
		t.Errorf("reloading a file that is gone: got %v", err)
	}
}

// TestCertificateReload: a renewed certificate is taken up, a broken one is not.
func TestCertificateReload(t *testing.T) {
	dir := t.TempDir()
	files := &certificateFiles{certFile: filepath.Join(dir, "c.pem"), keyFile: filepath.Join(dir, "k.pem"), log: slog.New(slog.DiscardHandler)}
	stamp := time.Now().Add(-time.Hour)
	serial := func() int64 {
		t.Helper()
		got, err := files.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return got.Leaf.SerialNumber.Int64()
	}
	write := func(number int64) {
		t.Helper()
		writeTestCertificate(t, files.certFile, files.keyFile, number)
		stamp = stamp.Add(time.Second) // file systems are coarse
		for _, file := range []string{files.certFile, files.keyFile} {
			if err := os.Chtimes(file, stamp, stamp); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(1)
	if got := serial(); got != 1 {
		t.Errorf("got certificate %d, want 1", got)
	}
	write(2)
	if got := serial(); got != 2 {
		t.Errorf("after the renewal: got certificate %d, want 2", got)
	}
	if err := os.WriteFile(files.certFile, []byte("half a certif"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 2 {
		t.Errorf("after a broken renewal: got certificate %d, want 2", got)
	}
	write(3)
	if got := serial(); got != 3 {
		t.Errorf("after the next renewal: got certificate %d, want 3", got)
	}
}

func writeTestCertificate(t *testing.T, certFile, keyFile string, number int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(number), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
