// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree is a computer in a temporary folder.
type tree struct {
	t    *testing.T
	root string
}

func newTree(t *testing.T) tree {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"sys/class/tty", "dev", "proc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return tree{t, root}
}

func (tr tree) machine() Machine {
	return Machine{Sys: filepath.Join(tr.root, "sys"), Dev: filepath.Join(tr.root, "dev"), Proc: filepath.Join(tr.root, "proc")}
}

// file writes a small file, link a link to another path of the tree; both make the folders above.
func (tr tree) file(path, text string) {
	tr.t.Helper()
	tr.folder(path)
	if err := os.WriteFile(filepath.Join(tr.root, path), []byte(text+"\n"), 0o644); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr tree) link(path, target string) {
	tr.t.Helper()
	tr.folder(path)
	if err := os.Symlink(filepath.Join(tr.root, target), filepath.Join(tr.root, path)); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr tree) folder(path string) {
	if err := os.MkdirAll(filepath.Dir(filepath.Join(tr.root, path)), 0o755); err != nil {
		tr.t.Fatal(err)
	}
}

// adapter plugs a USB adapter in, with the names that udev gives it.
func (tr tree) adapter(name, driver, serial, id, path string) {
	usb := "sys/devices/pci0/usb1/" + name
	tr.file(usb+"/idVendor", "0403")
	tr.file(usb+"/idProduct", "6001")
	tr.file(usb+"/manufacturer", "FTDI")
	tr.file(usb+"/product", "FT232R USB UART")
	if serial != "" {
		tr.file(usb+"/serial", serial)
	}
	port := usb + "/1.0/" + name
	tr.file(port+"/tty/"+name+"/dev", "188:0")
	tr.link(port+"/driver", "sys/bus/usb-serial/drivers/"+driver)
	tr.link(port+"/tty/"+name+"/device", port)
	tr.link("sys/class/tty/"+name, port+"/tty/"+name)
	tr.file("dev/"+name, "")
	tr.link("dev/serial/by-id/"+id, "dev/"+name)
	tr.link("dev/serial/by-path/"+path, "dev/"+name)
}

