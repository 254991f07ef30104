// SPDX-License-Identifier: Apache-2.0

//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package serialbus

import "golang.org/x/sys/unix"

// getTermios reads a terminal's settings; what is no terminal refuses it.
const getTermios = unix.TIOCGETA
