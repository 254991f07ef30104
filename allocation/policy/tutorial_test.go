// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/allocation"
)

// TestTutorialIsTheTutorial holds the policy in this language against the one
// in Go, over requests made of everything that the tutorial's function looks at.
func TestTutorialIsTheTutorial(t *testing.T) {
	t.Parallel()
	written, builtIn := Tutorial(), allocation.Tutorial()
	random := rand.New(rand.NewPCG(1, 2))
	answers := map[string]int{}
	for range 20_000 {
		question := allocation.Question{Request: allocation.Request{
			DeviceRuntimeContext: allocation.DeviceRuntimeContext{RegistrationID: randomID(random)},
			LinkedHubs:           randomHubs(random),
		}}
		want := answerText(builtIn.Decide(t.Context(), question))
		if got := ask(t, written, question); got != want {
			t.Fatalf("%+v:\ngot  %s\nwant %s", question.Request, got, want)
		}
		rule, rest, _ := strings.Cut(want, ":")
		if strings.Contains(rule, "refuses") {
			rule += rest
		}
		answers[rule]++
	}
	// Each way through the function must have been taken.
	if len(answers) != 7 {
		t.Errorf("got the answers %v, want seven kinds", answers)
	}
}

// randomID joins pieces that the tutorial knows, in any case, or none at all.
func randomID(random *rand.Rand) *string {
	if random.IntN(10) == 0 {
		return nil
	}
	pieces := []string{"", "breakroom499", "-contoso-tstrsd-007", "-contoso-hpsd-088", "-CONTOSO-TSTRSD-007", "-contoso-tstrsd-00", "é", "\x00", "-kettle-001"}
	var id strings.Builder
	for range random.IntN(4) {
		id.WriteString(pieces[random.IntN(len(pieces))])
	}
	return new(id.String())
}

func randomHubs(random *rand.Rand) []string {
	if random.IntN(8) == 0 {
		return nil
	}
	pieces := []string{"", "contoso", "-toasters-", "-heatpumps-", "-Toasters-", "hub-1098", ".azure-devices.net"}
	hubs := []string{}
	for range random.IntN(4) {
		var hub strings.Builder
		for range random.IntN(4) {
			hub.WriteString(pieces[random.IntN(len(pieces))])
		}
		hubs = append(hubs, hub.String())
	}
	return hubs
}

// TestTutorialVector is the request that the tutorial logged, and its answer byte
// for byte.
func TestTutorialVector(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"tutorial-toaster", "tutorial-heatpump"} {
		request, err := os.ReadFile("../testdata/" + name + ".request.json")
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile("../testdata/" + name + ".response.json")
		if err != nil {
			t.Fatal(err)
		}
		response, err := Tutorial().Decide(t.Context(), allocation.Question{Request: mustRequest(t, string(request))})
		if err != nil {
			t.Fatal(err)
		}
		got, err := response.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s: got  %s\nwant %s", name, got, want)
		}
	}
}

// TestReferencePolicy: what packaging ships is the tutorial's policy with
// comments, and what its comments show is the language.
func TestReferencePolicy(t *testing.T) {
	t.Parallel()
	reference, err := os.ReadFile("../../packaging/policy.toml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse("policy.toml", reference); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(withoutComments(string(tutorialText)), withoutComments(string(reference))); diff != "" {
		t.Errorf("the rules of the two files differ (-tutorial +reference):\n%s", diff)
	}
	shown := 0
	for line := range strings.Lines(string(reference)) {
		example, found := strings.CutPrefix(strings.TrimRight(line, "\n"), "#   ")
		if !found || !strings.Contains(example, " = ") || strings.HasPrefix(example, "missing") || strings.HasPrefix(example, "columns") ||
			strings.HasPrefix(example, "unavailable") || strings.HasPrefix(example, "timeout") || strings.HasPrefix(example, "default") {
			continue
		}
		shown++
		rule := "[[rule]]\nname = \"example\"\n" + example + "\n"
		if !strings.Contains(example, "hub") && !strings.Contains(example, "refuse =") || strings.HasPrefix(example, "when") {
			rule += "hub = \"hub-a.azure-devices.net\"\n"
		}
		if !strings.HasPrefix(example, "when") {
			rule += "when.model = \"x\"\n"
		}
		text := exampleDirectory + rule + "[[rule]]\nrefuse = \"no\"\n"
		if _, err := Parse("policy.toml", []byte(text)); err != nil {
			t.Errorf("%s: %v", example, err)
		}
	}
	if shown < 20 {
		t.Errorf("only %d examples found; does the test still see them?", shown)
	}
	if _, err := Parse("policy.toml", []byte(strings.ReplaceAll(directoryExample(string(reference)), "#   ", ""))); err != nil {
		t.Errorf("the [directory] of the comments: %v", err)
	}
}

const exampleDirectory = "[directory]\ncolumns = { hub = \"text\", room = \"text\", floor = \"number\", vip = \"bool\" }\n"

// directoryExample is the section that the comments of the reference show, with a
// rule behind it.
func directoryExample(reference string) string {
	var section strings.Builder
	for line := range strings.Lines(reference) {
		if strings.HasPrefix(line, "# The rule") || strings.HasPrefix(line, "# A rule") {
			break
		}
		if strings.HasPrefix(line, "#   ") {
			section.WriteString(line)
		}
	}
	return section.String() + "[[rule]]\nrefuse = \"no\"\n"
}

// withoutComments gives the lines of a file that mean something.
func withoutComments(file string) []string {
	var lines []string
	for line := range strings.Lines(file) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return lines
}
