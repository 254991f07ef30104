// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/sealedkeys"
	"github.com/contoso/gatewayd/serialbus"
)

// complete is a file with every section; tests change one line of it.
const complete = `site = "mainbuilding"
state_dir = "/var/lib/gatewayd"

[dps]
id_scope = "0ne00002193"
group_key = "group-key"

[[bus]]
name = "boiler room"
port = "/dev/ttyUSB0"
driver = "modbus-rtu"
profile = "contoso-hpsd-088"
units = "1-32"
allow = ["*-contoso-hpsd-088"]
record = "boiler.rec"

[allocation]
`

func TestParseBaud(t *testing.T) {
	for _, tc := range []struct {
		line string
		baud int
		auto bool
	}{{"", 0, false}, {"baud = 9600", 9600, false}, {`baud = "auto"`, 0, true}} {
		cfg, err := Parse("gatewayd.toml", []byte(strings.Replace(complete, "units =", tc.line+"\nunits =", 1)))
		if err != nil {
			t.Errorf("%s: %v", tc.line, err)
			continue
		}
		if line := cfg.Buses[0].Line; line.Baud != tc.baud || line.AutoBaud != tc.auto {
			t.Errorf("%s: got %d, %v", tc.line, line.Baud, line.AutoBaud)
		}
	}
}

func TestParseRS485(t *testing.T) {
	for line, want := range map[string]bool{"": false, "rs485 = true": true} {
		cfg, err := Parse("gatewayd.toml", []byte(strings.Replace(complete, "units =", line+"\nunits =", 1)))
		if err != nil {
			t.Fatal(err)
		}
		if got := cfg.Buses[0].Line.RS485; got != want {
			t.Errorf("%q: got %v", line, got)
		}
	}
}

