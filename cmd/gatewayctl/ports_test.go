// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/contoso/gatewayd/serialbus"
)

// TestShowPorts prints a computer in a temporary folder: an adapter without a serial number that minicom holds.
func TestShowPorts(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	usb := "sys/devices/usb1/1-1"
	for path, text := range map[string]string{
		usb + "/idVendor": "1a86", usb + "/idProduct": "7523", usb + "/product": "USB \x1b[31mSerial", usb + "/1.0/ttyUSB0/x": "",
		"dev/ttyUSB0": "", "proc/42/comm": "minicom", "proc/1/comm": "init",
	} {
		write(t, filepath.Join(root, path), text+"\n")
	}
	for link, target := range map[string]string{
		"sys/class/tty/ttyUSB0/device": usb + "/1.0/ttyUSB0", "dev/serial/by-id/usb-1a86_USB_Serial-if00-port0": "dev/ttyUSB0",
		"dev/serial/by-path/pci-usb-0:1:1.0-port0": "dev/ttyUSB0", "proc/42/fd/3": "dev/ttyUSB0",
	} {
		link = filepath.Join(root, link)
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(root, target), link); err != nil {
			t.Fatal(err)
		}
	}
	m := serialbus.Machine{Sys: filepath.Join(root, "sys"), Dev: filepath.Join(root, "dev"), Proc: filepath.Join(root, "proc")}
	show := func(asJSON bool) (string, string) {
		var out, hints bytes.Buffer
		if err := showPorts(m, asJSON, &out, &hints); err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(out.String(), root, ""), strings.ReplaceAll(hints.String(), root, "")
	}

	out, hints := show(false)
	for _, want := range []string{"PORT", "/dev/serial/by-path/pci-usb-0:1:1.0-port0  /dev/ttyUSB0", `"USB \x1b[31mSerial [1a86:7523]"`, "minicom (PID 42)"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	if want := "/dev/ttyUSB0: the adapter has no serial number, so its name under by-id can come to mean another adapter.\n"; hints != want {
		t.Errorf("hints: %q", hints)
	}
	out, hints = show(true)
	want := `{"port":"/dev/serial/by-path/pci-usb-0:1:1.0-port0","why":"the adapter has no serial number, so its name under by-id can come to mean another adapter",` +
		`"device":"/dev/ttyUSB0","vendorId":"1a86","productId":"7523","product":"USB \u001b[31mSerial","heldBy":[{"pid":42,"name":"minicom"}],"holdersKnown":true}` + "\n"
	if out != want || hints != "" {
		t.Errorf("got  %s\nwant %s\nhints %q", out, want, hints)
	}
	if err := os.RemoveAll(filepath.Join(root, "proc/1")); err != nil {
		t.Fatal(err)
	}
	if _, hints := show(false); !strings.Contains(hints, "sudo gatewayctl ports shows them") {
		t.Errorf("hints: %q", hints)
	}
	if err := os.RemoveAll(filepath.Join(root, "sys/class/tty/ttyUSB0")); err != nil {
		t.Fatal(err)
	}
	if out, hints := show(false); out != "" || !strings.HasPrefix(hints, "There is no serial port.") {
		t.Errorf("got %q, %q", out, hints)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
