// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// verdict says how bad a finding is.
type verdict string

// The verdicts, as they are printed.
const (
	verdictOK    verdict = "ok"
	verdictNote  verdict = "note"  // works, and should be known
	verdictWrong verdict = "wrong" // devices are not assigned, or others may see what they should not
)

// finding is what one check came to. No text of it holds a secret.
type finding struct {
	Check   string  `json:"check"` // a word or two, the same in every run
	Verdict verdict `json:"verdict"`
	What    string  `json:"what"`           // what was found, one sentence without a full stop
	Next    string  `json:"next,omitempty"` // what to do; empty for "ok"
}

func ok(check, format string, args ...any) finding {
	return finding{Check: check, Verdict: verdictOK, What: fmt.Sprintf(format, args...)}
}

func note(check, next, format string, args ...any) finding {
	return finding{Check: check, Verdict: verdictNote, What: fmt.Sprintf(format, args...), Next: next}
}

func wrong(check, next, format string, args ...any) finding {
	return finding{Check: check, Verdict: verdictWrong, What: fmt.Sprintf(format, args...), Next: next}
}

// printFindings prints a table, and below it what to do about each finding that
// is not good.
func printFindings(out io.Writer, findings []finding) error {
	rows := newTable(out, "CHECK", "VERDICT", "WHAT")
	for _, f := range findings {
		rows.row(f.Check, string(f.Verdict), f.What)
	}
	if err := rows.end(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	steps, some := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0), false
	for _, f := range findings {
		if f.Next != "" {
			fmt.Fprintf(steps, "  %s:\t%s\n", f.Check, cell(f.Next))
			some = true
		}
	}
	if some {
		fmt.Fprintln(steps)
	}
	return steps.Flush()
}

// tallyFindings counts the verdicts up, for the last line.
func tallyFindings(findings []finding) (wrongs, notes int) {
	for _, f := range findings {
		switch f.Verdict {
		case verdictWrong:
			wrongs++
		case verdictNote:
			notes++
		}
	}
	return wrongs, notes
}
