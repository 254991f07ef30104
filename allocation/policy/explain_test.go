// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/allocation"
)

// explained is a question that takes the policy with everything through most of
// its steps.
func explained(t *testing.T) allocation.Question {
	return allocation.Question{
		Request: mustRequest(t, `{"deviceRuntimeContext":{"registrationId":"A-lobby-1","currentIotHubHostName":"b","symmetricKey":{},
			"payload":{"MyDeviceFirmwareVersion":"12.4","zone":{"floor":2}}},"linkedHubs":["a","b","h"]}`),
		Device: fullRow,
	}
}

// TestExplanation is what people and programs get to see of a decision.
func TestExplanation(t *testing.T) {
	t.Parallel()
	p := mustParse(t, everything)
	x := p.Explain(t.Context(), explained(t))
	document, err := json.MarshalIndent(x, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	refusing := mustRequest(t, `{"deviceRuntimeContext":{"registrationId":"kettle","payload":{"MyDeviceFirmwareVersion":"new","zone":{"floor":2}}},"linkedHubs":["x"]}`)
	texts := x.String() + "\n" +
		p.Explain(t.Context(), allocation.Question{Request: mustRequest(t, `{"deviceRuntimeContext":{"registrationId":"kettle"},"linkedHubs":["x"]}`)}).String() + "\n" +
		p.Explain(t.Context(), allocation.Question{Request: refusing}).String() + "\n" +
		p.Explain(t.Context(), allocation.Question{Request: mustRequest(t, `{}`)}).String()
	for name, got := range map[string]string{"explanation.json": string(document) + "\n", "explanation.txt": texts} {
		want, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestExplanationIsData: what JSON carries is enough to show the same text again.
func TestExplanationIsData(t *testing.T) {
	t.Parallel()
	x := mustParse(t, everything).Explain(t.Context(), explained(t))
	document, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	var again Explanation
	if err := json.Unmarshal(document, &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(x.String(), again.String()); diff != "" {
		t.Errorf("text (-before +after):\n%s", diff)
	}
}

// TestIgnoringCaseIsTold: a reader who sees that "Lobby1" fits the prefix "lobby"
// must see why.
func TestIgnoringCaseIsTold(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, when, want string }{
		{"one test", `{ prefix = "lobby", ignore_case = true }`, `ignoring case: prefix "lobby"`},
		{"several", `{ prefix = "lobby", suffix = ["-007", "-008"], ignore_case = true }`, `ignoring case: prefix "lobby" and (suffix "-007" or "-008")`},
		{"not ignored", `{ prefix = "lobby", ignore_case = false }`, `prefix "lobby"`},
		{"inside not", `{ not = { prefix = "x", ignore_case = true } }`, `not (ignoring case: prefix "x")`},
		{"one of a list", `[{ prefix = "lobby", ignore_case = true }, "x"]`, `(ignoring case: prefix "lobby") or "x"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p, err := Parse("policy.toml", []byte(rule1("when.registration_id = "+test.when, `hub = "h"`)))
			if err != nil {
				t.Fatal(err)
			}
			x := p.Explain(t.Context(), allocation.Question{Request: mustRequest(t, `{"deviceRuntimeContext":{"registrationId":"Lobby1-007"},"linkedHubs":["h"]}`)})
			condition := x.Rules[0].Conditions[0]
			if diff := cmp.Diff(test.want, condition.Wants); diff != "" {
				t.Errorf("wants (-want +got):\n%s", diff)
			}
		})
	}
}

// TestExplanationIsBounded: a large request does not make a large explanation.
func TestExplanationIsBounded(t *testing.T) {
	t.Parallel()
	p := mustParse(t, "[[rule]]\nwhen = [{ payload.text = \"x\" }, { payload.many = \"x\" }, 'payload == 1 || payload.text == \"\"']\nrefuse = \"yes\"\n[[rule]]\nrefuse = \"no\"\n")
	if text := p.Explain(t.Context(), allocation.Question{Request: largePayload(t)}).String(); len(text) > 3_000 {
		t.Errorf("the explanation has %d bytes:\n%.4000s", len(text), text)
	}
}

// TestManyAtOnce: a policy is asked by many goroutines, and each gets the answer
// that it would get alone.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	p := mustParse(t, everything)
	questions := []allocation.Question{explained(t), {Request: mustRequest(t, fullRequest), Device: fullRow}, {Request: mustRequest(t, bareRequest)}}
	var want []string
	for _, question := range questions {
		want = append(want, ask(t, p, question))
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for i := range 100 {
				n := i % len(questions)
				if got := answerText(p.Decide(t.Context(), questions[n])); got != want[n] {
					t.Errorf("got %s, want %s", got, want[n])
				}
			}
		})
	}
	group.Wait()
}

// FuzzContentOffsets holds the place of each byte of a text against the decoder:
// what stands there in the file must be that byte, or the escape for it.
func FuzzContentOffsets(f *testing.F) {
	for _, seed := range []string{`"a\u00e9\n\\x"`, `'a\n'`, "'''\r\na'b\n'''", "\"\"\"\na\\\n   b\"\"\"", `"""a""b"""`, `"\U0001F600\x41"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, quoted string) {
		source := []byte("k = " + quoted + "\n")
		root, problem := parseDocument(source)
		if problem != nil {
			return
		}
		n := root.get("k")
		if n == nil || n.kind != text || len(root.members) != 1 {
			return
		}
		raw := source[n.at.start:n.at.end]
		offsets := contentOffsets(raw, n.at.start)
		if len(offsets) != len(n.text)+1 {
			t.Fatalf("%q: got %d places for %d bytes", raw, len(offsets), len(n.text))
		}
		escaped := raw[0] == '"' && bytes.IndexByte(raw, '\\') >= 0
		for i := range n.text {
			at := source[offsets[i]]
			if at != n.text[i] && (!escaped || at != '\\') || i > 0 && offsets[i] < offsets[i-1] {
				t.Errorf("%q: byte %d of %q is at %d, where %q stands", raw, i, n.text, offsets[i], at)
			}
		}
		if end := offsets[len(n.text)]; !strings.ContainsRune(`"'`, rune(source[end])) {
			t.Errorf("%q ends at %d, where %q stands", raw, end, source[end])
		}
	})
}
