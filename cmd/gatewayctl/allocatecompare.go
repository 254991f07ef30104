// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/allocation/policy"
	"github.com/contoso/gatewayd/allocation/upstream"
)

// party is one of the two whose answers are compared.
type party struct {
	label string // a word before its answers
	name  string // in a sentence
	ask   func(ctx context.Context, a *asked) (allocation.Answer, error)
}

// What may be said in place of an answer to compare with: that there never was
// one, and that there should have been one.
var (
	errNotComparable = errors.New("no answer to compare with")
	errUnanswered    = errors.New("no answer")
)

// compare puts each request to two sides and shows where they differ.
func (f *allocateFlags) compare(cmd *cobra.Command, loaded *policy.Policy, args []string) error {
	f.errOut = cmd.ErrOrStderr()
	was, now, err := f.sides(cmd, loaded)
	if err != nil {
		return err
	}
	c := &comparison{was: was, now: now, byRule: map[string]*sameOrNot{}, seen: map[string]*moved{}}
	requests, log, err := f.source(cmd, loaded, args)
	if err != nil {
		return err
	}
	if log != nil {
		f.errOut = aboveLine{log.line, f.errOut}
	}
	c.errOut = f.errOut
	for a := range requests {
		if err := cmd.Context().Err(); err != nil {
			return err
		}
		if err := c.add(cmd.Context(), &a); err != nil {
			return err
		}
	}
	if log != nil {
		if err := log.err(); err != nil {
			return err
		}
	}
	out := &output{to: cmd.OutOrStdout()}
	if f.output == "json" {
		c.printJSON(out)
	} else {
		c.print(out, widthOf(cmd.OutOrStdout()), f.all)
	}
	switch {
	case out.err != nil:
		return fmt.Errorf("not all that differs could be shown: %w", out.err)
	case log != nil && log.failed() != nil, c.different > 0, c.troubles > 0:
		return errReported
	}
	return nil
}

// source gives the requests, and the log that they come from, if they do.
func (f *allocateFlags) source(cmd *cobra.Command, loaded *policy.Policy, args []string) (iter.Seq[asked], *logReader, error) {
	if len(f.replay) > 0 {
		log := newLogReader(cmd, f.replay)
		return log.all(), log, nil
	}
	requests, err := f.requests(cmd, loaded, args)
	return slices.Values(requests), nil, err
}

// sides says who is compared with whom.
func (f *allocateFlags) sides(cmd *cobra.Command, loaded *policy.Policy) (was, now party, err error) {
	mine := party{"now", policyName(f.policy), func(ctx context.Context, a *asked) (allocation.Answer, error) { return f.ask(ctx, loaded, a) }}
	switch {
	case f.diff != "":
		other, err := loadPolicy(f.diff)
		if err != nil {
			return was, now, err
		}
		mine.label = "was"
		return mine, party{"now", f.diff, func(ctx context.Context, a *asked) (allocation.Answer, error) { return f.ask(ctx, other, a) }}, nil
	case f.against != "":
		function, err := f.function(cmd)
		if err != nil {
			return was, now, err
		}
		mine.label = "policy"
		return party{"function", "the cloud function", function}, mine, nil
	default:
		return party{"was", "the log", recordedAnswer}, mine, nil
	}
}

// recordedAnswer is what was answered then.
func recordedAnswer(_ context.Context, a *asked) (allocation.Answer, error) {
	r := a.recorded
	if r.Status != http.StatusOK && r.Status != http.StatusBadRequest {
		return allocation.Answer{}, errNotComparable
	}
	return allocation.Answer{Status: r.Status, Rule: r.Rule, Response: r.Response, Refusal: r.Refusal}, nil
}

// maxUnavailable is after how many questions in a row without an answer a
// function is not asked any more.
const maxUnavailable = 3

