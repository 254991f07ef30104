// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDifferences(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, was, is string
		want          []string
	}{
		{"equal bytes", `{"a":1}`, `{"a":1}`, nil},
		{"order and white space", `{"a":1,"b":[1,2]}`, ` { "b" : [ 1, 2 ], "a" : 1 } `, nil},
		{"numbers by value", `[65,65.0,6.5e1,0.5,-0,1e400,100]`, `[65.00,65,65,5E-1,0,10e399,1e2]`, nil},
		{"a number is not its text", `{"t":65}`, `{"t":"65"}`, []string{`t: 65 → "65"`}},
		{"numbers beyond a float", `12345678901234567890`, `12345678901234567891`, []string{`12345678901234567890 → 12345678901234567891`}},
		{"the sign", `[-1]`, `[1]`, []string{`[0]: -1 → 1`}},
		{"an absurd exponent", `1e99999999999`, `1e99999999998`, []string{`1e99999999999 → 1e99999999998`}},
		{
			"deep", `{"initialTwin":{"properties":{"desired":{"state":"ready","n":1}}}}`, `{"initialTwin":{"properties":{"desired":{"state":"off","m":2}}}}`,
			[]string{
				`initialTwin.properties.desired.m: (nothing) → 2`,
				`initialTwin.properties.desired.n: 1 → (nothing)`,
				`initialTwin.properties.desired.state: "ready" → "off"`,
			},
		},
		{"the hub comes first", `{"iotHubHostName":"a","b":1}`, `{"iotHubHostName":"c","b":2}`, []string{`iotHubHostName: "a" → "c"`, `b: 1 → 2`}},
		{"lists", `[1,[2,3]]`, `[1,[2,4,5],6]`, []string{`[1][1]: 3 → 4`, `[1][2]: (nothing) → 5`, `[2]: (nothing) → 6`}},
		{"null is not nothing", `{"a":null}`, `{}`, []string{`a: null → (nothing)`}},
		{"null is not false", `null`, `false`, []string{`null → false`}},
		{"object and list", `{"a":{}}`, `{"a":[]}`, []string{`a: {} → []`}},
		{"names that look like paths", `{"a.b":1,"":2,"[0]":3}`, `{}`, []string{`[""]: 2 → (nothing)`, `["[0]"]: 3 → (nothing)`, `["a.b"]: 1 → (nothing)`}},
		{"text without HTML escapes", `"<a>"`, `"&"`, []string{`"<a>" → "&"`}},
		{"escapes are the same text", `"\u0041\/"`, `"A/"`, nil},
		{"the last of equal names", `{"a":1,"a":2}`, `{"a":2}`, nil},
		{"no JSON", `{`, `[`, []string{`{ → [`}},
		{"the same that is no JSON", `{`, `{`, nil},
		{"two documents", `1 2`, `1`, []string{`1 2 → 1`}},
		{"nothing at all", ``, `1`, []string{`(nothing) → 1`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, difference := range Differences([]byte(test.was), []byte(test.is)) {
				got = append(got, difference.String())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDifferencesAreBounded(t *testing.T) {
	t.Parallel()
	a, b := "["+strings.Repeat("1,", 5000)+"1]", "["+strings.Repeat("2,", 5000)+"2]"
	if got := len(Differences([]byte(a), []byte(b))); got != maxDifferences {
		t.Errorf("got %d differences, want %d", got, maxDifferences)
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	assigned := func(response string) Answer {
		return Answer{Status: http.StatusOK, Response: json.RawMessage(response)}
	}
	refused := func(status int, text string) Answer { return Answer{Status: status, Refusal: text} }
	tests := []struct {
		name    string
		was, is Answer
		want    []string
	}{
		{"the same", assigned(`{"iotHubHostName":"a"}`), assigned(`{ "iotHubHostName": "a" }`), nil},
		{"rules do not count", Answer{Status: 400, Rule: "x", Refusal: "No."}, Answer{Status: 400, Rule: "y", Refusal: "No."}, nil},
		{"null members of the contract", assigned(`{"iotHubHostName":"a","initialTwin":null,"payload":null}`), assigned(`{"iotHubHostName":"a"}`), nil},
		{"null tags", assigned(`{"initialTwin":{"tags":null,"properties":{"desired":null}}}`), assigned(`{"initialTwin":{"properties":{}}}`), nil},
		{"null elsewhere counts", assigned(`{"initialTwin":{"tags":{"a":null}}}`), assigned(`{"initialTwin":{"tags":{}}}`), []string{`initialTwin.tags.a: null → (nothing)`}},
		{"a twin appears", assigned(`{"iotHubHostName":"a"}`), assigned(`{"iotHubHostName":"a","initialTwin":{}}`), []string{`initialTwin: (nothing) → {}`}},
		{"hub", assigned(`{"iotHubHostName":"a"}`), assigned(`{"iotHubHostName":"b"}`), []string{`iotHubHostName: "a" → "b"`}},
		{"refused now", assigned(`{"iotHubHostName":"a"}`), refused(400, `Not "here".`), []string{`answer: assigned to "a" → refused "Not \"here\"."`}},
		{"assigned now", refused(503, "later"), assigned(`{"iotHubHostName":"a"}`), []string{`answer: 503 "later" → assigned to "a"`}},
		{"another refusal", refused(400, "No."), refused(400, "Never."), []string{`refusal: "No." → "Never."`}},
		{"another status", refused(400, "No."), refused(503, "No."), []string{`answer: refused "No." → 503 "No."`}},
		{"no JSON", assigned(`oops`), assigned(`{}`), []string{`oops → {}`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, difference := range Compare(test.was, test.is) {
				got = append(got, difference.String())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzDifferences checks that a document never differs from itself written
// another way, and that two which differ do so in both directions.
func FuzzDifferences(f *testing.F) {
	f.Add([]byte(`{"a":1.50,"b":[null,true,"x"]}`), []byte(`{"b":[null,true,"x"],"a":15e-1}`))
	f.Add([]byte(`{"iotHubHostName":"a"}`), []byte(`{"iotHubHostName":"b","payload":{}}`))
	f.Add([]byte(`1e-999999999`), []byte(`-0.0e99`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if got := Differences(a, a); got != nil {
			t.Errorf("%q differs from itself: %v", a, got)
		}
		if value, err := decodeAny(a); err == nil {
			if got := Differences(a, []byte(compactJSON(value))); got != nil {
				t.Errorf("%q differs from its compact form: %v", a, got)
			}
		}
		there, back := Differences(a, b), Differences(b, a)
		if len(there) != len(back) {
			t.Errorf("%d differences there, %d back", len(there), len(back))
		}
		for i := range min(len(there), len(back)) {
			if there[i].Path != back[i].Path || there[i].Was != back[i].Is {
				t.Errorf("there %v, back %v", there[i], back[i])
			}
		}
	})
}
