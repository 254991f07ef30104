// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
)

// selection is how a rule finds the hub of a device among the linked ones.
type selection struct {
	want        string         // for explanations
	match       *matcher       // what a candidate's name must fit, or nil
	weights     []weightedName // the candidates by name, or nil
	expr        *expression    // says the name, or nil
	pick        string
	keepCurrent bool
	none        string // what to do without a candidate
	refusal     sentence
}

// weightedName is a hub that a rule names, and its share of the devices.
type weightedName struct {
	name   string
	weight float64
}

// How one of several candidates is picked.
const (
	pickFirst  = "first"
	pickLast   = "last"
	pickSpread = "spread"
)

// What happens without a candidate.
const (
	noneRetry  = "retry"
	noneNext   = "next"
	noneRefuse = "refuse"
)

// candidate is a linked hub that a rule may pick.
type candidate struct {
	name   string // as linkedHubs spells it
	weight float64
	score  float64 // of rendezvous hashing; set where hubs are spread
}

// candidates gives the linked hubs that the selection allows, in the order of
// linkedHubs. A hub without a name is none: the service fails a registration for
// it (dps-protocol 12.4).
func (s *selection) candidates(linked []string) ([]candidate, error) {
	var found []candidate
	for _, hub := range linked {
		if hub == "" {
			continue
		}
		weight := 1.0
		if s.weights != nil {
			i := slices.IndexFunc(s.weights, func(w weightedName) bool { return strings.EqualFold(w.name, hub) })
			if i < 0 {
				continue
			}
			weight = s.weights[i].weight
		}
		if s.match != nil {
			if held, err := s.match.holds(seen{present: true, text: hub}); err != nil {
				return nil, err
			} else if !held {
				continue
			}
		}
		found = append(found, candidate{name: hub, weight: weight})
	}
	return found, nil
}

// choose picks one of the candidates, and false when there is none to pick. It
// scores them where that decides.
func (s *selection) choose(candidates []candidate, currentHub, registrationID string) (hub string, kept, found bool) {
	if s.keepCurrent && currentHub != "" {
		i := slices.IndexFunc(candidates, func(c candidate) bool { return strings.EqualFold(c.name, currentHub) })
		if i >= 0 {
			return candidates[i].name, true, true
		}
	}
	if len(candidates) == 0 {
		return "", false, false
	}
	switch s.pick {
	case pickFirst:
		return candidates[0].name, false, true
	case pickLast:
		return candidates[len(candidates)-1].name, false, true
	default:
		hub = spread(candidates, registrationID)
		return hub, false, hub != ""
	}
}

// spread gives a device its hub by weighted rendezvous hashing: each hub gets a
// score from the device's and its own name alone, and the highest wins. A hub
// that joins or leaves therefore moves only the devices that it wins or held,
// and a hub's share is in proportion to its weight. A weight of 0 never wins.
//
// Scores are part of the contract: another version of this program must spread
// devices alike. The score is -weight / ln(h), with h the first 53 bits of
// SHA-256 of registration ID, a zero byte and hub, both in lower case, as a
// fraction between 0 and 1. Of equal scores the first name in alphabetical order
// wins, so that the order of linkedHubs has no say.
func spread(candidates []candidate, registrationID string) string {
	best := -1
	for i := range candidates {
		c := &candidates[i]
		if c.weight <= 0 {
			continue
		}
		c.score = score(registrationID, strings.ToLower(c.name), c.weight)
		if best < 0 || c.score > candidates[best].score || c.score == candidates[best].score && c.name < candidates[best].name {
			best = i
		}
	}
	if best < 0 {
		return ""
	}
	return candidates[best].name
}

func score(registrationID, hub string, weight float64) float64 {
	var buffer [256]byte
	sum := sha256.Sum256(append(append(append(buffer[:0], registrationID...), 0), hub...))
	fraction := (float64(binary.BigEndian.Uint64(sum[:8])>>11) + 0.5) / (1 << 53)
	return -weight / math.Log(fraction)
}

// selection reads the hub of a rule: a name, a list of names, or a table.
func (c *checker) selection(n *node, at span) *selection {
	s := &selection{pick: pickSpread, none: noneRetry}
	switch n.kind {
	case text:
		s.weights = c.hubNames([]*node{n})
		s.want = n.shown()
	case list:
		if len(n.items) == 0 {
			c.fail(at, "the list of hubs is empty")
		}
		s.weights = c.hubNames(n.items)
		s.want = namesOf(s.weights)
	case table:
		c.selectionTable(s, n, at)
	default:
		c.fail(n.at, "hub must be a host name, a list of them, or a table such as { contains = \"…\" }, and %s stands here", n.kind)
	}
	return s
}

func (c *checker) hubNames(nodes []*node) []weightedName {
	var names []weightedName
	for _, n := range nodes {
		if c.isText(n, "a hub") {
			names = c.addHub(names, n.text, n.at, 1)
		}
	}
	return names
}

// maxHubs bounds the hubs that one rule names.
const maxHubs = 100

// addHub adds a name, checked for what no host name has.
func (c *checker) addHub(names []weightedName, name string, at span, weight float64) []weightedName {
	switch {
	case len(names) == maxHubs:
		c.fail(at, "more than %d hubs, and a service links 50", maxHubs)
	case name == "" || strings.ContainsAny(name, " /?*:@\t\r\n"):
		c.fail(at, "%q is no host name of a hub, which looks like contoso-toasters-hub-1098.azure-devices.net", clip(name))
	case slices.ContainsFunc(names, func(w weightedName) bool { return strings.EqualFold(w.name, name) }):
		c.fail(at, "hub %q is named twice", clip(name))
	}
	return append(names, weightedName{name, weight})
}

