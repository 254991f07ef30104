// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"cel.dev/cel-go/cel"

	"github.com/contoso/gatewayd/allocation"
)

// largePayload is a request as large as the webhook takes, whose payload is made
// to be thought about.
func largePayload(t testing.TB) allocation.Request {
	t.Helper()
	numbers := make([]int, 4_000)
	document, err := json.Marshal(map[string]any{
		"deviceRuntimeContext": map[string]any{"registrationId": "x", "payload": map[string]any{
			"list": numbers,
			"text": strings.Repeat("a", 100<<10),
			"many": strings.Split(strings.Repeat("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ", 3_000), " "),
		}},
		"linkedHubs": []string{"h"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return mustRequest(t, string(document))
}

// TestRunawayExpressions: whatever an expression asks of a large request, it is
// stopped, and the answer is trouble of our own.
func TestRunawayExpressions(t *testing.T) {
	t.Parallel()
	request := largePayload(t)
	const stopped = "the expression was stopped: it costs more than 100000 steps for this request"
	tests := []struct{ name, when, want string }{
		{"loops in loops", `payload.list.all(a, payload.list.all(b, payload.list.all(c, a + b + c == 0)))`, stopped},
		{"loops that build", `payload.list.map(a, payload.list.map(b, [a, b])) == []`, stopped},
		{"lists that grow", `payload.list.map(a, payload.list + payload.list) == []`, ""},
		{"text that grows", `payload.list.map(a, payload.text + payload.text).size() == 0`, stopped},
		{"text that is compared", `payload.list.exists(a, payload.text + "x" == payload.text + "y")`, stopped},
		{"text that is searched", `payload.list.exists(a, payload.text.contains("b"))`, stopped},
		{"text that our functions read", `payload.list.exists(a, payload.many[0].upperAscii().split("").join("xxxxxxxxx") == "")`, stopped},
		{"a pattern on large text", `payload.text.matches("(a|b|ab)*c")`, ""},
		{"a pattern again and again", `payload.list.exists(a, payload.text.matches("(a|b|ab)*c"))`, stopped},
		{"a pattern from the request", `payload.text.matches(payload.text)`, "regex program"},
		{"a large text for our functions", `payload.text.replace("a", payload.text) == ""`, "a text is longer than 64 KiB"},
		{"a join that grows", `payload.many.map(a, string(a)).join(payload.text) == ""`, "a text is longer than 64 KiB"},
		{"sets of everything", `payload.list.all(a, !payload.many.exists(b, b == "c"))`, stopped},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := mustParse(t, "[[rule]]\nwhen = '"+test.when+"'\nrefuse = \"yes\"\n[[rule]]\nrefuse = \"no\"\n")
			got := ask(t, p, allocation.Question{Request: request})
			if test.want == "" && got == "rule 2 refuses: no" {
				return
			}
			if !strings.HasPrefix(got, "trouble: policy.toml:2:") || !strings.Contains(got, test.want) || len(got) > 500 {
				t.Errorf("got %s, want trouble: %s", got, test.want)
			}
		})
	}
}

// TestRunawayTogether: expressions that each stay below the limit are stopped
// when their sum is above it.
func TestRunawayTogether(t *testing.T) {
	t.Parallel()
	rule := "[[rule]]\nwhen = '!payload.list.all(a, a == 0)'\nrefuse = \"yes\"\n"
	for _, test := range []struct {
		rules int
		want  string
	}{{1, "rule 2 refuses: no"}, {40, "stopped"}} {
		p := mustParse(t, strings.Repeat(rule, test.rules)+"[[rule]]\nrefuse = \"no\"\n")
		if got := ask(t, p, allocation.Question{Request: largePayload(t)}); !strings.Contains(got, test.want) {
			t.Errorf("%d rules: got %s, want %s", test.rules, got, test.want)
		}
	}
}

// TestRunawayTime: expressions have a second, and what takes longer is trouble.
func TestRunawayTime(t *testing.T) {
	t.Parallel()
	p := mustParse(t, "[[rule]]\nwhen = 'payload.list.all(a, a == 0)'\nrefuse = \"yes\"\n[[rule]]\nrefuse = \"no\"\n")
	p.thinking = time.Nanosecond
	want := "trouble: policy.toml:2:8: rule 1: it took longer than 1ns"
	if got := ask(t, p, allocation.Question{Request: largePayload(t)}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	fresh, err := Parse("policy.toml", []byte("[[rule]]\nrefuse = \"no\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if fresh.thinking != time.Second {
		t.Errorf("a policy has %s for its expressions, want a second", fresh.thinking)
	}
}

// stoppingVariables end a context when they have been read often enough.
type stoppingVariables struct {
	variables map[string]any
	left      int
	stop      context.CancelFunc
}

func (s *stoppingVariables) ResolveName(name string) (any, bool) {
	if s.left--; s.left == 0 {
		s.stop()
	}
	value, found := s.variables[name]
	return value, found
}

func (s *stoppingVariables) Parent() cel.Activation { return nil }

// TestRunawayIsInterrupted: an expression ends soon after its context, long before
// its cost does.
func TestRunawayIsInterrupted(t *testing.T) {
	t.Parallel()
	p := mustParse(t, "[[rule]]\nwhen = 'payload.list.all(a, size(payload.list) > 0)'\nrefuse = \"yes\"\n[[rule]]\nrefuse = \"no\"\n")
	question := subject{request: largePayload(t)}
	ctx, cancel := context.WithCancel(t.Context())
	variables := &stoppingVariables{question.readVariables(), 50, cancel}
	_, details, err := p.rules[0].when[0][0].expr.program.ContextEval(ctx, variables)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want that of the context", err)
	}
	if cost := *details.ActualCost(); cost > maxCost/10 {
		t.Errorf("the expression cost %d before it ended", cost)
	}
}

// TestStoppedByTheCaller: a decision that nobody waits for ends with the place
// where it was, for expressions as for plain conditions.
func TestStoppedByTheCaller(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, when := range []string{"when = 'payload == 1'\n", "when.model = \"x\"\n", ""} {
		text := "[[rule]]\nname = \"first\"\n" + when + "hub.pick = \"first\"\n"
		if when != "" {
			text += "[[rule]]\nrefuse = \"no\"\n"
		}
		_, err := mustParse(t, text).Decide(ctx, allocation.Question{Request: mustRequest(t, fullRequest)})
		if !errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), "policy.toml:") || !strings.Contains(err.Error(), `rule "first"`) {
			t.Errorf("%q: got %v, want the context's error with place and rule", when, err)
		}
	}
}

