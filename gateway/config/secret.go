// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/contoso/gatewayd/provisioning"
)

// maxSecretSize bounds a secret's file: a page of function keys.
const maxSecretSize = 64 << 10

// ReadSecret returns the text that name stands for: an absolute path is read
// as it is, any other name is a systemd credential (LoadCredential=) in
// $CREDENTIALS_DIRECTORY. The file never holds the secret itself, so neither
// does an error of this function.
func ReadSecret(name string) (string, error) {
	path := name
	if !filepath.IsAbs(name) {
		if name != filepath.Base(name) || name == "." || name == ".." {
			return "", fmt.Errorf("%q is neither an absolute path nor the name of a credential", name)
		}
		directory := os.Getenv("CREDENTIALS_DIRECTORY")
		if directory == "" {
			return "", fmt.Errorf("%q is the name of a systemd credential, but this process was given none: "+
				"add LoadCredential=%s to the unit and put the file into /etc/credstore, or configure an absolute path", name, name)
		}
		path = filepath.Join(directory, name)
	}
	text, err := readBounded(path, maxSecretSize)
	if err != nil {
		return "", err
	}
	return string(text), nil
}

// ReadGroupKeys reads an enrollment group's keys: the primary on the first
// line, the secondary on the second if there is one.
func ReadGroupKeys(name string) ([]provisioning.GroupKey, error) {
	text, err := ReadSecret(name)
	if err != nil {
		return nil, err
	}
	lines := strings.Fields(text)
	if len(lines) == 0 || len(lines) > 2 {
		return nil, fmt.Errorf("%s holds %d keys: put the group's primary key on its first line and, if wanted, the secondary on the second", name, len(lines))
	}
	var keys []provisioning.GroupKey
	for i, line := range lines {
		key, err := provisioning.ParseGroupKey(line)
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", name, i+1, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}
