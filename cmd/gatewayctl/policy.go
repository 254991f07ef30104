// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/allocation/cases"
)

// newPolicyCommand builds policy and what is below it.
func newPolicyCommand() *cobra.Command {
	return newParentCommand("policy", "Check and test an allocation policy",
		`Policy works on a site's allocation policy before it acts: check finds what is wrong
with the file, test holds it to cases, and cases makes these of decisions that were
recorded. What a policy would answer to a request is told by gatewayctl allocate.`,
		newPolicyCheckCommand(), newPolicyTestCommand(), newPolicyCasesCommand())
}

// newPolicyCheckCommand builds policy check.
func newPolicyCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check POLICY.toml...",
		Short: "Find what is wrong with a policy's file",
		Long: `Check reads a policy as the daemon does and tells all that is wrong with it, with
file, line and column. It asks the policy nothing; gatewayctl policy test does that.`,
		Example: `  gatewayctl policy check policy.toml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return wrongUsage(cmd, "give the policy's file")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			out := &output{to: cmd.OutOrStdout()}
			wrong := false
			for _, path := range args {
				loaded, err := loadPolicy(path)
				if err != nil {
					printError(cmd.ErrOrStderr(), err)
					wrong = true
					continue
				}
				describePolicy(out, loaded)
			}
			if wrong {
				return errReported
			}
			return out.err
		},
	}
}

// policyTestFlags are the flags of policy test.
type policyTestFlags struct {
	policy          string
	junit           string
	output          string
	requireCoverage bool
	quiet           bool
}

// newPolicyTestCommand builds policy test.
func newPolicyTestCommand() *cobra.Command {
	var flags policyTestFlags
	cmd := &cobra.Command{
		Use:   "test CASES.toml...",
		Short: "Hold a policy to its cases",
		Long: `Test asks a policy about each case of a file, without a daemon or a directory, and
tells what is not as wanted and which rules no case reached. Without --policy it is
the built-in policy. docs/policy.md says what a case may hold.

Exit status: 0 all cases passed, 1 one did not, or a file could not be read, or with
--require-coverage a rule was not reached; 2 wrong usage.`,
		Example: `  gatewayctl policy test cases.toml --policy policy.toml --require-coverage
  gatewayctl policy test cases.toml --policy policy.toml --junit report.xml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return wrongUsage(cmd, "give the file of cases")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return flags.run(cmd, args) },
	}
	set := cmd.Flags()
	set.StringVar(&flags.policy, "policy", "", "`file` of the policy (default: the built-in one)")
	set.StringVar(&flags.junit, "junit", "", "`file` for the outcome as JUnit XML, which CI systems read")
	set.BoolVar(&flags.requireCoverage, "require-coverage", false, "fail if no case reached one of the rules")
	set.BoolVarP(&flags.quiet, "quiet", "q", false, "show only what did not pass")
	set.StringVarP(&flags.output, "output", "o", "text", "text, or json: one object a line")
	return cmd
}

func (f *policyTestFlags) run(cmd *cobra.Command, paths []string) error {
	if err := checkOutput(cmd, f.output); err != nil {
		return err
	}
	if len(paths) > 1 && f.junit != "" {
		return wrongUsage(cmd, "--junit is for one file of cases")
	}
	loaded, err := loadPolicy(f.policy)
	if err != nil {
		return err
	}
	out := &output{to: cmd.OutOrStdout()}
	whole := &cases.Report{}
	unreached := map[string]int{}
	for _, path := range paths {
		file, err := cases.Load(path)
		if err != nil {
			return err
		}
		report, err := cases.Run(cmd.Context(), loaded, file)
		if err != nil {
			return err
		}
		f.show(out, report)
		if f.junit != "" {
			if err := f.writeJUnit(report); err != nil {
				return err
			}
		}
		whole.Results = append(whole.Results, report.Results...)
		whole.Rules = report.Rules
		for _, rule := range report.Unreached {
			unreached[rule]++
		}
	}
	for _, rule := range whole.Rules {
		if unreached[rule] == len(paths) {
			whole.Unreached = append(whole.Unreached, rule)
		}
	}
	return f.finish(cmd, out, whole)
}

// show prints what came of one file.
func (f *policyTestFlags) show(out io.Writer, report *cases.Report) {
	for i := range report.Results {
		result := &report.Results[i]
		if f.quiet && result.Passed() {
			continue
		}
		if f.output == "json" {
			_ = printJSON(out, newCaseRow(report.File, result)) // out remembers what fails
			continue
		}
		verdict := "pass"
		if !result.Passed() {
			verdict = "FAIL"
		}
		fmt.Fprintf(out, "%s  %s\n", verdict, cell(result.Case.Name))
		if !result.Passed() {
			fmt.Fprintf(out, "      %s:%d, decided by %s\n", report.File, result.Case.Line, ruleText(result.Answer.Rule))
		}
		for _, failure := range result.Failures {
			fmt.Fprintf(out, "      %s\n", printable(failure))
		}
	}
}

// caseRow is a case's outcome as -o json shows it.
type caseRow struct {
	File     string   `json:"file"`
	Line     int      `json:"line"`
	Name     string   `json:"name"`
	Passed   bool     `json:"passed"`
	Rule     string   `json:"rule,omitempty"`
	Failures []string `json:"failures,omitempty"`
}

func newCaseRow(file string, result *cases.Result) caseRow {
	return caseRow{File: file, Line: result.Case.Line, Name: result.Case.Name, Passed: result.Passed(), Rule: result.Answer.Rule, Failures: result.Failures}
}

func (f *policyTestFlags) writeJUnit(report *cases.Report) error {
	var document bytes.Buffer
	if err := cases.WriteJUnit(&document, report); err != nil {
		return err
	}
	return replaceFile(f.junit, document.Bytes(), 0o644)
}

// finish prints the summary and the coverage, and says how it ended.
func (f *policyTestFlags) finish(cmd *cobra.Command, out *output, whole *cases.Report) error {
	var total time.Duration
	for i := range whole.Results {
		total += whole.Results[i].Duration
	}
	failed := whole.Failed()
	summary := fmt.Sprintf("%s: %d passed, %d failed", counted(len(whole.Results), "case"), len(whole.Results)-failed, failed)
	if whole.Rules != nil {
		summary += fmt.Sprintf("; %d of %s reached", len(whole.Rules)-len(whole.Unreached), counted(len(whole.Rules), "rule"))
	}
	if f.output == "text" {
		fmt.Fprintf(out, "\n%s\n", summary)
	} else if failed > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "gatewayctl: %s\n", summary)
	}
	if len(whole.Unreached) > 0 {
		kind := "warning: "
		if f.requireCoverage {
			kind = ""
		}
		var names []string
		for _, rule := range whole.Unreached {
			names = append(names, ruleText(rule))
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "gatewayctl: %sno case reached %s\n", kind, strings.Join(names, ", "))
	}
	switch {
	case out.err != nil:
		return fmt.Errorf("not every outcome could be shown: %w", out.err)
	case failed > 0, f.requireCoverage && len(whole.Unreached) > 0:
		return errReported
	}
	return nil
}

// ruleText names a rule in a sentence.
func ruleText(rule string) string {
	if rule == "" {
		return "no rule"
	}
	quoted, err := json.Marshal(rule)
	if err != nil {
		return rule
	}
	return "rule " + printable(string(quoted))
}
