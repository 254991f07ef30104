// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"math"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// withoutChildren opens descriptors that no child process shall inherit: the library's lack the close-on-exec flag
// (serial 3.2). No child is started meanwhile. A kernel before 5.11 does not know the call, and nothing is lost there
// as long as no child is started at all, which the daemon keeps to.
func withoutChildren(open func() error) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	err := open()
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	return err
}

// readLineErrors asks the driver for its counters; ENOTTY where it has none, as on a pty.
func readLineErrors(fd int) (LineErrors, error) {
	// struct serial_icounter_struct of linux/serial.h
	var counts struct {
		CTS, DSR, RNG, DCD, Received, Sent, Frame, Overrun, Parity, Break, BufferOverrun int32
		_                                                                                [9]int32
	}
	if err := ioctl(fd, unix.TIOCGICOUNT, unsafe.Pointer(&counts)); err != nil {
		return LineErrors{}, err
	}
	return LineErrors{
		Frame: int(counts.Frame), Parity: int(counts.Parity), Overrun: int(counts.Overrun) + int(counts.BufferOverrun), Break: int(counts.Break),
	}, nil
}

// ioctl is the system call on a structure.
func ioctl(fd int, request uint, data unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(data)); errno != 0 {
		return errno
	}
	return nil
}

// switchRS485 turns the RS-485 mode of a port on, see enableRS485.
func switchRS485(fd int) error {
	return enableRS485(
		func(mode *rs485) error { return ioctl(fd, unix.TIOCGRS485, unsafe.Pointer(mode)) },
		func(mode *rs485) error { return ioctl(fd, unix.TIOCSRS485, unsafe.Pointer(mode)) },
	)
}
