// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestHubGaps compares rules of each kind with what an enrollment offers.
func TestHubGaps(t *testing.T) {
	p, err := Parse("policy.toml", []byte(`
[[rule]]
name = "by part"
when.registration_id.contains = "-a"
hub.contains = "-toasters-"
[[rule]]
name = "by name"
when.registration_id.contains = "-b"
hub = "Hub-1.example"
[[rule]]
name = "by weight"
when.registration_id.contains = "-c"
hub = { weights = { "hub-1.example" = 0, "hub-2.example" = 3 }, none = "retry" }
[[rule]]
name = "by expression"
when.registration_id.contains = "-d"
hub.cel = '"hub-9.example"'
[[rule]]
refuse = "Unknown."
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		linked []string
		want   []string
	}{
		{"all", []string{"x-toasters-1.example", "hub-1.example", "hub-2.example"}, nil},
		{"one has weight 0", []string{"x-toasters-1.example", "hub-1.example"}, []string{"by weight retry"}},
		{"none", []string{"other.example"}, []string{"by part retry", "by name retry", "by weight retry"}},
		{"an empty list", nil, []string{"by part retry", "by name retry", "by weight retry"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			gaps, err := p.HubGaps(test.linked)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, gap := range gaps {
				if gap.Want == "" {
					t.Errorf("%s: what it looks for is not told", gap.Rule)
				}
				got = append(got, gap.Rule+" "+gap.Then)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("gaps (-want +got):\n%s", diff)
			}
		})
	}
}
