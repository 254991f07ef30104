// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/contoso/gatewayd/provisioning/enrollment"
)

// The environment of a command on the service. The first is where Azure's own
// samples look for a policy's connection string; the others say, beside it, how
// to reach a local service, as "dpslocal exec" sets them.
const (
	connectionStringVariable = "DPS_CONNECTION_STRING"
	addressVariable          = "DPS_ADDRESS"
	caFileVariable           = "DPS_CA_FILE"
)

// serviceFlags say which service instance a command talks to.
type serviceFlags struct {
	connectionStringFile string // a path, or "" for the environment
	address              string // host:port, or "" for what the connection string names
	caFile               string // PEM roots beside the system's, or ""
}

// add declares the flags on a command.
func (f *serviceFlags) add(cmd *cobra.Command) {
	set := cmd.Flags()
	set.StringVar(&f.connectionStringFile, "connection-string-file", "", "`file` with the connection string of a shared access policy; without it "+connectionStringVariable+" counts")
	set.StringVar(&f.address, "address", "", "`host:port` to connect to instead of the host of the connection string, for a local service; "+addressVariable+" counts beside "+connectionStringVariable)
	set.StringVar(&f.caFile, "ca-file", "", "`file` with certificates to trust beside the system's; "+caFileVariable+" counts beside "+connectionStringVariable)
}

// localAddress is where to connect to instead of the host of the connection
// string, or "". The environment's is about the environment's service.
func (f *serviceFlags) localAddress() string {
	if f.connectionStringFile != "" {
		return f.address
	}
	return cmp.Or(f.address, os.Getenv(addressVariable))
}

// local tells whether the service is one on site: Azure's has no address of its own.
func (f *serviceFlags) local() bool { return f.localAddress() != "" }

// client makes a client of the service; the caller closes it.
func (f *serviceFlags) client(cmd *cobra.Command) (*enrollment.Client, error) {
	text, source := os.Getenv(connectionStringVariable), connectionStringVariable
	caFile := cmp.Or(f.caFile, os.Getenv(caFileVariable))
	if f.connectionStringFile != "" {
		caFile = f.caFile // the others are about another service
		content, err := readFile(f.connectionStringFile)
		if err != nil {
			return nil, err
		}
		text, source = string(content), f.connectionStringFile
	}
	if text == "" && f.connectionStringFile == "" {
		return nil, wrongUsage(cmd, "which service? Give the connection string of one of its shared access policies with --connection-string-file or in %s", connectionStringVariable)
	}
	policy, err := enrollment.ParseConnectionString(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	roots, err := loadRoots(caFile)
	if err != nil {
		return nil, err
	}
	client, err := enrollment.New(enrollment.Config{
		ConnectionString: policy,
		Address:          f.localAddress(),
		RootCAs:          roots,
		UserAgent:        "gatewayctl",
	})
	if err != nil {
		return nil, usageError{command: cmd.CommandPath(), err: err} // nothing but the address can be wrong there
	}
	return client, nil
}

// newParentCommand builds a command that only has others below it.
func newParentCommand(use, short, long string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:                        use,
		Short:                      short,
		Long:                       long,
		SuggestionsMinimumDistance: 2,
		Args:                       refuseUnknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var names []string
			for _, child := range cmd.Commands() {
				names = append(names, child.Name())
			}
			return wrongUsage(cmd, "%s what? There are %s", use, strings.Join(names, ", "))
		},
	}
	cmd.AddCommand(children...)
	return cmd
}

// oneID takes exactly one word behind a command: what is the name of.
func oneID(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch len(args) {
		case 0:
			return wrongUsage(cmd, "the ID of the %s is missing", what)
		case 1:
			return nil
		default:
			return wrongUsage(cmd, "one %s at a time, and here are %d", what, len(args))
		}
	}
}

// checkOutput refuses an unknown -o.
func checkOutput(cmd *cobra.Command, output string) error {
	if output != "text" && output != "json" {
		return wrongUsage(cmd, "--output %q is neither text nor json", output)
	}
	return nil
}

// confirm asks a person before something is deleted or given away. Nobody there
// to be asked is a refusal, lest a script does what it did not mean to.
func confirm(cmd *cobra.Command, yes bool, question string) error {
	if yes {
		return nil
	}
	file, isThere := terminal(cmd)
	if !isThere {
		return wrongUsage(cmd, "nobody is there to confirm it, and --yes is not given; nothing was changed")
	}
	if !ask(cmd, file, question) {
		fmt.Fprintln(cmd.ErrOrStderr(), "Nothing was changed.")
		return errReported
	}
	return nil
}

// terminal gives the keyboard of the person who runs the command, if there is one.
func terminal(cmd *cobra.Command) (*os.File, bool) {
	file, isFile := cmd.InOrStdin().(*os.File)
	return file, isFile && term.IsTerminal(int(file.Fd()))
}

// ask asks a person, for whom an interrupt is a no.
func ask(cmd *cobra.Command, file *os.File, question string) bool {
	fmt.Fprintf(cmd.ErrOrStderr(), "%s [y/N] ", question)
	answer := make(chan string, 1)
	go func() { // ends with the process if an interrupt comes first
		line, _ := bufio.NewReader(io.LimitReader(file, 256)).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case line := <-answer:
		return line == "y" || line == "yes"
	case <-cmd.Context().Done():
		fmt.Fprintln(cmd.ErrOrStderr())
		return false
	}
}