// TestPolicyPath: the path of a policy begins at the folder of the configuration.
func TestPolicyPath(t *testing.T) {
	for policy, want := range map[string]string{"": "", "policy.toml": "/etc/gatewayd/policy.toml", "../p.toml": "/etc/p.toml", "/srv/p.toml": "/srv/p.toml"} {
		cfg, err := Parse("/etc/gatewayd/gatewayd.toml", []byte("[allocation]\npolicy = \""+policy+"\"\nshadow = \""+policy+"\"\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := cfg.Allocation.Shadow; got != want {
			t.Errorf("shadow: got %q, want %q", got, want)
		}
		if got := cfg.Allocation.Policy; got != want {
			t.Errorf("%q: got %q, want %q", policy, got, want)
		}
	}
}

// TestWebhookLimits: what is absent is left to the webhook's own defaults.
func TestWebhookLimits(t *testing.T) {
	for text, want := range map[string]Allocation{
		"[allocation]\n": {Listen: "127.0.0.1:7071"},
		"[allocation]\nmax_connections = 700\nrequests_per_second = 0.5\nrequests_per_second_per_caller = 20\n": {
			Listen: "127.0.0.1:7071", MaxConnections: 700, RequestsPerSecond: 0.5, RequestsPerSecondPerCaller: 20,
		},
	} {
		cfg, err := Parse("gatewayd.toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		cfg.Allocation.DecisionLog = DecisionLog{} // has a test of its own
		if *cfg.Allocation != want {
			t.Errorf("%s: got %+v, want %+v", text, *cfg.Allocation, want)
		}
	}
}

func TestParseComplete(t *testing.T) {
	cfg, err := Parse("gatewayd.toml", []byte(complete))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cfg.DPS.Client.Endpoint, "global.azure-devices-provisioning.net"; got != want {
		t.Errorf("endpoint: got %q, want %q", got, want)
	}
	if got, want := cfg.DPS.Client.Transport, provisioning.TransportAuto; got != want {
		t.Errorf("transport: got %q, want %q", got, want)
	}
	if got, want := cfg.DPS.Client.RegistersPerMinute, 100.0; got != want {
		t.Errorf("registers per minute: got %v, want %v", got, want)
	}
	if got, want := cfg.Allocation.Listen, "127.0.0.1:7071"; got != want {
		t.Errorf("listen: got %q, want %q", got, want)
	}
	if got, want := len(cfg.Buses[0].Line.Units), 32; got != want {
		t.Errorf("units: got %d, want %d", got, want)
	}
	if got, want := cfg.Buses[0].Record, "/var/lib/gatewayd/boiler.rec"; got != want {
		t.Errorf("record: got %q, want %q", got, want)
	}
	if got, want := cfg.Hub.Mode, HubStay; got != want {
		t.Errorf("hub mode: got %q, want %q", got, want)
	}
	if len(cfg.Warnings) != 0 {
		t.Errorf("warnings: got %q, want none", cfg.Warnings)
	}
}

// TestMistakes holds what a person reads for each mistake: where, what, and
// what to write instead.
func TestMistakes(t *testing.T) {
	tests := []struct {
		name     string
		old, new string // the change to the complete file
		want     string // a part of the message
	}{
		{"unknown key", `site =`, `sites =`, `gatewayd.toml:1: unknown key "sites" (did you mean "site"?)`},
		{"unknown key in a section", `id_scope =`, `idscope =`, `gatewayd.toml:5: unknown key "dps.idscope" (did you mean "id_scope"?)`},
		{"unknown key in a table array", `driver =`, `drivers =`, `gatewayd.toml:11: unknown key "bus.drivers" (did you mean "driver"?)`},
		{"letters changed places", `units =`, `untis =`, `unknown key "bus.untis" (did you mean "units"?)`},
		{"unknown section", `[allocation]`, `[alocation]`, `gatewayd.toml:17: unknown key "alocation" (did you mean "allocation"?)`},
		{"feature of a later version", `[allocation]`, "[allocation]\nmutual_tls = true", `unknown key "allocation.mutual_tls"`},
		{"broken TOML", `site = "mainbuilding"`, `site = "mainbuilding`, `gatewayd.toml:1:`},
		{"wrong type", `site = "mainbuilding"`, `site = 7`, `gatewayd.toml:1:`},
		{"site with capitals", `"mainbuilding"`, `"Main Building"`, `site: "Main Building" has something else than lower-case`},
		{"relative state directory", `"/var/lib/gatewayd"`, `"state"`, `state_dir: "state" is not an absolute path`},
		{"no ID scope", `id_scope = "0ne00002193"`, ``, `[dps] id_scope: missing; it stands on the overview page`},
		{"ID scope with a slash", `"0ne00002193"`, `"0ne/1"`, `[dps] id_scope: "0ne/1" is not an ID scope`},
		{"no group key", `group_key = "group-key"`, ``, `[dps] group_key: missing; name the systemd credential`},
		{"group key and derived keys", `group_key =`, "derived_keys = \"derived-keys\"\ngroup_key =", `[dps] derived_keys: group_key is given too`},
		{"identity of nothing", `group_key =`, "derived_keys_identity = \"x\"\ngroup_key =", `[dps] derived_keys_identity: of no use without derived_keys`},
		{"no dps", "[dps]\nid_scope = \"0ne00002193\"\ngroup_key = \"group-key\"", ``, `[dps]: missing, but there is a [[bus]]`},
		{"unknown transport", `group_key =`, "transport = \"amqp\"\ngroup_key =", `[dps] transport: "amqp" is none of`},
		{"URL as endpoint", `group_key =`, "endpoint = \"https://x/\"\ngroup_key =", `[dps] endpoint: "https://x/" is a URL`},
		{"rate of zero", `group_key =`, "registers_per_minute = 0\ngroup_key =", `[dps] registers_per_minute: 0 is not between`},
		{"rate not a number", `group_key =`, "polls_per_second = nan\ngroup_key =", `[dps] polls_per_second: NaN is not between`},
		{"payload that is not an object", `group_key =`, "payload = '[1]'\ngroup_key =", `[dps] payload: the payload is not a JSON object`},
		{"payload with an unknown field", `group_key =`, "payload = '{\"a\":{{.Colour}}}'\ngroup_key =", `[dps] payload: `},
		{"CA file missing", `group_key =`, "ca_file = \"/nonexistent/ca.pem\"\ngroup_key =", `[dps] ca_file: opening: open /nonexistent/ca.pem`},
		{"unknown hub mode", `[[bus]]`, "[hub]\nmode = \"visit\"\n[[bus]]", `[hub] mode: "visit" is not in this version`},
		{"resolve without a port", `[[bus]]`, "[hub]\nresolve = {\"h\" = \"10.0.0.1\"}\n[[bus]]", `[hub] resolve: "h": "10.0.0.1" is not host:port`},
		{"unknown profile", `"contoso-hpsd-088"`, `"contoso-hpsd-08"`, `did you mean profile "contoso-hpsd-088"?`},
		{"unit out of range", `"1-32"`, `"1-300"`, `[[bus]] "boiler room" units`},
		{"speed in words", `units = "1-32"`, "units = \"1-32\"\nbaud = \"fast\"", `[[bus]] "boiler room" baud: fast is neither a number nor "auto"`},
		{"speed searched with a parity", `units = "1-32"`, "units = \"1-32\"\nbaud = \"auto\"\nparity = \"even\"", "leave parity out"},
		{"bad allow pattern", `"*-contoso-hpsd-088"`, `"["`, `[[bus]] "boiler room" allow: "[" is not a pattern`},
		{"two recordings in a file", `[allocation]`, "[[bus]]\nname = \"kitchen\"\nport = \"/dev/ttyUSB1\"\ndriver = \"line\"\nprofile = \"alp\"\nrecord = \"boiler.rec\"\n[allocation]", `[[bus]] "kitchen" record: boiler.rec belongs to bus "boiler room" already`},
		{"bad ID template", `allow =`, "registration_id = \"{{.Color}}\"\nallow =", `[[bus]] "boiler room" registration_id`},
		{"pin of a unit outside", `allow =`, "pin = [{unit = 40, registration_id = \"a\"}]\nallow =", `[[bus]] "boiler room" pin of unit 40: the unit is not among the bus's units`},
		{"pin twice", `allow =`, "pin = [{unit = 4, registration_id = \"a\"}, {unit = 4, registration_id = \"b\"}]\nallow =", `pin of unit 4: this unit is pinned twice`},
		{"one ID at two places", `allow =`, "pin = [{unit = 4, registration_id = \"a\"}, {unit = 5, registration_id = \"a\"}]\nallow =", `pin of unit 5: "a" is pinned to unit 4 of bus "boiler room" already`},
		{"pin with a bad name", `allow =`, "pin = [{unit = 4, registration_id = \"A.b\"}]\nallow =", `pin of unit 4 registration_id: `},
		{"pin without a name", `allow =`, "pin = [{unit = 4}]\nallow =", `pin of unit 4 registration_id: `},
		{"unknown key of a pin", `[allocation]`, "[[bus.pin]]\nunit = 4\nregistration_id = \"a\"\nvendr = \"x\"\n[allocation]", `unknown key "bus.pin.vendr" (did you mean "vendor"?)`},
		{"open webhook", `[allocation]`, "[allocation]\nlisten = \"0.0.0.0:7071\"", `[allocation] function_keys: missing, but listen = "0.0.0.0:7071" can be reached`},
		{"key in the upstream's URL", `[allocation]`, "[allocation]\nupstream = \"https://h/api/f?code=SECRET\"", `[allocation] upstream: the URL holds a function key (code=), which would end up in logs: put the key into a file of its own, name that (upstream_key, or gatewayctl's --key-file)`},
		{"upstream in clear text", `[allocation]`, "[allocation]\nupstream = \"http://10.0.0.1/api/f\"", `[allocation] upstream: http://10.0.0.1 would send the function key`},
		{"upstream is the webhook", `[allocation]`, "[allocation]\nupstream = \"http://localhost:7071/api/f\"", `[allocation] upstream: this is the webhook itself (listen = "127.0.0.1:7071")`},
		{"upstream is the open webhook", `[allocation]`, "[allocation]\nlisten = \":7071\"\nfunction_keys = \"k\"\nupstream = \"http://127.0.0.1:7071/api/f\"", `[allocation] upstream: this is the webhook itself (listen = ":7071")`},
		{"upstream is the webhook by name", `[allocation]`, "[allocation]\nlisten = \"gw.site:443\"\nfunction_keys = \"k\"\nupstream = \"https://gw.site/api/f\"", `[allocation] upstream: this is the webhook itself (listen = "gw.site:443")`},
		{"upstream key alone", `[allocation]`, "[allocation]\nupstream_key = \"upstream-key\"", `[allocation] upstream_key: of no use without upstream`},
		{"upstream timeout too long", `[allocation]`, "[allocation]\nupstream = \"https://h/f\"\nupstream_timeout = \"9s\"", `[allocation] upstream_timeout: "9s" is not a time between "100ms" and "8s"`},
		{"upstream timeout without unit", `[allocation]`, "[allocation]\nupstream = \"https://h/f\"\nupstream_timeout = \"5\"", `[allocation] upstream_timeout: "5" is not a time between`},
		{"upstream CA file missing", `[allocation]`, "[allocation]\nupstream = \"https://h/f\"\nupstream_ca_file = \"/nonexistent/ca.pem\"", `[allocation] upstream_ca_file: opening: open /nonexistent/ca.pem`},
		{"no connections", `[allocation]`, "[allocation]\nmax_connections = 0", `[allocation] max_connections: 0 is not between 1 and 700`},
		{"more connections than descriptors", `[allocation]`, "[allocation]\nmax_connections = 701", `[allocation] max_connections: 701 is not between 1 and 700`},
		{"no requests", `[allocation]`, "[allocation]\nrequests_per_second = 0", `[allocation] requests_per_second: 0 is not between`},
		{"negative rate of a caller", `[allocation]`, "[allocation]\nrequests_per_second_per_caller = -1", `[allocation] requests_per_second_per_caller: -1 is not between`},
		{"certificate without key", `[allocation]`, "[allocation]\ntls_cert = \"/a\"", `tls_cert and tls_key go together`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text := strings.Replace(complete, test.old, test.new, 1)
			if text == complete {
				t.Fatal("the change changes nothing")
			}
			_, err := Parse("gatewayd.toml", []byte(text))
			if err == nil {
				t.Fatalf("accepted; want an error with %q", test.want)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got:\n%v\nwant a part:\n%s", err, test.want)
			}
			if strings.Contains(err.Error(), "SECRET") {
				t.Errorf("the message shows a secret: %v", err)
			}
		})
	}
}

func TestUpstream(t *testing.T) {
	tests := []struct {
		name, keys string
		want       *Upstream
	}{
		{"none", "", nil},
		{"alone", "upstream = \"https://h/api/f\"", &Upstream{URL: "https://h/api/f", Timeout: 5 * time.Second}},
		{"beside the webhook", "upstream = \"http://127.0.0.1:7072/api/f\"", &Upstream{URL: "http://127.0.0.1:7072/api/f", Timeout: 5 * time.Second}},
		{"the webhook's port elsewhere", "upstream = \"https://h:7071/api/f\"", &Upstream{URL: "https://h:7071/api/f", Timeout: 5 * time.Second}},
		{"with all", "upstream = \"https://h/api/f\"\nupstream_key = \"upstream-key\"\nupstream_timeout = \"1500ms\"", &Upstream{URL: "https://h/api/f", Key: "upstream-key", Timeout: 1500 * time.Millisecond}},
	}
	for _, test := range tests {
		cfg, err := Parse("gatewayd.toml", []byte(complete+test.keys))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if diff := cmp.Diff(test.want, cfg.Allocation.Upstream); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestDirectory(t *testing.T) {
	for _, test := range []struct {
		name, keys        string
		wantFile, wantURL string
		wantErr           string
	}{
		{"none", "", "", "", ""},
		{"beside the configuration", `directory = "devices.db"`, "/etc/gatewayd/devices.db", "", ""},
		{"absolute", `directory = "/srv/devices.db"`, "/srv/devices.db", "", ""},
		{"credential", `directory_url = "directory-url"`, "", "directory-url", ""},
		{"both", "directory = \"a\"\ndirectory_url = \"b\"", "", "", "[allocation] directory: directory_url is given too"},
		{"a URL for a file", `directory = "postgres://u:SECRET@h/d"`, "", "", "put it into a file and name that in directory_url"},
		{"the URL itself", `directory_url = "postgres://u:SECRET@h/d"`, "", "", "[allocation] directory_url: the URL itself must not stand here"},
	} {
		cfg, err := Parse("/etc/gatewayd/gatewayd.toml", []byte(complete+test.keys))
		if test.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), test.wantErr) || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("%s: got %v, want %q", test.name, err, test.wantErr)
			}
			continue
		}
		if err != nil || cfg.Allocation.Directory != test.wantFile || cfg.Allocation.DirectoryURL != test.wantURL {
			t.Errorf("%s: got %v, %q and %q", test.name, err, cfg.Allocation.Directory, cfg.Allocation.DirectoryURL)
		}
	}
}

