// SPDX-License-Identifier: Apache-2.0

// Gatewayctl is the command line of gatewayd. Its commands of today work
// without a daemon: derive-key computes a device's key from its enrollment
// group's, register makes one registration per ID and shows how it goes, keys
// brings the keys of one building to its gateway, capture records a serial line;
// enrollment-group, enrollment and registration are the operators' half of the
// provisioning service; ports lists the serial ports and who holds them; allocate
// tells what an allocation policy would answer, policy tests one, and directory
// fills and shows the table of devices that policies read.
//
// Standard output is for people, or for programs with -o json; errors go to
// standard error with the next step. It exits 0 when all went well, 1 when
// something failed, and 2 on wrong usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// The exit statuses, for scripts.
const (
	exitOK     = 0
	exitFailed = 1 // at least one thing that was asked for did not happen
	exitUsage  = 2 // nothing was tried: the command line is wrong
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is main without the process around it. The first SIGINT or SIGTERM ends
// registrations in an orderly way; their operations go on at the service.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	root := newRootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)

	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errReported):
		return exitFailed
	case errors.As(err, &usage):
		fmt.Fprintln(stderr, "gatewayctl:", err)
		fmt.Fprintf(stderr, "  Next: %s --help shows what belongs there.\n", usage.command)
		return exitUsage
	default:
		printError(stderr, err)
		return exitFailed
	}
}

// buildVersion is what the build recorded: a release's tag, or the commit.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown build)"
	}
	return info.Main.Version + " " + info.GoVersion
}
