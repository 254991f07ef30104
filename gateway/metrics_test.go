// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/allocation/decisionlog"
	"github.com/contoso/gatewayd/gateway/config"
)

// watched starts a gateway that hosts a webhook and serves metrics, with what else
// the file says.
func watched(t *testing.T, more string) (g *Gateway, stop func() error) {
	t.Helper()
	text := "state_dir = \"" + t.TempDir() + "\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n[allocation]\nlisten = \"127.0.0.1:0\"\n" + more
	cfg, err := config.Parse("gatewayd.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if g, err = New(ctx, cfg, Options{Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	stop = func() error {
		cancel()
		defer func() { ended <- nil }()
		return <-ended
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	for !g.Readiness().Ready {
		time.Sleep(time.Millisecond) // it begins in the background
	}
	return g, stop
}

// read gives status and body of a path of the watchers' listener.
func read(t *testing.T, g *Gateway, path string) (status int, body string) {
	t.Helper()
	response, err := http.Get("http://" + g.MetricsAddr() + path)
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

func ask(t *testing.T, g *Gateway, body string) {
	t.Helper()
	response, err := http.Post("http://"+g.WebhookAddr()+"/api/f", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
}

const (
	goodRequest = `{"deviceRuntimeContext":{"registrationId":"a-contoso-tstrsd-007"},"linkedHubs":["a-toasters-1"]}`
	badRequest  = `{"deviceRuntimeContext":{"registrationId":"kettle"},"linkedHubs":["a-toasters-1"]}`
)

// TestMetrics: what happened is counted, under names that a linter and the
// documentation agree with.
func TestMetrics(t *testing.T) {
	g, stop := watched(t, "upstream = \"http://127.0.0.1:9/api/f\"\nupstream_timeout = \"100ms\"\n")
	g.webhook.handler.Replace(mustSetup(t, config.Allocation{})) //nolint:errcheck // there were no keys
	ask(t, g, goodRequest)
	ask(t, g, goodRequest)
	ask(t, g, badRequest)
	g.webhook.observe(allocation.Decision{Status: 200, Lookup: allocation.LookupFound})
	g.webhook.observe(allocation.Decision{Status: 503, Lookup: allocation.LookupFailed})
	g.webhook.observe(allocation.Decision{Status: 503, Limit: "requests a second"})
	g.reloaded("webhook", nil)
	g.reloaded("webhook", errors.New("no such file"))

	status, body := read(t, g, "/metrics")
	if status != http.StatusOK {
		t.Fatalf("status %d: %s", status, body)
	}
	for _, want := range []string{
		`gatewayd_allocation_decisions_total{rule="toasters",source="policy",status="200"} 2`,
		`gatewayd_allocation_decisions_total{rule="unrecognized",source="policy",status="400"} 1`,
		`gatewayd_allocation_devices 2`,
		`gatewayd_allocation_decision_duration_seconds_count{source="policy"} 3`,
		`gatewayd_allocation_directory_lookups_total{outcome="failed"} 1`,
		`gatewayd_allocation_turned_away_total{limit="requests a second"} 1`,
		`gatewayd_allocation_upstream_breaker{state="closed"} 1`,
		`gatewayd_allocation_upstream_breaker{state="open"} 0`,
		`gatewayd_allocation_decision_log_lost_total 0`,
		`gatewayd_allocation_decision_log_in_trouble 0`,
		`gatewayd_reloads_total{part="webhook",result="failed"} 1`,
		`gatewayd_last_reload_failed{part="webhook"} 1`,
	} {
		if !slices.Contains(strings.Split(body, "\n"), want) {
			t.Errorf("%s is not in\n%s", want, body)
		}
	}
	if strings.Contains(body, "kettle") || strings.Contains(body, "tstrsd") {
		t.Error("a registration ID is among the metrics")
	}
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if got := g.decisions.Stats(); got.Written != 3 {
		t.Errorf("the decision log after the stop: %+v, want 3 written", got)
	}
}

func mustSetup(t *testing.T, cfg config.Allocation) allocation.Setup {
	t.Helper()
	loaded, err := loadSetup(cfg, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return loaded.setup
}

// TestPromtool holds the metrics against Prometheus's own tool.
func TestPromtool(t *testing.T) {
	if os.Getenv("PEERS") == "" {
		t.Skip("needs promtool; run make test-peers")
	}
	g, _ := watched(t, "")
	ask(t, g, goodRequest)
	_, body := read(t, g, "/metrics")
	command := exec.Command("promtool", "check", "metrics")
	command.Stdin = strings.NewReader(body)
	if out, err := command.CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// TestMetricsAreDocumented: every metric of ours has its row in docs/metrics.md, and
// no row is about a metric that is gone.
func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`= "(gatewayd_\w+)"`)
	row := regexp.MustCompile("(?m)^\\| `(gatewayd_\\w+)")
	var want, got []string
	for _, match := range name.FindAllStringSubmatch(string(source), -1) {
		want = append(want, match[1])
	}
	for _, match := range row.FindAllStringSubmatch(string(text), -1) {
		got = append(got, match[1])
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" || len(want) < 10 {
		t.Errorf("docs/metrics.md (-metrics.go +docs):\n%s", diff)
	}
}

// TestReady: only a gateway that does not serve is not ready. What it does without
// is shown.
func TestReady(t *testing.T) {
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	g, _ := watched(t, "upstream = \""+dead.URL+"/api/f\"\nupstream_timeout = \"100ms\"\n")
	for range 3 {
		ask(t, g, goodRequest)
	}
	if state, _ := g.webhook.upstreamState(); state.State == "closed" {
		t.Fatalf("the breaker is closed: %+v", state)
	}
	g.reloaded("webhook", errors.New("policy.toml:3: no such column"))
	status, body := read(t, g, "/readyz")
	var got Readiness
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	for i := range got.Checks {
		got.Checks[i].Since = time.Time{}
	}
	want := Readiness{Ready: true, Checks: []Check{
		{Name: "service", OK: true, Required: true, Detail: g.summary()},
		{Name: "reload of webhook", Detail: "failed, what was loaded before is in force: policy.toml:3: no such column"},
		{Name: "policy", OK: true, Detail: "built-in policy"},
		{Name: "cloud function", Detail: "the site's policy answers in its place: no connection"},
		{Name: "decision log", OK: true, Detail: "written"},
	}}
	for i, c := range got.Checks {
		if c.Name == "cloud function" && strings.HasPrefix(c.Detail, "the site's policy answers in its place: ") {
			got.Checks[i].Detail = want.Checks[3].Detail // in the words of the client
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || status != http.StatusOK {
		t.Errorf("status %d (-want +got):\n%s", status, diff)
	}

	if status, body := read(t, g, "/livez"); status != http.StatusOK || body != "ok\n" {
		t.Errorf("/livez: %d %q", status, body)
	}
	g.health.stop()
	status, body = read(t, g, "/readyz")
	if status != http.StatusServiceUnavailable || !strings.Contains(body, `"ready": false`) || !strings.Contains(body, "stopping") {
		t.Errorf("while stopping: %d %s", status, body)
	}
}

// TestNotReadyBefore: a gateway that has not begun is not ready.
func TestNotReadyBefore(t *testing.T) {
	var h health
	if got := h.service("x"); got.OK || !got.Required || got.Detail != "starting" {
		t.Errorf("got %+v", got)
	}
}

// TestDirectoryIsShown: how the last look into the device directory ended, and since
// when they end so.
func TestDirectoryIsShown(t *testing.T) {
	var h health
	at := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	look := func(outcome allocation.Lookup) []Check {
		at = at.Add(time.Minute)
		h.lookedUp(outcome, at)
		return h.directoryChecks()
	}
	good := Check{Name: "device directory", OK: true, Detail: "answers"}
	bad := Check{Name: "device directory", Detail: "the last look into it failed; the log says why"}
	for i, test := range []struct {
		outcome allocation.Lookup
		want    []Check
		minutes int // since the begin
	}{
		{allocation.LookupNone, nil, 0},
		{allocation.LookupFound, []Check{good}, 2},
		{allocation.LookupMissing, []Check{good}, 2},
		{allocation.LookupFailed, []Check{bad}, 4},
		{allocation.LookupFailed, []Check{bad}, 4},
		{allocation.LookupNone, []Check{bad}, 4},
		{allocation.LookupMissing, []Check{good}, 7},
	} {
		got := look(test.outcome)
		for j := range test.want {
			test.want[j].Since = time.Date(2026, 11, 21, 10, test.minutes, 0, 0, time.UTC)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("step %d (-want +got):\n%s", i, diff)
		}
	}
}

// TestDecisionsAreKept: the file in the state directory can be read again.
func TestDecisionsAreKept(t *testing.T) {
	g, stop := watched(t, "")
	ask(t, g, goodRequest)
	ask(t, g, badRequest)
	if got, want := g.summary(), g.webhook.String()+", built-in policy: 1 assigned, 1 refused, 0 asked to come again"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for r, err := range decisionlog.ReadFiles(decisionlog.Files(g.webhook.cfg.DecisionLog.Path)...) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r.RegistrationID+" "+r.Rule)
	}
	if diff := cmp.Diff([]string{"a-contoso-tstrsd-007 toasters", "kettle unrecognized"}, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}
