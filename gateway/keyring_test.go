// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/contoso/gatewayd/gateway/config"
	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/dpslocal/dpslocaltest"
	"github.com/contoso/gatewayd/provisioning/sealedkeys"
	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// TestWithoutAKey: an appliance for which no key was granted is refused without a question to DPS, and goes on when
// there is one, after a reload and after a restart alike.
func TestWithoutAKey(t *testing.T) {
	for _, way := range []string{"reload", "restart"} {
		t.Run(way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked atomic.Int32
				count := func(ctx context.Context, r provisioning.Request) (provisioning.Assignment, error) {
					asked.Add(1)
					return assign(ctx, r)
				}
				directory := t.TempDir()
				r := newRig(t, directory, count, agreeable)
				granted := r.world.keys
				ring := &keyring{log: slog.New(slog.DiscardHandler), source: provisioning.DerivedKeys{}}
				r.world.keys = ring
				r.plugIn(t)
				got := r.wantState(t, StateRefused)
				if got.Error == nil || got.Error.Kind != "no-key" || !strings.Contains(got.Error.Next, "gatewayctl keys request") {
					t.Errorf("got %+v, want no-key", got.Error)
				}
				time.Sleep(24 * time.Hour)
				if n := asked.Load(); n != 0 {
					t.Errorf("DPS was asked %d times", n)
				}
				if way == "restart" {
					r.stop()
					r = newRig(t, directory, count, agreeable)
					r.plugIn(t)
				} else {
					ring.mu.Lock()
					ring.source = granted
					ring.mu.Unlock()
					r.supervisor.wakeAll()
				}
				defer r.stop()
				if got := r.wantState(t, StateConfigured); got.Error != nil || asked.Load() != 1 {
					t.Errorf("got %+v after %d questions", got.Error, asked.Load())
				}
			})
		})
	}
}

// TestAssignedWithoutAKey: keys that were taken away close the hub to an appliance, and cost it nothing else.
func TestAssignedWithoutAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		directory := t.TempDir()
		r := newRig(t, directory, assign, agreeable)
		r.plugIn(t)
		r.wantState(t, StateConfigured)
		r.stop()
		r = newRig(t, directory, assign, agreeable)
		defer r.stop()
		granted := r.world.keys
		r.world.keys = provisioning.DerivedKeys{}
		r.plugIn(t)
		got := r.wantState(t, StateAssigned)
		if got.Error == nil || got.Error.Kind != "no-key" || r.connects.Load() != 0 {
			t.Errorf("got %+v and %d connections", got.Error, r.connects.Load())
		}
		r.world.keys = granted
		r.supervisor.wakeAll()
		if got := r.wantState(t, StateConfigured); got.Error != nil {
			t.Errorf("got %+v", got.Error)
		}
	})
}

// TestEndToEndDerivedKeys runs a gateway that never had the group's key: a request, a grant sealed to it, and two
// appliances, of which the second is granted later and taken in by a reload.
func TestEndToEndDerivedKeys(t *testing.T) {
	dps := dpslocaltest.Start(t)
	groupKey, _, err := dps.GroupKeys(dpslocaltest.GroupID)
	if err != nil {
		t.Fatal(err)
	}
	group, err := provisioning.ParseGroupKey(groupKey)
	if err != nil {
		t.Fatal(err)
	}
	const first, second = "breakroom499-contoso-tstrsd-007", "lobby1-contoso-tstrsd-007"
	var ports []string
	for _, id := range []string{first, second} {
		line, err := serialbustest.NewToasterLine(serialbustest.Toaster{RegistrationID: id, Vendor: "Contoso", Model: "TSTRSD-007", Firmware: "12.0.2.5"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { line.Close() })
		ports = append(ports, line.Path())
	}

	site := t.TempDir()
	identity, err := sealedkeys.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, text []byte) string {
		t.Helper()
		path := filepath.Join(site, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	grant := func(ids ...string) string { // at headquarters, and the answer put in place
		t.Helper()
		request, err := sealedkeys.NewRequest("mainbuilding", identity.Recipient(), ids, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		keys, err := sealedkeys.Derive(request, provisioning.GroupKeys{group}, dpslocaltest.IDScope, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := keys.Seal(request.Recipient)
		if err != nil {
			t.Fatal(err)
		}
		return write("derived-keys", sealed)
	}
	cfg, err := config.Parse("test.toml", fmt.Appendf(nil, `
site = "mainbuilding"
state_dir = %q
[dps]
endpoint = %q
id_scope = %q
transport = "https"
derived_keys = %q
derived_keys_identity = %q
ca_file = %q
registers_per_minute = 6000
[hub]
resolve = { %q = %q }
[[bus]]
name = "kitchen"
port = %q
driver = "line"
profile = "contoso-tstrsd-007"
[[bus]]
name = "lobby"
port = %q
driver = "line"
profile = "contoso-tstrsd-007"
`, site, dps.HTTPSAddr(), dpslocaltest.IDScope, grant(first), write("gateway-identity", []byte(identity.Reveal())),
		dps.CAFile(), dpslocaltest.Hub, dps.MQTTAddr(), ports[0], ports[1]))
	if err != nil {
		t.Fatal(err)
	}
	e := &endToEnd{log: &lockedBuffer{}}
	reload := make(chan struct{})
	if e.gateway, err = New(t.Context(), cfg, Options{Logger: slog.New(slog.NewTextHandler(e.log, nil)), Reload: reload}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(e.log.String())
		}
	})
	runUntilCleanup(t, e.gateway.Run)

	e.until(t, first, "the hub's session", func(s Status) bool { return s.HubConnected })
	e.until(t, second, "no key", func(s Status) bool {
		return s.State == StateRefused && s.Error != nil && s.Error.Kind == "no-key"
	})
	grant(first, second)
	reload <- struct{}{}
	e.until(t, second, "the hub's session", func(s Status) bool { return s.HubConnected })

	// What a thief finds on the disk beside the identity's own file, and in the log.
	secrets := [][]byte{[]byte(groupKey), []byte(group.Derive(first).Reveal()), []byte(group.Derive(second).Reveal())}
	for _, secret := range secrets {
		raw, err := base64.StdEncoding.DecodeString(string(secret))
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, raw)
	}
	seen := map[string][]byte{"log": []byte(e.log.String())}
	err = filepath.WalkDir(site, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		seen[path], err = os.ReadFile(path)
		return err
	})
	if err != nil || len(seen) < 4 {
		t.Fatalf("%d files, %v", len(seen), err)
	}
	for where, text := range seen {
		for _, secret := range secrets {
			if bytes.Contains(text, secret) {
				t.Errorf("%s holds a key", where)
			}
		}
	}
}
