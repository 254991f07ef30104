// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/contoso/gatewayd/gateway/config"
	"github.com/contoso/gatewayd/serialbus"
)

// TestName holds whose word counts for a registration ID, and what a person reads when there is none.
func TestName(t *testing.T) {
	template, err := config.ParseID("{{.Site}}{{.Unit}}-contoso-hpsd-088")
	if err != nil {
		t.Fatal(err)
	}
	itself := serialbus.Identity{Vendor: "Contoso", Model: "HPSD-088", RegistrationID: "attic7-contoso-hpsd-088", Source: serialbus.SourceDeviceIdentification}
	nameless := serialbus.Identity{Vendor: "Contoso", Model: "HPSD-088", Source: serialbus.SourceDeviceIdentification}
	pin := config.Pin{Unit: 3, RegistrationID: "roof3-contoso-hpsd-088", Vendor: "contoso", Product: "hpsd-088"}
	for _, tc := range []struct {
		name     string
		bus      config.Bus
		identity serialbus.Identity
		want     string // ID and whose word it is, or a part of the error
	}{
		{"itself", config.Bus{}, itself, "attic7-contoso-hpsd-088 appliance"},
		{"itself before the template", config.Bus{RegistrationID: template}, itself, "attic7-contoso-hpsd-088 appliance"},
		{"template", config.Bus{RegistrationID: template}, nameless, "site3-contoso-hpsd-088 template"},
		{"pin before all", config.Bus{RegistrationID: template, Pins: []config.Pin{pin}}, itself, "roof3-contoso-hpsd-088 pin"},
		{"pin of another unit", config.Bus{Pins: []config.Pin{{Unit: 4, RegistrationID: "x"}}}, itself, "attic7-contoso-hpsd-088 appliance"},
		{"pin for an appliance that tells nothing", config.Bus{Pins: []config.Pin{{Unit: 3, RegistrationID: "roof3"}}}, serialbus.Identity{}, "roof3 pin"},
		{
			"pin and another product",
			config.Bus{Pins: []config.Pin{pin}},
			serialbus.Identity{Vendor: "NIBE", Model: "F1245"},
			`the place is pinned to "roof3-contoso-hpsd-088" for vendor "contoso", product "hpsd-088", and vendor "NIBE", product "F1245" answers there: put the right`,
		},
		{"pin and an appliance that tells nothing", config.Bus{Pins: []config.Pin{pin}}, serialbus.Identity{}, `and vendor "", product "" answers there`},
		{"pin off the allow list", config.Bus{Pins: []config.Pin{pin}, Allow: []string{"attic*"}}, nameless, `"roof3-contoso-hpsd-088" is not on the allow list of bus "boiler room": add it`},
		{"nothing", config.Bus{}, nameless, "it tells no registration ID of its own: give the bus a registration_id template, or pin this unit"},
		{"off the allow list", config.Bus{Allow: []string{"roof*"}}, itself, `"attic7-contoso-hpsd-088" is not on the allow list`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.bus.Line.Name = "boiler room"
			id, by, err := (&supervisor{site: "site"}).name(spot{&line{Bus: tc.bus}, 3}, tc.identity)
			got := id + " " + by
			if err != nil {
				got = err.Error()
			}
			if err != nil && !strings.Contains(got, tc.want) || err == nil && got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// TestSwapIsTold: a person reads in one line who was there and who is there now.
func TestSwapIsTold(t *testing.T) {
	old := serialbus.Identity{Vendor: "Contoso", Model: "HPSD-088", Serial: "167", Firmware: "1.0", Source: serialbus.SourceSunSpec}
	other, updated := old, old
	other.Serial, updated.Firmware = "168", "2.0"
	for _, tc := range []struct {
		name    string
		was, is serialbus.Identity
		want    string
	}{
		{"swapped", old, other, `level=WARN msg="another appliance answers here than before" was_vendor=Contoso was_model=HPSD-088 was_serial=167 was_registration_id="" vendor=Contoso model=HPSD-088 serial=168`},
		{"updated", old, updated, `level=INFO msg="the appliance has other firmware than before" was=1.0 firmware=2.0`},
		{"the first one", serialbus.Identity{}, old, ""},
	} {
		var log bytes.Buffer
		tellChange(slog.New(slog.NewTextHandler(&log, nil)), serialbus.Event{Kind: serialbus.Found, Was: tc.was, Identity: tc.is})
		if got := log.String(); !strings.Contains(got, tc.want) || tc.want == "" && got != "" {
			t.Errorf("%s: got %s, want %s", tc.name, got, tc.want)
		}
	}
}

// TestConflictOnOneLine: one identity at two units of one port is a conflict as well.
func TestConflictOnOneLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, t.TempDir(), assign, agreeable)
		defer r.stop()
		r.plugIn(t)
		r.wantState(t, StateConfigured)
		r.supervisor.heard(t.Context(), r.line, serialbus.Event{Kind: serialbus.Found, Unit: 7, Identity: toaster})
		got := r.wantState(t, StateConflict)
		if want := "kitchen unit 0 (/dev/ttyUSB0), kitchen unit 7 (/dev/ttyUSB0)"; got.Error == nil || !strings.Contains(got.Error.Verdict, want) {
			t.Errorf("got %+v, want both units: %s", got.Error, want)
		}
		r.supervisor.heard(t.Context(), r.line, serialbus.Event{Kind: serialbus.Lost, Unit: 7, Err: serialbus.ErrSilent})
		r.wantState(t, StateConfigured)
	})
}
