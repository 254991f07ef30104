// SPDX-License-Identifier: Apache-2.0

package serialbus_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/serialbus"
)

// The tests in this file run our master against Modbus servers that nobody here wrote: libmodbus, compiled here from
// C (Debian's gcc, pkg-config and libmodbus-dev), the npm package modbus-serial, and pymodbus. Each has quirks that a
// master has to live with (serial 4.4).

// libmodbus starts a server for one unit and returns our end of the cable.
func libmodbus(t *testing.T, unit string) string {
	t.Helper()
	needPeers(t, "socat", "cc", "pkg-config")
	program := filepath.Join(t.TempDir(), "lmserver")
	flags := strings.Fields(output(t, "pkg-config", "--cflags", "--libs", "libmodbus"))
	output(t, "cc", append([]string{filepath.Join("testdata", "peers", "lmserver.c"), "-o", program}, flags...)...)
	ours, theirs := portPair(t)
	background(t, program, theirs, "19200", unit)
	return ours
}

// modbusSerial starts a server for the units 1 and 17 and returns our end of the cable.
func modbusSerial(t *testing.T) string {
	t.Helper()
	needPeers(t, "socat", "node", "npm")
	modules := nodeModules(t)
	ours, theirs := portPair(t)
	device, err := filepath.EvalSymlinks(theirs) // the package refuses a link
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NODE_PATH", modules)
	background(t, "node", filepath.Join("testdata", "peers", "njs_server.cjs"), device, "19200")
	return ours
}

// nodeModules installs the packages of package.json once for this user.
func nodeModules(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "gatewayd-peers", "serialbus")
	if text, err := exec.CommandContext(t.Context(), filepath.Join("testdata", "peers", "install.sh"), dir).CombinedOutput(); err != nil {
		t.Fatalf("installing the packages: %v\n%s", err, text)
	}
	return filepath.Join(dir, "node_modules")
}

