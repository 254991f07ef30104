// SPDX-License-Identifier: Apache-2.0

package serialbus_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/serialbus"
	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// The tests in this file run our master and our simulator against Modbus programs that nobody here wrote. They need
// Debian's socat, mbpoll, python3-pymodbus, python3-serial and python3-serial-asyncio; see peers_master_test.go for more.

// debianPython is the interpreter that Debian's packages belong to; another one in PATH would not find them.
const debianPython = "/usr/bin/python3"

// needPeers skips the test unless PEERS=1, and fails it if a program is missing then.
func needPeers(t *testing.T, programs ...string) {
	t.Helper()
	if os.Getenv("PEERS") != "1" {
		t.Skip("needs socat, mbpoll and python3-pymodbus: set PEERS=1 to run it")
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("PEERS=1, but %v", err)
		}
	}
}

// background starts a program and ends it with the test.
func background(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, &output)
		}
	})
}

// output runs a program to its end.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	text, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, text)
	}
	return string(text)
}

// portPair makes two ttys with a cable between them.
func portPair(t *testing.T) (ours, theirs string) {
	t.Helper()
	dir := t.TempDir()
	ours, theirs = filepath.Join(dir, "ttyA"), filepath.Join(dir, "ttyB")
	background(t, "socat", "pty,raw,echo=0,link="+ours, "pty,raw,echo=0,link="+theirs)
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		_, errA := os.Stat(ours)
		_, errB := os.Stat(theirs)
		if errA == nil && errB == nil {
			return ours, theirs
		}
		if time.Now().After(end) {
			t.Fatal("socat made no ports")
		}
	}
}

func TestPeerPymodbusServer(t *testing.T) {
	needPeers(t, "socat", debianPython)
	ours, theirs := portPair(t)
	background(t, debianPython, filepath.Join("testdata", "peers", "pymodbus_server.py"), theirs, "19200")
	cfg := pumpConfig(ours, 1, 2, 17)
	cfg.Rescan = time.Second
	bus := runBus(t, cfg)
	want := serialbus.Identity{
		Vendor: "Contoso", Model: "HPSD-088", Firmware: "12.0.2.5", RegistrationID: "mainbuilding167-contoso-hpsd-088",
		Source: serialbus.SourceDeviceIdentification,
	}
	for _, unit := range []int{1, 17} {
		if diff := cmp.Diff(want, bus.next(t, serialbus.Found, unit).Identity); diff != "" {
			t.Errorf("unit %d: %s", unit, diff)
		}
	}
	settings := serialbus.Settings{Desired: desired("state", `"on"`, "temperatureSetting", `"65"`)}
	for _, wrote := range []bool{true, false} {
		got, err := bus.Apply(t.Context(), 17, settings)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(serialbus.Applied{Reported: settings.Desired, Wrote: wrote}, got); diff != "" {
			t.Error(diff)
		}
	}
	if _, err := bus.Apply(t.Context(), 2, settings); !errors.Is(err, serialbus.ErrNotFound) {
		t.Errorf("unit 2 is not there, got %v", err)
	}
}

func TestPeerPymodbusClient(t *testing.T) {
	needPeers(t, debianPython)
	// This client takes 10 ms without a byte for the end of a reply, which a busy machine cannot promise.
	l := newPumps(t, []serialbustest.HeatPump{mainbuilding}, serialbustest.WithoutPacing())
	text := output(t, debianPython, filepath.Join("testdata", "peers", "pymodbus_client.py"), l.Path(), "19200", "1")
	var got map[string]any
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	want := map[string]any{
		"basic":         map[string]any{"0": "Contoso", "1": "HPSD-088", "2": "12.0.2.5"},
		"extended":      map[string]any{"128": "mainbuilding167-contoso-hpsd-088", "129": "167", "130": "1.0.0.0"},
		"one":           map[string]any{"128": "mainbuilding167-contoso-hpsd-088"},
		"registers":     []any{0.0, 600.0},
		"write refused": true,
		"written":       true,
		"server":        "Contoso-HPSD-088-12.0.2.5",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"state": "on", "temperatureSetting": "65"}, l.Settings(1)); diff != "" {
		t.Error(diff)
	}
}

func TestPeerMbpoll(t *testing.T) {
	needPeers(t, "mbpoll")
	l := newPumps(t, []serialbustest.HeatPump{mainbuilding})
	mbpoll := func(more ...string) string {
		return output(t, "mbpoll", append([]string{"-m", "rtu", "-a", "1", "-b", "19200", "-P", "even", "-1", "-o", "3"}, more...)...)
	}
	registers := []string{"-t", "4", "-0", "-r", "100"}
	read := append(registers, "-c", "2", l.Path())
	if text := mbpoll(read...); !strings.Contains(text, "[100]: \t0") || !strings.Contains(text, "[101]: \t600") {
		t.Errorf("it read\n%s", text)
	}
	if text := mbpoll(append(registers, l.Path(), "1", "650")...); !strings.Contains(text, "Written 2 references") {
		t.Errorf("it wrote\n%s", text)
	}
	if diff := cmp.Diff(map[string]string{"state": "on", "temperatureSetting": "65"}, l.Settings(1)); diff != "" {
		t.Error(diff)
	}
	if text := mbpoll("-u", l.Path()); !strings.Contains(text, "HPSD-088-12.0.2.5") {
		t.Errorf("the server ID is\n%s", text)
	}
}
