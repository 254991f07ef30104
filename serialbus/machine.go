// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Machine is where a computer tells of its serial ports and who holds them. The zero value is this one. Nothing here
// opens a port: opening alone makes some appliances restart.
type Machine struct {
	Sys  string // empty = /sys
	Dev  string // empty = /dev
	Proc string // empty = /proc
}

func (m Machine) sys() string  { return cmp.Or(m.Sys, "/sys") }
func (m Machine) dev() string  { return cmp.Or(m.Dev, "/dev") }
func (m Machine) proc() string { return cmp.Or(m.Proc, "/proc") }

// PortInfo is what is known of a serial port without opening it. Members are empty where the system does not tell.
type PortInfo struct {
	// Path is the name to configure, see [Config].Port: the most stable one that there is.
	Path string
	// Why says why Path is no name under by-id though the port has one; mostly empty.
	Why string
	// Device is the path of the device node now, e.g. /dev/ttyUSB0. An adapter may be another one after the next start.
	Device string
	// Driver is the kernel's, e.g. ftdi_sio.
	Driver string
	// VendorID and ProductID are those of a USB adapter, four hex digits each.
	VendorID, ProductID string
	// Vendor, Product and Serial are what a USB adapter says of itself. An adapter names itself, not what is wired to it.
	Vendor, Product, Serial string
	// LatencyTimer is for how many milliseconds an FTDI adapter holds a short reply back; 0 = it is none. 1 is best.
	LatencyTimer int
}

// Ports lists the serial ports, sorted by device. It reads the kernel's own list, which knows a port by its driver and
// not by a pattern of names, and leaves consoles and sockets without a chip out.
func (m Machine) Ports() ([]PortInfo, error) {
	class := filepath.Join(m.sys(), "class", "tty")
	entries, err := os.ReadDir(class)
	if err != nil {
		return nil, fmt.Errorf("listing serial ports: %w", err)
	}
	byID, byPath := m.links("by-id"), m.links("by-path")
	var ports []PortInfo
	for _, entry := range entries {
		name := entry.Name()
		hardware, err := filepath.EvalSymlinks(filepath.Join(class, name, "device"))
		if err != nil || readText(class, name, "type") == "0" {
			continue // made by software, or a UART that is not there
		}
		p := PortInfo{Device: filepath.Join(m.dev(), name)}
		p.LatencyTimer, _ = strconv.Atoi(readText(class, name, "device", "latency_timer"))
		m.describe(&p, hardware)
		p.Path = cmp.Or(byPath[name], p.Device)
		switch {
		case byID[name] != "" && p.Serial != "":
			p.Path = byID[name]
		case byID[name] != "":
			p.Why = "the adapter has no serial number, so its name under by-id can come to mean another adapter"
		}
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b PortInfo) int {
		return cmp.Or(cmp.Compare(len(a.Device), len(b.Device)), strings.Compare(a.Device, b.Device))
	})
	return ports, nil
}

// describe takes what the devices above a port tell of it, from its own up to the USB adapter.
func (m Machine) describe(p *PortInfo, hardware string) {
	root, err := filepath.EvalSymlinks(m.sys())
	if err != nil {
		return
	}
	for at := hardware; len(at) > len(root); at = filepath.Dir(at) {
		if driver, err := os.Readlink(filepath.Join(at, "driver")); err == nil && p.Driver == "" {
			// Newer kernels have two devices of their own above a UART.
			if name := filepath.Base(driver); name != "port" && name != "ctrl" {
				p.Driver = name
			}
		}
		if id := readText(at, "idVendor"); id != "" {
			p.VendorID, p.ProductID = id, readText(at, "idProduct")
			p.Vendor, p.Product, p.Serial = readText(at, "manufacturer"), readText(at, "product"), readText(at, "serial")
			return
		}
	}
}

// links returns the stable names in a folder of /dev/serial by the kernel's name they lead to. The folder vanishes
// with the last adapter.
func (m Machine) links(folder string) map[string]string {
	links := make(map[string]string)
	dir := filepath.Join(m.dev(), "serial", folder)
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		link := filepath.Join(dir, entry.Name())
		target, err := os.Readlink(link)
		// udev may keep two links by path for one port; the first in order is as good as the other.
		if name := filepath.Base(target); err == nil && links[name] == "" {
			links[name] = link
		}
	}
	return links
}

// Shaky says what is wrong with a port's configured name: it is one under by-id, and the adapter has no serial number
// to tell it from its like, so the adapter that was plugged in last has the name (serial 3.4). It is empty for any
// other name.
func (m Machine) Shaky(path string) string {
	if filepath.Dir(path) != filepath.Join(m.dev(), "serial", "by-id") {
		return ""
	}
	target, err := os.Readlink(path)
	if err != nil {
		return ""
	}
	ports, _ := m.Ports()
	i := slices.IndexFunc(ports, func(p PortInfo) bool { return filepath.Base(p.Device) == filepath.Base(target) })
	if i < 0 || ports[i].Serial != "" {
		return ""
	}
	return fmt.Sprintf("its adapter has no serial number, so the name means whichever adapter of its kind was plugged in last; configure %s instead", ports[i].Path)
}

// readText reads a file of a few bytes, "" if it cannot be read. What an adapter says of itself is not trusted with
// more than that.
func readText(path ...string) string {
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		return ""
	}
	const most = 256
	return strings.TrimSpace(strings.ToValidUTF8(string(text[:min(len(text), most)]), "\ufffd"))
}
