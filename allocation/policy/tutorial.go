// SPDX-License-Identifier: Apache-2.0

package policy

import (
	_ "embed"
	"fmt"
)

//go:embed tutorial.toml
var tutorialText []byte

// Tutorial is the policy of Azure's tutorial "Use custom allocation policies" in
// this language. It decides like [allocation.Tutorial], which is the faster one;
// this one can be explained and compared with others.
func Tutorial() *Policy {
	p, err := Parse("tutorial policy", tutorialText)
	if err != nil {
		panic(fmt.Sprintf("the embedded policy does not parse: %v", err)) // a test would have found it
	}
	return p
}
