// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/sealedkeys"
)

// keysGrantFlags are the flags of keys grant.
type keysGrantFlags struct {
	groupKeyFile string
	idScope      string // or empty
	output       string // a path
	yes          bool
}

// newKeysGrantCommand builds keys grant.
func newKeysGrantCommand() *cobra.Command {
	var flags keysGrantFlags
	cmd := &cobra.Command{
		Use:   "grant REQUEST --group-key-file FILE -o FILE [--id-scope SCOPE] [--yes]",
		Short: "At headquarters: derive the keys that a gateway asks for, and seal them to it",
		Long: `Grant shows what a request asks for, and after a yes derives the keys from the
enrollment group's and seals them to the gateway that the request names. The
answer can be mailed: that gateway opens it, and nobody else.

Whoever controls the request controls who gets the keys. Before you say yes,
compare the letters after "to" with those that gatewayctl keys request showed on
the gateway; ask the technician for them by another way than the request came.`,
		Example: `  gatewayctl keys grant request.json --group-key-file group-key --id-scope 0ne00002193 -o mainbuilding.age`,
		Args:    oneFile("the file with the request"),
		RunE:    func(cmd *cobra.Command, args []string) error { return flags.run(cmd, args[0]) },
	}
	set := cmd.Flags()
	set.StringVar(&flags.groupKeyFile, "group-key-file", "", "`file` with the group's primary key and, on a second line, its secondary")
	set.StringVar(&flags.idScope, "id-scope", "", "ID scope of the service; a gateway of another one will not take the keys")
	set.StringVarP(&flags.output, "output", "o", "", "`file` for the sealed keys")
	set.BoolVar(&flags.yes, "yes", false, "do not ask")
	return cmd
}

func (f *keysGrantFlags) run(cmd *cobra.Command, path string) error {
	if f.groupKeyFile == "" || f.output == "" {
		return wrongUsage(cmd, "--group-key-file and --output are needed")
	}
	if f.idScope != "" && !idScopeShape.MatchString(f.idScope) {
		return wrongUsage(cmd, "--id-scope %s", noIDScope)
	}
	if err := refuseSameFile(cmd, "--output", f.output, "the group's key", f.groupKeyFile); err != nil {
		return err
	}
	if err := refuseSameFile(cmd, "--output", f.output, "the request", path); err != nil {
		return err
	}
	text, err := readBounded(path, sealedkeys.MaxRequest)
	if err != nil {
		return err
	}
	request, err := sealedkeys.ParseRequest(text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	group, err := readKeys(f.groupKeyFile, provisioning.ParseGroupKey)
	if err != nil {
		return err
	}
	grant, err := sealedkeys.Derive(request, group, f.idScope, time.Now())
	if err != nil {
		return err
	}
	showRequest(cmd.ErrOrStderr(), request, group)
	if err := confirm(cmd, f.yes, fmt.Sprintf("Grant the keys of %s to this gateway?", counted(len(request.RegistrationIDs), "appliance"))); err != nil {
		return err
	}
	sealed, err := grant.Seal(request.Recipient)
	if err != nil {
		return err
	}
	if err := replaceFile(f.output, sealed, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "Sealed: %s. Send it back; on site gatewayctl keys install puts it in place.\n", f.output)
	return nil
}

// showRequest shows what a person says yes to. All of it was checked, so nothing
// in it plays tricks on a terminal.
func showRequest(w io.Writer, request sealedkeys.Request, group []provisioning.GroupKey) {
	fmt.Fprintf(w, "Keys asked for by site %s on %s\n", request.Site, request.Created.UTC().Format("2006-01-02 15:04 UTC"))
	fmt.Fprintf(w, "  to    %s\n", request.Recipient)
	for i, key := range group {
		fmt.Fprintf(w, "  from  %s group key, fingerprint %s\n", []string{"primary", "secondary"}[i], key.Fingerprint())
	}
	for _, id := range request.RegistrationIDs {
		fmt.Fprintf(w, "  for   %s\n", id)
	}
}
