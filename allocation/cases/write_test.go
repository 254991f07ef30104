// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/allocation"
)

// decided asks the tutorial's policy.
func decided(t testing.TB, id, request string, row allocation.Row) Decided {
	t.Helper()
	parsed, err := allocation.ParseRequest([]byte(request))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := allocation.Ask(t.Context(), allocation.Tutorial(), allocation.Question{Request: parsed, Device: row})
	if err != nil {
		t.Fatal(err)
	}
	return Decided{RegistrationID: id, Request: json.RawMessage(request), Device: row, Answer: answer}
}

func request(id string) string {
	return `{"enrollmentGroup": {"etag":"` + id + `"}, "deviceRuntimeContext":{"registrationId":"` + id + `"},"linkedHubs":["` + toastersHub + `","` + heatPumpsHub + `"]}`
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	var collector Collector
	row := allocation.Row{"room": `Break "room" 'x' \ ` + "\x7f\t", "floor": int64(4), "area": 2.0, "big": 1e21, "ok": true, "odd name": "a"}
	for _, d := range []Decided{
		decided(t, "a-contoso-tstrsd-007", request("a-contoso-tstrsd-007"), nil),
		decided(t, "b-contoso-tstrsd-007", request("b-contoso-tstrsd-007"), nil), // like the first
		decided(t, "b-contoso-tstrsd-007", request("b-contoso-tstrsd-007"), row),
		decided(t, "b-contoso-tstrsd-007", request("b-contoso-tstrsd-007"), allocation.Row{}),
		decided(t, "a-contoso-hpsd-088", request("a-contoso-hpsd-088"), nil),
		decided(t, "", `{}`, nil),
		decided(t, "it's a \u2028 '''kettle'''\x1b", `{"deviceRuntimeContext":{"registrationId":"it's a \u2028 '''kettle'''\u001b"},"linkedHubs":[]}`, nil),
	} {
		if !collector.Add(d) {
			t.Errorf("%s was passed over", d.RegistrationID)
		}
	}
	if collector.Known != 1 || collector.Beyond != 0 {
		t.Errorf("got %d known and %d beyond, want 1 and 0", collector.Known, collector.Beyond)
	}
	var text bytes.Buffer
	if err := Write(&text, collector.Cases); err != nil {
		t.Fatal(err)
	}
	for _, r := range text.String() {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("the file has %U, which nobody sees", r)
		}
	}
	file, err := parse(text.String())
	if err != nil {
		t.Fatalf("%v\n%s", err, &text)
	}
	for i := range file.Cases {
		file.Cases[i].Line = 0
	}
	if diff := cmp.Diff(collector.Cases, file.Cases); diff != "" {
		t.Errorf("cases (-written +read):\n%s", diff)
	}
	var names []string
	for _, c := range file.Cases {
		names = append(names, c.Name)
	}
	want := []string{
		"toasters: a-contoso-tstrsd-007", "toasters: b-contoso-tstrsd-007", "toasters: b-contoso-tstrsd-007 (2)",
		"heat pumps: a-contoso-hpsd-088", "no registration ID: no registration ID", "unrecognized: it's a \u2028 '''kettle'''\ufffd",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	report, err := Run(t.Context(), allocation.Tutorial(), file)
	if err != nil {
		t.Fatal(err)
	}
	for _, result := range report.Results {
		if !result.Passed() {
			t.Errorf("%s: %q", result.Case.Name, result.Failures)
		}
	}
}

func TestCollectorBounds(t *testing.T) {
	t.Parallel()
	collector := Collector{Limit: 3, PerRule: 2}
	for _, id := range []string{"a-contoso-tstrsd-007", "b-contoso-tstrsd-007", "c-contoso-tstrsd-007", "a-contoso-hpsd-088", "d-contoso-hpsd-088"} {
		collector.Add(decided(t, id, request(id), allocation.Row{"registration_id": id, "room": id}))
	}
	if len(collector.Cases) != 3 || collector.Beyond != 2 {
		t.Errorf("got %d cases and %d beyond, want 3 and 2", len(collector.Cases), collector.Beyond)
	}
	for _, status := range []int{0, 401, 413, 503} {
		if collector.Add(Decided{Request: []byte(`{}`), Answer: allocation.Answer{Status: status}}) {
			t.Errorf("status %d made a case", status)
		}
	}
	if collector.Add(Decided{Request: []byte(`[]`), Answer: allocation.Answer{Status: 400}}) {
		t.Error("a list made a case")
	}
}

// TestSecretsStayMasked: what a record masked is compared masked.
func TestSecretsStayMasked(t *testing.T) {
	t.Parallel()
	policy := fixed{response: allocation.Response{IoTHubHostName: toastersHub, Payload: []byte(`{"apiKey":"s3cret"}`)}}
	parsed, err := allocation.ParseRequest([]byte(request("a")))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := allocation.Ask(t.Context(), policy, allocation.Question{Request: parsed})
	if err != nil {
		t.Fatal(err)
	}
	var collector Collector
	collector.Add(Decided{RegistrationID: "a", Request: []byte(request("a")), Answer: answer.Redacted()})
	var text bytes.Buffer
	if err := Write(&text, collector.Cases); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text.String(), "s3cret") {
		t.Errorf("the secret is in the cases:\n%s", &text)
	}
	file, err := parse(text.String())
	if err != nil {
		t.Fatal(err)
	}
	report, err := Run(t.Context(), policy, file)
	if err != nil || report.Failed() != 0 {
		t.Errorf("got %v, %v", report.Results[0].Failures, err)
	}
}

// FuzzWrite checks that every text can be written and read again.
func FuzzWrite(f *testing.F) {
	f.Add("a", "room", "Break room 499", "No.")
	f.Add("it's \"quoted\"", "", "\\ \x00 \x7f \r\n", "'''")
	f.Add("\u202e\u0085", "\ufeff", "\ufffe \U0010ffff \U000e0001", "a\u200bb")
	f.Fuzz(func(t *testing.T, name, column, text, refusal string) {
		if !utf8.ValidString(name+"|"+column+"|"+text+"|"+refusal) || name == "" || len(name) > maxName || strings.ContainsAny(name, "\r\n") {
			return
		}
		c := Case{Name: name, Request: []byte(`{}`), Device: allocation.Row{column: text}, Want: Want{Status: 400, Refused: refusal}}
		var out bytes.Buffer
		if err := Write(&out, []Case{c}); err != nil {
			t.Fatal(err)
		}
		file, err := parse(out.String())
		if err != nil {
			t.Fatalf("%v\n%s", err, &out)
		}
		file.Cases[0].Line = 0
		if diff := cmp.Diff([]Case{c}, file.Cases); diff != "" {
			t.Errorf("(-written +read):\n%s", diff)
		}
	})
}
