// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/contoso/gatewayd/allocation"
)

// Bounds of what a comparison shows without --all.
const (
	shownDevices     = 20
	shownDifferences = 8 // of one device
	shownPlace       = 100
)

// print shows which devices differ, from where to where, and the counts.
func (c *comparison) print(out io.Writer, width int, all bool) {
	shown := c.moved
	if !all && len(shown) > shownDevices {
		shown = shown[:shownDevices]
	}
	for _, m := range shown {
		c.printMoved(out, width, m, all)
	}
	if left := len(c.moved) - len(shown); left > 0 {
		fmt.Fprintf(out, "… and %d more; --all shows them\n\n", left)
	}
	if len(c.moved) > 0 {
		moves := newTable(out, "FROM", "TO", "DEVICES")
		for _, m := range c.moves() {
			moves.row(clipped(shortHub(m.From), shownPlace), clipped(shortHub(m.To), shownPlace), fmt.Sprint(m.Devices))
		}
		_ = moves.end() // the output remembers what fails
		fmt.Fprintln(out)
	}
	if c.requests > 0 {
		rules := newTable(out, "RULE NOW", "SAME", "DIFFERENT")
		for _, rule := range slices.Sorted(maps.Keys(c.byRule)) {
			rules.row(rule, fmt.Sprint(c.byRule[rule].same), fmt.Sprint(c.byRule[rule].different))
		}
		_ = rules.end() // the output remembers what fails
		fmt.Fprintln(out)
	}
	fmt.Fprintln(out, c.summary())
}

// printMoved shows one device: both answers, and below them what else differs.
func (c *comparison) printMoved(out io.Writer, width int, m *moved, all bool) {
	times := ""
	if m.requests > 1 {
		times = fmt.Sprintf(" (%d requests)", m.requests)
	}
	fmt.Fprintln(out, clipped(m.id, width-len(times))+times)
	label := max(len(c.was.label), len(c.now.label))
	was, now := clipped(answerText(m.was), width-label-4), clipped(answerText(m.now), width-label-4)
	column := max(utf8.RuneCountInString(was), utf8.RuneCountInString(now))
	line := func(of party, text, by string) {
		if by != "" && label+column+len("    by ")+utf8.RuneCountInString(by) <= width {
			text = padded(text, column) + "  by " + by
		}
		fmt.Fprintf(out, "  %s  %s\n", padded(of.label, label), text)
	}
	line(c.was, was, byText(m.was.Rule, m.source))
	line(c.now, now, byText(m.now.Rule, ""))
	rest := slices.DeleteFunc(slices.Clone(m.differences), func(d allocation.Difference) bool {
		return d.Path == "iotHubHostName" || d.Path == "answer" || d.Path == "refusal"
	})
	for i, difference := range rest {
		if !all && i == shownDifferences {
			fmt.Fprintf(out, "  %s  … and %d more\n", padded("", label), len(rest)-i)
			break
		}
		fmt.Fprintf(out, "  %s  %s\n", padded("", label), clipped(difference.String(), width-label-4))
	}
	fmt.Fprintln(out)
}

// byText says who decided.
func byText(rule string, source allocation.Source) string {
	switch {
	case source == allocation.SourceUpstream:
		return "the cloud function"
	case rule == "":
		return ""
	case source == allocation.SourceFallback:
		return printable(rule) + ", as fallback"
	default:
		return printable(rule)
	}
}

// move counts devices that go from one place to another.
type move struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Devices int    `json:"devices"`
}

