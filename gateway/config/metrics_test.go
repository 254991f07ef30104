// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDecisionLog(t *testing.T) {
	tests := []struct {
		name, text string
		want       DecisionLog
		wantErr    string
	}{
		{"default", "", DecisionLog{"/s/decisions.jsonl", 64 << 20}, ""},
		{"off", `decision_log = ""`, DecisionLog{"", 64 << 20}, ""},
		{"elsewhere", "decision_log = \"/d/x.jsonl\"\ndecision_log_size = 4", DecisionLog{"/d/x.jsonl", 4 << 20}, ""},
		{"too small", "decision_log_size = 3", DecisionLog{}, "[allocation] decision_log_size: 3 is not between 4 and 10240 MiB"},
		{"too large", "decision_log_size = 9223372036854775807", DecisionLog{}, "is not between 4 and 10240 MiB"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg, err := Parse("gatewayd.toml", []byte("state_dir = \"/s\"\n[allocation]\n"+test.text))
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Errorf("got %v, want a part %q", err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, cfg.Allocation.DecisionLog); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	tests := []struct{ name, text, want, wantErr string }{
		{"none", "", "", ""},
		{"empty", `listen = ""`, "", ""},
		{"loopback", `listen = "127.0.0.1:9187"`, "127.0.0.1:9187", ""},
		{"everyone, and said so", "listen = \"0.0.0.0:9187\"\npublic = true", "0.0.0.0:9187", ""},
		{"everyone by mistake", `listen = "0.0.0.0:9187"`, "", `[metrics] listen: "0.0.0.0:9187" can be reached from other machines`},
		{"no port", `listen = "127.0.0.1"`, "", `"127.0.0.1" is not host:port`},
		{"where the webhook is", `listen = "127.0.0.1:7071"`, "", `[metrics] listen: "127.0.0.1:7071" is where the webhook listens`},
		{"public without an address", `public = true`, "", "[metrics] public: of no use without listen"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg, err := Parse("gatewayd.toml", []byte("[allocation]\n[metrics]\n"+test.text))
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Errorf("got %v, want a part %q", err, test.wantErr)
				}
				return
			}
			got := ""
			if cfg.Metrics != nil {
				got = cfg.Metrics.Listen
			}
			if err != nil || got != test.want {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
		})
	}
}
