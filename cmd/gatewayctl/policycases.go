// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/allocation/cases"
)

// policyCasesFlags are the flags of policy cases.
type policyCasesFlags struct {
	logs     []string
	limit    int
	perRule  int
	upstream bool
	file     string
}

// newPolicyCasesCommand builds policy cases.
func newPolicyCasesCommand() *cobra.Command {
	var flags policyCasesFlags
	cmd := &cobra.Command{
		Use:   "cases --from-log LOG",
		Short: "Make cases of decisions that were recorded",
		Long: `Cases writes decisions of a decision log as a file for gatewayctl policy test, which
passes under the policy that made them. Devices that differ in their IDs alone, and got
the same answer from the same rule, make one case. The log has no secrets, so the file
has none; it does have registration IDs and what devices told of themselves.

Decisions of a cloud function in front of the policy are left out without --upstream;
with it the cases say what the policy must do to take the function's place.`,
		Example: `  gatewayctl policy cases --from-log /var/lib/gatewayd/decisions.jsonl --file cases.toml`,
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return flags.run(cmd) },
	}
	set := cmd.Flags()
	set.StringArrayVar(&flags.logs, "from-log", nil, "`file` of the decision log; the older ones beside it are read too; may be repeated")
	set.IntVar(&flags.limit, "limit", 200, "at most so many cases; 0 for all")
	set.IntVar(&flags.perRule, "per-rule", 10, "at most so many cases of one rule; 0 for all")
	set.BoolVar(&flags.upstream, "upstream", false, "make cases of a cloud function's decisions too")
	set.StringVar(&flags.file, "file", "", "`file` to write (default: standard output)")
	return cmd
}

func (f *policyCasesFlags) run(cmd *cobra.Command) error {
	switch {
	case len(f.logs) == 0:
		return wrongUsage(cmd, "--from-log is missing")
	case f.limit < 0 || f.perRule < 0:
		return wrongUsage(cmd, "--limit and --per-rule are 0 or more")
	}
	collector := cases.Collector{Limit: f.limit, PerRule: f.perRule}
	passedOver, fromUpstream := 0, 0
	log := newLogReader(cmd, f.logs)
	for a := range log.all() {
		if err := cmd.Context().Err(); err != nil {
			return err
		}
		r := a.recorded
		answer := allocation.Answer{Status: r.Status, Rule: r.Rule, Response: r.Response, Refusal: r.Refusal}
		switch {
		case r.Source == allocation.SourceUpstream && !f.upstream:
			fromUpstream++
		case !collector.Add(cases.Decided{RegistrationID: r.RegistrationID, Request: r.Request, Device: r.Row(), Answer: answer}):
			passedOver++
		}
	}
	if err := log.err(); err != nil {
		return err
	}
	if len(collector.Cases) == 0 {
		return fmt.Errorf("%s: no decision of a policy is there, so there are no cases to make", f.logs[0])
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "# Decisions of %s, for gatewayctl policy test.\n\n", cell(f.logs[0]))
	if err := cases.Write(&text, collector.Cases); err != nil {
		return err
	}
	if f.file != "" {
		if err := replaceFile(f.file, text.Bytes(), 0o644); err != nil {
			return err
		}
	} else if _, err := text.WriteTo(cmd.OutOrStdout()); err != nil {
		return err
	}
	out := cmd.ErrOrStderr()
	fmt.Fprintf(out, "Made %s of %s.\n", counted(len(collector.Cases), "case"), counted(log.records, "decision"))
	for _, left := range []struct {
		count int
		why   string
	}{
		{collector.Known, "like an earlier one"},
		{collector.Beyond, "left out because of --limit or --per-rule"},
		{fromUpstream, "left out because a cloud function made them"},
		{passedOver, "left out because no policy answered them"},
	} {
		if left.count > 0 {
			fmt.Fprintf(out, "  %d %s\n", left.count, left.why)
		}
	}
	return log.failed()
}