func TestTwoBusesOnOnePort(t *testing.T) {
	text := complete + "\n[[bus]]\nname = \"boiler room\"\nport = \"/dev/ttyUSB0\"\ndriver = \"line\"\nprofile = \"alp\"\n"
	_, err := Parse("gatewayd.toml", []byte(text))
	for _, want := range []string{`/dev/ttyUSB0 belongs to bus "boiler room" already`, `another bus has this name`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a part %q", err, want)
		}
	}
}

func TestWebhookOnly(t *testing.T) {
	cfg, err := Parse("gatewayd.toml", []byte("[allocation]\nlisten = \"[::1]:0\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.DPS != nil || cfg.Allocation == nil {
		t.Errorf("got dps %v and allocation %v, want only allocation", cfg.DPS, cfg.Allocation)
	}
	if _, err := Parse("gatewayd.toml", nil); err == nil || !strings.Contains(err.Error(), "nothing to do") {
		t.Errorf("an empty file: got %v, want that there is nothing to do", err)
	}
}

// TestReferenceFile parses the file that the package ships.
func TestReferenceFile(t *testing.T) {
	path := filepath.Join("..", "..", "packaging", "gatewayd.toml")
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.DPS == nil || cfg.Allocation == nil {
		t.Errorf("the reference file has no [dps] or no [allocation]")
	}
}

func TestStateDirFromUnit(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", "/var/lib/gatewayd-unit")
	cfg, err := Parse("gatewayd.toml", []byte(strings.Replace(complete, `state_dir = "/var/lib/gatewayd"`, "", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cfg.StateDir, "/var/lib/gatewayd-unit"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPayload(t *testing.T) {
	toaster := serialbus.Identity{Vendor: "Contoso", Model: "TSTRSD-007", Firmware: "12.0.2.5", Provisioning: "1.0.0.0"}
	tests := []struct {
		name, template string
		identity       serialbus.Identity
		want           string
	}{
		{"default", defaultPayload, toaster, `{"MyDeviceFirmwareVersion":"12.0.2.5","MyDeviceProvisioningVersion":"1.0.0.0","model":"contoso-tstrsd-007"}`},
		{"unknown members are left out", defaultPayload, serialbus.Identity{Vendor: "Contoso", Model: "HPSD-088"}, `{"model":"contoso-hpsd-088"}`},
		{"nothing known", defaultPayload, serialbus.Identity{}, `{}`},
		{"an appliance cannot break out", `{"v":{{.Firmware}}}`, serialbus.Identity{Firmware: `1","admin":"yes`}, `{"v":"1\",\"admin\":\"yes"}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			template, err := ParsePayload(test.template)
			if err != nil {
				t.Fatal(err)
			}
			got, err := template.Render(test.identity)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestIDTemplate(t *testing.T) {
	byUnit, err := ParseID("{{.Site}}{{.Unit}}-contoso-hpsd-088")
	if err != nil {
		t.Fatal(err)
	}
	got, err := byUnit.Render("mainbuilding", "boiler", 17, serialbus.Identity{})
	if want := "mainbuilding17-contoso-hpsd-088"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	bySerial, err := ParseID("{{.Vendor}}-{{.Serial}}")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := bySerial.Render("s", "b", 1, serialbus.Identity{Vendor: "Contoso Ltd.", Serial: "A 7"}); got != "contoso-ltd-a-7" || err != nil {
		t.Errorf("got %q, %v; want contoso-ltd-a-7", got, err)
	}
	if got, err := bySerial.Render("s", "b", 1, serialbus.Identity{Vendor: "Contoso"}); err == nil {
		t.Errorf("an appliance without a serial number was named %q; two of them would share it", got)
	}
}

func TestGroupKeys(t *testing.T) {
	// The synthetic keys of the published vectors: bytes 0x00..0x3f and 0xff..0xc0.
	const primary = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
	tests := []struct {
		name, text string
		count      int
		want       string
	}{
		{"one", primary + "\n", 1, ""},
		{"two", primary + "\r\n" + primary, 2, ""},
		{"empty", "\n", 0, "holds 0 keys"},
		{"three", primary + "\n" + primary + "\n" + primary, 0, "holds 3 keys"},
		{"not base64", "hello*", 0, "line 1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			directory := t.TempDir()
			if err := os.WriteFile(filepath.Join(directory, "group-key"), []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("CREDENTIALS_DIRECTORY", directory)
			keys, err := ReadGroupKeys("group-key")
			if test.want == "" && (err != nil || len(keys) != test.count) {
				t.Errorf("got %d keys, %v; want %d", len(keys), err, test.count)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want a part %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "hello*") {
				t.Errorf("the message shows the secret: %v", err)
			}
		})
	}
}

// TestReadKeys finds the keys of devices wherever the file says, and never both kinds.
func TestReadKeys(t *testing.T) {
	directory := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", directory)
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(directory, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	gateway, other := newIdentity(t), newIdentity(t)
	const primary = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
	group, err := provisioning.ParseGroupKey(primary)
	if err != nil {
		t.Fatal(err)
	}
	seal := func(name, scope string, to sealedkeys.Identity) {
		t.Helper()
		r, err := sealedkeys.NewRequest("mainbuilding", to.Recipient(), []string{"toaster-1"}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		g, err := sealedkeys.Derive(r, provisioning.GroupKeys{group}, scope, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := g.Seal(to.Recipient())
		if err != nil {
			t.Fatal(err)
		}
		write(name, string(sealed))
	}
	write("group-key", primary)
	write("gateway-identity", gateway.Reveal())
	write("not-an-identity", "AGE-SECRET-KEY-1OOPS\n")
	write("in-clear", primary)
	seal("derived-keys", "0NE00002193", gateway)
	seal("unscoped", "", gateway)
	seal("of-another", "", other)
	seal("of-another-service", "0neOTHER", gateway)

	for _, test := range []struct{ name, settings, want string }{
		{"group key", `group_key = "group-key"`, ""},
		{"derived keys", `derived_keys = "derived-keys"`, ""},
		{"by path, without a scope", `derived_keys = "` + filepath.Join(directory, "unscoped") + `"`, ""},
		{"identity missing", "derived_keys = \"derived-keys\"\nderived_keys_identity = \"nowhere\"", "derived_keys_identity: opening"},
		{"identity damaged", "derived_keys = \"derived-keys\"\nderived_keys_identity = \"not-an-identity\"", "not-an-identity: not a gateway's identity"},
		{"keys missing", `derived_keys = "nowhere"`, "reading [dps] derived_keys: opening"},
		{"keys in clear", `derived_keys = "in-clear"`, "not an age file"},
		{"another gateway's", `derived_keys = "of-another"`, "sealed to another gateway"},
		{"another service's", `derived_keys = "of-another-service"`, "granted for ID scope 0neOTHER, and id_scope is 0ne00002193"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg, err := Parse("gatewayd.toml", []byte(strings.Replace(complete, `group_key = "group-key"`, test.settings, 1)))
			if err != nil {
				t.Fatal(err)
			}
			source, err := ReadKeys(*cfg.DPS)
			if err != nil {
				if test.want == "" || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "OOPS") || strings.Contains(err.Error(), primary[:12]) {
					t.Errorf("got %v, want %q", err, test.want)
				}
				return
			}
			keys, err := source.DeviceKeys("toaster-1")
			if test.want != "" || err != nil || keys[0].Reveal() != group.Derive("toaster-1").Reveal() {
				t.Errorf("got %v, %v; want %q", keys, err, test.want)
			}
		})
	}
}

func newIdentity(t *testing.T) sealedkeys.Identity {
	t.Helper()
	identity, err := sealedkeys.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

func TestSecretNames(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	for name, want := range map[string]string{
		"group-key": "LoadCredential=group-key", "../group-key": "neither an absolute path", "..": "neither an absolute path",
		"/nonexistent/key": "opening: open /nonexistent/key",
	} {
		if _, err := ReadSecret(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want a part %q", name, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(complete)
	f.Add("[[bus]]\n")
	f.Add("site = \"\x00\"")
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := Parse("fuzz.toml", []byte(text))
		if err == nil && len(cfg.Buses) > 0 && cfg.DPS == nil {
			t.Error("accepted a bus without [dps]")
		}
	})
}

// TestSecretInItsOwnPlace: a key that was written where its file should be named
// does not get into the journal.
func TestSecretInItsOwnPlace(t *testing.T) {
	for name, directory := range map[string]string{"without credentials": "", "with credentials": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("CREDENTIALS_DIRECTORY", directory)
			for _, secret := range []string{"c2l0ZSBmdW5jdGlvbiBrZXk=", "c2l0ZS+mdW5jdGlvbiBrZXk", "c2l0ZS/mdW5jdGlvbiBrZXk", strings.Repeat("k", 41)} {
				_, err := ReadSecret(secret)
				if err == nil {
					t.Fatalf("%s was read", secret)
				}
				if strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "put that into a file") {
					t.Errorf("got %q, want it to say what to do without %s", err, secret)
				}
			}
		})
	}
}
