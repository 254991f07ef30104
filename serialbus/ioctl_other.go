// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package serialbus

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// The daemon runs on Linux. Elsewhere gatewayctl only has to build, for what it does without a line.

func withoutChildren(open func() error) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return open()
}

func readLineErrors(int) (LineErrors, error) { return LineErrors{}, unix.ENOTTY }

func switchRS485(int) error {
	return enableRS485(func(*rs485) error { return unix.ENOTTY }, func(*rs485) error { return unix.ENOTTY })
}
