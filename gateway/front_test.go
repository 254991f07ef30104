// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/contoso/gatewayd/allocation/upstream"
	"github.com/contoso/gatewayd/gateway/config"
	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/provisioning/dpslocal/dpslocaltest"
)

const (
	oldUpstreamKey = "first-upstream-key-1234567890"
	newUpstreamKey = "second-upstream-key-1234567890"
)

// cloudFunction is a function that sends every device to one hub, at an address
// that stays the same while it is down. It wants its key.
type cloudFunction struct {
	hub     string
	key     atomic.Pointer[string]
	asked   atomic.Int32
	address string
	server  *httptest.Server // nil while it is down
}

func startCloudFunction(t *testing.T, hub, key string) *cloudFunction {
	t.Helper()
	// An address of its own, so that nobody else takes the port while it is down.
	f := &cloudFunction{hub: hub, address: fmt.Sprintf("127.%d.%d.%d:0", 1+rand.N(250), rand.N(250), 1+rand.N(250))}
	f.key.Store(&key)
	f.up(t)
	t.Cleanup(f.down)
	return f
}

func (f *cloudFunction) up(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	f.address = listener.Addr().String()
	f.server = httptest.NewUnstartedServer(f)
	f.server.Listener.Close()
	f.server.Listener = listener
	f.server.Start()
}

func (f *cloudFunction) down() {
	if f.server != nil {
		f.server.Close()
		f.server = nil
	}
}

func (f *cloudFunction) url() string { return "http://" + f.address + "/api/HttpTrigger1" }

func (f *cloudFunction) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.asked.Add(1)
	if r.Header.Get("X-Functions-Key") != *f.key.Load() {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	fmt.Fprintf(w, `{"iotHubHostName":%q}`, f.hub)
}

// frontSite is a gateway in front mode whose configuration is a file.
type frontSite struct {
	dir, file string
	listener  net.Listener
	gateway   *Gateway
	log       *lockedBuffer
}

func newFrontSite(t *testing.T, function *cloudFunction) *frontSite {
	t.Helper()
	s := &frontSite{dir: t.TempDir(), log: &lockedBuffer{}}
	s.file = filepath.Join(s.dir, "gatewayd.toml")
	s.configure(t, function, oldUpstreamKey)
	cfg, err := config.Load(s.file)
	if err != nil {
		t.Fatal(err)
	}
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.gateway, err = New(t.Context(), cfg, Options{
		Logger: slog.New(slog.NewTextHandler(s.log, nil)), Webhook: s.listener, ConfigFile: s.file,
	})
	if err != nil {
		t.Fatal(err)
	}
	runUntilCleanup(t, s.gateway.Run)
	t.Cleanup(func() {
		for _, key := range []string{oldUpstreamKey, newUpstreamKey} {
			if strings.Contains(s.log.String(), key) {
				t.Errorf("the log shows a key:\n%s", s.log)
			}
		}
	})
	return s
}

// configure writes the configuration and its key.
func (s *frontSite) configure(t *testing.T, function *cloudFunction, key string) {
	t.Helper()
	s.write(t, "upstream-key", key+"\n")
	s.write(t, "gatewayd.toml", fmt.Sprintf("[allocation]\nupstream = %q\nupstream_key = %q\n", function.url(), filepath.Join(s.dir, "upstream-key")))
}

func (s *frontSite) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ask posts a toaster's request and gives the answer.
func (s *frontSite) ask(t *testing.T) string {
	t.Helper()
	body := fmt.Sprintf(`{"deviceRuntimeContext":{"registrationId":"a-contoso-tstrsd-007"},"linkedHubs":[%q,%q,"b"]}`, toasterHub, heatPumpHub)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.gateway.WebhookAddr()+"/api/f", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", response.StatusCode, text)
}

// TestFrontReload: a reload takes up another key, and another function with
// another key, as a whole or not at all.
func TestFrontReload(t *testing.T) {
	const byPolicy = `200 {"iotHubHostName":"` + toasterHub + `","initialTwin":`
	one, two := startCloudFunction(t, heatPumpHub, oldUpstreamKey), startCloudFunction(t, "b", newUpstreamKey)
	s := newFrontSite(t, one)
	want := func(what, part string) {
		t.Helper()
		if got := s.ask(t); !strings.HasPrefix(got, part) {
			t.Errorf("%s: got %s, want %s", what, got, part)
		}
	}
	reload := func(want string) {
		t.Helper()
		err := s.gateway.reloadWebhook()
		if got := fmt.Sprint(err); (err == nil) != (want == "") || !strings.Contains(got, want) || strings.Contains(got, newUpstreamKey) {
			t.Errorf("reloading: got %v, want %q in it and no key", err, want)
		}
	}
	byOne, byTwo := `200 {"iotHubHostName":"`+heatPumpHub+`"}`, `200 {"iotHubHostName":"b"}`
	want("at first", byOne)
	if state, fronting := s.gateway.webhook.upstreamState(); !fronting || state.State != upstream.Closed {
		t.Errorf("got %+v, %v; want a closed breaker", state, fronting)
	}

	// The function's key is changed; until the reload the policy answers.
	one.key.Store(new(newUpstreamKey))
	want("with the old key", byPolicy)
	for range 2 {
		s.ask(t)
	}
	if state, _ := s.gateway.webhook.upstreamState(); state.State != upstream.Open || !strings.HasPrefix(state.LastReason, "it answers 401 Unauthorized: the function key is missing or wrong") {
		t.Errorf("got %+v, want an open breaker because of 401", state)
	}
	s.write(t, "upstream-key", newUpstreamKey)
	reload("")
	want("with the new key", byOne) // at once: the breaker is a new one

	// A reload that fails leaves everything as it is.
	for _, broken := range []struct{ file, text, want string }{
		{"upstream-key", "two keys\n", "the key of the cloud function: a key is made of visible ASCII"},
		{"gatewayd.toml", "[allocation]\nupstream = \"https://h/f?code=" + newUpstreamKey + "\"\n", "the URL holds a function key"},
		{"gatewayd.toml", "[allocation]\nupstreem = \"\"\n", "unknown key"},
	} {
		s.configure(t, two, newUpstreamKey)
		s.write(t, broken.file, broken.text)
		reload(broken.want)
		want(broken.want, byOne)
	}
	if got := two.asked.Load(); got != 0 {
		t.Errorf("the other function was asked %d times", got)
	}

	s.configure(t, two, newUpstreamKey)
	reload("")
	want("another function", byTwo)

	s.write(t, "gatewayd.toml", "[allocation]\n")
	reload("")
	want("no function", byPolicy)
	if _, fronting := s.gateway.webhook.upstreamState(); fronting {
		t.Error("there is no function any more, and a state of one")
	}
}

