// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/creack/pty"
	"github.com/spf13/cobra"
)

// TestConfirmInterrupted sees that Ctrl-C ends the question, and is no yes.
func TestConfirmInterrupted(t *testing.T) {
	keyboard, terminal, err := pty.Open()
	if err != nil {
		t.Skipf("no pseudo-terminal here: %v", err)
	}
	defer keyboard.Close()
	defer terminal.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var asked bytes.Buffer
	cmd := new(cobra.Command)
	cmd.SetContext(ctx)
	cmd.SetIn(terminal)
	cmd.SetErr(&asked)
	if err := confirm(cmd, false, "Delete it?"); !errors.Is(err, errReported) {
		t.Errorf("got %v", err)
	}
	if got, want := asked.String(), "Delete it? [y/N] \nNothing was deleted.\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestCell keeps what could steer a terminal out of tables.
func TestCell(t *testing.T) {
	for text, want := range map[string]string{
		"":                "-",
		"Dev-01":          "Dev-01",
		"Küche 2":         "Küche 2",
		"a\x1b[2Jb":       `"a\x1b[2Jb"`,
		"a\nb\tc":         `"a\nb\tc"`,
		"\xff":            `"\xff"`,
		"right\u202eleft": `"right\u202eleft"`,
	} {
		if got := cell(text); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}
