// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/contoso/gatewayd/provisioning/dpslocal"
)

// kills is how often the daemon is killed: $KILLS, which `make test-crash`
// raises, or enough to see each state once in a while.
func kills(t *testing.T) int {
	text := os.Getenv("KILLS")
	if text == "" {
		return 8
	}
	count, err := strconv.Atoi(text)
	if err != nil || count < 1 {
		t.Fatalf("KILLS=%q is not a number of kills", text)
	}
	return count
}

// TestCrash kills the daemon with SIGKILL after each of the lines that it logs
// between an appliance's first word and its proven settings, so in each state
// and on both sides of each write to disk, and starts it again: every appliance
// ends configured, and DPS never sees a second operation begin while one runs.
// Rounds change between the transports and between a strict service, which
// answers 409203 to a second register, and a lenient one.
func TestCrash(t *testing.T) {
	total := kills(t)
	kinds := []struct {
		name, transport string
		strict          bool
	}{
		{"https strict", "https", true}, {"mqtt strict", "mqtt", true},
		{"https lenient", "https", false}, {"mqtt lenient", "mqtt", false},
	}
	for k, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			webhook, err := freeAddress()
			if err != nil {
				t.Fatal(err)
			}
			service, stop, err := startDPS(t.TempDir(), webhook, kind.strict)
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			lines := 60 // of the first round; then as many as the last whole run had
			for n := k; n < total; n += len(kinds) {
				after := 1 + rand.IntN(lines)
				lines = max(20, crashRound(t, service, webhook, kind.transport, n, after))
			}
		})
	}
}

// crashRound kills one daemon after so many lines of its log and lets the next
// finish. It returns how many lines a whole run has.
func crashRound(t *testing.T, service *dpslocal.Server, webhook, transport string, round, after int) int {
	t.Helper()
	toasterID := fmt.Sprintf("room%d-contoso-tstrsd-007", round)
	heatPumpID := fmt.Sprintf("building%d-contoso-hpsd-088", round)
	toaster, err := newToaster(toasterID)
	if err != nil {
		t.Fatal(err)
	}
	defer toaster.Close()
	heatPump, err := newHeatPump(heatPumpID)
	if err != nil {
		t.Fatal(err)
	}
	defer heatPump.Close()
	dir := t.TempDir()
	config, err := setup{
		dir: dir, service: service, webhook: webhook, transport: transport,
		buses: lineBus("kitchen", toaster.Path()) + modbusBus("boiler room", heatPump.Path(), "1"),
	}.write()
	if err != nil {
		t.Fatal(err)
	}

	first, err := startDaemon(config)
	if err != nil {
		t.Fatal(err)
	}
	first.waitUntil(30*time.Second, func() bool { return first.count() >= after })
	first.kill()
	second, err := startDaemon(config)
	if err != nil {
		t.Fatal(err)
	}
	defer second.kill()
	done := func() bool {
		log := second.log()
		for _, id := range []string{toasterID, heatPumpID} {
			if !strings.Contains(log, `msg="appliance configured" registration_id=`+id) {
				return false
			}
		}
		return true
	}
	if !second.waitUntil(90*time.Second, done) {
		t.Fatalf("round %d, killed after line %d: not all configured.\nBefore the kill:\n%s\n\nAfter it:\n%s", round, after, first.log(), second.log())
	}
	for hub, device := range map[string]string{toasterHub: toasterID, heatPumpHub: heatPumpID} {
		twin, ok := service.Twin(hub, device)
		if !ok || string(twin.Reported["state"]) != string(twin.Desired["state"]) {
			t.Errorf("round %d: the twin of %s reports %s, wanted %s", round, device, twin.Reported["state"], twin.Desired["state"])
		}
		onlyOneAtATime(t, service, device)
	}
	if got := toaster.Settings(0)["darknessSetting"]; got != "medium" {
		t.Errorf("round %d: the toaster is set to %q, want medium", round, got)
	}
	if t.Failed() {
		t.Logf("killed after line %d; state in %s", after, filepath.Join(dir, "state"))
	}
	return second.count()
}

// onlyOneAtATime checks that no operation of a registration began while
// another ran.
func onlyOneAtATime(t *testing.T, service *dpslocal.Server, registrationID string) {
	t.Helper()
	operations := service.Operations(registrationID)
	if len(operations) == 0 {
		t.Errorf("%s: no operation at all", registrationID)
	}
	for i := 1; i < len(operations); i++ {
		before := operations[i-1]
		if before.Ended.IsZero() || operations[i].Begun.Before(before.Ended) {
			t.Errorf("%s: operation %s began at %s while %s ran until %s", registrationID,
				operations[i].ID, operations[i].Begun, before.ID, before.Ended)
		}
	}
}
