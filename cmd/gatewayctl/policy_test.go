// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPolicyUnwritten fails where a verdict was lost, though all is well: a script
// goes by the exit status.
func TestPolicyUnwritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	policy := write("policy.toml", "[[rule]]\nname = \"all\"\nrefuse = \"No.\"\n")
	cases := write("cases.toml", "[[case]]\nname = \"a toaster\"\nregistration_id = \"lobby1-contoso-tstrsd-007\"\nwant.refused = \"No.\"\n")
	for _, args := range [][]string{
		{"policy", "check", policy},
		{"policy", "test", cases, "--policy", policy},
		{"policy", "test", cases, "--policy", policy, "--output", "json"},
	} {
		var errOut strings.Builder
		status := run(args, nil, &full{room: 10}, &errOut)
		if !strings.HasSuffix(errOut.String(), "no space left\n") || status != exitFailed {
			t.Errorf("%q: got exit status %d and %q, want %d and the disk's error", args[:2], status, errOut.String(), exitFailed)
		}
	}
}
