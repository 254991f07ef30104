// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/allocation/directory"
	"github.com/contoso/gatewayd/allocation/policy"
)

// allocateFlags are the flags of allocate.
type allocateFlags struct {
	policy     string
	explain    bool
	output     string
	device     []string
	deviceFile string

	replay  []string
	diff    string
	against string
	all     bool

	keyFile string
	caFile  string
	rate    float64

	directoryFile    string
	directoryURLFile string

	errOut    io.Writer            // of a comparison, above its progress line
	directory allocation.Directory // nil: rows are given by hand, or recorded
}

// newAllocateCommand builds allocate.
func newAllocateCommand() *cobra.Command {
	var flags allocateFlags
	cmd := &cobra.Command{
		Use:   "allocate [REQUEST.json|DIRECTORY|-]...",
		Short: "Show what an allocation policy would answer, and why",
		Long: `Allocate puts AllocationRequests to a policy and shows what the webhook would answer:
the hub and the whole response, or the refusal, and the rule that decided. Nothing is
assigned and no daemon is needed. A file holds one request or several; without one,
standard input is read. Without --policy it is the built-in policy.

With --replay the requests are those of a decision log, and today's answers are
compared with the recorded ones. With --diff the answers of two policies are compared,
and with --against those of a cloud function and the policy; over --replay's log, or
over the given requests. Answers are compared by their meaning: the order of members,
white space and the spelling of numbers do not count.

Exit status: 0 every request got a hub, or of a comparison, all answers are the same;
1 a request was refused or could not be answered, or an answer differs; 2 wrong usage.
Of a single request, -o json has the status: 400 is the policy's refusal, 503 is
trouble, after which the service asks again.`,
		Example: `  gatewayctl allocate --policy policy.toml --explain toaster.json
  gatewayctl allocate --policy policy.toml --device tenant=contoso --device floor=4 toaster.json
  gatewayctl allocate --policy policy.toml --replay /var/lib/gatewayd/decisions.jsonl
  gatewayctl allocate --policy policy.toml --diff new-policy.toml requests/
  gatewayctl allocate --policy policy.toml --against https://contoso-function-app-1098.azurewebsites.net/api/HttpTrigger1 --key-file key toaster.json`,
		RunE: func(cmd *cobra.Command, args []string) error { return flags.run(cmd, args) },
	}
	set := cmd.Flags()
	set.StringVar(&flags.policy, "policy", "", "`file` of the policy (default: the built-in one)")
	set.BoolVar(&flags.explain, "explain", false, "tell which rules were tried, and what each condition wanted and saw")
	set.StringVarP(&flags.output, "output", "o", "text", "text, or json: one object a line")
	set.StringArrayVar(&flags.device, "device", nil, "`column=value` of the device's row in the directory; may be repeated")
	set.StringVar(&flags.deviceFile, "device-file", "", "`file` with the device's row as a JSON object")
	set.StringVar(&flags.directoryFile, "directory", "", "`file` of the device directory (SQLite), to look devices up in")
	set.StringVar(&flags.directoryURLFile, "directory-url-file", "", "`file` with the URL of the device directory (PostgreSQL)")
	set.StringArrayVar(&flags.replay, "replay", nil, "`log` of decisions to compare with, and the older ones beside it; may be repeated")
	set.StringVar(&flags.diff, "diff", "", "`file` of another policy, to compare with")
	set.StringVar(&flags.against, "against", "", "`URL` of a cloud function to compare with; it is really called")
	set.StringVar(&flags.keyFile, "key-file", "", "`file` with the key of --against's function")
	set.StringVar(&flags.caFile, "ca-file", "", "`file` with certificates to trust beside the system's, for --against")
	set.Float64Var(&flags.rate, "requests-per-second", 5, "how often --against asks at most")
	set.BoolVar(&flags.all, "all", false, "show every device that differs, not only the first 20")
	return cmd
}

// compares tells whether two answers are asked for.
func (f *allocateFlags) compares() bool {
	return len(f.replay) > 0 || f.diff != "" || f.against != ""
}

