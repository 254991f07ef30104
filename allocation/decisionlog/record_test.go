// SPDX-License-Identifier: Apache-2.0

package decisionlog

import (
	"bytes"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/allocation"
)

var update = flag.Bool("update", false, "write the golden file")

var morning = time.Date(2026, 11, 21, 10, 0, 0, 500_000_000, time.UTC)

// decisions has one of each kind.
func decisions() []allocation.Decision {
	return []allocation.Decision{
		{
			Time: morning, RegistrationID: "breakroom499-contoso-tstrsd-007", Status: 200, Source: allocation.SourcePolicy, Rule: "toasters",
			PolicyDigest: "sha256:0f1e2d3c", Duration: 212345 * time.Nanosecond,
			Device: allocation.Row{"room": "Break room 499", "floor": int64(4), "area": 3.0, "small": 1e-9, "heated": true}, Lookup: allocation.LookupFound,
			Request:  json.RawMessage(`{"deviceRuntimeContext":{"registrationId":"breakroom499-contoso-tstrsd-007","payload":{"a":"<&>","b":1e400}},"linkedHubs":["a-toasters-1"]}`),
			Response: json.RawMessage(`{"iotHubHostName":"a-toasters-1"}`), AssignedHub: "a-toasters-1",
		},
		{
			Time: morning.Add(time.Second), RegistrationID: "kettle", Status: 400, Source: allocation.SourceFallback, FallbackReason: "no connection",
			Rule: "unrecognized", DirectoryTrouble: "the directory is away", Device: allocation.Row{}, Lookup: allocation.LookupFailed, Duration: time.Millisecond,
			Request: json.RawMessage(`{"deviceRuntimeContext":{"registrationId":"kettle"}}`), Refusal: "Unrecognized device registration.",
		},
		{
			Time: morning.Add(2 * time.Second), Status: 503,
			Request: json.RawMessage(`{}`), Refusal: "ask again later",
		},
	}
}

func records(t testing.TB) []Record {
	t.Helper()
	var all []Record
	for _, d := range decisions() {
		r, ok := FromDecision(d)
		if !ok {
			t.Fatalf("%+v is not worth a record", d)
		}
		all = append(all, r)
	}
	return all
}

