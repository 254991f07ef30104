// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/contoso/gatewayd/gateway"
)

// buffer is standard error for a demo: its parts log to it side by side.
type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// demo runs the demo to its end and decodes what it printed.
func demo(t *testing.T, args ...string) result {
	t.Helper()
	var stdout bytes.Buffer
	var stderr buffer
	// A minute is short where the machine stalls for seconds: an appliance that does not answer is asked again after 30 s.
	if status := run(append(args, "--once", "--json", "--timeout", "8m"), &stdout, &stderr); status != 0 {
		t.Fatalf("exit status %d:\n%s", status, stderr.String())
	}
	var got result
	decoder := json.NewDecoder(&stdout)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&got); err != nil {
		t.Fatalf("not one JSON document: %v", err)
	}
	if decoder.More() {
		t.Error("more than one JSON document on standard output")
	}
	return got
}

func TestDemo(t *testing.T) {
	for _, transport := range []string{"https", "mqtt"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, registered := range []bool{true, false} { // a first run, and one with its state
				got := demo(t, "--transport", transport, "--dir", dir)
				want := map[string]struct{ hub, reported string }{
					"breakroom499-contoso-tstrsd-007":  {toasterHub, `{"darknessSetting":"medium","state":"ready"}`},
					"mainbuilding167-contoso-hpsd-088": {heatPumpHub, `{"state":"on","temperatureSetting":"65"}`},
				}
				if len(got.Appliances) != len(want) {
					t.Fatalf("got %d appliances, want %d", len(got.Appliances), len(want))
				}
				for _, a := range got.Appliances {
					reported, err := json.Marshal(a.Reported)
					if err != nil {
						t.Fatal(err)
					}
					w := want[a.RegistrationID]
					if a.State != gateway.StateConfigured || a.AssignedHub != w.hub || string(reported) != w.reported || a.Registered != registered || a.DeviceID != a.RegistrationID {
						t.Errorf("registered %v: got %+v with %s, want %+v", registered, a, reported, w)
					}
				}
			}
		})
	}
}

// TestManyAppliances shares a line among heat pumps and opens several ports.
func TestManyAppliances(t *testing.T) {
	t.Parallel()
	got := demo(t, "--toasters", "5", "--heatpumps", "35")
	if len(got.Appliances) != 40 {
		t.Errorf("got %d appliances, want 40", len(got.Appliances))
	}
}

func TestUsage(t *testing.T) {
	for want, args := range map[string][]string{
		"--toasters 65 is not between": {"--toasters", "65"},
		"no appliance at all":          {"--toasters", "0", "--heatpumps", "0"},
		`--transport "amqp"`:           {"--transport", "amqp"},
		"only flags":                   {"now"},
		"leaves no time":               {"--timeout", "0s"},
	} {
		var stdout bytes.Buffer
		var stderr buffer
		if status := run(args, &stdout, &stderr); status != 2 || !strings.Contains(stderr.String(), want) {
			t.Errorf("%v: status %d, %q; want 2 and %q", args, status, stderr.String(), want)
		}
	}
}

// TestTimeout says why each appliance is not there, and exits 1.
func TestTimeout(t *testing.T) {
	var stdout bytes.Buffer
	var stderr buffer
	status := run([]string{"--once", "--timeout", "1ms"}, &stdout, &stderr)
	if status != 1 || !strings.Contains(stderr.String(), "breakroom499-contoso-tstrsd-007: ") {
		t.Errorf("status %d:\n%s", status, stderr.String())
	}
}
