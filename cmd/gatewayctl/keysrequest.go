// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/provisioning/sealedkeys"
)

// keysRequestFlags are the flags of keys request.
type keysRequestFlags struct {
	site            string
	registrationIDs []string
	fromFile        string // a path, - for standard input, or empty
	identity        string // a path
	output          string // a path, or - for standard output
}

// newKeysRequestCommand builds keys request.
func newKeysRequestCommand() *cobra.Command {
	var flags keysRequestFlags
	cmd := &cobra.Command{
		Use:   "request --site NAME --identity FILE (--registration-id ID... | --from-file FILE) [-o FILE]",
		Short: "On site: ask headquarters for the keys of some appliances",
		Long: `Request writes down which appliances this gateway needs keys for, and the public
half of its identity, to which headquarters will seal them. The request holds no
secret and can be mailed.

The identity is made if its file is not there yet. It must never leave this
gateway: whoever has it can open what is sealed to it.`,
		Example: `  sudo gatewayctl keys request --site mainbuilding --identity /etc/credstore/gateway-identity \
    --registration-id breakroom499-contoso-tstrsd-007 -o request.json`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return flags.run(cmd) },
	}
	set := cmd.Flags()
	set.StringVar(&flags.site, "site", "", "`name` of the building, as in gatewayd.toml")
	set.StringArrayVar(&flags.registrationIDs, "registration-id", nil, "registration `ID`, spelled as it registers; once for each appliance")
	set.StringVar(&flags.fromFile, "from-file", "", "`file` with registration IDs, one a line; - is standard input")
	set.StringVar(&flags.identity, "identity", "", "`file` with this gateway's identity; made if it is not there")
	set.StringVarP(&flags.output, "output", "o", "-", "`file` for the request; - is standard output")
	return cmd
}

// run writes the request. The recipient goes to standard error too, in full,
// because headquarters must be able to ask for it by another way than the request.
func (f *keysRequestFlags) run(cmd *cobra.Command) error {
	if f.site == "" || f.identity == "" || len(f.registrationIDs) == 0 && f.fromFile == "" {
		return wrongUsage(cmd, "--site, --identity, and --registration-id or --from-file are needed")
	}
	if err := refuseSameFile(cmd, "--output", f.output, "the identity", f.identity); err != nil {
		return err
	}
	ids := f.registrationIDs
	if f.fromFile != "" {
		more, err := readIDs(f.fromFile, cmd.InOrStdin())
		if err != nil {
			return err
		}
		ids = append(ids, more...)
	}
	// Checked with a passing identity, so that a slip leaves no identity behind.
	passing, err := sealedkeys.NewIdentity()
	if err != nil {
		return err
	}
	if _, err := sealedkeys.NewRequest(f.site, passing.Recipient(), ids, time.Now()); err != nil {
		return usageError{command: cmd.CommandPath(), err: err}
	}
	identity, err := f.identityOrNew(cmd, passing)
	if err != nil {
		return err
	}
	request, err := sealedkeys.NewRequest(f.site, identity.Recipient(), ids, time.Now())
	if err != nil {
		return err
	}
	text, err := request.Encode()
	if err != nil {
		return err
	}
	if f.output == "-" {
		_, err = cmd.OutOrStdout().Write(text)
	} else {
		err = replaceFile(f.output, text, 0o644)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "Requested: keys for %s, sealed to this gateway:\n  %s\nSend the request to headquarters, and tell them these letters by another way, such as the telephone.\n",
		counted(len(ids), "appliance"), identity.Recipient())
	return nil
}

// identityOrNew reads the identity, or writes down the new one.
func (f *keysRequestFlags) identityOrNew(cmd *cobra.Command, made sealedkeys.Identity) (sealedkeys.Identity, error) {
	identity, err := readIdentity(f.identity)
	if !errors.Is(err, fs.ErrNotExist) {
		return identity, err
	}
	if err := newSecretFile(f.identity, made.Reveal()); err != nil {
		return sealedkeys.Identity{}, err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "Made this gateway's identity: %s. It must not leave this machine.\n", f.identity)
	return made, nil
}

// counted is "1 appliance", "2 appliances".
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