func (f *allocateFlags) check(cmd *cobra.Command, args []string) error {
	if err := checkOutput(cmd, f.output); err != nil {
		return err
	}
	switch {
	case f.diff != "" && f.against != "":
		return wrongUsage(cmd, "--diff and --against exclude each other")
	case f.explain && f.compares():
		return wrongUsage(cmd, "--explain is for one policy's answer; leave out --replay, --diff and --against")
	case len(f.replay) > 0 && len(args) > 0:
		return wrongUsage(cmd, "the requests come from --replay's log; leave out %s", args[0])
	case len(f.replay) > 0 && (len(f.device) > 0 || f.deviceFile != ""):
		return wrongUsage(cmd, "the log has each device's row; leave out --device and --device-file")
	case f.directoryFile != "" && f.directoryURLFile != "":
		return wrongUsage(cmd, "--directory and --directory-url-file exclude each other")
	case (f.directoryFile != "" || f.directoryURLFile != "") && (len(f.device) > 0 || f.deviceFile != ""):
		return wrongUsage(cmd, "the directory has each device's row; leave out --device and --device-file")
	case f.against == "" && (f.keyFile != "" || f.caFile != ""):
		return wrongUsage(cmd, "--key-file and --ca-file are for --against")
	case !(f.rate > 0 && f.rate <= 1000):
		return wrongUsage(cmd, "--requests-per-second %v is not between 0 and 1000", f.rate)
	case len(f.replay) == 0 && len(args) == 0 && isTerminal(cmd.InOrStdin()):
		return wrongUsage(cmd, "give a file with a request, or - to type one")
	}
	return nil
}

func isTerminal(in io.Reader) bool {
	file, ok := in.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

func (f *allocateFlags) run(cmd *cobra.Command, args []string) error {
	if err := f.check(cmd, args); err != nil {
		return err
	}
	loaded, err := loadPolicy(f.policy)
	if err != nil {
		return err
	}
	if f.directoryFile != "" || f.directoryURLFile != "" {
		opened, err := f.openDirectory(cmd.Context(), loaded)
		if err != nil {
			return err
		}
		defer opened.Close()
		f.directory = opened
	}
	if f.compares() {
		return f.compare(cmd, loaded, args)
	}
	requests, err := f.requests(cmd, loaded, args)
	if err != nil {
		return err
	}
	return f.show(cmd, loaded, requests)
}

// openDirectory opens the site's directory and sees whether the policy fits it:
// otherwise every request would have the same trouble.
func (f *allocateFlags) openDirectory(ctx context.Context, p *policy.Policy) (*directory.Directory, error) {
	config := directory.Config{File: f.directoryFile}
	if f.directoryURLFile != "" {
		text, err := readBounded(f.directoryURLFile, 4<<10)
		if err != nil {
			return nil, err
		}
		config.URL = strings.TrimSpace(string(text))
	}
	opened, err := directory.Open(config)
	if err != nil {
		return nil, err
	}
	if use := p.DirectoryUse(); use.Used {
		if err := opened.Check(ctx, use.Columns); err != nil {
			return nil, errors.Join(directoryError{err}, opened.Close())
		}
	}
	return opened, nil
}

// requests reads what is asked, with the row that was given by hand.
func (f *allocateFlags) requests(cmd *cobra.Command, p *policy.Policy, args []string) ([]asked, error) {
	if len(args) == 0 {
		args = []string{"-"}
	}
	row, err := readDevice(cmd, f.device, f.deviceFile, p.DirectoryUse())
	if err != nil {
		return nil, err
	}
	requests, err := readRequests(cmd, args)
	for i := range requests {
		requests[i].device = row
	}
	return requests, err
}

// ask puts a request to a policy.
func (f *allocateFlags) ask(ctx context.Context, p allocation.Policy, a *asked) (allocation.Answer, error) {
	if refusal, ok := errors.AsType[allocation.Refusal](a.refused); ok {
		return allocation.Answer{Status: http.StatusBadRequest, Refusal: refusal.Message}, nil
	}
	if f.directory != nil {
		return allocation.AskWith(ctx, p, f.directory, a.request)
	}
	return allocation.Ask(ctx, p, allocation.Question{Request: a.request, Device: a.device})
}

// allocated is what a policy said, as -o json shows it.
type allocated struct {
	From           string              `json:"from,omitempty"`
	RegistrationID string              `json:"registrationId,omitempty"`
	Status         int                 `json:"status"`
	Rule           string              `json:"rule,omitempty"`
	Hub            string              `json:"hub,omitempty"`
	Response       json.RawMessage     `json:"response,omitempty"`
	Refusal        string              `json:"refusal,omitempty"`
	Trouble        string              `json:"trouble,omitempty"`
	Explanation    *policy.Explanation `json:"explanation,omitempty"`
}

func newAllocated(a *asked, answer allocation.Answer, trouble error) allocated {
	made := allocated{From: a.from, Status: answer.Status, Rule: answer.Rule, Hub: answer.Hub(), Response: answer.Response, Refusal: answer.Refusal}
	if id := a.request.DeviceRuntimeContext.RegistrationID; id != nil {
		made.RegistrationID = *id
	}
	if trouble != nil {
		made.Trouble = trouble.Error()
	}
	return made
}

// show asks and shows one answer in full, or several as a table.
func (f *allocateFlags) show(cmd *cobra.Command, p *policy.Policy, requests []asked) error {
	out := &output{to: cmd.OutOrStdout()}
	var rows *table
	if f.output == "text" && len(requests) > 1 && !f.explain {
		rows = newTable(out, "REGISTRATION ID", "STATUS", "HUB OR REFUSAL", "RULE")
	}
	assigned, refused := 0, 0
	for i := range requests {
		if err := cmd.Context().Err(); err != nil {
			return err
		}
		a := &requests[i]
		answer, trouble := f.ask(cmd.Context(), p, a)
		switch answer.Status {
		case http.StatusOK:
			assigned++
		case http.StatusBadRequest:
			refused++
		}
		switch {
		case f.output == "json":
			object := newAllocated(a, answer, trouble)
			if f.explain && a.refused == nil {
				object.Explanation = new(f.explanation(cmd.Context(), p, a))
			}
			_ = printJSON(out, object) // out remembers what fails
		case rows != nil:
			rows.row(a.id(), fmt.Sprint(answer.Status), said(answer), answer.Rule)
		default:
			if i > 0 {
				fmt.Fprintln(out)
			}
			f.showOne(cmd.Context(), out, widthOf(cmd.OutOrStdout()), p, a, answer)
		}
		if trouble != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "gatewayctl: %s: %s\n", printable(a.id()), printable(strings.ReplaceAll(trouble.Error(), "\n", " ")))
		}
	}
	if rows != nil {
		_ = rows.end() // out remembers what fails
		fmt.Fprintf(out, "\n%s: %d assigned, %d refused", counted(len(requests), "request"), assigned, refused)
		if left := len(requests) - assigned - refused; left > 0 {
			fmt.Fprintf(out, ", %d without an answer", left)
		}
		fmt.Fprintln(out)
	}
	switch {
	case out.err != nil:
		return fmt.Errorf("not every answer could be shown: %w", out.err)
	case assigned < len(requests):
		return errReported
	}
	return nil
}

