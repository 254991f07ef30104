// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"syscall"
	"testing"

	"github.com/creack/pty"
)

// openTerminal gives a person's keyboard and the terminal that a command reads it
// from. The terminal is locked as a serial port in use is: the system gives the
// number of one that is gone to the next, and another test's daemon may still be
// trying to open its line by that name.
func openTerminal(t *testing.T) (keyboard, terminal *os.File) {
	t.Helper()
	keyboard, terminal, err := pty.Open()
	if err != nil {
		t.Skipf("no pseudo-terminal here: %v", err)
	}
	t.Cleanup(func() {
		terminal.Close()
		keyboard.Close()
	})
	if err := syscall.Flock(int(terminal.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	return keyboard, terminal
}
