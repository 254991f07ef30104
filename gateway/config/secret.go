// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/sealedkeys"
)

// maxSecretSize bounds a secret's file: a page of function keys.
const maxSecretSize = 64 << 10

// ReadSecret returns the text that name stands for: an absolute path is read
// as it is, any other name is a systemd credential (LoadCredential=) in
// $CREDENTIALS_DIRECTORY. An error of this function never holds the secret itself,
// also where somebody has put it in the place of a name.
func ReadSecret(name string) (string, error) { return readSecret(name, maxSecretSize) }

func readSecret(name string, limit int64) (string, error) {
	path := name
	if !filepath.IsAbs(name) {
		if mayBeSecret(name) {
			return "", errors.New("what stands here is neither an absolute path nor the name of a credential, and is not shown in case it is the secret itself; put that into a file and name the file")
		}
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
	text, err := readBounded(path, limit)
	if err != nil {
		return "", err
	}
	return string(text), nil
}

// mayBeSecret tells whether name looks like a key that was put in its own place:
// base64 text has characters that names of credentials do without, or is long.
func mayBeSecret(name string) bool {
	return len(name) > 40 || strings.ContainsAny(name, "=+/")
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

// ReadKeys reads what the devices' keys come from: the group's keys, or those that were derived for this gateway and
// sealed to its identity.
func ReadKeys(dps DPS) (provisioning.KeySource, error) {
	if dps.DerivedKeys == "" {
		keys, err := ReadGroupKeys(dps.GroupKey)
		if err != nil {
			return nil, fmt.Errorf("reading [dps] group_key: %w", err)
		}
		return provisioning.GroupKeys(keys), nil
	}
	keys, err := readDerivedKeys(dps)
	if err != nil {
		return nil, fmt.Errorf("reading [dps] derived_keys: %w", err)
	}
	return keys, nil
}

func readDerivedKeys(dps DPS) (provisioning.DerivedKeys, error) {
	text, err := ReadSecret(dps.Identity)
	if err != nil {
		return nil, fmt.Errorf("derived_keys_identity: %w", err)
	}
	identity, err := sealedkeys.ParseIdentity(text)
	if err != nil {
		return nil, fmt.Errorf("derived_keys_identity: %s: %w", dps.Identity, err)
	}
	sealed, err := readSecret(dps.DerivedKeys, sealedkeys.MaxSealed)
	if err != nil {
		return nil, err
	}
	grant, err := sealedkeys.Open([]byte(sealed), identity)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; ask for the keys again with \"gatewayctl keys request\"", dps.DerivedKeys, err)
	}
	if grant.IDScope != "" && !strings.EqualFold(grant.IDScope, dps.Client.IDScope) {
		return nil, fmt.Errorf("%s was granted for ID scope %s, and id_scope is %s", dps.DerivedKeys, grant.IDScope, dps.Client.IDScope)
	}
	return grant.Keys(), nil
}
