// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const wholeConfig = `
id_scope = "0ne00ABCDEF"
name = "contoso-provisioning-service-1098"
retry_after = "0s"
strict = true
store = "other.db"
tls_names = ["dps.building.example", "192.0.2.7"]

[throttle]
registrations_per_minute = 1000
lookups_per_minute = 999
polls_per_10s = 5

[[fault]]
call = "register"
transport = "mqtt"
registration_id = "breakroom*"
after = 1
count = 2
status = 429
retry_after = "7"
delay = "2s"
[[fault]]
drop = true
close = true
clock_skew = "-24h"
away = "30s"

[[hub]]
name = "contoso-toasters-hub-1098.azure-devices.net"
weight = 3
[[hub.policy_key]]
name = "iothubowner"
key = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="
[[hub]]
name = "contoso-heatpumps-hub-1098.azure-devices.net"

[[policy_key]]
name = "provisioningserviceowner"
key = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="
permissions = ["EnrollmentRead", "RegistrationStatusRead"]

[[enrollment_group]]
id = "contoso-custom-allocated-devices"
primary_key = "` + testPrimary + `"
secondary_key = "` + testSecondary + `"
provisioning_status = "enabled"
allocation_policy = "custom"
webhook_url = "https://127.0.0.1:9443/api/HttpTrigger1?code=SECRET"
webhook_ca_file = "webhook-ca.pem"
hubs = ["contoso-toasters-hub-1098.azure-devices.net"]
reprovision_policy = "never"
initial_twin = '{"tags":{"a":1}}'

