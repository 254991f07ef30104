// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/contoso/gatewayd/gateway/config"
)

// TestOpenWebhookRefused: a socket-activated listener that others can reach needs keys too.
func TestOpenWebhookRefused(t *testing.T) {
	open, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	_, err = newWebhook(config.Allocation{Listen: "127.0.0.1:0"}, nil, open, slog.New(slog.DiscardHandler))
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
	w, err := newWebhook(config.Allocation{Listen: "127.0.0.1:0", FunctionKeys: file}, nil, nil, slog.New(slog.DiscardHandler))
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