func namesOf(weights []weightedName) string {
	names := make([]string, len(weights))
	for i, w := range weights {
		names[i] = w.name
	}
	return "one of " + quoteList(names)
}

// selectionKeys are the keys of a hub table besides those of a matcher.
var selectionKeys = []string{"weights", expressionKey, "pick", "keep_current", "none"}

// hubField is a hub's name as matchers see it.
var hubField = field{name: "a hub's name"}

func (c *checker) selectionTable(s *selection, n *node, at span) {
	tests := &node{kind: table, at: n.at}
	known := slices.Concat(selectionKeys, textKeys, []string{keyNot})
	var sources []string
	misspelt := false
	for _, key := range n.members {
		switch key.name {
		case "weights":
			s.weights = c.weights(key)
			s.want = namesOf(s.weights)
			sources = append(sources, key.name)
		case expressionKey:
			s.expr = c.expression(key.value, wantHub)
			s.want = "cel " + key.value.shown()
			sources = append(sources, key.name)
		case "pick":
			s.pick = c.pick(key.value)
		case "keep_current":
			s.keepCurrent = c.boolean(key.value, key.name)
		case "none":
			c.none(s, key)
		default:
			if !slices.Contains(known, key.name) {
				c.fail(key.at, "unknown key %q of hub%s", key.name, hubHint(key.name, known))
				misspelt = true
				continue
			}
			tests.members = append(tests.members, key)
		}
	}
	if len(tests.members) > 0 {
		match := c.allOf(tests, at, hubField)
		s.match, s.want = &match, match.want
		sources = append(sources, tests.members[0].name)
	}
	pick := n.get("pick")
	switch {
	case len(n.members) == 0:
		c.fail(at, "hub is empty; name one, or say what its name contains")
	case len(sources) > 1:
		c.fail(at, "hub says twice which hubs it means, by %s and by %s; keep one", sources[0], sources[1])
	case len(sources) == 0:
		s.want = "any linked hub"
		if pick == nil && !s.keepCurrent && !misspelt {
			c.fail(at, `hub does not say which; to spread devices over all linked hubs, write hub = { pick = "spread" }`)
		}
	case s.weights != nil && pick != nil && s.pick != pickSpread:
		c.fail(pick.at, "weights spread the devices, and pick = %q does not", s.pick)
	case s.expr != nil && pick != nil:
		c.fail(pick.at, "an expression gives one hub, so there is nothing to pick from")
	case s.expr != nil && s.keepCurrent:
		c.fail(n.get("keep_current").at, "an expression gives one hub; let it give the current one where that should stay")
	}
}

func hubHint(word string, known []string) string {
	if hint, hinted := wordHints[word]; hinted {
		return "; " + hint
	}
	if word == "exact" || word == "name" || word == "host_name" {
		return `; a hub is named by hub = "…"`
	}
	return orKnown(word, known)
}

func (c *checker) pick(n *node) string {
	words := []string{pickFirst, pickLast, pickSpread}
	if c.isText(n, "pick") && !slices.Contains(words, n.text) {
		c.fail(n.at, "pick may be %s, and not %q%s", oneOf(words), n.text, didYouMean(n.text, words))
	}
	return n.text
}

// maxWeight bounds a weight; more says nothing that a proportion needs.
const maxWeight = 1e6

func (c *checker) weights(key member) []weightedName {
	if !c.isTable(key.value, key.at, "weights") {
		return nil
	}
	var names []weightedName
	sum := 0.0
	for _, hub := range key.value.members {
		weight := 0.0
		if hub.value.kind == integer || hub.value.kind == float {
			weight, _ = toFloat(c.number(hub.value))
		} else {
			c.fail(hub.value.at, "a weight must be a number, and %s stands here", hub.value.kind)
		}
		if weight < 0 || weight > maxWeight {
			c.fail(hub.value.at, "a weight is between 0, which takes no new devices, and %.0f", maxWeight)
		}
		sum += weight
		names = c.addHub(names, hub.name, hub.at, weight)
	}
	if sum == 0 {
		c.fail(key.at, "weights leaves no hub that takes devices")
	}
	return names
}

// refuseTable is how a refusal is written in the place of a word.
const refuseTable = `{ refuse = "…" }`

// none reads what happens without a candidate.
func (c *checker) none(s *selection, key member) {
	words := []string{noneRetry, noneNext}
	allowed := fmt.Sprintf("%q, %q or %s", noneRetry, noneNext, refuseTable)
	switch n := key.value; {
	case n.kind == text && slices.Contains(words, n.text):
		s.none = n.text
	case n.kind == table && len(n.members) == 1 && n.members[0].name == noneRefuse:
		s.none = noneRefuse
		s.refusal = c.sentence(n.members[0].value, n.members[0].at, "refuse")
	case n.kind == text && strings.Contains(n.text, " "):
		c.fail(n.at, "to refuse with this sentence, write none = { refuse = %q }", n.text)
	case n.kind == text:
		c.fail(n.at, "none may be %s, and not %q%s", allowed, n.text, didYouMean(n.text, words))
	default:
		c.fail(key.at, "none may be %s", allowed)
	}
}
