// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/contoso/gatewayd/allocation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// parse reads a text that names no files.
func parse(text string) (*File, error) {
	return Parse("cases.toml", []byte(text), func(string) ([]byte, error) { return nil, errors.New("no such file") })
}

func TestRequests(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, toml, want string }{
		{
			"nothing but what is wanted", `[[case]]
			name = "x"
			want.rule = "r"`,
			`{"deviceRuntimeContext":{"symmetricKey":{}}}`,
		},
		{
			"everything", `[[case]]
			name = "x"
			registration_id = "a-1"
			hubs = ["h1", "h2"]
			group = "g"
			current_hub = "h1"
			payload = { model = "m", n = 3, f = 0.5, yes = true, list = [1, { b = "c" }] }
			want.rule = "r"`,
			`{"enrollmentGroup":{"enrollmentGroupId":"g","attestation":{"type":"symmetricKey"}},` +
				`"deviceRuntimeContext":{"registrationId":"a-1","currentIotHubHostName":"h1","currentDeviceId":"a-1","symmetricKey":{},` +
				`"payload":{"f":0.5,"list":[1,{"b":"c"}],"model":"m","n":3,"yes":true}},"linkedHubs":["h1","h2"]}`,
		},
		{
			"individual, by certificate", `[[case]]
			name = "x"
			registration_id = "a-1"
			individual = true
			current_hub = "h"
			current_device_id = "A-1"
			certificate = { subject = "CN=a-1", issuer = "CN=ca" }
			hubs = []
			payload = "text"
			want.rule = "r"`,
			`{"individualEnrollment":{"registrationId":"a-1","attestation":{"type":"x509"}},` +
				`"deviceRuntimeContext":{"registrationId":"a-1","currentIotHubHostName":"h","currentDeviceId":"A-1",` +
				`"x509":{"clientCertificates":{"primary":{"info":{"subjectName":"CN=a-1","issuerName":"CN=ca"}}}},"payload":"text"},"linkedHubs":[]}`,
		},
		{
			"defaults", `[defaults]
			registration_id = "d"
			hubs = ["h"]
			group = "g"
			[[case]]
			name = "x"
			registration_id = "a-1"
			without = ["hubs"]
			want.rule = "r"`,
			`{"enrollmentGroup":{"enrollmentGroupId":"g","attestation":{"type":"symmetricKey"}},"deviceRuntimeContext":{"registrationId":"a-1","symmetricKey":{}}}`,
		},
		{
			"an individual enrollment goes before the default group", `[defaults]
			group = "g"
			[[case]]
			name = "x"
			individual = true
			want.rule = "r"`,
			`{"individualEnrollment":{"attestation":{"type":"symmetricKey"}},"deviceRuntimeContext":{"symmetricKey":{}}}`,
		},
		{
			"whole", `[defaults]
			hubs = ["h"]
			[[case]]
			name = "x"
			request_json = '{"linkedHubs":[ "x" ]}'
			want.rule = "r"`,
			`{"linkedHubs":[ "x" ]}`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			file, err := parse(test.toml)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(file.Cases[0].Request); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestWantsAndRows(t *testing.T) {
	t.Parallel()
	file, err := parse(`[defaults]
hubs = ["h"]
device = { floor = 1 }

[[case]]
name = "assigned"
device = { hub = "h", floor = 3, area = 2.5, ok = true }
[case.want]
hub = "h"
rule = "r"
tags = { a = "b" }
desired = { c = [1] }
payload = [1, "x"]
exact = true

[[case]]
name = "refused"
want.refused = "No."

[[case]]
name = "trouble"
without = ["hubs"]
want.status = 503

[[case]]
name = "whole"
want.response_json = '{"iotHubHostName":"h"}'
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []Case{
		{
			Name: "assigned", Line: 5, Device: allocation.Row{"hub": "h", "floor": int64(3), "area": 2.5, "ok": true},
			Want: Want{Status: 200, Hub: "h", Rule: "r", Tags: []byte(`{"a":"b"}`), Desired: []byte(`{"c":[1]}`), Payload: []byte(`[1,"x"]`), Exact: true},
		},
		{Name: "refused", Line: 16, Device: allocation.Row{"floor": int64(1)}, Want: Want{Status: 400, Refused: "No."}},
		{Name: "trouble", Line: 20, Device: allocation.Row{"floor": int64(1)}, Want: Want{Status: 503}},
		{Name: "whole", Line: 25, Device: allocation.Row{"floor": int64(1)}, Want: Want{Status: 200, Response: []byte(`{"iotHubHostName":"h"}`)}},
	}
	for i := range file.Cases {
		file.Cases[i].Request = nil
	}
	if diff := cmp.Diff(want, file.Cases); diff != "" {
		t.Errorf("cases (-want +got):\n%s", diff)
	}
}

// TestMistakes has one row for each mistake that a person can make; all must name
// file and line.
func TestMistakes(t *testing.T) {
	t.Parallel()
	const head = "[[case]]\nname = \"x\"\n" // two lines
	tests := []struct{ name, toml, want string }{
		{"nothing", "", "cases.toml: there is no [[case]], so nothing would be tested"},
		{"no TOML", "[[case", `cases.toml:1:6: expected ']]' to close array table name`},
		{"a misspelt key", head + `registraton_id = "a"` + "\n" + `want.rule = "r"`, `cases.toml:3: unknown key "case.registraton_id" (did you mean "registration_id"?)`},
		{"a misspelt want", head + `want.refussed = "No."`, `cases.toml:3: unknown key "case.want.refussed" (did you mean "refused"?)`},
		{"a misspelt default", "[defaults]\nhub = []\n" + head + `want.rule = "r"`, `cases.toml:2: unknown key "defaults.hub" (did you mean "hubs"?)`},
		{"another type", head + `hubs = "h"` + "\n" + `want.rule = "r"`, `cases.toml:3:8: of another type than this key has: a string`},
		{"no name", "[[case]]\nwant.rule = \"r\"", `cases.toml:1: case 1: has no name`},
		{"a long name", "[[case]]\nname = \"a\\nb\"\nwant.rule = \"r\"", `cases.toml:2: case 1: a name has 1 to 200 bytes on one line`},
		{"one name twice", head + "want.rule = \"r\"\n" + head + `want.rule = "r"`, `cases.toml:5: case "x": the case at line 1 has the same name`},
		{"nothing wanted", head + `registration_id = "a"`, `cases.toml:1: case "x": nothing is wanted; give want.hub, want.refused, or another of hub, refused, status, rule, tags, desired, payload, exact, response_json`},
		{"an empty want", head + `want.hub = ""` + "\n" + `want.rule = "r"`, `cases.toml:3: case "x": want.hub is empty; leave it out if it does not matter`},
		{"assigned and refused", head + `hubs = ["h"]` + "\n" + `want = { refused = "No.", hub = "h" }`, `cases.toml:4: case "x": a refused device gets neither a hub nor anything else`},
		{"a status that does not go with it", head + "[case.want]\nrefused = \"No.\"\nstatus = 200", `cases.toml:5: case "x": want.status = 200 does not go with the rest, which is a 400`},
		{"an odd status", head + `want.status = 404`, `cases.toml:3: case "x": want.status may be 200, 400 or 503`},
		{"a hub that is not there", head + `hubs = ["contoso-toasters"]` + "\n" + `want.hub = "contoso-toaster"`, `cases.toml:4: case "x": want.hub = "contoso-toaster" is not among the case's hubs, so it can never be assigned (did you mean "contoso-toasters"?)`},
		{"tags are a table", head + `want.tags = 1`, `cases.toml:3: case "x": want.tags is a table, such as { name = "value" }`},
		{"a date", head + `payload = { since = 2026-11-22 }` + "\n" + `want.rule = "r"`, `cases.toml:3: case "x": payload: JSON has no dates and times; write "2026-11-22" between quotes`},
		{"not a number", head + `want.desired = { n = inf }`, `cases.toml:3: case "x": want.desired: JSON has no number +Inf`},
		{"a row with a list", head + `device.rooms = [1]` + "\n" + `want.rule = "r"`, `cases.toml:3: case "x": device.rooms: a row of the directory holds text, numbers, true or false`},
		{"two requests", head + `request = "a.json"` + "\n" + `request_json = '{}'` + "\n" + `want.rule = "r"`, `cases.toml:4: case "x": request and request_json exclude each other`},
		{"a request that is not there", head + `request = "a.json"` + "\n" + `want.rule = "r"`, `cases.toml:3: case "x": no such file`},
		{"a request that is none", head + `request_json = '[]'` + "\n" + `want.rule = "r"`, `cases.toml:3: case "x": The request is not an AllocationRequest: the body is not an object.`},
		{"whole and short", head + `request_json = '{}'` + "\n" + `hubs = ["h"]` + "\n" + `want.rule = "r"`, `cases.toml:4: case "x": hubs is part of the request, which request_json gives whole`},
		{"whole without defaults", head + `request_json = '{}'` + "\n" + `without = ["hubs"]` + "\n" + `want.rule = "r"`, `cases.toml:4: case "x": request_json takes no defaults but the device, so there is nothing to leave out`},
		{"without something unknown", head + `without = ["hub"]` + "\n" + `want.rule = "r"`, `cases.toml:3: case "x": without: there is no "hub" (did you mean "hubs"?)`},
		{"with and without", head + `without = ["hubs"]` + "\n" + `hubs = []` + "\n" + `want.rule = "r"`, `cases.toml:3: case "x": hubs is given and left out at the same time`},
		{"group and individual", head + `group = "g"` + "\n" + `individual = true` + "\n" + `want.rule = "r"`, `cases.toml:3: case "x": a request comes from an enrollment group or from an individual enrollment; leave out group or individual`},
		{"a response that is none", head + `want.response_json = '{'`, `cases.toml:3: case "x": want.response_json is not valid JSON`},
		{"a response and its parts", head + `want.tags = { }` + "\n" + `want.response_json = '{}'`, `cases.toml:4: case "x": want.response_json is the whole answer; leave out hub, tags, desired, payload and exact`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := parse(test.toml)
			if err == nil {
				t.Fatal("no error")
			}
			if got := err.Error(); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// TestAllMistakesAtOnce: a person mends a file once.
func TestAllMistakesAtOnce(t *testing.T) {
	t.Parallel()
	_, err := parse("[[case]]\n[[case]]\nname = \"x\"\n")
	want := strings.Join([]string{
		`cases.toml:1: case 1: has no name`,
		`cases.toml:1: case 1: nothing is wanted; give want.hub, want.refused, or another of hub, refused, status, rule, tags, desired, payload, exact, response_json`,
		`cases.toml:2: case "x": nothing is wanted; give want.hub, want.refused, or another of hub, refused, status, rule, tags, desired, payload, exact, response_json`,
	}, "\n")
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("request.json", `{"linkedHubs":["h"]}`)
	path := write("cases.toml", "[[case]]\nname = \"x\"\nrequest = \"request.json\"\nwant.hub = \"h\"\n")
	file, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(file.Cases[0].Request), `{"linkedHubs":["h"]}`; got != want {
		t.Errorf("got request %s, want %s", got, want)
	}
	write("request.json", strings.Repeat(" ", maxRequest+1))
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "larger than 256 KiB") {
		t.Errorf("a large request: got %v", err)
	}
	if _, err := Load(filepath.Join(dir, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: got %v", err)
	}
}

// FuzzParse checks that a text either is a file of cases, which then all can be
// asked, or is refused with its name.
func FuzzParse(f *testing.F) {
	f.Add("[[case]]\nname = \"x\"\nregistration_id = \"a\"\nhubs = [\"h\"]\nwant.hub = \"h\"\n")
	f.Add("[defaults]\ndevice = { a = 1 }\n[[case]]\nname = 'x'\nrequest_json = '{}'\n[case.want]\nstatus = 400\n")
	f.Add("[[case]]\nname = \"x\"\nwant = { tags = { a.b = [1, {}] }, exact = true }\ncertificate = {}\nwithout = ['payload']\n")
	f.Add("case = [{ name = 'x', want = { rule = 'r' } }]\n")
	f.Add("[case]\n[[case.want]]\n")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := parse(text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "cases.toml:") {
				t.Errorf("an error that does not name the file: %v", err)
			}
			return
		}
		report, err := Run(t.Context(), allocation.Tutorial(), file)
		if err != nil {
			t.Fatal(err)
		}
		for _, result := range report.Results {
			if _, err := allocation.ParseRequest(result.Case.Request); err != nil {
				t.Errorf("case %q: %v", result.Case.Name, err)
			}
		}
	})
}
