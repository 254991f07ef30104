// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/contoso/gatewayd/allocation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	toastersHub  = "contoso-toasters-hub-1098.azure-devices.net"
	heatPumpsHub = "contoso-heatpumps-hub-1098.azure-devices.net"
)

// mustParse reads a policy that has no mistake.
func mustParse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse("policy.toml", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	p.thinking = time.Hour // else a busy machine decides what an expression gives
	return p
}

// mustRequest reads an AllocationRequest.
func mustRequest(t testing.TB, document string) allocation.Request {
	t.Helper()
	request, err := allocation.ParseRequest([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// answerText gives what a policy says as one line: the response's bytes with the
// rule before them, a refusal, or the error.
func answerText(response allocation.Response, err error) string {
	if refusal, ok := errors.AsType[allocation.Refusal](err); ok {
		return fmt.Sprintf("%s refuses: %s", refusal.Rule, refusal.Message)
	}
	if err != nil {
		return "trouble: " + err.Error()
	}
	wire, err := response.Encode()
	if err != nil {
		return "trouble: " + err.Error()
	}
	return response.Rule + ": " + string(wire)
}

// ask gives the answer to a question, by Decide, and checks that Explain gives
// the same.
func ask(t testing.TB, p allocation.Policy, question allocation.Question) string {
	t.Helper()
	answer := answerText(p.Decide(t.Context(), question))
	if p, ok := p.(*Policy); ok {
		x := p.Explain(t.Context(), question)
		if explained := answerText(x.Decision()); explained != answer {
			t.Errorf("Decide and Explain disagree:\n%s\n%s", answer, explained)
		}
		if text := x.String(); !strings.HasSuffix(text, "\n") {
			t.Errorf("the explanation has no text: %q", text)
		}
	}
	return answer
}
