// SPDX-License-Identifier: Apache-2.0

package serialbus_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// The tests in this file let clients that nobody here wrote ask our simulator: the npm package modbus-serial, mbpoll,
// pyvisa, socat and gzip. Beside TestPeerMbpoll and TestPeerPymodbusClient they prove that the master is not tested
// against its own mistakes (serial 4.4, 6).

// startBuiltin makes the one line of a built-in script.
func startBuiltin(t *testing.T, name string) *serialbustest.Line {
	t.Helper()
	text, err := serialbustest.BuiltinScript(name)
	if err != nil {
		t.Fatal(err)
	}
	script, err := serialbustest.ParseScript(text)
	if err != nil {
		t.Fatal(err)
	}
	all, err := script.Start(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = all[0].Close() })
	return all[0]
}

// answersOf decodes the JSON that a client printed.
func answersOf(t *testing.T, text string) map[string]any {
	t.Helper()
	var got map[string]any
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return got
}

// TestPeerModbusSerialClient: the client follows our continuation, with bytes at the speed of the wire.
func TestPeerModbusSerialClient(t *testing.T) {
	needPeers(t, "node", "npm")
	modules := nodeModules(t)
	pump := serialbustest.Unit{
		Address: 1,
		Objects: map[byte]string{
			0: "Contoso", 1: "HPSD-088", 2: "12.0.2.5", 0x80: "mainbuilding167-contoso-hpsd-088",
			0x81: strings.Repeat("x", 120), 0x82: strings.Repeat("y", 120), 0x83: "z",
		},
		Settings: []serialbustest.Setting{
			{Name: "state", Register: 100, Max: 1},
			{Name: "temperatureSetting", Register: 101, Min: 400, Max: 900, Scale: 10},
		},
	}
	l, err := serialbustest.NewUnitsLine([]serialbustest.Unit{pump}, serialbustest.WithBits(10))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	t.Setenv("NODE_PATH", modules)
	got := answersOf(t, output(t, "node", filepath.Join("testdata", "peers", "njs_client.cjs"), l.Path(), "19200", "1"))
	want := map[string]any{
		"registers": []any{0.0, 400.0},
		"written":   []any{1.0, 650.0},
		"refused":   3.0,
		"missing":   2.0,
		"basic":     []any{"Contoso", "HPSD-088", "12.0.2.5"},
		"extended":  []any{32.0, 120.0, 120.0, 1.0},
		"one":       []any{"mainbuilding167-contoso-hpsd-088"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"state": "1", "temperatureSetting": "65"}, l.Settings(1)); diff != "" || l.RegisterWrites(1, 101) != 1 {
		t.Errorf("%d writes of register 101, %s", l.RegisterWrites(1, 101), diff)
	}
}

// TestPeerMbpollScan: a scan by addresses finds exactly the units of the built-in script.
func TestPeerMbpollScan(t *testing.T) {
	needPeers(t, "mbpoll")
	l := startBuiltin(t, "contoso-hpsd-088")
	cmd := exec.CommandContext(t.Context(), "mbpoll", "-m", "rtu", "-a", "1:8", "-b", "19200", "-P", "none", "-t", "4", "-0", "-r", "101", "-c", "1", "-1", "-o", "1", l.Path())
	text, _ := cmd.CombinedOutput() // its status tells of the silent addresses
	if got := strings.Count(string(text), "[101]:"); got != 4 {
		t.Errorf("it found %d units, want 4 (1, 2, 3 and 7):\n%s", got, text)
	}
	if !strings.Contains(string(text), "600") {
		t.Errorf("no unit holds 600:\n%s", text)
	}
}

func TestPeerPyvisa(t *testing.T) {
	needPeers(t, debianPython)
	l := startBuiltin(t, "scpi")
	got := answersOf(t, output(t, debianPython, filepath.Join("testdata", "peers", "pyvisa_client.py"), l.Path(), "9600"))
	want := map[string]any{"idn": "Contoso,TSTRSD-007,499,12.0.2.5", "before": "light", "after": "medium"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"darknessSetting": "medium"}, l.Settings(0)); diff != "" || l.Writes(0) != 1 {
		t.Errorf("%d writes, %s", l.Writes(0), diff)
	}
}

// sayTo sends lines to a port with socat, and returns what came back.
func sayTo(t *testing.T, path, lines string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "socat", "-t", "2", "-", path+",b9600,raw,echo=0")
	cmd.Stdin = strings.NewReader(lines)
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("socat: %v\n%s", err, said)
	}
	return string(said)
}

// TestPeerSocat: a person at a terminal gets the answers of a modem and of a vending machine.
func TestPeerSocat(t *testing.T) {
	needPeers(t, "socat")
	if got := sayTo(t, startBuiltin(t, "at").Path(), "ATE0\rAT+GMM\rAT+DARK=dark\rAT+DARK?\rAT+FLY\r"); got !=
		"ATE0\r\r\nOK\r\n\r\nTSTRSD-007\r\n\r\nOK\r\n\r\nOK\r\n\r\ndark\r\n\r\nOK\r\n\r\nERROR\r\n" {
		t.Errorf("the modem said %q", got)
	}
	// It never stops talking, so that socat has to be told when it has heard enough.
	if got := output(t, "socat", "-u", startBuiltin(t, "eva-dts").Path()+",b9600,raw,echo=0,readbytes=25", "-"); got != "ID1*12345*LAV OCS*v1.00\r\n" {
		t.Errorf("the vending machine said %q", got)
	}
}

// TestPeerGzip: gzip computes the checksum of our request and that of the toaster's answer (serial 6).
func TestPeerGzip(t *testing.T) {
	needPeers(t, "gzip", "socat")
	trailer := func(message string) string {
		cmd := exec.CommandContext(t.Context(), "gzip", "-c")
		cmd.Stdin = strings.NewReader(message)
		packed, err := cmd.Output()
		if err != nil || len(packed) < 8 {
			t.Fatalf("gzip: %v", err)
		}
		return fmt.Sprintf("*%08X", binary.LittleEndian.Uint32(packed[len(packed)-8:]))
	}
	const request = `{"jsonrpc":"2.0","id":1,"method":"identify"}`
	said := sayTo(t, startBuiltin(t, "contoso-tstrsd-007").Path(), "\n"+request+trailer(request)+"\n")
	message, sum, found := strings.Cut(strings.TrimSuffix(said, "\n"), "*")
	if !found || trailer(message) != "*"+sum {
		t.Errorf("gzip says %s to %q", trailer(message), said)
	}
	if result, _ := answersOf(t, message)["result"].(map[string]any); result["registrationId"] != "breakroom499-contoso-tstrsd-007" {
		t.Errorf("the toaster said %s", message)
	}
}
