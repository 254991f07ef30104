// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/contoso/gatewayd/"

// mayImport is the import graph of house rule 3: for each package of ours, the
// packages of ours it may import. "internal" packages beside a leaf are part of it.
var mayImport = map[string][]string{
	"cmd/gatewayd":                  {"gateway", "allocation/directory"}, // which gateway is handed, so that the demo does not link its databases
	"cmd/gatewayctl":                {"gateway/config", "provisioning", "provisioning/sealedkeys", "provisioning/enrollment", "allocation", "allocation/directory", "allocation/decisionlog", "allocation/policy", "allocation/upstream", "allocation/cases", "serialbus"},
	"cmd/dpslocal":                  {"provisioning/dpslocal", "provisioning/dpslocal/pgstore"},
	"cmd/appliancesim":              {"serialbus/serialbustest"},
	"cmd/demo":                      {"gateway", "provisioning/dpslocal", "serialbus/serialbustest"},
	"gateway":                       {"gateway/config", "serialbus", "provisioning", "provisioning/hub", "allocation", "allocation/policy", "allocation/upstream", "allocation/decisionlog"},
	"gateway/config":                {"serialbus", "provisioning", "provisioning/sealedkeys", "allocation", "allocation/upstream"},
	"serialbus":                     {},
	"serialbus/profiles":            {},
	"serialbus/serialbustest":       {},
	"provisioning":                  {"provisioning/internal/mqttrpc", "provisioning/internal/netdial"},
	"provisioning/hub":              {"provisioning/internal/mqttrpc", "provisioning/internal/netdial"},
	"provisioning/enrollment":       {},
	"provisioning/sealedkeys":       {"provisioning"},
	"provisioning/internal/mqttrpc": {},
	"provisioning/internal/netdial": {},

	"provisioning/internal/mqttrpc/mqttrpctest": {},
	"provisioning/internal/conformancetest":     {"provisioning/internal/mqttrpc/mqttrpctest"},
	"provisioning/dpslocal":                     {"provisioning/dpslocal/internal/mqttserve"},
	"provisioning/dpslocal/dpslocaltest":        {"provisioning/dpslocal"},
	"provisioning/dpslocal/internal/mqttserve":  {},
	"provisioning/dpslocal/pgstore":             {"provisioning/dpslocal"},
	"provisioning/dpslocal/storetest":           {"provisioning/dpslocal"},
	"allocation":                                {},
	"allocation/cases":                          {"allocation"},
	"allocation/decisionlog":                    {"allocation"},
	"allocation/policy":                         {"allocation"},
	"allocation/upstream":                       {"allocation"},
	"allocation/directory":                      {"allocation"},
}

