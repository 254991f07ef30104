// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
)

// certificatesSecret is the name of the shared secret with the files of
// certificates, a JSON object from file name to content.
const certificatesSecret = "certificates"

// openSharedCertificates is openCertificates for the instances of one service:
// all of them show clients the same certificate of the same CA. The directory
// is each instance's copy; its content is where the first one begins. Only one
// instance at a time may do this.
func openSharedCertificates(ctx context.Context, store SharedStore, dir string, cfg Config, logger *slog.Logger) (*certificates, error) {
	shared, err := store.Secret(ctx, certificatesSecret)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("reading the shared certificates: %w", err)
	}
	if err == nil {
		if err := writeSharedFiles(dir, shared); err != nil {
			return nil, fmt.Errorf("writing the shared certificates: %w", err)
		}
	}
	c := newCertificates(dir, cfg, logger)
	if err := c.adoptNames(); err != nil {
		return nil, err
	}
	if err := c.open(); err != nil {
		return nil, err
	}
	files, err := readSharedFiles(dir)
	if err != nil {
		return nil, err
	}
	if files == shared {
		return c, nil
	}
	if err := store.PutSecret(ctx, certificatesSecret, files); err != nil {
		return nil, fmt.Errorf("storing the shared certificates: %w", err)
	}
	return c, nil
}

// adoptNames adds the names for which the CA may sign already. Instances whose
// configurations differ would replace each other's CA at every start otherwise.
func (c *certificates) adoptNames() error {
	if err := c.loadCA(); err != nil {
		return fmt.Errorf("loading the CA: %w", err)
	}
	if c.caCert == nil {
		return nil
	}
	for _, name := range c.caCert.PermittedDNSDomains {
		if !slices.Contains(c.names, name) {
			c.names = append(c.names, name)
		}
	}
	for _, network := range c.caCert.PermittedIPRanges {
		if !slices.ContainsFunc(c.ips, network.IP.Equal) {
			c.ips = append(c.ips, network.IP)
		}
	}
	return nil
}

// sharedFiles are the files that instances have in common. A key goes before
// its certificate, as in makeCA.
func sharedFiles() []string {
	return []string{caKeyFile, caCertFile, serverKeyFile, serverCertFile}
}

// readSharedFiles makes a secret of the files.
func readSharedFiles(dir string) (Secret, error) {
	files := make(map[string]string)
	for _, name := range sharedFiles() {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		files[name] = string(data)
	}
	return Secret(encodeJSON(files)), nil
}

// writeSharedFiles makes files of the secret.
func writeSharedFiles(dir string, secret Secret) error {
	var files map[string]string
	if err := json.Unmarshal([]byte(secret), &files); err != nil {
		return errors.New("the secret in the store is damaged: delete its row, and all instances get a new CA")
	}
	for _, name := range sharedFiles() {
		mode := fs.FileMode(0o644)
		if name == caKeyFile || name == serverKeyFile {
			mode = 0o600
		}
		if err := writeFile(filepath.Join(dir, name), []byte(files[name]), mode); err != nil {
			return err
		}
	}
	return nil
}
