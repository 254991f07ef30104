// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/contoso/gatewayd/allocation"
)

// hubRequest is a device that is assigned to current, with the given hubs linked.
func hubRequest(t testing.TB, id, current string, hubs ...string) allocation.Question {
	t.Helper()
	document, err := json.Marshal(map[string]any{
		"deviceRuntimeContext": map[string]any{"registrationId": id, "currentIotHubHostName": current, "payload": map[string]any{"hub": "b"}},
		"linkedHubs":           hubs,
	})
	if err != nil {
		t.Fatal(err)
	}
	return allocation.Question{Request: mustRequest(t, string(document)), Device: allocation.Row{"hub": "B"}}
}

func TestHubs(t *testing.T) {
	t.Parallel()
	noHub := func(wanted, linked string) string {
		return `trouble: policy.toml:2:3: rule 1: no linked hub fits (wanted ` + wanted + `; linked: ` + linked + `); link the hub to the enrollment, or say with none what should happen without it`
	}
	abc := []string{"a", "b", "c"}
	tests := []struct {
		name, hub, current string
		linked             []string
		want               string
	}{
		{"by name", `"b"`, "", abc, "b"},
		{"by name in another case", `"B"`, "", abc, "b"},
		{"by name, not linked", `"d"`, "", abc, noHub(`"d"`, `"a", "b", "c"`)},
		{"no hubs at all", `"d"`, "", nil, noHub(`"d"`, `an empty list`)},
		{"one of several that is linked", `["d", "c"]`, "", abc, "c"},
		{"first", `{ prefix = "h", pick = "first" }`, "", []string{"x", "h1", "h2"}, "h1"},
		{"last", `{ prefix = "h", pick = "last" }`, "", []string{"h1", "h2", "x"}, "h2"},
		{"last of any", `{ pick = "last" }`, "", abc, "c"},
		{"a test counts case", `{ prefix = "H" }`, "", []string{"h1"}, noHub(`prefix "H"`, `"h1"`)},
		{"a test without case", `{ prefix = "H", ignore_case = true }`, "", []string{"h1"}, "h1"},
		{"not", `{ not = { prefix = "a" }, pick = "first" }`, "", abc, "b"},
		{"a hub without a name is none", `{ pick = "first" }`, "", []string{"", "b"}, "b"},
		{"refused without one", `{ prefix = "d", none = { refuse = "No d." } }`, "", abc, "rule 1 refuses: No d."},
		{"refused by an expression", `{ prefix = "d", none = { refuse = { cel = '"No d in " + request.linkedHubs.join("/") + "."' } } }`, "", abc, "rule 1 refuses: No d in a/b/c."},
		{"the next rule", `{ prefix = "d", none = "next" }`, "", abc, "rule 2 refuses: next"},
		{"current stays", `{ pick = "first", keep_current = true }`, "C", abc, "c"},
		{"current is not linked", `{ pick = "first", keep_current = true }`, "d", abc, "a"},
		{"current is no candidate", `{ prefix = "a", keep_current = true }`, "b", abc, "a"},
		{"current without keep_current", `{ pick = "first" }`, "b", abc, "a"},
		{"a drained hub keeps its devices", `{ weights = { a = 0, b = 1 }, keep_current = true }`, "a", abc, "a"},
		{"a drained hub takes no others", `{ weights = { a = 0, b = 1 }, keep_current = true }`, "c", abc, "b"},
		{"only a drained hub is linked", `{ weights = { a = 0, b = 1 } }`, "", []string{"a"}, noHub(`one of "a", "b"`, `"a"`)},
		{"by expression", `{ cel = 'device.hub' }`, "", abc, "b"},
		{"by expression, not linked", `{ cel = 'device.hub + "x"' }`, "", abc, noHub(`one of "Bx"`, `"a", "b", "c"`)},
		{"by expression, next", `{ cel = '"x"', none = "next" }`, "", abc, "rule 2 refuses: next"},
		{"by expression, nothing", `{ cel = 'device.?room', none = "next" }`, "", abc, "rule 2 refuses: next"},
		{"by expression, something", `{ cel = 'device.?hub', none = "next" }`, "", abc, "b"},
		{"by expression of the payload", `{ cel = 'string(payload.hub)' }`, "", abc, "b"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := mustParse(t, directoryLine+"[[rule]]\nwhen.registration_id.present = true\nhub = "+test.hub+"\n[[rule]]\nrefuse = \"next\"\n")
			got := ask(t, p, hubRequest(t, "Device-1", test.current, test.linked...))
			if answer, found := strings.CutPrefix(got, `rule 1: {"iotHubHostName":"`); found {
				got = strings.TrimSuffix(answer, `"}`)
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// hubsOf asks a policy for the hubs of many devices.
func hubsOf(t *testing.T, hub string, devices int, linked ...string) []string {
	t.Helper()
	p := mustParse(t, "[[rule]]\nhub = "+hub+"\n")
	hubs := make([]string, devices)
	for i := range hubs {
		id := fmt.Sprintf("room%d-contoso-tstrsd-007", i)
		question := allocation.Question{Request: allocation.Request{LinkedHubs: linked}}
		question.Request.DeviceRuntimeContext.RegistrationID = &id
		response, err := p.Decide(t.Context(), question)
		if err != nil {
			t.Fatal(err)
		}
		hubs[i] = response.IoTHubHostName
	}
	return hubs
}

func count(hubs []string) map[string]int {
	counts := map[string]int{}
	for _, hub := range hubs {
		counts[hub]++
	}
	return counts
}

// TestSpreadByWeight: a hub's share of the devices is in proportion to its
// weight, within four standard deviations.
func TestSpreadByWeight(t *testing.T) {
	t.Parallel()
	const devices = 20_000
	weights := map[string]float64{"hub-a": 1, "hub-b": 2, "hub-c": 5.5, "hub-d": 0}
	got := count(hubsOf(t, `{ weights = { hub-a = 1, hub-b = 2, hub-c = 5.5, hub-d = 0 } }`, devices, "hub-a", "hub-b", "hub-c", "hub-d", "hub-e"))
	for hub, weight := range weights {
		share := weight / 8.5
		want, deviation := devices*share, math.Sqrt(devices*share*(1-share))
		if diff := math.Abs(float64(got[hub]) - want); diff > 4*deviation {
			t.Errorf("%s: got %d of %d devices, want %.0f±%.0f", hub, got[hub], devices, want, deviation)
		}
	}
}

// TestSpreadMovesLittle: a hub that joins takes devices for itself and moves no
// other; one that leaves gives up its own; a weight that grows only draws; the
// order of linkedHubs and the case of names have no say.
func TestSpreadMovesLittle(t *testing.T) {
	t.Parallel()
	const devices = 5_000
	three := hubsOf(t, `{ pick = "spread" }`, devices, "hub-a", "hub-b", "hub-c")
	four := hubsOf(t, `{ pick = "spread" }`, devices, "hub-d", "hub-c", "hub-b", "hub-a")
	heavier := hubsOf(t, `{ weights = { hub-a = 1, HUB-B = 3, hub-c = 1 } }`, devices, "hub-c", "hub-b", "hub-a")
	joined, drawn := 0, 0
	for i := range devices {
		if four[i] != three[i] {
			joined++
			if four[i] != "hub-d" {
				t.Fatalf("device %d moved from %s to %s when hub-d joined", i, three[i], four[i])
			}
		}
		if heavier[i] != three[i] {
			drawn++
			if heavier[i] != "hub-b" {
				t.Fatalf("device %d moved from %s to %s when hub-b grew", i, three[i], heavier[i])
			}
		}
	}
	if want := devices / 4; math.Abs(float64(joined-want)) > 4*math.Sqrt(devices*3.0/16) {
		t.Errorf("%d devices moved to the fourth hub, want about %d", joined, want)
	}
	if drawn == 0 {
		t.Error("no device moved to the hub that grew")
	}
}

// TestSpreadIsForEver: another version of this program must spread devices like
// this one. The numbers come from Python's hashlib and math.
func TestSpreadIsForEver(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		id, hub string
		weight  float64
		want    float64
	}{
		{"breakroom499-contoso-tstrsd-007", toastersHub, 1, 0.6496798863976118},
		{"breakroom499-contoso-tstrsd-007", heatPumpsHub, 1, 0.42527927574247765},
		{"", "a", 2.5, 0.5238403112976835},
	} {
		if got := score(test.id, test.hub, test.weight); math.Abs(got-test.want) > 1e-12*math.Abs(got) {
			t.Errorf("%q %q: got %.17g, want %.17g", test.id, test.hub, got, test.want)
		}
	}
	upper, lower := "LOBBY1-X", "lobby1-x"
	p := mustParse(t, "[[rule]]\nhub.pick = \"spread\"\n")
	var answers []string
	for _, id := range []string{upper, lower} {
		answers = append(answers, ask(t, p, hubRequest(t, id, "", "h1", "h2", "h3", "h4", "h5", "h6", "h7")))
	}
	if answers[0] != answers[1] {
		t.Errorf("one device in two spellings got %s and %s", answers[0], answers[1])
	}
}