// TestPatternOnLargeText: a plain pattern looks at no more text than it has time
// for, and says so.
func TestPatternOnLargeText(t *testing.T) {
	t.Parallel()
	for _, test := range []string{`regex = '(a|b|ab)*c'`, `glob = "*a*a*a*a*a*a*c"`} {
		p := mustParse(t, "[[rule]]\nwhen.payload.text."+test+"\nrefuse = \"yes\"\n[[rule]]\nrefuse = \"no\"\n")
		want := "trouble: policy.toml:2:14: rule 1: payload.text: the value has 102400 bytes, and a pattern looks at no more than 4096"
		if got := ask(t, p, allocation.Question{Request: largePayload(t)}); got != want {
			t.Errorf("%s: got %s, want %s", test, got, want)
		}
		short := mustRequest(t, `{"deviceRuntimeContext":{"payload":{"text":"`+strings.Repeat("a", maxMatchedText)+`"}}}`)
		if got := ask(t, p, allocation.Question{Request: short}); got != "rule 2 refuses: no" {
			t.Errorf("%s: got %s, want that it does not fit", test, got)
		}
	}
}

// TestLargeAnswer: an answer larger than the service may take is trouble.
func TestLargeAnswer(t *testing.T) {
	t.Parallel()
	for _, value := range []string{`{ cel = 'payload.text' }`, `{ cel = 'payload' }`} {
		p := mustParse(t, "[[rule]]\nhub.pick = \"first\"\ndesired = { a = "+value+" }\n")
		got := ask(t, p, allocation.Question{Request: largePayload(t)})
		if !strings.HasPrefix(got, "trouble: policy.toml:") || !strings.Contains(got, "64 KiB") {
			t.Errorf("%s: got %.300s, want trouble about the size", value, got)
		}
	}
}
