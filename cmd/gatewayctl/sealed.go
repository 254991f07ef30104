// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/sealedkeys"
)

// errNoPlainFile says that a file cannot be put in the place of what is there.
var errNoPlainFile = errors.New("it is a directory, a device or a link, which no file can take the place of")

// newSealedKeysCommand builds keys, which brings devices' keys to a site.
func newSealedKeysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Bring the keys of one building's appliances to its gateway, and the group's key to none",
		Long: `Keys gives a gateway the keys of its own appliances in place of the enrollment
group's key, so that a stolen gateway costs one building:

  on site        gatewayctl keys request   names the appliances and this gateway
  headquarters   gatewayctl keys grant     derives their keys and seals them to it
  on site        gatewayctl keys install   opens the answer and puts it in place

Then [dps] derived_keys in gatewayd.toml names the installed file.`,
		Args: refuseUnknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return wrongUsage(cmd, "which one: request, grant or install?")
		},
	}
	cmd.AddCommand(newKeysRequestCommand(), newKeysGrantCommand(), newKeysInstallCommand())
	return cmd
}

// oneFile takes the one file that a command is about.
func oneFile(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return wrongUsage(cmd, "give %s, and nothing else", what)
		}
		return nil
	}
}

// readIdentity reads a gateway's identity.
func readIdentity(path string) (sealedkeys.Identity, error) {
	text, err := readBounded(path, maxFile)
	if err != nil {
		return sealedkeys.Identity{}, err
	}
	identity, err := sealedkeys.ParseIdentity(string(text))
	if err != nil {
		return sealedkeys.Identity{}, fmt.Errorf("%s: %w", path, err)
	}
	return identity, nil
}

// readIDs reads registration IDs, one a line; empty lines and those that begin
// with # do not count. The name - stands for standard input.
func readIDs(path string, stdin io.Reader) ([]string, error) {
	var text []byte
	var err error
	if path == "-" {
		if text, err = io.ReadAll(io.LimitReader(stdin, maxFile+1)); err == nil && len(text) > maxFile {
			err = fmt.Errorf("reading standard input: it is larger than %d KiB", maxFile>>10)
		}
	} else {
		text, err = readFile(path)
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	for line := range strings.Lines(strings.TrimPrefix(string(text), "\ufeff")) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			ids = append(ids, line)
		}
	}
	return ids, nil
}

// refuseSameFile keeps output from taking the place of a file that the command
// needs, of which there may be no other copy.
func refuseSameFile(cmd *cobra.Command, flag, output, need, path string) error {
	same := filepath.Clean(output) == filepath.Clean(path)
	if there, err := os.Stat(path); err == nil && !same {
		other, err := os.Stat(output)
		same = err == nil && os.SameFile(there, other)
	}
	if same {
		return wrongUsage(cmd, "%s %s is %s, which would be lost; name another file", flag, output, need)
	}
	return nil
}

// replaceFile puts a file in place as a whole: a reader, and a power cut, finds
// the old one or the new one. What is there and no plain file, such as /dev/stdout,
// stays.
func replaceFile(path string, content []byte, mode fs.FileMode) error {
	if there, err := os.Lstat(path); err == nil && !there.Mode().IsRegular() {
		return &fs.PathError{Op: "write", Path: path, Err: errNoPlainFile}
	}
	directory := filepath.Dir(path)
	temporary, err := os.CreateTemp(directory, "."+filepath.Base(path)+"-*")
	if err != nil {
		return unwritten(path, err)
	}
	defer os.Remove(temporary.Name()) // of no effect once it is renamed
	_, err = temporary.Write(content)
	err = errors.Join(err, temporary.Chmod(mode), temporary.Sync(), temporary.Close())
	if err != nil {
		return unwritten(path, err)
	}
	if err := os.Rename(temporary.Name(), path); err != nil {
		return unwritten(path, err)
	}
	return syncDirectory(directory)
}

// newSecretFile writes a file that must not be there yet, for its user alone. What
// a full disk cuts off does not stay, or it would be in the way of the next try.
func newSecretFile(path, content string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return unwritten(path, err)
	}
	_, err = io.WriteString(file, content)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(unwritten(path, err), os.Remove(path))
	}
	return syncDirectory(filepath.Dir(path))
}

// unwritten names the file that was to be written, whatever the system failed at on
// the way: it may have been one that nobody has heard of.
func unwritten(path string, err error) error {
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		err = failed.Err
	} else if failed, ok := errors.AsType[*os.LinkError](err); ok {
		err = failed.Err
	}
	return &fs.PathError{Op: "write", Path: path, Err: err}
}

// syncDirectory makes a new name last.
func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	defer directory.Close()
	return directory.Sync()
}

// fingerprints names keys that are shown to a person.
func fingerprints(keys []provisioning.DeviceKey) string {
	var names []string
	for _, key := range keys {
		names = append(names, key.Fingerprint())
	}
	return strings.Join(names, " ")
}
