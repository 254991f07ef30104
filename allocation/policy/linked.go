// SPDX-License-Identifier: Apache-2.0

package policy

// HubGap is a rule that finds no hub.
type HubGap struct {
	Rule string // its name
	Want string // which hubs it looks for, as explanations say it
	Then string // what it does for want of one: "refuse", "retry" or "next"
}

// HubGaps gives the rules that find no hub to choose among linked, in their
// order: a hub was forgotten in the enrollment, or misspelt in the policy. Rules
// that refuse are not looked at, nor those whose hub is a CEL expression, which
// may name another hub for each device.
func (p *Policy) HubGaps(linked []string) ([]HubGap, error) {
	var gaps []HubGap
	for i := range p.rules {
		r := &p.rules[i]
		if r.hub == nil || r.hub.expr != nil {
			continue
		}
		candidates, err := r.hub.candidates(linked)
		if err != nil {
			return nil, err
		}
		if _, _, found := r.hub.choose(candidates, "", ""); !found {
			gaps = append(gaps, HubGap{Rule: r.name, Want: r.hub.want, Then: r.hub.none})
		}
	}
	return gaps, nil
}