// home says which packages may import a foreign library directly, and why.
var home = []struct {
	library string
	homes   []string
	why     string
}{
	{"go.bug.st/serial", []string{"serialbus"}, "its defects are covered by one wrapper"},
	{"github.com/eclipse/paho.mqtt.golang", []string{"provisioning/internal/mqttrpc"}, "its own retrying must stay off everywhere"},
	{"github.com/eclipse/paho.mqtt.golang/packets", []string{"provisioning/dpslocal/internal/mqttserve", "provisioning/internal/mqttrpc/mqttrpctest"}, "the MQTT server is only in the local DPS, and a small double in the tests of its client"},
	{"github.com/hashicorp/go-retryablehttp", []string{"provisioning"}, "what may be retried is decided in one place"},
	{"github.com/coreos/go-systemd/v22/daemon", []string{"gateway"}, "only the daemon talks to systemd"},
	{"github.com/coreos/go-systemd/v22/activation", []string{"gateway"}, "only the daemon talks to systemd"},
	{"github.com/coreos/go-systemd/v22/journal", []string{"gateway"}, "only the daemon talks to systemd"},
	{"filippo.io/age", []string{"provisioning/sealedkeys"}, "a program that imports the DPS client should not link it"},
	{"filippo.io/age/armor", []string{"provisioning/sealedkeys"}, "a program that imports the DPS client should not link it"},
	{"modernc.org/sqlite", []string{"gateway", "provisioning/dpslocal", "allocation/directory"}, "each store is one file beside its user"},
	{"github.com/jackc/pgx/v5", []string{"provisioning/dpslocal/pgstore", "allocation/directory"}, "only a program that shares a store should link it"},
	{"github.com/jackc/pgx/v5/stdlib", []string{"provisioning/dpslocal/pgstore", "allocation/directory"}, "only a program that shares a database should link it"},
	{"github.com/jackc/pgx/v5/pgconn", []string{"allocation/directory"}, "only a program that shares a database should link it"},
	{"github.com/jackc/pgx/v5/pgconn/ctxwatch", []string{"allocation/directory"}, "only a program that shares a database should link it"},
	{"github.com/pressly/goose/v3", []string{"gateway", "provisioning/dpslocal", "provisioning/dpslocal/pgstore"}, "each store is one file beside its user"},
	{"github.com/coder/websocket", []string{"provisioning/dpslocal", "provisioning/internal/mqttrpc", "provisioning/internal/mqttrpc/mqttrpctest"}, "MQTT goes over WebSocket in one place on each side, and in a small double in the tests"},
	{"cel.dev/cel-go/cel", []string{"allocation/policy"}, "a program that only hosts the webhook should not link 11 MiB of expressions"},
	{"golang.org/x/net/http/httpproxy", []string{"provisioning/internal/netdial"}, "which proxy is used is decided in one place"},
	{"github.com/prometheus/client_golang/prometheus", []string{"gateway"}, "metrics are named in one place"},
	{"github.com/prometheus/client_golang/prometheus/promhttp", []string{"gateway"}, "metrics are served in one place"},
	{"github.com/spf13/cobra", []string{"cmd/gatewayctl"}, "the daemon has three flags"},
	{"testing", []string{}, "a shipped program holds no test code"},
}

// TestImportGraph checks the imports of every package, test files left out.
func TestImportGraph(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}:{{join .Imports " "}}`, module+"...").Output()
	if err != nil {
		t.Fatalf("listing the packages: %v", err)
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		path, imports, _ := strings.Cut(strings.TrimSpace(line), ":")
		name := strings.TrimPrefix(path, module)
		allowed, known := mayImport[name]
		if !known {
			t.Errorf("%s is not in the import graph: give it a row in this test and a line in the README", name)
			continue
		}
		seen++
		for _, imported := range strings.Fields(imports) {
			if ours, inside := strings.CutPrefix(imported, module); inside && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s: only %q are allowed, because leaves know nothing of each other and only gateway knows two at once", name, ours, allowed)
			}
			for _, rule := range home {
				if imported == rule.library && !slices.Contains(rule.homes, name) && !(imported == "testing" && strings.HasSuffix(name, "test")) {
					t.Errorf("%s imports %s, whose home is %q: %s", name, imported, rule.homes, rule.why)
				}
			}
		}
	}
	if seen < len(mayImport)-2 {
		t.Errorf("only %d packages seen; is the list complete?", seen)
	}
}

// TestDaemonLeavesOut checks what must never be linked into the daemon.
func TestDaemonLeavesOut(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", module+"cmd/gatewayd").Output()
	if err != nil {
		t.Fatalf("listing the daemon's dependencies: %v", err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, module+"gateway") {
		t.Fatal("the daemon does not depend on gateway: the test looks at the wrong thing")
	}
	for dep, why := range map[string]string{
		module + "provisioning/dpslocal":   "the local DPS is a program of its own",
		module + "serialbus/serialbustest": "simulated appliances are for tests and the demo",
		"testing":                          "a shipped program holds no test code",
	} {
		if slices.Contains(deps, dep) {
			t.Errorf("the daemon links %s: %s", dep, why)
		}
	}
	demo, err := exec.Command("go", "list", "-deps", module+"cmd/demo").Output()
	if err != nil {
		t.Fatalf("listing the demo's dependencies: %v", err)
	}
	if strings.Contains(string(demo), "jackc/pgx") {
		t.Error("the demo links PostgreSQL's driver: its build would take a minute longer")
	}
}
