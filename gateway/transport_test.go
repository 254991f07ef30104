// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/dpslocal/dpslocaltest"
)

// TestTransportIsRememberedAcrossRestarts has a site that lets port 8883 out and not 443.
func TestTransportIsRememberedAcrossRestarts(t *testing.T) {
	dps := dpslocaltest.Start(t)
	key, err := provisioning.ParseDeviceKey(dps.DeviceKey("toaster-1"))
	if err != nil {
		t.Fatal(err)
	}
	open := true
	var dialled []string
	cfg := provisioning.Config{
		Endpoint: dps.TLSConfig().ServerName, IDScope: dps.IDScope(), Transport: provisioning.TransportAuto,
		RootCAs: dps.TLSConfig().RootCAs, Proxy: provisioning.NoProxy,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			_, port, _ := net.SplitHostPort(address)
			dialled = append(dialled, port)
			if port == "8883" && open {
				return dps.DialMQTT(ctx)
			}
			return nil, syscall.ECONNREFUSED
		},
	}
	directory := t.TempDir()
	var log bytes.Buffer
	run := func() (first string, err error) {
		s := openTestStore(t, directory)
		defer s.close()
		client, err := newClimber(t.Context(), cfg, s, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		dialled = nil
		_, err = client.Register(t.Context(), provisioning.Request{RegistrationID: "toaster-1", Keys: []provisioning.DeviceKey{key}})
		return dialled[0], err
	}
	for _, step := range []struct {
		name, first string
		open        bool
	}{
		{"at first the top is tried", "443", true},
		{"after a restart what worked is", "8883", true},
		{"a bad day", "8883", false},
		{"does not make it forget", "8883", true},
	} {
		open = step.open
		first, err := run()
		if first != step.first || (err == nil) != step.open {
			t.Errorf("%s: port %s, %v; want port %s", step.name, first, err, step.first)
		}
	}
	if strings.Contains(log.String(), "could not be kept") {
		t.Errorf("the log complains:\n%s", log.String())
	}
}