// TestFrontCAFile: a function whose certificate no public issuer has signed is
// trusted with upstream_ca_file and unavailable without.
func TestFrontCAFile(t *testing.T) {
	function := &cloudFunction{}
	function.key.Store(new(string))
	function.hub = "b"
	server := httptest.NewUnstartedServer(function)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server.StartTLS()
	t.Cleanup(server.Close)
	root := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for caFile, want := range map[string]string{root: `200 {"iotHubHostName":"b"}`, "": `200 {"iotHubHostName":"` + toasterHub} {
		cfg, err := config.Parse("gatewayd.toml", fmt.Appendf(nil, "[allocation]\nlisten = \"127.0.0.1:0\"\nupstream = %q\nupstream_ca_file = %q\n", server.URL, caFile))
		if err != nil {
			t.Fatal(err)
		}
		g, err := New(t.Context(), cfg, Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		runUntilCleanup(t, g.Run)
		s := &frontSite{gateway: g}
		if got := s.ask(t); !strings.HasPrefix(got, want) {
			t.Errorf("upstream_ca_file = %q: got %s, want %s", caFile, got, want)
		}
	}
}

// TestFrontKeyMissing: a gateway that could not show the function its key does not
// start, since every device would be decided by the fallback.
func TestFrontKeyMissing(t *testing.T) {
	_, err := newWebhook(config.Allocation{Listen: "127.0.0.1:0", Upstream: &config.Upstream{
		URL: "https://h/f", Key: filepath.Join(t.TempDir(), "upstream-key"),
	}}, nil, nil, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "reading [allocation] upstream_key: opening: open ") {
		t.Errorf("got %v", err)
	}
}

// TestFrontEndToEnd registers devices with a service whose webhook is a gateway in
// front mode: by the function, without it by the site's policy, and by the
// function again when it is back.
func TestFrontEndToEnd(t *testing.T) {
	t.Parallel()
	function := startCloudFunction(t, heatPumpHub, oldUpstreamKey)
	s := newFrontSite(t, function)
	dps := dpslocaltest.Start(t, func(cfg *dpslocal.Config, _ *dpslocal.Options) {
		cfg.Hubs = []dpslocal.Hub{{Name: toasterHub}, {Name: heatPumpHub}}
		cfg.EnrollmentGroups = []dpslocal.EnrollmentGroup{{
			ID: groupID, AllocationPolicy: "custom", WebhookURL: dpslocal.Secret("http://" + s.gateway.WebhookAddr() + "/api/HttpTrigger1"),
		}}
	})
	client, err := provisioning.New(provisioning.Config{
		Endpoint: dps.HTTPSAddr(), IDScope: dps.IDScope(), Transport: provisioning.TransportHTTPS,
		RootCAs: dps.TLSConfig().RootCAs, RegistersPerMinute: 6000, Proxy: provisioning.NoProxy,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	group, _, err := dps.GroupKeys(groupID)
	if err != nil {
		t.Fatal(err)
	}
	key, err := provisioning.ParseGroupKey(group)
	if err != nil {
		t.Fatal(err)
	}
	devices := 0
	register := func() string {
		t.Helper()
		devices++
		id := fmt.Sprintf("room%d-contoso-tstrsd-007", devices)
		assignment, err := client.Register(t.Context(), provisioning.Request{RegistrationID: id, Keys: []provisioning.DeviceKey{key.Derive(id)}})
		if err != nil {
			t.Fatal(err)
		}
		return assignment.AssignedHub
	}

	if got := register(); got != heatPumpHub {
		t.Errorf("the function sends everyone to %s, and the device went to %s", heatPumpHub, got)
	}
	function.down()
	for !strings.Contains(s.log.String(), "not asked, because") { // the third opens the breaker
		if got := register(); got != toasterHub {
			t.Fatalf("the site's policy sends toasters to %s, and the device went to %s", toasterHub, got)
		}
	}
	function.up(t)
	for register() != heatPumpHub { // until the next probe
		if devices > 10_000 {
			t.Fatal("the function is back, and is not asked")
		}
	}
	// To a machine that stalls for five seconds in a question, what is down is silent.
	log := strings.ReplaceAll(s.log.String(), "no answer in time", "dial tcp "+function.address)
	for _, part := range []string{
		"source=upstream", "source=fallback", `fallback_reason="dial tcp ` + function.address, `fallback_reason="not asked, because of what it did last: dial tcp `,
		`level=WARN msg="the cloud function is unavailable; the site's policy decides" reason="dial tcp `, `level=INFO msg="the cloud function answers again; it decides from now on"`,
	} {
		if !strings.Contains(log, part) {
			t.Errorf("the log does not say %s", part)
		}
	}
	if t.Failed() {
		t.Log(log)
	}
}
