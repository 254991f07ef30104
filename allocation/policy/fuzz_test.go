// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/contoso/gatewayd/allocation"
)

// FuzzParse reads any text as a policy: it must become one that answers, or an
// error with places that the file has.
func FuzzParse(f *testing.F) {
	f.Add(tutorialText)
	f.Add([]byte(everything))
	mistakes, err := os.ReadFile("testdata/mistakes.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(mistakes)
	for _, seed := range []string{"", "rule = []\n[rule.x]\n", "[[rule]]\nhub = \"\"\"\n\\\n  h\"\"\"", "[[rule]]\nrefuse.cel = \"'\\u00e9' + \\\"x\\\"\"\n", "[[rule]]\nrefuse = 'é'\n[rule.when]\n", "\"\U00108fff"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, source []byte) {
		p, err := Parse("policy.toml", source)
		if err == nil {
			p.thinking = time.Hour // as in mustParse
			checkAnswer(t, p, allocation.Question{Request: mustRequest(t, fullRequest), Device: fullRow})
			return
		}
		failed, ok := errors.AsType[*LoadError](err)
		if !ok {
			t.Fatalf("got a %T: %v", err, err)
		}
		lines := strings.Count(string(source), "\n") + 1
		for _, problem := range failed.Problems {
			if problem.Message == "" || problem.Line < 0 || problem.Line > lines || (problem.Line > 0) != (problem.Column > 0) {
				t.Errorf("got problem %+v in a file of %d lines", problem, lines)
			}
			if utf8.Valid(source) && problem.Line > 0 && problem.Column > utf8.RuneCountInString(lineAt(source, problem.Line))+2 {
				t.Errorf("got column %d in %q", problem.Column, lineAt(source, problem.Line))
			}
		}
	})
}

// FuzzDecide asks a policy with everything in it about any request.
func FuzzDecide(f *testing.F) {
	p := mustParse(f, everything)
	f.Add([]byte(fullRequest), "contoso-heatpumps-hub-1098.azure-devices.net", "499", 3.0, true)
	f.Add([]byte(bareRequest), "", "", 0.0, false)
	f.Add([]byte(`{"deviceRuntimeContext":{"registrationId":"room1-contoso","tpm":{},"payload":{"zone":{"floor":2},"MyDeviceFirmwareVersion":"12.4"}},"linkedHubs":["a","b","c"]}`), "b", "", -1.0, false)
	f.Add([]byte(`{"deviceRuntimeContext":{"registrationId":"1-LOBBY-2","currentIotHubHostName":"A-toasters-b","payload":[{"model":"a-b"}]},"linkedHubs":["a-toasters-b","heat","",""]}`), "heat", "r", 2.0, true)
	f.Fuzz(func(t *testing.T, body []byte, hub, room string, floor float64, vip bool) {
		request, err := allocation.ParseRequest(body)
		if err != nil {
			return
		}
		row := allocation.Row{"hub": hub, "room": room, "floor": floor, "vip": vip}
		for _, device := range []allocation.Row{row, {"hub": hub}, nil} {
			checkAnswer(t, p, allocation.Question{Request: request, Device: device})
		}
	})
}

// checkAnswer asks twice and holds the answers against what must always be true.
func checkAnswer(t *testing.T, p *Policy, question allocation.Question) {
	t.Helper()
	response, err := p.Decide(t.Context(), question)
	answer := answerText(response, err)
	if again := ask(t, p, question); again != answer {
		t.Errorf("one question got two answers:\n%s\n%s", answer, again)
	}
	if refusal, ok := errors.AsType[allocation.Refusal](err); ok {
		if strings.TrimSpace(refusal.Message) == "" || refusal.Rule == "" {
			t.Errorf("refused with %+v", refusal)
		}
		return
	}
	if err != nil {
		if !strings.HasPrefix(err.Error(), "policy.toml:") {
			t.Errorf("got an error without a place: %v", err)
		}
		return
	}
	if response.IoTHubHostName == "" || !slices.Contains(question.Request.LinkedHubs, response.IoTHubHostName) {
		t.Errorf("assigned to %q, which is not one of %q", response.IoTHubHostName, question.Request.LinkedHubs)
	}
	wire, err := response.Encode()
	if err != nil {
		t.Errorf("the answer cannot be encoded: %v", err)
	}
	if len(wire) > maxResponse+1024 {
		t.Errorf("the answer has %d bytes", len(wire))
	}
}