// openMaster opens our master on a port whose server answers for unit, once it does.
func openMaster(t *testing.T, path string, unit byte) *serialbus.Master {
	t.Helper()
	m, err := serialbus.OpenMaster(path, 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	for end := time.Now().Add(limit); m.Glance(t.Context(), unit) != nil; {
		if time.Now().After(end) {
			t.Fatal("the server does not come up")
		}
	}
	m.Requests()
	return m
}

// waitFor lets a server come up before the port is handed to somebody else.
func waitFor(t *testing.T, path string, unit byte) {
	t.Helper()
	m := openMaster(t, path, unit)
	m.Close()
}

func scanUnits(t *testing.T, path string, units []byte, opts serialbus.ScanOptions) []serialbus.Finding {
	t.Helper()
	cfg := pumpConfig(path, units...)
	cfg.ReplyTimeout = 50 * time.Millisecond
	found, err := serialbus.Scan(t.Context(), cfg, opts, nil)
	if err != nil {
		t.Fatal(err)
	}
	return found.Findings
}

// TestPeerLibmodbusIsFoundBySlowLooks: it is deaf for half a second after a request to somebody else that nobody
// answered, so a fast look never finds it.
func TestPeerLibmodbusIsFoundBySlowLooks(t *testing.T) {
	path := libmodbus(t, "5")
	waitFor(t, path, 5)
	units := []byte{1, 2, 3, 4, 5, 6}
	fast := scanUnits(t, path, units, serialbus.ScanOptions{Fast: true})
	if fast[4].Heard != serialbus.HeardSilence {
		t.Errorf("a fast look finds it: %+v", fast[4])
	}
	whole := scanUnits(t, path, units, serialbus.ScanOptions{Resume: fast})
	want := serialbus.Finding{
		Unit: 5, Heard: serialbus.HeardIdentity, Slow: true,
		Identity: serialbus.Identity{Model: "LMB3.1.6", Source: serialbus.SourceServerID},
		Functions: []serialbus.FunctionReply{
			{Function: 0x03, Answer: "data"}, {Function: 0x11, Answer: "data"}, {Function: 0x2B, Answer: "silence"},
		},
		Delay: whole[4].Delay,
	}
	if diff := cmp.Diff(want, whole[4]); diff != "" {
		t.Error(diff)
	}
	for i, f := range whole {
		if i != 4 && f.Heard != serialbus.HeardSilence {
			t.Errorf("unit %d: %+v", f.Unit, f)
		}
	}
}

// TestPeerLibmodbusIsDeaf: the quirk itself, so that we learn if it is ever mended.
func TestPeerLibmodbusIsDeaf(t *testing.T) {
	path := libmodbus(t, "5")
	m := openMaster(t, path, 5)
	for _, tc := range []struct {
		name  string
		pause time.Duration
		want  bool
	}{
		{"at once", 0, false},
		{"after 0.2 s", 200 * time.Millisecond, false},
		{"after 1 s", time.Second, true},
	} {
		if reply, err := m.Raw(serialbus.ReadRequest(4), 20*time.Millisecond); err != nil || len(reply) != 0 {
			t.Fatalf("unit 4 answers % X, %v", reply, err)
		}
		time.Sleep(tc.pause)
		reply, err := m.Raw(serialbus.ReadRequest(5), 250*time.Millisecond)
		if err != nil || (len(reply) != 0) != tc.want {
			t.Errorf("%s: got % X, %v", tc.name, reply, err)
		}
		time.Sleep(time.Second)
	}
}

// TestPeerLibmodbusTakesSettings: a known unit is not lost among silent ones, and can be set.
func TestPeerLibmodbusTakesSettings(t *testing.T) {
	path := libmodbus(t, "5")
	waitFor(t, path, 5)
	cfg := pumpConfig(path, 4, 5, 6)
	cfg.Known, cfg.ReplyTimeout = []byte{5}, 100*time.Millisecond
	cfg.Recheck, cfg.Rescan = 50*time.Millisecond, 50*time.Millisecond
	bus := runBus(t, cfg)
	bus.next(t, serialbus.Found, 5)
	want := desired("state", `"on"`, "temperatureSetting", `65`)
	mustApply(t, bus, 5, want)
	for range 3 { // each with looks at its silent neighbours between
		time.Sleep(300 * time.Millisecond)
		got, err := bus.Apply(t.Context(), 5, serialbus.Settings{Desired: want})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.Reported); diff != "" {
			t.Error(diff)
		}
	}
}

// TestPeerModbusSerial: it ignores the range of objects that it is asked for, and what it has does not fit into one
// reply: it always has more, for ever.
func TestPeerModbusSerial(t *testing.T) {
	m := openMaster(t, modbusSerial(t), 17)
	for _, tc := range []struct {
		name              string
		code, first, last byte
		want              []byte // objects
		most              int    // requests
	}{
		{"basic", 1, 0x00, 0x02, []byte{0, 1, 2}, 1},
		{"regular", 2, 0x00, 0x06, []byte{0, 1, 2}, 1},
		{"extended, in two parts", 3, 0x80, 0xFF, []byte{0x80, 0x81, 0x82}, 2},
		{"one", 4, 0x80, 0x80, []byte{0x80}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m.Requests()
			got, err := m.Objects(t.Context(), 17, tc.code, tc.first, tc.last)
			if err != nil {
				t.Fatal(err)
			}
			for _, object := range tc.want {
				if got[object] == "" {
					t.Errorf("object %#x is missing", object)
				}
			}
			if len(got) != len(tc.want) {
				t.Errorf("%d objects, want %d", len(got), len(tc.want))
			}
			if n := m.Requests(); n > tc.most {
				t.Errorf("%d requests, want %d", n, tc.most)
			}
		})
	}
}

// TestPeerModbusSerialDropsShortRequests: those under six bytes, which a 0x11 is. The master takes it for silence.
func TestPeerModbusSerialDropsShortRequests(t *testing.T) {
	m := openMaster(t, modbusSerial(t), 17)
	if err := m.ServerID(t.Context(), 17); !errors.Is(err, serialbus.ErrSilent) {
		t.Errorf("got %v", err)
	}
}

