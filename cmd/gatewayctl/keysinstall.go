// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/provisioning/sealedkeys"
)

// keysInstallFlags are the flags of keys install.
type keysInstallFlags struct {
	identity string // a path
	to       string // a path
	replace  bool
}

// newKeysInstallCommand builds keys install.
func newKeysInstallCommand() *cobra.Command {
	var flags keysInstallFlags
	cmd := &cobra.Command{
		Use:   "install SEALED --identity FILE --to FILE [--replace]",
		Short: "On site: put the keys that headquarters granted in place",
		Long: `Install opens a grant with this gateway's identity, shows for which appliances it
has keys (by fingerprint, never the keys), and adds it to what is installed: keys
for the same appliances are replaced, all others stay, so that neither a later
request nor new group keys cost an appliance its key. The file stays sealed.

With --replace only what this grant holds is left.`,
		Example: `  sudo gatewayctl keys install mainbuilding.age --identity /etc/credstore/gateway-identity \
    --to /etc/credstore/derived-keys && sudo systemctl restart gatewayd`,
		Args: oneFile("the file with the sealed keys"),
		RunE: func(cmd *cobra.Command, args []string) error { return flags.run(cmd, args[0]) },
	}
	set := cmd.Flags()
	set.StringVar(&flags.identity, "identity", "", "`file` with this gateway's identity")
	set.StringVar(&flags.to, "to", "", "`file` that derived_keys in gatewayd.toml names, or /etc/credstore/ with that name")
	set.BoolVar(&flags.replace, "replace", false, "keep nothing of what is installed")
	return cmd
}

func (f *keysInstallFlags) run(cmd *cobra.Command, path string) error {
	if f.identity == "" || f.to == "" {
		return wrongUsage(cmd, "--identity and --to are needed")
	}
	if err := refuseSameFile(cmd, "--to", f.to, "the identity", f.identity); err != nil {
		return err
	}
	identity, err := readIdentity(f.identity)
	if err != nil {
		return err
	}
	granted, err := openSealed(path, identity)
	if err != nil {
		return err
	}
	installed, err := openSealed(f.to, identity)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !f.replace {
		return fmt.Errorf("what is installed already: %w; --replace gives it up", err)
	}
	merged := granted
	if !f.replace {
		if merged, err = installed.Merge(granted); err != nil {
			return err
		}
	}
	sealed, err := merged.Seal(identity.Recipient())
	if err != nil {
		return err
	}
	if err := replaceFile(f.to, sealed, 0o600); err != nil {
		return err
	}
	report(cmd, installed, granted, merged)
	return nil
}

// report shows what came of each appliance's keys.
func report(cmd *cobra.Command, installed, granted, merged sealedkeys.Grant) {
	before, now, after := make(map[string]string), make(map[string]bool), make(map[string]bool)
	for _, device := range installed.Devices {
		before[strings.ToLower(device.RegistrationID)] = fingerprints(device.Keys)
	}
	for _, device := range granted.Devices {
		now[device.RegistrationID] = true
	}
	w := cmd.OutOrStdout()
	for _, device := range merged.Devices {
		after[strings.ToLower(device.RegistrationID)] = true
		word := "kept"
		old, had := before[strings.ToLower(device.RegistrationID)]
		switch {
		case now[device.RegistrationID] && !had:
			word = "added"
		case now[device.RegistrationID] && old != fingerprints(device.Keys):
			word = "renewed"
		}
		fmt.Fprintf(w, "%-8s %s  key %s  of group key %s\n", word, device.RegistrationID, fingerprints(device.Keys), strings.Join(device.GroupKeys, " "))
	}
	for _, device := range installed.Devices {
		if !after[strings.ToLower(device.RegistrationID)] {
			fmt.Fprintf(w, "%-8s %s\n", "removed", device.RegistrationID)
		}
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "Installed: keys of %s, for site %s. Restart gatewayd to use them.\n", counted(len(merged.Devices), "appliance"), merged.Site)
}

// openSealed reads and opens a sealed file.
func openSealed(path string, identity sealedkeys.Identity) (sealedkeys.Grant, error) {
	sealed, err := readBounded(path, sealedkeys.MaxSealed)
	if err != nil {
		return sealedkeys.Grant{}, err
	}
	grant, err := sealedkeys.Open(sealed, identity)
	if err != nil {
		return sealedkeys.Grant{}, fmt.Errorf("%s: %w", path, err)
	}
	return grant, nil
}
