// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/contoso/gatewayd/allocation"
)

// Report is what came of a file of cases.
type Report struct {
	// File is the file's path.
	File string

	// Began is when the first case was asked.
	Began time.Time

	// Results are in the order of the cases.
	Results []Result

	// Rules are the names of the policy's rules, in its order; nil for a policy
	// that does not tell them.
	Rules []string

	// Unreached are those of them that decided no case.
	Unreached []string
}

// Result is what came of one case.
type Result struct {
	Case Case

	// Answer is what the policy says.
	Answer allocation.Answer

	// Trouble is what stood in the way of an answer, or nil.
	Trouble error

	// Failures are what is not as wanted, a line each; none means that the case
	// passed.
	Failures []string

	// Duration is how long the policy took.
	Duration time.Duration
}

// Passed tells whether all is as wanted.
func (r *Result) Passed() bool { return len(r.Failures) == 0 }

// Failed counts the cases that did not pass.
func (r *Report) Failed() int {
	failed := 0
	for i := range r.Results {
		if !r.Results[i].Passed() {
			failed++
		}
	}
	return failed
}

// Ruled is implemented by a policy that can name its rules.
type Ruled interface{ Rules() []string }

// Run asks the policy about each case, until ctx ends.
func Run(ctx context.Context, policy allocation.Policy, file *File) (*Report, error) {
	report := &Report{File: file.Name, Began: time.Now()}
	reached := map[string]bool{}
	for _, c := range file.Cases {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		result := ask(ctx, policy, c)
		reached[result.Answer.Rule] = true
		report.Results = append(report.Results, result)
	}
	if ruled, ok := policy.(Ruled); ok {
		report.Rules = ruled.Rules()
		report.Unreached = slices.DeleteFunc(slices.Clone(report.Rules), func(rule string) bool { return reached[rule] })
	}
	return report, nil
}

func ask(ctx context.Context, policy allocation.Policy, c Case) Result {
	result := Result{Case: c}
	request, err := allocation.ParseRequest(c.Request)
	if err != nil {
		result.Answer = allocation.Answer{Status: http.StatusBadRequest, Refusal: err.Error()}
	} else {
		began := time.Now()
		result.Answer, result.Trouble = allocation.Ask(ctx, policy, allocation.Question{Request: request, Device: c.Device})
		result.Duration = time.Since(began)
	}
	result.Failures = c.Want.check(result.Answer)
	if result.Trouble != nil && len(result.Failures) > 0 {
		result.Failures = append(result.Failures, "trouble: "+strings.Join(strings.Fields(result.Trouble.Error()), " "))
	}
	return result
}

// check gives what about an answer is not as wanted.
func (w *Want) check(got allocation.Answer) []string {
	var failures []string
	differ := func(what, got, want string) {
		failures = append(failures, fmt.Sprintf("%s: got %s, want %s", what, got, want))
	}
	if w.Status != 0 && got.Status != w.Status {
		differ("answer", describe(got), w.describe())
	} else {
		if w.Hub != "" && got.Hub() != w.Hub {
			differ("hub", quote(got.Hub()), quote(w.Hub))
		}
		if w.Refused != "" && got.Refusal != w.Refused {
			differ("refused", quote(got.Refusal), quote(w.Refused))
		}
		if w.Response != nil {
			for _, difference := range allocation.Compare(allocation.Answer{Status: http.StatusOK, Response: w.Response}, got.Redacted()) {
				differ(difference.Path, orNothing(difference.Is), orNothing(difference.Was))
			}
		}
		failures = append(failures, w.checkParts(got)...)
	}
	if w.Rule != "" && got.Rule != w.Rule {
		differ("rule", quote(got.Rule), quote(w.Rule))
	}
	return failures
}

// checkParts looks at tags, desired properties and payload.
func (w *Want) checkParts(got allocation.Answer) []string {
	var response struct {
		InitialTwin struct {
			Tags       json.RawMessage `json:"tags"`
			Properties struct {
				Desired json.RawMessage `json:"desired"`
			} `json:"properties"`
		} `json:"initialTwin"`
		Payload json.RawMessage `json:"payload"`
	}
	if got.Status != http.StatusOK {
		return nil
	}
	if err := json.Unmarshal(got.Response, &response); err != nil {
		return []string{"the answer is no AllocationResponse: " + err.Error()}
	}
	var failures []string
	for _, part := range []struct {
		name      string
		want, got json.RawMessage
	}{
		{"tags", w.Tags, response.InitialTwin.Tags},
		{"desired", w.Desired, response.InitialTwin.Properties.Desired},
		{"payload", w.Payload, response.Payload},
	} {
		want, got := part.want, orEmptyObject(part.got)
		switch {
		case w.Exact:
			want = orEmptyObject(want)
		case want == nil:
			continue
		default:
			got = only(got, want)
		}
		for _, difference := range allocation.Differences(want, got) {
			failures = append(failures, fmt.Sprintf("%s: got %s, want %s", below(part.name, difference.Path), orNothing(difference.Is), orNothing(difference.Was)))
		}
	}
	return failures
}

// only leaves of a document the members that another one has too.
func only(document, like json.RawMessage) json.RawMessage {
	var a, b any
	if decode(document, &a) != nil || decode(like, &b) != nil {
		return document
	}
	kept, err := json.Marshal(keep(a, b))
	if err != nil {
		return document
	}
	return kept
}

// decode keeps numbers as they are written.
func decode(document []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	return decoder.Decode(into)
}

func keep(value, like any) any {
	object, ok := value.(map[string]any)
	wanted, both := like.(map[string]any)
	if !ok || !both {
		return value
	}
	kept := map[string]any{}
	for name, member := range object {
		if same, there := wanted[name]; there {
			kept[name] = keep(member, same)
		}
	}
	return kept
}

// describe says in short what an answer is.
func describe(a allocation.Answer) string {
	switch a.Status {
	case http.StatusOK:
		return "assigned to " + quote(a.Hub())
	case http.StatusBadRequest:
		return "refused " + quote(a.Refusal)
	default:
		return fmt.Sprintf("%d %s", a.Status, quote(a.Refusal))
	}
}

// describe says in short what kind of answer is wanted.
func (w *Want) describe() string {
	switch {
	case w.Hub != "":
		return "assigned to " + quote(w.Hub)
	case w.Response != nil:
		return describe(allocation.Answer{Status: w.Status, Response: w.Response})
	case w.Status == http.StatusOK:
		return "assigned"
	case w.Refused != "":
		return "refused " + quote(w.Refused)
	case w.Status == http.StatusBadRequest:
		return "refused"
	default:
		return fmt.Sprint(w.Status)
	}
}

// quote writes text as JSON does, without HTML escapes.
func quote(text string) string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(text); err != nil {
		return fmt.Sprintf("%q", text)
	}
	return strings.TrimSuffix(out.String(), "\n")
}

func orNothing(text string) string {
	if text == "" {
		return "nothing"
	}
	return text
}

func orEmptyObject(document json.RawMessage) json.RawMessage {
	if document == nil || string(document) == "null" {
		return json.RawMessage("{}")
	}
	return document
}

// below is the path of a difference inside a part.
func below(part, path string) string {
	switch {
	case path == "":
		return part
	case path[0] == '[':
		return part + path
	default:
		return part + "." + path
	}
}