[[enrollment]]
registration_id = "boiler-1"
device_id = "Boiler-1"
provisioning_status = "disabled"
`

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dpslocal.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadConfig(t *testing.T) {
	path := writeConfig(t, wholeConfig)
	got, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		IDScope:   "0ne00ABCDEF",
		Name:      "contoso-provisioning-service-1098",
		Strict:    true,
		StoreFile: "other.db",
		TLSNames:  []string{"dps.building.example", "192.0.2.7"},
		Throttle:  Throttle{Registrations: 1000, Lookups: 999, Polls: 5},
		Faults: []FaultRule{
			{
				Call: RegisterCall, Transport: "mqtt", RegistrationID: "breakroom*", After: 1, Count: 2,
				Fault: Fault{Status: 429, RetryAfter: "7", Delay: 2 * time.Second},
			},
			{Fault: Fault{Drop: true, Close: true, ClockSkew: -24 * time.Hour, Away: 30 * time.Second}},
		},
		Hubs: []Hub{
			{Name: toasters, Weight: 3, PolicyKeys: []PolicyKey{{Name: testHubPolicy, Key: testPolicyKey}}},
			{Name: heatPumps},
		},
		PolicyKeys: []PolicyKey{
			{Name: testPolicy, Key: testPolicyKey, Permissions: []Permission{EnrollmentRead, RegistrationStatusRead}},
		},
		EnrollmentGroups: []EnrollmentGroup{{
			ID:                 testGroup,
			PrimaryKey:         testPrimary,
			SecondaryKey:       testSecondary,
			ProvisioningStatus: Enabled,
			AllocationPolicy:   Custom,
			WebhookURL:         "https://127.0.0.1:9443/api/HttpTrigger1?code=SECRET",
			WebhookCAFile:      filepath.Join(filepath.Dir(path), "webhook-ca.pem"),
			Hubs:               []string{toasters},
			ReprovisionPolicy:  ReprovisionNever,
			InitialTwin:        json.RawMessage(`{"tags":{"a":1}}`),
		}},
		Enrollments: []IndividualEnrollment{{RegistrationID: "boiler-1", DeviceID: "Boiler-1", ProvisioningStatus: Disabled}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLoadConfigDefaults(t *testing.T) {
	got, err := LoadConfig(writeConfig(t, "id_scope = \"0ne1\"\n[[hub]]\nname = \"h.example\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{IDScope: "0ne1", Name: "dpslocal", RetryAfter: 3 * time.Second, StoreFile: "dpslocal.db", Hubs: []Hub{{Name: "h.example"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLoadConfigErrors(t *testing.T) {
	minimal := "id_scope = \"0ne1\"\n[[hub]]\nname = \"h.example\"\n"
	group := minimal + "[[enrollment_group]]\nid = \"g\"\n"
	tests := []struct {
		name, text string
		want       []string // each a part of the message, FILE standing for the path
	}{
		{"unknown key", "id_scop = \"0ne1\"\n" + minimal, []string{`FILE:1: unknown key "id_scop", did you mean "id_scope"?`}},
		{"unknown keys of tables", minimal + "adress = 1\n[[enrollment_group]]\nprimarykey = \"SECRET\"\nwebhok_url = \"SECRET\"\n", []string{
			`FILE:4: unknown key "hub.adress"`,
			`FILE:6: unknown key "enrollment_group.primarykey", did you mean "primary_key"?`,
			`FILE:7: unknown key "enrollment_group.webhok_url", did you mean "webhook_url"?`,
		}},
		{"not like anything", "zzzzzzzz = 1\n", []string{`unknown key "zzzzzzzz"`}},
		{"syntax", "id_scope = \"0ne1\n", []string{"FILE:1:"}},
		{"wrong type", "strict = \"yes\"\n", []string{"FILE:1:"}},
		{"no hub, no scope", "", []string{`id_scope ""`, "no [[hub]]"}},
		{"retry_after", "retry_after = \"soon\"\n" + minimal, []string{`retry_after "soon": write whole seconds`}},
		{"retry_after not whole", "retry_after = \"1500ms\"\n" + minimal, []string{`whole seconds from 0s to 300s`}},
		{"store elsewhere", "store = \"mysql://SECRET@h/db\"\n" + minimal, []string{"give the name of a SQLite file in the directory of --dir, or a postgres:// URL"}},
		{"hub twice", minimal + "[[hub]]\nname = \"H.example\"\n", []string{`hub "H.example": named twice`}},
		{"hub name", minimal + "[[hub]]\nname = \"a b\"\n", []string{`hub "a b": not a host name`}},
		{"tls name", "tls_names = [\"a b\"]\n" + minimal, []string{`"a b" is neither`}},
		{"group key", group + "primary_key = \"SECRET!\"\n", []string{`enrollment group "g": primary_key: not base64`}},
		{"short group key", group + "secondary_key = \"AAAA\"\n", []string{`secondary_key: 3 bytes long, want 16 to 64`}},
		{"no webhook", group + "allocation_policy = \"custom\"\n", []string{"needs a webhook_url"}},
		{"plain http", group + "allocation_policy = \"custom\"\nwebhook_url = \"http://192.0.2.1/api/x?code=SECRET\"\n", []string{"http://192.0.2.1: use https"}},
		{"policy", group + "allocation_policy = \"geolatency\"\n", []string{`allocation_policy "geolatency": use hashed, geoLatency, static or custom`}},
		{"hub weight", minimal + "weight = 1001\n", []string{`hub "h.example": weight 1001: give 1 to 1000`}},
		{"throttle", "throttle.polls_per_10s = -1\n" + minimal, []string{"throttle: polls_per_10s -1"}},
		{"fault of no call", minimal + "[[fault]]\ncall = \"x\"\ndrop = true\n", []string{`fault 1: call "x": use register, poll or lookup`}},
		{"fault without effect", minimal + "[[fault]]\ncount = 1\n", []string{"fault 1: it does nothing"}},
		{"fault of bad figures", minimal + "[[fault]]\ntransport = \"coap\"\nregistration_id = \"[\"\nafter = -1\nstatus = 200\nretry_after = \"a\\nb\"\ndelay = \"2h\"\n", []string{
			`transport "coap"`, `registration_id "["`, "after -1, count 0", "status 200", `retry_after "a\nb"`, "delay 2h0m0s",
		}},
		{"fault duration", minimal + "[[fault]]\naway = \"long\"\n", []string{`FILE: fault 1: away "long": write a duration`}},
		{"unknown key of a table", "throttle.polls_per_10 = 1\n" + minimal, []string{`FILE:1: unknown key "throttle.polls_per_10", did you mean "polls_per_10s"?`}},
		{"status", group + "provisioning_status = \"on\"\n", []string{`provisioning_status "on"`}},
		{"reprovision", group + "reprovision_policy = \"x\"\n", []string{`reprovision_policy "x"`}},
		{"twin", group + "initial_twin = \"[]\"\n", []string{"initial_twin: not of the form"}},
		{"hub not linked", group + "hubs = [\"x.example\"]\n", []string{`hub "x.example" is not linked`}},
		{"group twice", group + "[[enrollment_group]]\nid = \"G\"\n", []string{`enrollment group "G": named twice`}},
		{"group ID", minimal + "[[enrollment_group]]\nid = \"g.\"\n", []string{`enrollment group "g."`}},
		{"device ID", minimal + "[[enrollment]]\nregistration_id = \"r\"\ndevice_id = \"a b\"\n", []string{`enrollment "r": device_id "a b"`}},
		{"policy key", minimal + "[[policy_key]]\nname = \"p\"\nkey = \"SECRET!\"\n", []string{`policy_key "p": key: not base64`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := writeConfig(t, tt.text)
			_, err := LoadConfig(path)
			if _, ok := errors.AsType[*ConfigError](err); !ok {
				t.Fatalf("got %v, want a ConfigError", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), strings.Replace(want, "FILE", path, 1)) {
					t.Errorf("got %v\nwant %s in it", err, want)
				}
			}
			if strings.Contains(err.Error(), "SECRET") && tt.name != "store elsewhere" {
				t.Errorf("the message shows a secret: %v", err)
			}
		})
	}
	if _, err := LoadConfig(filepath.Join(t.TempDir(), "absent.toml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent file: got %v", err)
	}
}

// TestSecretsStaySecret prints a configuration in every way at hand.
func TestSecretsStaySecret(t *testing.T) {
	cfg := testConfig()
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "config", cfg, "key", cfg.EnrollmentGroups[0].PrimaryKey)
	asJSON, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range []string{
		fmt.Sprint(cfg), fmt.Sprintf("%+v", cfg), fmt.Sprintf("%#v", cfg), fmt.Sprintf("%x", cfg.EnrollmentGroups[0].WebhookURL), string(asJSON), log.String(),
	} {
		if strings.Contains(text, testPrimary) || strings.Contains(text, "code=") {
			t.Errorf("way %d shows a secret: %s", i, text)
		}
		if !strings.Contains(text, redacted) {
			t.Errorf("way %d does not say that something is redacted: %s", i, text)
		}
	}
	if text := fmt.Sprintf("%+v", cfg.entries()); text != `[enrollment group "contoso-custom-allocated-devices"]` {
		t.Errorf("entries print as %s, want their names", text)
	}
}
