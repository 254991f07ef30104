// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/contoso/gatewayd/allocation/policy"
)

// loadPolicy reads a site's policy, or gives the built-in one for no path.
func loadPolicy(path string) (*policy.Policy, error) {
	if path == "" {
		return policy.Tutorial(), nil
	}
	loaded, err := policy.Load(path)
	if wrong, ok := errors.AsType[*policy.LoadError](err); ok {
		return nil, policyError{wrong}
	}
	return loaded, err
}

// policyError is everything that is wrong with a policy, with the lines of the
// file.
type policyError struct{ *policy.LoadError }

// Error is what a person at a terminal reads.
func (e policyError) Error() string {
	report := strings.TrimSuffix(e.Report(), "\n")
	if len(e.Problems) == 1 {
		return report
	}
	return fmt.Sprintf("%s: %d mistakes\n%s", e.Name, len(e.Problems), report)
}

// Unwrap gives the error of the loader.
func (e policyError) Unwrap() error { return e.LoadError }

// policyName is what messages call a policy.
func policyName(path string) string {
	if path == "" {
		return "the built-in policy"
	}
	return path
}

// describePolicy says in a line what a good policy is made of.
func describePolicy(out io.Writer, p *policy.Policy) {
	fmt.Fprintf(out, "%s: good, %s", p.Name(), counted(len(p.Rules()), "rule"))
	if use := p.DirectoryUse(); use.Used {
		fmt.Fprintf(out, "; reads %s of the device directory", counted(len(use.Columns), "column"))
	}
	fmt.Fprintln(out)
}