// TestPeerModbusSerialTakesSettings by function 0x10.
func TestPeerModbusSerialTakesSettings(t *testing.T) {
	path := modbusSerial(t)
	waitFor(t, path, 17)
	bus := runBus(t, pumpConfig(path, 17))
	bus.next(t, serialbus.Found, 17)
	mustApply(t, bus, 17, desired("state", `"on"`, "temperatureSetting", `"65"`))
}

func TestPeerModbusSerialIsScanned(t *testing.T) {
	path := modbusSerial(t)
	waitFor(t, path, 1)
	cfg := pumpConfig(path, 1, 2, 17)
	found, err := serialbus.Scan(t.Context(), cfg, serialbus.ScanOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []serialbus.Heard{serialbus.HeardIdentity, serialbus.HeardSilence, serialbus.HeardIdentity} {
		if found.Findings[i].Heard != want {
			t.Errorf("unit %d: %+v", found.Findings[i].Unit, found.Findings[i])
		}
	}
	if id := found.Findings[2].Identity; id.RegistrationID != "mainbuilding17-contoso-hpsd-088" || id.Firmware != "12.0.2.5" {
		t.Errorf("got %+v", id)
	}
}

// TestPeersAndChecksums: who of them looks at our checksum. The one that does not is no proof that ours is right.
func TestPeersAndChecksums(t *testing.T) {
	for _, tc := range []struct {
		name   string
		path   func(*testing.T) string
		unit   byte
		checks bool
	}{
		{"libmodbus", func(t *testing.T) string { return libmodbus(t, "5") }, 5, true},
		{"pymodbus", pymodbus, 17, true},
		{"modbus-serial", modbusSerial, 17, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := openMaster(t, tc.path(t), tc.unit)
			good := serialbus.ReadRequest(tc.unit)
			bad := bytes.Clone(good)
			bad[len(bad)-1] ^= 0x40
			for _, frame := range [][]byte{good, bad, good} {
				if bytes.Equal(frame, good) {
					time.Sleep(time.Second) // let it forget what it could not read
				}
				reply, err := m.Raw(frame, 300*time.Millisecond)
				if err != nil {
					t.Fatal(err)
				}
				if want := bytes.Equal(frame, good) || !tc.checks; (len(reply) != 0) != want {
					t.Errorf("to % X it answers % X", frame, reply)
				}
			}
		})
	}
}

// pymodbus starts a server for the units 1 and 17 and returns our end of the cable.
func pymodbus(t *testing.T) string {
	t.Helper()
	needPeers(t, "socat", debianPython)
	ours, theirs := portPair(t)
	background(t, debianPython, filepath.Join("testdata", "peers", "pymodbus_server.py"), theirs, "19200")
	return ours
}

// TestPeersReadRegisters: function 0x03 against every server, up to its 125 registers.
func TestPeersReadRegisters(t *testing.T) {
	for _, tc := range []struct {
		name string
		path func(*testing.T) string
		unit byte
	}{
		{"libmodbus", func(t *testing.T) string { return libmodbus(t, "5") }, 5},
		{"pymodbus", pymodbus, 17},
		{"modbus-serial", modbusSerial, 17},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := openMaster(t, tc.path(t), tc.unit)
			for _, count := range []uint16{1, 2, 124, 125} {
				got, err := m.Registers(t.Context(), tc.unit, 10, count)
				if err != nil {
					t.Fatal(err)
				}
				if len(got) != 2*int(count) || got[1] != 110 || got[len(got)-1] != byte(110+count-1) {
					t.Errorf("%d registers: % X", count, got)
				}
			}
			if _, err := m.Registers(t.Context(), tc.unit, 5000, 1); err == nil || errors.Is(err, serialbus.ErrSilent) {
				t.Errorf("a register that is not there: %v", err)
			}
		})
	}
}