func TestMachinePorts(t *testing.T) {
	tr := newTree(t)
	tr.adapter("ttyUSB10", "ftdi_sio", "A50285BI", "usb-FTDI_FT232R_A50285BI-if00-port0", "pci-usb-0:1:1.0-port0")
	tr.file("sys/devices/pci0/usb1/ttyUSB10/1.0/ttyUSB10/latency_timer", "16")
	tr.adapter("ttyUSB2", "ch341", "", "usb-1a86_USB_Serial-if00-port0", "pci-usb-0:2:1.0-port0")
	// A PC's own port on a newer kernel, one without a chip, a console, and an ARM board's.
	tr.link("sys/devices/pnp0/00:01/driver", "sys/bus/pnp/drivers/serial")
	tr.link("sys/devices/pnp0/00:01/00:01:0/00:01:0.0/driver", "sys/bus/serial-base/drivers/port")
	tr.file("sys/class/tty/ttyS0/type", "4")
	tr.link("sys/class/tty/ttyS0/device", "sys/devices/pnp0/00:01/00:01:0/00:01:0.0")
	tr.file("sys/class/tty/ttyS1/type", "0")
	tr.link("sys/class/tty/ttyS1/device", "sys/devices/pnp0/00:01/00:01:0/00:01:0.0")
	tr.file("sys/class/tty/tty1/dev", "4:1")
	tr.file("sys/devices/soc/fe201000.serial/x", "")
	tr.link("sys/class/tty/ttyAMA0/device", "sys/devices/soc/fe201000.serial")

	got, err := tr.machine().Ports()
	if err != nil {
		t.Fatal(err)
	}
	dev := filepath.Join(tr.root, "dev")
	want := []PortInfo{
		{Path: dev + "/ttyS0", Device: dev + "/ttyS0", Driver: "serial"},
		{Path: dev + "/ttyAMA0", Device: dev + "/ttyAMA0"},
		{
			Path: dev + "/serial/by-path/pci-usb-0:2:1.0-port0", Device: dev + "/ttyUSB2", Driver: "ch341", VendorID: "0403", ProductID: "6001",
			Vendor: "FTDI", Product: "FT232R USB UART",
			Why: "the adapter has no serial number, so its name under by-id can come to mean another adapter",
		},
		{
			Path: dev + "/serial/by-id/usb-FTDI_FT232R_A50285BI-if00-port0", Device: dev + "/ttyUSB10", Driver: "ftdi_sio",
			VendorID: "0403", ProductID: "6001", Vendor: "FTDI", Product: "FT232R USB UART", Serial: "A50285BI", LatencyTimer: 16,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMachineWithoutPorts(t *testing.T) {
	if got, err := newTree(t).machine().Ports(); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := (Machine{Sys: "/nowhere"}).Ports(); err == nil {
		t.Error("a system without sysfs gives no error")
	}
}

// TestShakyNames: a by-id name counts only where the adapter has a serial number.
func TestShakyNames(t *testing.T) {
	tr := newTree(t)
	tr.adapter("ttyUSB0", "ftdi_sio", "A50285BI", "usb-good", "path-good")
	tr.adapter("ttyUSB1", "ch341", "", "usb-shaky", "path-shaky")
	dev := filepath.Join(tr.root, "dev")
	for _, tc := range []struct{ name, want string }{
		{"serial/by-id/usb-good", ""},
		{"serial/by-id/usb-shaky", "configure " + dev + "/serial/by-path/path-shaky instead"},
		{"serial/by-id/usb-unplugged", ""},
		{"serial/by-path/path-shaky", ""},
		{"ttyUSB1", ""},
	} {
		got := tr.machine().Shaky(filepath.Join(dev, tc.name))
		if (got == "") != (tc.want == "") || !strings.HasSuffix(got, tc.want) {
			t.Errorf("%s: got %q, want …%q", tc.name, got, tc.want)
		}
	}
}

func TestHolders(t *testing.T) {
	tr := newTree(t)
	tr.adapter("ttyUSB0", "ftdi_sio", "A50285BI", "usb-one", "path-one")
	tr.file("dev/ttyS0", "")
	tr.file("proc/1/comm", "systemd")
	tr.link("proc/1/fd/0", "dev/null")
	tr.file("proc/42/comm", "minicom")
	tr.link("proc/42/fd/3", "dev/ttyUSB0")
	tr.link("proc/42/fd/4", "dev/ttyUSB0")
	tr.link("proc/42/fd/5", "elsewhere")
	tr.file("proc/self/comm", "not a process")
	port := filepath.Join(tr.root, "dev/serial/by-id/usb-one")
	idle := filepath.Join(tr.root, "dev/ttyS0")

	got, all := tr.machine().Holders(port, idle, filepath.Join(tr.root, "dev/gone"))
	want := map[string][]Holder{port: {{PID: 42, Name: "minicom"}}}
	if diff := cmp.Diff(want, got); diff != "" || !all {
		t.Errorf("all %v: %s", all, diff)
	}
	if err := busyError(port, tr.machine()); !errors.Is(err, ErrPortBusy) || !strings.HasSuffix(err.Error(), ": minicom (PID 42); end it") {
		t.Errorf("got %v", err)
	}
	if err := busyError(idle, tr.machine()); !errors.Is(err, ErrPortBusy) || !strings.HasSuffix(err.Error(), "a moment ago") {
		t.Errorf("got %v", err)
	}
	// A service that sees its own processes only, as ours is one, cannot tell.
	if err := os.RemoveAll(filepath.Join(tr.root, "proc/1")); err != nil {
		t.Fatal(err)
	}
	if _, all := tr.machine().Holders(port); all {
		t.Error("process 1 is out of sight, and all were seen")
	}
	if err := busyError(idle, tr.machine()); !strings.Contains(err.Error(), "sudo gatewayctl ports") {
		t.Errorf("got %v", err)
	}
}

// TestHoldersOfARealPort finds this very process, and the words of a busy port name it.
func TestHoldersOfARealPort(t *testing.T) {
	l := toasterLine(t)
	p, err := openTest(l.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { <-p.Close() }()
	if _, err := os.Stat("/proc/" + strconv.Itoa(os.Getpid()) + "/fd"); err != nil {
		t.Skipf("no /proc here: %v", err)
	}
	holders, _ := Machine{}.Holders(l.Path())
	if len(holders[l.Path()]) != 1 || holders[l.Path()][0].PID != os.Getpid() || holders[l.Path()][0].Name == "" {
		t.Errorf("got %v", holders)
	}
	if _, err := openTest(l.Path()); !errors.Is(err, ErrPortBusy) || !strings.Contains(err.Error(), "this very one") {
		t.Errorf("got %v", err)
	}
}
