// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/gateway/config"
)

// TestShadow: another policy is asked about each decision and changes no answer; it
// is reloaded with the policy, and a mistake in it keeps both.
func TestShadow(t *testing.T) {
	dir := t.TempDir()
	file, shadow := filepath.Join(dir, "policy.toml"), filepath.Join(dir, "shadow.toml")
	replaceFile(t, file, policyOf("a"))
	replaceFile(t, shadow, policyOf("b"))
	cfg := config.Allocation{Listen: "127.0.0.1:0", Policy: file, Shadow: shadow}
	w, err := newWebhook(cfg, nil, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	results := make(chan allocation.ShadowResult, 1)
	w.shadowed = func(result allocation.ShadowResult) { results <- result }
	serveWebhook(t, w)
	ask := func(want string) {
		t.Helper()
		response, err := http.Post("http://"+w.listener.Addr().String()+"/api/f", "application/json", strings.NewReader(fmt.Sprintf(hubsAB, "plain")))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if text, err := io.ReadAll(response.Body); err != nil || string(text) != want {
			t.Errorf("got %s, %v, want %s", text, err, want)
		}
	}
	expect := func(want allocation.ShadowResult) {
		t.Helper()
		if got := <-results; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	ask(answerOf("a"))
	expect(allocation.ShadowDifferent)

	replaceFile(t, shadow, "[[rule]]\n")
	if err := w.reload(cfg); err == nil || !strings.Contains(err.Error(), "reading [allocation] shadow:\n"+shadow+":1:") {
		t.Errorf("a bad shadow: got %v", err)
	}
	ask(answerOf("a"))
	expect(allocation.ShadowDifferent)

	replaceFile(t, shadow, policyOf("a"))
	if err := w.reload(cfg); err != nil {
		t.Fatal(err)
	}
	ask(answerOf("a"))
	expect(allocation.ShadowSame)

	cfg.Shadow = ""
	if err := w.reload(cfg); err != nil {
		t.Fatal(err)
	}
	ask(answerOf("a"))
	if len(results) > 0 {
		t.Error("a shadow was asked, and there is none")
	}
}

// TestShadowReadsTheDirectory: it is opened for the shadow alone, and a missing one
// is told.
func TestShadowReadsTheDirectory(t *testing.T) {
	shadow := filepath.Join(t.TempDir(), "shadow.toml")
	replaceFile(t, shadow, "[directory]\ncolumns = { hub = \"text\" }\n[[rule]]\nhub.cel = \"device.hub\"\n")
	cfg := config.Allocation{Listen: "127.0.0.1:0", Shadow: shadow}
	if err := CheckFiles(config.Config{Allocation: &cfg}); err == nil || !strings.Contains(err.Error(), "the policy reads the device directory, and there is none") {
		t.Errorf("without a directory: got %v", err)
	}
	cfg.Directory = "devices.db"
	if err := CheckFiles(config.Config{Allocation: &cfg}); err != nil {
		t.Errorf("with a directory: got %v", err)
	}
	opened := 0
	open := func(string, string) (DeviceDirectory, error) {
		opened++
		return shadowDirectory{}, nil
	}
	l, err := loadSetup(cfg, open, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if opened != 1 || l.setup.Directory == nil {
		t.Errorf("the directory was opened %d times", opened)
	}
	if err := l.checkDirectory(t.Context(), slog.New(slog.DiscardHandler)); err != nil {
		t.Errorf("a shadow's directory stops the policy: %v", err)
	}
}

// shadowDirectory is a directory whose table fits nobody.
type shadowDirectory struct{}

func (shadowDirectory) Lookup(context.Context, string) (allocation.Row, bool, error) {
	return nil, false, nil
}

func (shadowDirectory) Check(context.Context, map[string]allocation.ColumnType) error {
	return &allocation.DirectoryTableError{Problems: []string{"it fits nobody"}}
}
func (shadowDirectory) Close() error { return nil }

func TestShadowIsCounted(t *testing.T) {
	m := newMetrics()
	m.shadowed(allocation.ShadowSame)
	m.shadowed(allocation.ShadowDifferent)
	m.shadowed(allocation.ShadowDifferent)
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]float64{}
	for _, family := range families {
		if family.GetName() == metricShadow {
			for _, metric := range family.GetMetric() {
				counted[metric.GetLabel()[0].GetValue()] = metric.GetCounter().GetValue()
			}
		}
	}
	if counted["different"] != 2 || counted["same"] != 1 {
		t.Errorf("got %v, want different 2 and same 1", counted)
	}
}
