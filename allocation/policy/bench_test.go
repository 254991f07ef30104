// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/contoso/gatewayd/allocation"
)

// hundredRules is a policy of 100 plain rules of which the last fits.
func hundredRules() string {
	var text strings.Builder
	for i := range 99 {
		fmt.Fprintf(&text, "[[rule]]\nname = \"building %d\"\nwhen = { registration_id = { prefix = \"building%d-\", suffix = \"-007\" }, enrollment_group = \"group-%d\", firmware.from = \"12.0\" }\nhub.contains = \"-toasters-\"\n", i, i, i)
	}
	return text.String() + "[[rule]]\nhub.contains = \"-toasters-\"\ndesired.state = \"ready\"\n"
}

// twentyExpressions is a policy of 20 rules with expressions of which the last
// fits.
func twentyExpressions() string {
	var text strings.Builder
	for i := range 19 {
		fmt.Fprintf(&text, "[[rule]]\nname = \"building %d\"\nwhen = 'request.deviceRuntimeContext.registrationId.startsWith(\"building%d-\") || payload.?model.orValue(\"\") == \"model-%d\"'\nhub.contains = \"-toasters-\"\n", i, i, i)
	}
	return text.String() + "[[rule]]\nhub.contains = \"-toasters-\"\ndesired = { state = \"ready\", id = { cel = 'request.deviceRuntimeContext.registrationId' } }\n"
}

// BenchmarkDecide measures one decision: the tutorial's policy in Go and in this
// language, and larger ones, on the request that the tutorial logged. The budget
// for 100 plain rules and for 20 expressions is 1 ms.
func BenchmarkDecide(b *testing.B) {
	document, err := os.ReadFile("../testdata/tutorial-toaster.request.json")
	if err != nil {
		b.Fatal(err)
	}
	question := allocation.Question{Request: mustRequest(b, string(document))}
	for _, policy := range []struct {
		name   string
		policy allocation.Policy
	}{
		{"built-in", allocation.Tutorial()},
		{"tutorial", Tutorial()},
		{"100 plain rules", mustParse(b, hundredRules())},
		{"20 expressions", mustParse(b, twentyExpressions())},
	} {
		b.Run(policy.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := policy.policy.Decide(b.Context(), question); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkParse measures the load of a policy of 20 expressions.
func BenchmarkParse(b *testing.B) {
	text := []byte(twentyExpressions())
	for b.Loop() {
		if _, err := Parse("policy.toml", text); err != nil {
			b.Fatal(err)
		}
	}
}