// TestGolden holds the format: a file of an older program must stay readable.
func TestGolden(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	for i, r := range records(t) {
		if i == 2 {
			if err := appendLine(&out, line{Version: Version, Time: r.Time, Lost: 17}); err != nil {
				t.Fatal(err)
			}
		}
		if err := appendRecord(&out, r); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join("testdata", "decisions.jsonl")
	if *update {
		if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("written (-golden +got):\n%s", diff)
	}

	got, problems := readAll(t, path)
	if diff := cmp.Diff(records(t), got); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{path + ":3: 17 decisions before this line were not recorded"}, problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

// TestSplicedIsTheSame holds the quick way of writing a record to encoding/json's.
func TestSplicedIsTheSame(t *testing.T) {
	t.Parallel()
	documents := []json.RawMessage{
		nil, json.RawMessage(`{}`), json.RawMessage(`{"a":"<&>\u2028","b":[1e400,null]}`), json.RawMessage("{\"a\":\"\u2028é\xff\"}"),
		json.RawMessage(`{ "a" : 1 }`), json.RawMessage(`"a b"`), json.RawMessage(`{ `), json.RawMessage(``),
	}
	for _, request := range documents {
		for _, response := range documents {
			l := line{Version: Version, Status: 200, Rule: "<r>", Request: request, Response: response}
			var want, got bytes.Buffer
			wantErr := appendLine(&want, l)
			gotErr := appendRecord(&got, Record{Status: 200, Rule: "<r>", Request: request, Response: response})
			if (wantErr == nil) != (gotErr == nil) {
				t.Errorf("%s, %s: got error %v, want %v", request, response, gotErr, wantErr)
			}
			if diff := cmp.Diff(want.String(), got.String()); diff != "" {
				t.Errorf("line (-encoding/json +spliced):\n%s", diff)
			}
		}
	}
}

// TestNotWorthARecord: what was not read cannot be replayed.
func TestNotWorthARecord(t *testing.T) {
	t.Parallel()
	if r, ok := FromDecision(allocation.Decision{Status: 401, Refusal: "The function key is missing or wrong"}); ok {
		t.Errorf("got %+v, want none", r)
	}
}

func TestValueThatIsNoNumber(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	r := Record{Request: json.RawMessage(`{}`), Device: allocation.Row{"nan": math.NaN(), "big": int64(math.MaxInt64), "huge": math.MaxFloat64}}
	if err := appendRecord(&out, r); err != nil {
		t.Fatal(err)
	}
	got, _, err := parseLine(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(allocation.Row{"big": int64(math.MaxInt64), "huge": math.MaxFloat64}, got.Device); diff != "" {
		t.Errorf("row (-want +got):\n%s", diff)
	}
}

func TestBadLines(t *testing.T) {
	t.Parallel()
	const good = `{"v":1,"time":"2026-11-21T10:00:00Z","status":200,"request":{}}`
	tests := []struct{ name, text, want string }{
		{"no JSON", "hello\n" + good, "x:1: not a record of the decision log: invalid character 'h' looking for beginning of value"},
		{"another version", `{"v":2,"request":{}}` + "\n" + good, "x:1: not a record of the decision log: format version 2; this program reads version 1"},
		{"no request", good + "\n" + `{"v":1}` + "\n", "x:2: not a record of the decision log: no request"},
		{"list in the row", `{"v":1,"request":{},"device":{"a":[]}}` + "\n" + good, "x:1: not a record of the decision log: a value of the device's row is a list or an object"},
		{"number beyond its type", `{"v":1,"request":{},"device":{"a":99999999999999999999}}` + "\n" + good, `x:1: not a record of the decision log: strconv.ParseInt: parsing "99999999999999999999": value out of range`},
		{"too long", strings.Repeat("x", maxLine+1) + "\n" + good + "\n", "x:1: longer than 1024 KiB, which no record is"},
		{"cut off in the middle", good[:20] + "\n" + good, "x:1: not a record of the decision log: unexpected end of JSON input"},
		{"cut off at the end", good + "\n\n" + good[:20], ""},
		{"cut off before its newline", good, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			count, problems := 0, ""
			for _, err := range Read("x", strings.NewReader(test.text)) {
				if err != nil {
					problems += err.Error()
					continue
				}
				count++
			}
			if count != 1 || problems != test.want {
				t.Errorf("got %d records and %q, want 1 and %q", count, problems, test.want)
			}
		})
	}
}

func TestFileThatIsNotThere(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "none.jsonl")
	if got, problems := readAll(t, path); len(got) != 0 || len(problems) != 1 || !strings.Contains(problems[0], "no such file") {
		t.Errorf("got %d records and %q", len(got), problems)
	}
}

func TestReadNoFurther(t *testing.T) {
	t.Parallel()
	for _, err := range ReadFiles(filepath.Join("testdata", "decisions.jsonl"), "not reached") {
		if err != nil {
			t.Error(err)
		}
		break
	}
}

// readAll gives the records of a file and those beside it, and what was wrong.
func readAll(t *testing.T, path string) (all []Record, problems []string) {
	t.Helper()
	for r, err := range ReadFiles(Files(path)...) {
		if err != nil {
			problems = append(problems, err.Error())
			continue
		}
		all = append(all, r)
	}
	return all, problems
}

// FuzzRead: any file ends, and what was read can be written and read again.
func FuzzRead(f *testing.F) {
	golden, err := os.ReadFile(filepath.Join("testdata", "decisions.jsonl"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add([]byte("{\"v\":1,\"request\":{},\"device\":{\"a\":1.5,\"b\":null}}\n{"))
	f.Add([]byte("\n\n\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		lines := bytes.Count(text, []byte("\n")) + 1
		for r, err := range Read("fuzz", bytes.NewReader(text)) {
			if lines--; lines < 0 {
				t.Fatal("more records than lines")
			}
			if err != nil {
				continue
			}
			var out bytes.Buffer
			if appendRecord(&out, r) != nil {
				continue // longer than it came, or a time that has no text
			}
			again, _, err := parseLine(out.Bytes())
			if err != nil {
				t.Fatalf("not read again: %v\n%s", err, out.Bytes())
			}
			var twice bytes.Buffer
			if err := appendRecord(&twice, again); err != nil || !bytes.Equal(out.Bytes(), twice.Bytes()) {
				t.Errorf("not the same again: %v\n%s\n%s", err, out.Bytes(), twice.Bytes())
			}
		}
	})
}
