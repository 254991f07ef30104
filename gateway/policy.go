// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/allocation/policy"
	"github.com/contoso/gatewayd/gateway/config"
)

// sitePolicy is the policy that decides, and what a log says of it.
type sitePolicy struct {
	allocation.Policy
	name   string // its file, or that it is the built-in one
	digest string // of the file's text; "" for the built-in one
	rules  int    // 0 for the built-in one
}

// maxPolicy bounds the file of a policy, in bytes; policy.Parse says so of one
// that is longer.
const maxPolicy = 1 << 20

// loadPolicy reads the policy of a file, or gives the built-in one without.
func loadPolicy(file string) (sitePolicy, error) {
	if file == "" {
		return sitePolicy{Policy: allocation.Tutorial(), name: "built-in"}, nil
	}
	return readPolicy("policy", file)
}

// loadShadow reads the policy that is asked beside the other; without a file there
// is none.
func loadShadow(file string) (sitePolicy, error) {
	if file == "" {
		return sitePolicy{}, nil
	}
	return readPolicy("shadow", file)
}

// readPolicy reads the policy of a file, which a key of the configuration names.
// The error has a line with file, line and column for everything that is wrong.
func readPolicy(key, file string) (sitePolicy, error) {
	opened, err := os.Open(file)
	if err != nil {
		return sitePolicy{}, fmt.Errorf("reading [allocation] %s: %w", key, err)
	}
	defer opened.Close()
	text, err := io.ReadAll(io.LimitReader(opened, maxPolicy+1))
	if err != nil {
		return sitePolicy{}, fmt.Errorf("reading [allocation] %s: %w", key, err)
	}
	parsed, err := policy.Parse(file, text)
	if err != nil {
		return sitePolicy{}, fmt.Errorf("reading [allocation] %s:\n%w", key, err)
	}
	sum := sha256.Sum256(text)
	return sitePolicy{Policy: parsed, name: file, digest: hex.EncodeToString(sum[:6]), rules: len(parsed.Rules())}, nil
}

// logged tells which policy it is.
func (p sitePolicy) logged() []any {
	if p.digest == "" {
		return []any{"policy", p.name}
	}
	return []any{"policy", p.name, "policy_digest", p.digest, "rules", p.rules}
}

// String tells which policy it is, for those who watch. The folder of its file is
// none of their business.
func (p sitePolicy) String() string {
	if p.digest == "" {
		return p.name + " policy"
	}
	noun := "rules"
	if p.rules == 1 {
		noun = "rule"
	}
	return fmt.Sprintf("%s, %d %s, digest %s", filepath.Base(p.name), p.rules, noun, p.digest)
}

// directoryReader is the one of two policies that reads the device directory, so
// that it must be opened; the second may be nil.
func directoryReader(decides, shadow allocation.Policy) allocation.Policy {
	if shadow != nil && !directoryUse(decides).Used {
		return shadow
	}
	return decides
}

// CheckFiles reads the files that a configuration names and that hold no secrets, for
// "gatewayd --check". The error is a [ConfigError].
func CheckFiles(cfg config.Config) error {
	if cfg.Allocation == nil {
		return nil
	}
	decides, err := loadPolicy(cfg.Allocation.Policy)
	var shadow sitePolicy
	if err == nil {
		shadow, err = loadShadow(cfg.Allocation.Shadow)
	}
	if err == nil && directoryUse(directoryReader(decides.Policy, shadow.Policy)).Used && cfg.Allocation.Directory == "" && cfg.Allocation.DirectoryURL == "" {
		err = errNoDirectory
	}
	if err != nil {
		return &ConfigError{err}
	}
	return nil
}
