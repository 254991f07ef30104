// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// udevGroup is the multicast group in which udev tells of devices once their links and permissions are in place. The
// kernel tells earlier, in group 1, when the port cannot be opened yet (libraries 11).
const udevGroup = 2

// longestUevent is the size of the buffer for one message; udev's own is 8 KiB.
const longestUevent = 16 << 10

// uevents is the socket on which udev tells of devices.
type uevents struct {
	file *os.File
	conn syscall.RawConn
	buf  [longestUevent]byte
}

// listenUevents opens the socket. Any user may; the service's unit has to allow AF_NETLINK.
func listenUevents() (*uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "uevents")
	// The kernel says with each message who sent it: anybody could pretend to be udev.
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: udevGroup})
	}
	conn, connErr := file.SyscallConn()
	if err := errors.Join(err, connErr); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("listening to udev: %w", err)
	}
	return &uevents{file: file, conn: conn}, nil
}

// close ends a next that waits, with an error.
func (u *uevents) close() { _ = u.file.Close() }

// next waits for the next message of udev. errMissed means that some got lost.
func (u *uevents) next() (uevent, error) {
	for {
		var n, rightsSize, flags int
		var err error
		var rights [256]byte
		waiting := u.conn.Read(func(fd uintptr) bool {
			n, rightsSize, flags, _, err = unix.Recvmsg(int(fd), u.buf[:], rights[:], 0)
			return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
		})
		switch {
		case waiting != nil:
			return uevent{}, waiting
		case errors.Is(err, unix.ENOBUFS):
			return uevent{}, errMissed
		case err != nil:
			return uevent{}, fmt.Errorf("receiving from udev: %w", err)
		case !fromRoot(rights[:rightsSize]):
			continue
		case flags&unix.MSG_TRUNC != 0:
			return uevent{}, errMissed
		}
		if event, ok := parseUevent(u.buf[:n]); ok {
			return event, nil
		}
	}
}

// fromRoot reports whether a message came from a process of root, as udev is one.
func fromRoot(rights []byte) bool {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return false
	}
	for i := range messages {
		if sender, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			return sender.Uid == 0
		}
	}
	return false
}