// function asks the cloud function, not too often.
func (f *allocateFlags) function(cmd *cobra.Command) (func(ctx context.Context, a *asked) (allocation.Answer, error), error) {
	cfg := upstream.Config{URL: f.against}
	if err := upstream.CheckURL(f.against); err != nil {
		return nil, wrongUsage(cmd, "--against: %v", err)
	}
	if f.keyFile != "" {
		text, err := readBounded(f.keyFile, 4<<10)
		if err != nil {
			return nil, err
		}
		if cfg.Key, err = upstream.ParseKey(string(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", f.keyFile, err)
		}
	}
	roots, err := loadRoots(f.caFile)
	if err != nil {
		return nil, err
	}
	cfg.RootCAs = roots
	client, err := upstream.New(cfg)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "gatewayctl: warning: the function is really called, up to %v times a second; by contract a call changes nothing, but its owner sees it in log and bill\n", f.rate)
	limiter, unavailable := rate.NewLimiter(rate.Limit(f.rate), 1), 0
	return func(ctx context.Context, a *asked) (allocation.Answer, error) {
		if err := limiter.Wait(ctx); err != nil {
			return allocation.Answer{}, err
		}
		response, err := client.Ask(ctx, a.body)
		if away, ok := errors.AsType[*allocation.UnavailableError](err); ok {
			if unavailable++; unavailable >= maxUnavailable {
				return allocation.Answer{}, fmt.Errorf("giving up after %d questions: %w", unavailable, err)
			}
			fmt.Fprintf(f.errOut, "gatewayctl: %s: the function is unavailable: %s\n", printable(a.id()), printable(away.Reason))
			return allocation.Answer{}, errUnanswered
		}
		unavailable = 0
		if refusal, ok := errors.AsType[allocation.Refusal](err); ok {
			return allocation.Answer{Status: http.StatusBadRequest, Refusal: refusal.Message}, nil
		}
		if err != nil {
			return allocation.Answer{Status: http.StatusBadGateway, Refusal: strings.Join(strings.Fields(err.Error()), " ")}, nil
		}
		return allocation.Answer{Status: http.StatusOK, Response: response}, nil
	}, nil
}

// comparison collects what differs.
type comparison struct {
	was, now party
	errOut   io.Writer

	requests, same, different int
	notComparable             int
	upstream, fallback        int // of the recorded answers
	troubles                  int // requests that somebody should have answered and did not

	moved  []*moved
	seen   map[string]*moved
	byRule map[string]*sameOrNot
}

// moved is a device that gets another answer.
type moved struct {
	id          string
	was, now    allocation.Answer
	source      allocation.Source // of the recorded answer
	differences []allocation.Difference
	requests    int
}

type sameOrNot struct{ same, different int }

// add compares the answers to one request.
func (c *comparison) add(ctx context.Context, a *asked) error {
	was, err := c.was.ask(ctx, a)
	switch {
	case errors.Is(err, errNotComparable):
		c.notComparable++
		return nil
	case errors.Is(err, errUnanswered):
		c.notComparable++
		c.troubles++
		return nil
	case err != nil && was.Status == 0:
		return err
	}
	now, trouble := c.now.ask(ctx, a)
	if trouble != nil {
		text := trouble.Error()
		if !strings.HasPrefix(text, c.now.name+":") { // a place in the file begins with its name
			text = c.now.name + ": " + text
		}
		fmt.Fprintf(c.errOut, "gatewayctl: %s: %s\n", printable(a.id()), printable(strings.ReplaceAll(text, "\n", " ")))
		c.troubles++
	}
	c.requests++
	var source allocation.Source
	if a.recorded != nil && c.was.name == "the log" {
		source = a.recorded.Source
		switch source {
		case allocation.SourceUpstream:
			c.upstream++
		case allocation.SourceFallback:
			c.fallback++
		}
	}
	was, now = was.Redacted(), now.Redacted()
	rule := c.byRule[now.Rule]
	if rule == nil {
		rule = &sameOrNot{}
		c.byRule[now.Rule] = rule
	}
	differences := allocation.Compare(was, now)
	if len(differences) == 0 {
		c.same++
		rule.same++
		return nil
	}
	c.different++
	rule.different++
	c.note(&moved{id: a.id(), was: was, now: now, source: source, differences: differences, requests: 1})
	return nil
}

// note keeps a device that differs; the service may ask eleven times about one.
func (c *comparison) note(m *moved) {
	var key strings.Builder
	fmt.Fprintf(&key, "%q %q %q %q", strings.ToLower(m.id), m.was.Rule, m.now.Rule, m.source)
	for _, difference := range m.differences {
		fmt.Fprintf(&key, " %q", difference)
	}
	if before := c.seen[key.String()]; before != nil {
		before.requests++
		return
	}
	c.seen[key.String()] = m
	c.moved = append(c.moved, m)
}
