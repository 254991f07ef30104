// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/contoso/gatewayd/allocation/policy"
)

// explainer writes an explanation as a tree, within the width of the terminal.
type explainer struct {
	out   io.Writer
	width int
}

// printExplanation tells how a policy came to its answer.
func printExplanation(out io.Writer, width int, x policy.Explanation) {
	e := explainer{out, width}
	e.line("The rules of %s, in their order:", x.Policy)
	if x.Device != nil {
		row, err := json.Marshal(x.Device.Row)
		if err != nil {
			row = []byte("(cannot be shown)")
		}
		e.line("  device: %s %s", x.Device.Origin, row)
	}
	for i := range x.Rules {
		e.rule(&x.Rules[i])
	}
	if x.NotTried > 0 {
		e.line("")
		e.line("  %s not tried", counted(x.NotTried, "more rule"))
	}
}

// line prints one line that does not wrap.
func (e *explainer) line(format string, args ...any) {
	fmt.Fprintln(e.out, clipped(fmt.Sprintf(format, args...), e.width))
}

// rule prints what became of one rule.
func (e *explainer) rule(r *policy.RuleTrace) {
	outcome := "does not apply"
	switch {
	case r.WentOn:
		outcome = "applies, finds no hub, and leaves the device to the next"
	case r.Applies:
		outcome = "APPLIES"
	case len(r.Conditions) > 0 && r.Conditions[len(r.Conditions)-1].Trouble != "":
		outcome = "cannot be told"
	}
	e.line("")
	e.line("%3d  %s (line %d): %s", r.Number, r.Name, r.Line, outcome)
	e.conditions(r.Conditions)
	if r.Hub != nil {
		e.hub(r.Hub)
	}
}

// conditions prints what each wanted and saw, in columns; where that is too wide,
// what it saw goes below.
func (e *explainer) conditions(all []policy.ConditionTrace) {
	nameWidth, wantsWidth, sawWidth := 0, 0, 0
	for _, c := range all {
		nameWidth = max(nameWidth, utf8.RuneCountInString(printable(c.Name)))
		wantsWidth = max(wantsWidth, utf8.RuneCountInString(printable(c.Wants)))
		sawWidth = max(sawWidth, utf8.RuneCountInString(printable(c.Saw)))
	}
	nameWidth = min(nameWidth, 24)
	wide := len("     yes    wants   saw ")+nameWidth+wantsWidth+sawWidth > e.width
	for i, c := range all {
		if i > 0 && c.Alternative != all[i-1].Alternative {
			e.line("     or")
		}
		mark := "no"
		switch {
		case c.Trouble != "":
			mark = "?"
		case c.Holds:
			mark = "yes"
		}
		name := padded(clipped(c.Name, nameWidth), nameWidth)
		if wide {
			e.line("     %s  %s  wants %s", padded(mark, 3), name, c.Wants)
			e.line("          %s  saw   %s", padded("", nameWidth), c.Saw)
		} else {
			e.line("     %s  %s  wants %s  saw %s", padded(mark, 3), name, padded(printable(c.Wants), wantsWidth), c.Saw)
		}
		if c.Trouble != "" {
			e.line("          %s", c.Trouble)
		}
	}
}

// hub prints the hubs that the rule chose from.
func (e *explainer) hub(h *policy.HubTrace) {
	e.line("     hub  %s: %s", pickText(h.Pick), h.Wants)
	width := 0
	for _, hub := range h.Hubs {
		width = max(width, utf8.RuneCountInString(printable(shortHub(hub.Name))))
	}
	width = min(width, max(e.width-40, 20))
	for _, hub := range h.Hubs {
		mark := " "
		if hub.Picked {
			mark = "*"
		}
		e.line("       %s  %s  %s", mark, padded(clipped(shortHub(hub.Name), width), width), hub.Chance())
	}
}

// pickText says in words how one of several hubs is picked.
func pickText(pick string) string {
	switch pick {
	case "first":
		return "the first that fits"
	case "last":
		return "the last that fits"
	case "spread":
		return "the one with the highest score"
	case "current":
		return "the one where the device is"
	default:
		return strings.TrimSpace(pick)
	}
}
