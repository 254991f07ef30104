// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/allocation"
)

const (
	toastersHub  = "contoso-toasters-hub-1098.azure-devices.net"
	heatPumpsHub = "contoso-heatpumps-hub-1098.azure-devices.net"
)

// fixed gives every device one answer.
type fixed struct {
	response allocation.Response
	err      error
}

func (f fixed) Decide(context.Context, allocation.Question) (allocation.Response, error) {
	return f.response, f.err
}

func TestCheck(t *testing.T) {
	t.Parallel()
	rich := fixed{response: allocation.Response{
		Rule: "r", IoTHubHostName: "h1", Payload: []byte(`{"n":65.0,"list":[1,2]}`),
		InitialTwin: &allocation.InitialTwin{Tags: []byte(`{"a":"b","c":{"d":1,"e":2}}`), Properties: allocation.InitialProperties{Desired: []byte(`{}`)}},
	}}
	bare := fixed{response: allocation.Response{Rule: "r", IoTHubHostName: "h1"}}
	refusing := fixed{err: allocation.Refusal{Message: `Not "here".`, Rule: "no"}}
	broken := fixed{err: errors.New("out of\nluck")}
	tests := []struct {
		name   string
		policy allocation.Policy
		want   string // behind the case's name and hubs
		fail   []string
	}{
		{"all as wanted", rich, `{ hub = "h1", rule = "r", status = 200, tags = { a = "b", c = { e = 2 } }, desired = {}, payload = { n = 65 } }`, nil},
		{"another hub", rich, `{ hub = "h2" }`, []string{`hub: got "h1", want "h2"`}},
		{"another rule", rich, `{ rule = "s" }`, []string{`rule: got "r", want "s"`}},
		{"another tag", rich, `{ tags = { a = "x", c = { d = 1, f = 3 } } }`, []string{`tags.a: got "b", want "x"`, `tags.c.f: got nothing, want 3`}},
		{"a list is whole", rich, `{ payload = { list = [1] } }`, []string{`payload.list[1]: got 2, want nothing`}},
		{"exactly", rich, `{ tags = { a = "b" }, exact = true }`, []string{
			`tags.c: got {"d":1,"e":2}, want nothing`, `payload.list: got [1,2], want nothing`, `payload.n: got 65.0, want nothing`,
		}},
		{"exactly nothing", bare, `{ exact = true }`, nil},
		{"exactly, and empty", bare, `{ tags = {}, exact = true }`, nil},
		{"no twin", bare, `{ desired = { a = 1 }, payload = "x" }`, []string{`desired.a: got nothing, want 1`, `payload: got {}, want "x"`}},
		{
			"the whole response", rich, `{ response_json = '{"iotHubHostName":"h2","initialTwin":{"tags":{"a":"b","c":{"d":1,"e":2}},"properties":{"desired":{}}},"payload":{"list":[1,2],"n":65}}' }`,
			[]string{`iotHubHostName: got "h1", want "h2"`},
		},
		{"refused", refusing, `{ refused = 'Not "here".', rule = "no" }`, nil},
		{"another refusal", refusing, `{ refused = "No." }`, []string{`refused: got "Not \"here\".", want "No."`}},
		{"refused and not assigned", refusing, `{ hub = "h1", rule = "r" }`, []string{`answer: got refused "Not \"here\".", want assigned to "h1"`, `rule: got "no", want "r"`}},
		{"assigned and not refused", bare, `{ refused = "No." }`, []string{`answer: got assigned to "h1", want refused "No."`}},
		{"assigned and not just any refusal", bare, `{ status = 400 }`, []string{`answer: got assigned to "h1", want refused`}},
		{"refused and not with tags", refusing, `{ tags = {} }`, []string{`answer: got refused "Not \"here\".", want assigned`}},
		{"refused and not the response", refusing, `{ response_json = '{"iotHubHostName":"h1"}' }`, []string{`answer: got refused "Not \"here\".", want assigned to "h1"`}},
		{"trouble as wanted", broken, `{ status = 503 }`, nil},
		{"trouble", broken, `{ status = 200 }`, []string{`answer: got 503 "The allocation policy is not available at the moment; ask again later.", want assigned`, "trouble: out of luck"}},
		{"no trouble", bare, `{ status = 503 }`, []string{`answer: got assigned to "h1", want 503`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			file, err := parse("[[case]]\nname = \"x\"\nhubs = [\"h1\", \"h2\"]\nwant = " + test.want + "\n")
			if err != nil {
				t.Fatal(err)
			}
			report, err := Run(t.Context(), test.policy, file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.fail, report.Results[0].Failures); diff != "" {
				t.Errorf("failures (-want +got):\n%s", diff)
			}
			if got, want := report.Failed(), min(1, len(test.fail)); got != want {
				t.Errorf("got %d failed, want %d", got, want)
			}
		})
	}
}

// tutorialCases is in the documentation too.
const tutorialCases = `[defaults]
hubs = ["contoso-toasters-hub-1098.azure-devices.net", "contoso-heatpumps-hub-1098.azure-devices.net"]
group = "contoso-custom-allocated-devices"

[[case]]
name = "a toaster"
registration_id = "breakroom499-contoso-tstrsd-007"
want.hub = "contoso-toasters-hub-1098.azure-devices.net"
want.tags = { deviceType = "toaster" }

[[case]]
name = "a kettle"
registration_id = "lobby1-contoso-kettle-001"
want.refused = "Unrecognized device registration."
`

func TestCoverage(t *testing.T) {
	t.Parallel()
	file, err := parse(tutorialCases)
	if err != nil {
		t.Fatal(err)
	}
	report, err := Run(t.Context(), allocation.Tutorial(), file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"no registration ID", "no hub group", "heat pumps"}, report.Unreached); diff != "" {
		t.Errorf("unreached (-want +got):\n%s", diff)
	}
	if len(report.Rules) != 5 || report.Failed() != 0 {
		t.Errorf("got %d rules and %d failed, want 5 and 0", len(report.Rules), report.Failed())
	}
	unruled, err := Run(t.Context(), fixed{}, file)
	if err != nil || unruled.Rules != nil || unruled.Unreached != nil {
		t.Errorf("a policy that tells no rules: got %v, %v, %v", unruled.Rules, unruled.Unreached, err)
	}
}

func TestRunEnds(t *testing.T) {
	t.Parallel()
	file, err := parse(tutorialCases)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, allocation.Tutorial(), file); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
}
