// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEveryRuleHasCases: rules 7 and 8 are the gateway's, all others must be there, and over each transport.
func TestEveryRuleHasCases(t *testing.T) {
	for _, transport := range []Transport{HTTPS, MQTT, MQTTWebSocket} {
		var rules []int
		names := make(map[string]bool)
		for _, c := range Cases() {
			if names[c.String()] {
				t.Errorf("two cases have the name %q", c)
			}
			names[c.String()] = true
			if c.Concerns(transport) {
				rules = append(rules, c.Rule)
			}
		}
		if diff := cmp.Diff([]int{1, 2, 3, 4, 5, 6, 9, 10, 11, 12}, slices.Compact(rules)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", transport, diff)
		}
	}
}