// moves gives the counts, the largest first.
func (c *comparison) moves() []move {
	counts := map[[2]string]map[string]bool{}
	for _, m := range c.moved {
		from, to := place(m.was), place(m.now)
		if from == to {
			switch m.was.Status {
			case http.StatusOK:
				to = "the same, with another twin or payload"
			default:
				to = "the same, in other words"
			}
		}
		key := [2]string{from, to}
		if counts[key] == nil {
			counts[key] = map[string]bool{}
		}
		counts[key][strings.ToLower(m.id)] = true
	}
	var all []move
	for key, devices := range counts {
		all = append(all, move{key[0], key[1], len(devices)})
	}
	slices.SortFunc(all, func(a, b move) int {
		return cmp.Or(cmp.Compare(b.Devices, a.Devices), strings.Compare(a.From, b.From), strings.Compare(a.To, b.To))
	})
	return all
}

// place is where an answer leads: the whole name of a hub, because two that differ
// at their ends alone are two.
func place(a allocation.Answer) string {
	switch a.Status {
	case http.StatusOK:
		return a.Hub()
	case http.StatusBadRequest:
		return "refused"
	default:
		return "no answer"
	}
}

// summary is the last line.
func (c *comparison) summary() string {
	devices := map[string]bool{}
	for _, m := range c.moved {
		devices[strings.ToLower(m.id)] = true
	}
	text := fmt.Sprintf("%s, %s and %s: %d the same, %d different", counted(c.requests, "request"), c.was.name, c.now.name, c.same, c.different)
	if c.different > 0 {
		text += fmt.Sprintf(" (%s)", counted(len(devices), "device"))
	}
	text += "."
	if c.upstream > 0 {
		text += fmt.Sprintf("\nOf the recorded answers the cloud function gave %d.", c.upstream)
	}
	if c.fallback > 0 {
		text += fmt.Sprintf("\nOf the recorded answers the policy gave %d because the cloud function was unavailable.", c.fallback)
	}
	if c.notComparable > 0 {
		text += fmt.Sprintf("\nNot compared: %s without an answer to compare with.", counted(c.notComparable, "request"))
	}
	return text
}

// side and difference as -o json shows them.
type (
	sideRow struct {
		Status   int               `json:"status"`
		Rule     string            `json:"rule,omitempty"`
		Hub      string            `json:"hub,omitempty"`
		Refusal  string            `json:"refusal,omitempty"`
		Source   allocation.Source `json:"source,omitempty"`
		Response any               `json:"response,omitempty"`
	}
	differenceRow struct {
		Path string `json:"path"`
		Was  string `json:"was,omitempty"` // JSON
		Is   string `json:"is,omitempty"`
	}
	movedRow struct {
		RegistrationID string          `json:"registrationId"`
		Requests       int             `json:"requests"`
		Was            sideRow         `json:"was"`
		Now            sideRow         `json:"now"`
		Differences    []differenceRow `json:"differences"`
	}
	summaryRow struct {
		Requests    int    `json:"requests"`
		Same        int    `json:"same"`
		Different   int    `json:"different"`
		NotCompared int    `json:"notCompared"`
		Upstream    int    `json:"answeredByUpstream"`
		Fallback    int    `json:"answeredAsFallback"`
		Moves       []move `json:"moves"`
	}
)

func newSideRow(a allocation.Answer, source allocation.Source) sideRow {
	row := sideRow{Status: a.Status, Rule: a.Rule, Hub: a.Hub(), Refusal: a.Refusal, Source: source}
	if a.Status == http.StatusOK {
		row.Response = a.Response
	}
	return row
}

// printJSON prints one object for each device that differs, and one with the
// counts at the end.
func (c *comparison) printJSON(out io.Writer) {
	for _, m := range c.moved {
		row := movedRow{RegistrationID: m.id, Requests: m.requests, Was: newSideRow(m.was, m.source), Now: newSideRow(m.now, "")}
		for _, d := range m.differences {
			row.Differences = append(row.Differences, differenceRow(d))
		}
		_ = printJSON(out, row) // the output remembers what fails
	}
	_ = printJSON(out, map[string]summaryRow{"summary": {
		c.requests, c.same, c.different, c.notComparable, c.upstream, c.fallback, append([]move{}, c.moves()...),
	}})
}
