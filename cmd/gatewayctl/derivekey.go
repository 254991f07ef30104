// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/provisioning"
)

// deriveKeyFlags are the flags of derive-key.
type deriveKeyFlags struct {
	registrationID string
	groupKeyFile   string // a path, or empty
	key            string // the secret itself; empty when it comes from elsewhere

	enrollmentGroup string // whose key the service is asked for, or empty
	service         serviceFlags
}

// newDeriveKeyCommand builds derive-key.
func newDeriveKeyCommand() *cobra.Command {
	var flags deriveKeyFlags
	cmd := &cobra.Command{
		Use:   "derive-key --registration-id ID [--group-key-file FILE | --enrollment-group GROUP]",
		Short: "Compute a device's key from the key of its enrollment group",
		Long: `Derive-key computes the key of one device from the key of its enrollment group
and prints it alone on one line. It is the same key that
"az iot dps enrollment-group compute-device-key" prints.

With --enrollment-group the group's primary key is read from the provisioning
service, by the connection string of one of its policies. Without any of them the
group key is read from standard input.`,
		Example: `  gatewayctl derive-key --registration-id breakroom499-contoso-tstrsd-007 --group-key-file group-key
  pass azure/group-key | gatewayctl derive-key --registration-id breakroom499-contoso-tstrsd-007
  gatewayctl derive-key --registration-id breakroom499-contoso-tstrsd-007 \
    --enrollment-group contoso-custom-allocated-devices --connection-string-file dps-connection-string`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return flags.run(cmd) },
	}
	cmd.Flags().StringVar(&flags.registrationID, "registration-id", "", "the device's registration ID, spelled as it registers")
	cmd.Flags().StringVar(&flags.groupKeyFile, "group-key-file", "", "`file` with the group's key in base64; of two lines the first counts")
	cmd.Flags().StringVar(&flags.key, "key", "", "the group's `key` itself; other users of this machine can see it, so prefer a file or standard input")
	cmd.Flags().StringVar(&flags.enrollmentGroup, "enrollment-group", "", "`ID` of the group, to read its key from the service")
	flags.service.add(cmd)
	return cmd
}

// run prints the derived key, the one secret that this program ever shows.
func (f *deriveKeyFlags) run(cmd *cobra.Command) error {
	if f.registrationID == "" {
		return wrongUsage(cmd, "--registration-id is missing")
	}
	if f.key != "" && f.groupKeyFile != "" || f.enrollmentGroup != "" && f.key+f.groupKeyFile != "" {
		return wrongUsage(cmd, "--key, --group-key-file and --enrollment-group exclude each other")
	}
	if err := provisioning.CheckRegistrationID(f.registrationID); err != nil {
		return usageError{command: cmd.CommandPath(), err: err}
	}
	key, err := f.groupKey(cmd)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), key.Derive(f.registrationID).Reveal())
	return err
}

// groupKey reads the group's key from wherever the flags say. Of a file with two
// keys the primary counts, because devices sign with the key derived from it.
func (f *deriveKeyFlags) groupKey(cmd *cobra.Command) (provisioning.GroupKey, error) {
	switch {
	case f.enrollmentGroup != "":
		client, err := f.service.client(cmd)
		if err != nil {
			return provisioning.GroupKey{}, err
		}
		defer client.Close()
		primary, _, err := keysOf(groupKind(), cmd, client, f.enrollmentGroup)
		if err != nil {
			return provisioning.GroupKey{}, err
		}
		return provisioning.ParseGroupKey(primary.Reveal())
	case f.key != "":
		key, err := provisioning.ParseGroupKey(f.key)
		if err != nil {
			return provisioning.GroupKey{}, fmt.Errorf("--key: %w", err)
		}
		return key, nil
	case f.groupKeyFile != "":
		keys, err := readKeys(f.groupKeyFile, provisioning.ParseGroupKey)
		if err != nil {
			return provisioning.GroupKey{}, err
		}
		return keys[0], nil
	default:
		return readGroupKeyFrom(cmd.InOrStdin(), cmd.ErrOrStderr())
	}
}
