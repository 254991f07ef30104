// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/provisioning"
)

// errReported ends a command whose errors a person has read already.
var errReported = errors.New("reported")

// usageError says that the command line is wrong, and whose help to read.
type usageError struct {
	command string // the words up to the command, such as "gatewayctl register"
	err     error
}

// Error gives the message without the command.
func (e usageError) Error() string { return e.err.Error() }

// Unwrap gives what is wrong.
func (e usageError) Unwrap() error { return e.err }

// wrongUsage makes a usageError for cmd from words.
func wrongUsage(cmd *cobra.Command, format string, args ...any) error {
	return usageError{command: cmd.CommandPath(), err: fmt.Errorf(format, args...)}
}

// diagnose is the client's verdict, but for a program that ends: the daemon goes
// on by itself where a person has to come back.
func diagnose(err error) provisioning.Diagnosis {
	diagnosis := provisioning.Verdict(err)
	switch diagnosis.Kind {
	case "interrupted":
		diagnosis.Verdict = "The registration was interrupted; the service may complete what it has begun."
		diagnosis.Next = "Run the command again."
	case "connection-lost", "timeout":
		diagnosis.Next = "Run the command again; if it stays, check the network between here and the service."
	}
	return diagnosis
}

// printRegistrationError shows why a registration failed, what that means and
// what to do next.
func printRegistrationError(w io.Writer, err error) {
	diagnosis := diagnose(err)
	fmt.Fprintf(w, "gatewayctl: %v\n  %s (%s)\n  Next: %s\n", err, diagnosis.Verdict, diagnosis.Owner, diagnosis.Next)
}

// printError shows why a command could not do its work at all. Such errors come
// from files and keys on this machine, so the next step is found here and not
// in the diagnosis of a registration.
func printError(w io.Writer, err error) {
	fmt.Fprintln(w, "gatewayctl:", err)
	_, isPath := errors.AsType[*fs.PathError](err)
	switch {
	case isPath:
		fmt.Fprintln(w, "  Next: check the path, and that you may read the file.")
	case errors.Is(err, provisioning.ErrKey):
		fmt.Fprintln(w, "  Next: give the key as the portal shows it: base64, on a line of its own.")
	}
}
