// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// udevMessage is a message as udev sends it.
func udevMessage(properties ...string) []byte {
	text := strings.Join(properties, "\x00") + "\x00"
	message := make([]byte, udevHeaderSize, udevHeaderSize+len(text))
	copy(message, udevMark)
	binary.BigEndian.PutUint32(message[8:], udevMagic)
	binary.NativeEndian.PutUint32(message[12:], udevHeaderSize)
	binary.NativeEndian.PutUint32(message[16:], udevHeaderSize)
	binary.NativeEndian.PutUint32(message[20:], uint32(len(text)))
	return append(message, text...)
}

var plugged = udevMessage("ACTION=add", "DEVPATH=/devices/pci0000:00/usb1/1-1/1-1:1.0/ttyUSB0/tty/ttyUSB0", "SUBSYSTEM=tty",
	"DEVNAME=/dev/ttyUSB0", "DEVLINKS=/dev/serial/by-id/usb-FTDI_FT232R_A50285BI-if00-port0", "SEQNUM=4711")

func TestParseUevent(t *testing.T) {
	change := func(at int, to byte) []byte {
		message := append([]byte(nil), plugged...)
		message[at] = to
		return message
	}
	for _, tc := range []struct {
		name    string
		message []byte
		want    string
	}{
		{"plugged in", plugged, "add tty /dev/ttyUSB0"},
		{"the kernel's own form", []byte("add@/devices/pci0000:00/tty/ttyUSB0\x00ACTION=add\x00SUBSYSTEM=tty\x00"), ""},
		{"empty", nil, ""},
		{"cut in the header", plugged[:udevHeaderSize-1], ""},
		{"cut in the properties", plugged[:len(plugged)-1], ""},
		{"wrong magic", change(8, 0), ""},
		{"properties before the end of the header", change(16, 8), ""},
		{"properties beyond the message", change(23, 0xff), ""},
		{"no action", udevMessage("SUBSYSTEM=tty"), ""},
		{"no values", udevMessage("ACTION", "SUBSYSTEM", "", "="), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			event, ok := parseUevent(tc.message)
			if ok != (tc.want != "") || ok && event.String() != tc.want {
				t.Errorf("got %v, %v; want %q", event, ok, tc.want)
			}
		})
	}
}

func FuzzParseUevent(f *testing.F) {
	f.Add(plugged)
	f.Add(plugged[:50])
	f.Add(udevMessage("ACTION=remove", "SUBSYSTEM=usb"))
	f.Fuzz(func(t *testing.T, message []byte) {
		event, ok := parseUevent(message)
		if n := len(event.action) + len(event.subsystem) + len(event.name); ok && n+udevHeaderSize > len(message) {
			t.Errorf("%d bytes of values out of %d", n, len(message))
		}
	})
}

// TestNewsComeFromRoot: anybody can send to the group, and only udev is believed.
func TestNewsComeFromRoot(t *testing.T) {
	for _, tc := range []struct {
		name   string
		rights []byte
		want   bool
	}{
		{"root", unix.UnixCredentials(&unix.Ucred{Pid: 1, Uid: 0}), true},
		{"a user", unix.UnixCredentials(&unix.Ucred{Pid: 1, Uid: 1000}), false},
		{"nobody knows", nil, false},
		{"cut", unix.UnixCredentials(&unix.Ucred{Pid: 1, Uid: 0})[:5], false},
		{"something else", unix.UnixRights(0), false},
	} {
		if got := fromRoot(tc.rights); got != tc.want {
			t.Errorf("%s: got %v", tc.name, got)
		}
	}
}

// TestNews sends what udev would send, which only root may, and sees every line nudged.
func TestNews(t *testing.T) {
	ports := NewPorts(2, nil)
	first, err := ports.New(Config{Port: "/dev/ttyTEST1", Driver: DriverLine, Profile: "alp"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := ports.New(Config{Port: "/dev/ttyTEST2", Driver: DriverLine, Profile: "alp"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- ports.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if n := len(ports.reserve.held); n != 0 {
			t.Errorf("%d placeholders are left after Run", n)
		}
	}()
	<-ports.Ready()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		t.Skipf("no netlink here: %v", err)
	}
	defer unix.Close(fd)
	for _, message := range [][]byte{[]byte("noise"), udevMessage("ACTION=add", "SUBSYSTEM=usb"), plugged} {
		if err := unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: udevGroup}); err != nil {
			t.Skipf("only root may send what udev sends: %v", err)
		}
	}
	<-first.nudge
	<-second.nudge
}

// TestNoNews: where udev cannot be listened to, Run ends with its context all the same, and so it does at any time.
func TestNoNews(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ports := NewPorts(0, nil)
	if err := ports.Run(ctx); err != nil {
		t.Error(err)
	}
	<-ports.Ready()
}
