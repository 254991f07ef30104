// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/provisioning/enrollment"
)

// TestConfirmInterrupted sees that Ctrl-C ends the question, and is no yes.
func TestConfirmInterrupted(t *testing.T) {
	_, terminal := openTerminal(t)
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
	if got, want := asked.String(), "Delete it? [y/N] \nNothing was changed.\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestNextAfter looks for what to do next about each refusal.
func TestNextAfter(t *testing.T) {
	for _, test := range []struct {
		refused enrollment.ServiceError
		want    string
	}{
		{enrollment.ServiceError{HTTPStatus: 400}, "read the service's message"},
		{enrollment.ServiceError{HTTPStatus: 401}, "check that the connection string"},
		{enrollment.ServiceError{HTTPStatus: 403}, "check that the connection string"},
		{enrollment.ServiceError{HTTPStatus: 404}, "check the spelling"},
		{enrollment.ServiceError{HTTPStatus: 409}, "there is one of that ID already"},
		{enrollment.ServiceError{HTTPStatus: 412}, "somebody has changed it meanwhile"},
		{enrollment.ServiceError{HTTPStatus: 418}, "look up the code"},
		{enrollment.ServiceError{HTTPStatus: 429}, "wait a minute"},
		{enrollment.ServiceError{HTTPStatus: 429, RetryAfter: 7 * time.Second}, "wait 7s "},
		{enrollment.ServiceError{HTTPStatus: 500}, "run the command again"},
	} {
		var shown strings.Builder
		printError(&shown, fmt.Errorf("reading: %w", &test.refused))
		if !strings.Contains(shown.String(), "\n  Next: "+test.want) {
			t.Errorf("%d: got %q, want %q", test.refused.HTTPStatus, shown.String(), test.want)
		}
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
