// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// newRootCommand builds the command tree. Errors are shown by run alone: cobra
// would print the whole help before a mistyped flag.
func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "gatewayctl",
		Short:         "The command line of gatewayd, the gateway for toasters and heat pumps",
		Version:       buildVersion(),
		SilenceUsage:  true,
		SilenceErrors: true,
		// Two wrong letters still count as misspelt.
		SuggestionsMinimumDistance: 2,
		Args:                       refuseUnknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return wrongUsage(cmd, "which command? gatewayctl --help lists them")
		},
	}
	root.SetVersionTemplate("gatewayctl {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{command: cmd.CommandPath(), err: err}
	})
	root.AddCommand(newDeriveKeyCommand(), newRegisterCommand(),
		newEnrollmentGroupCommand(), newEnrollmentCommand(), newRegistrationCommand(),
		newSealedKeysCommand(), newCaptureCommand(), newScanCommand(), newPortsCommand(),
		newAllocateCommand(), newPolicyCommand(), newDirectoryCommand())
	return root
}

// refuseUnknownCommand takes a word that is no command for a misspelt one; left
// alone, cobra may print help and exit 0.
func refuseUnknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("; did you mean %q?", near[0])
	}
	return wrongUsage(cmd, "there is no command %q%s", args[0], hint)
}

// noArguments refuses words behind a command that takes flags only.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return wrongUsage(cmd, "%q is not a flag; this command takes flags only", args[0])
	}
	return nil
}