// showOne prints one answer in full.
func (f *allocateFlags) showOne(ctx context.Context, out io.Writer, width int, p *policy.Policy, a *asked, answer allocation.Answer) {
	if f.explain && a.refused == nil {
		printExplanation(out, width, f.explanation(ctx, p, a))
		fmt.Fprintln(out)
	}
	lines := newFacts(out)
	lines.add("Registration ID", a.id())
	switch answer.Status {
	case http.StatusOK:
		lines.add("Answer", "200, assigned to "+answer.Hub())
	case http.StatusBadRequest:
		lines.add("Answer", "400, refused: "+answer.Refusal)
	default:
		lines.add("Answer", fmt.Sprintf("%d, no answer yet: the service asks again", answer.Status))
	}
	lines.add("Rule", answer.Rule)
	lines.add("Response", printable(string(answer.Response)))
	_ = lines.end() // out remembers what fails
}

// explanation tells how the policy comes to its answer.
func (f *allocateFlags) explanation(ctx context.Context, p *policy.Policy, a *asked) policy.Explanation {
	question := allocation.Question{Request: a.request, Device: a.device}
	if f.directory != nil && p.DirectoryUse().Used && a.request.DeviceRuntimeContext.RegistrationID != nil {
		row, found, err := f.directory.Lookup(ctx, strings.ToLower(*a.request.DeviceRuntimeContext.RegistrationID))
		if err == nil && found {
			question.Device = row
		}
	}
	if question.Device != nil {
		if fitted, err := p.DirectoryUse().Fit(question.Device); err == nil {
			question.Device = fitted
		}
	}
	return p.Explain(ctx, question)
}
