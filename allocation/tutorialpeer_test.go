// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// startFunction compiles the tutorial's function with Mono and the tutorial's
// JSON library, and starts it. The result asks it one request.
//
// Debian's Json.NET (6.0.8) is older than the one in Azure (13). They differ in
// that the newer one lets the last of several equal members count where the
// older one fails, and fails itself below 64 levels of nesting.
func startFunction(t *testing.T) func(body string) (status int, answer string) {
	t.Helper()
	if os.Getenv("PEERS") == "" {
		t.Skip("needs Mono and Json.NET: run make test-peers")
	}
	libraries, err := filepath.Glob("/usr/lib/mono/gac/Newtonsoft.Json/*/Newtonsoft.Json.dll")
	if err != nil || len(libraries) == 0 {
		t.Fatalf("Json.NET is not there (%v): run make test-peers", err)
	}
	program := filepath.Join(t.TempDir(), "function.exe")
	compiler := exec.CommandContext(t.Context(), "mcs", "-out:"+program, "-r:"+libraries[0], "-r:Microsoft.CSharp", "testdata/tutorial-function/function.cs")
	if out, err := compiler.CombinedOutput(); err != nil {
		t.Fatalf("compiling the function: %v: %s", err, out)
	}
	function := exec.Command("mono", program)
	function.Stderr = t.Output()
	in, err := function.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := function.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := function.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := function.Wait(); err != nil {
			t.Errorf("the function's process: %v", err)
		}
	})
	lines := bufio.NewReader(out)
	return func(body string) (int, string) {
		if _, err := fmt.Fprintln(in, base64.StdEncoding.EncodeToString([]byte(body))); err != nil {
			t.Fatal(err)
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		first, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		status, err1 := strconv.Atoi(first)
		answer, err2 := base64.StdEncoding.DecodeString(rest)
		if err1 != nil || err2 != nil {
			t.Fatalf("the function answered %q", line)
		}
		return status, string(answer)
	}
}

// TestFunctionCasesAreTheFunctions asks the tutorial's function itself what the
// table says of it.
func TestFunctionCasesAreTheFunctions(t *testing.T) {
	ask := startFunction(t)
	cases := functionCases()
	for _, name := range []string{"tutorial-toaster", "tutorial-heatpump"} {
		cases = append(cases, functionCase{name: name, body: string(golden(t, name+".request.json")), status: 200, answer: string(golden(t, name+".response.json"))})
	}
	for _, test := range cases {
		status, answer := ask(test.body)
		if test.newer && status == http.StatusInternalServerError {
			continue
		}
		if status != test.status {
			t.Errorf("%s: the function answers %d, the table says %d", test.name, status, test.status)
		}
		if diff := cmp.Diff(test.answer, answer); diff != "" {
			t.Errorf("%s: body (-table +function):\n%s", test.name, diff)
		}
	}
}

// TestFunctionOnGeneratedRequests sends requests of the published form, with
// every kind of text in them, to the function and to the webhook: status and
// body must be the same.
func TestFunctionOnGeneratedRequests(t *testing.T) {
	ask := startFunction(t)
	handler := NewHandler(Config{Setup: Setup{Policy: Tutorial()}})
	seen := map[string]int{}
	for i := range 4000 {
		g := generator{rand.New(rand.NewPCG(6, uint64(i)))}
		body := g.request()
		status, answer := ask(body)
		response := post(handler, "/api/f", body)
		if response.Code != status || response.Body.String() != answer {
			t.Errorf("%s\nfunction: %d %s\nwebhook:  %d %s", body, status, answer, response.Code, response.Body)
		}
		if status == http.StatusOK {
			answer = "assigned"
		}
		seen[answer]++
	}
	for _, answer := range []string{"assigned", noID, noHubs, noToaster, noPump, unknownID} {
		if seen[answer] < 50 {
			t.Errorf("%q was answered %d times, want it at least 50 times: %v", answer, seen[answer], seen)
		}
	}
}

// TestFunctionOnGeneratedJSON puts any JSON into the place of any member: the
// webhook assigns exactly what the function assigns, and refuses the rest.
func TestFunctionOnGeneratedJSON(t *testing.T) {
	ask := startFunction(t)
	handler := NewHandler(Config{Setup: Setup{Policy: Tutorial()}})
	seen := map[int]int{}
	for i := range 4000 {
		g := generator{rand.New(rand.NewPCG(7, uint64(i)))}
		body := g.anyRequest()
		status, answer := ask(body)
		seen[status]++
		response := post(handler, "/api/f", body)
		switch {
		case status == http.StatusOK && (response.Code != status || response.Body.String() != answer):
			// The one exception: the form is checked before the hubs are looked at.
			if !strings.HasPrefix(response.Body.String(), notOne) {
				t.Errorf("%s\nfunction: %d %s\nwebhook:  %d %s", body, status, answer, response.Code, response.Body)
			}
		case status != http.StatusOK && response.Code != http.StatusBadRequest:
			t.Errorf("%s\nfunction: %d %s\nwebhook:  %d %s", body, status, answer, response.Code, response.Body)
		}
	}
	for _, status := range []int{200, 400, 500} {
		if seen[status] < 100 {
			t.Errorf("%d was answered %d times, want it at least 100 times", status, seen[status])
		}
	}
}

// generator makes requests.
type generator struct{ *rand.Rand }

// request is one of the published form, where each member may also be absent or
// null, and an ID or a hub a number or a boolean.
func (g generator) request() string {
	members := []string{g.quote("deviceRuntimeContext") + ":" + g.context()}
	switch g.IntN(10) {
	case 0:
	case 1:
		members = append(members, `"linkedHubs":null`)
	default:
		members = append(members, g.quote("linkedHubs")+":"+g.hubs())
	}
	return g.object(members)
}

func (g generator) context() string {
	var members []string
	switch g.IntN(12) {
	case 0:
	case 1:
		members = append(members, `"registrationId":null`)
	case 2:
		members = append(members, `"registrationId":`+g.scalar())
	default:
		members = append(members, g.quote("registrationId")+":"+g.quote(g.text("-contoso-tstrsd-007", "-contoso-hpsd-088", "-CONTOSO-tstrsd-007")))
	}
	if g.IntN(3) == 0 {
		members = append(members, `"payload":`+g.value(3))
	}
	return g.object(members)
}

func (g generator) hubs() string {
	hubs := make([]string, g.IntN(5))
	for i := range hubs {
		hubs[i] = g.quote(g.text("-toasters-", "-heatpumps-", "-Toasters-"))
		if g.IntN(10) == 0 {
			hubs[i] = g.scalar()
		}
	}
	return "[" + strings.Join(hubs, ",") + "]"
}

// anyRequest is a request in which one place, or the whole, holds any JSON.
func (g generator) anyRequest() string {
	context, hubs := g.context(), g.hubs()
	switch g.IntN(8) {
	case 0:
		return g.value(3)
	case 1:
		context = g.value(3)
	case 2:
		hubs = g.value(3)
	case 3:
		hubs = "[" + hubs[1:len(hubs)-1] + "," + g.value(2) + "]"
		hubs = strings.Replace(hubs, "[,", "[", 1)
	case 4:
		context = `{"registrationId":` + g.value(2) + `}`
	default:
	}
	return g.object([]string{`"deviceRuntimeContext":` + context, `"linkedHubs":` + hubs})
}

// object puts members into any order, with others and with white space between.
// No name comes twice: Debian's Json.NET fails on that.
func (g generator) object(members []string) string {
	for i := range g.IntN(3) {
		members = append(members, g.quote(strconv.Itoa(i)+g.text("x", "LinkedHubs", "RegistrationId"))+":"+g.value(2))
	}
	g.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	return "{" + strings.Join(members, g.pick(",", ", ", "\r\n,\t")) + "}"
}

func (g generator) value(depth int) string {
	switch kind := g.IntN(8); {
	case depth > 0 && kind == 0:
		return g.object(nil)
	case depth > 0 && kind == 1:
		return "[" + g.value(depth-1) + "," + g.value(depth-1) + "]"
	case kind == 2:
		return "null"
	case kind < 5:
		return g.scalar()
	default:
		return g.quote(g.text("a", "-toasters-", "-contoso-hpsd-088"))
	}
}

func (g generator) scalar() string {
	return g.pick("0", "-0", "7", "-1.5e3", "9223372036854775807", "0.1", "true", "false")
}

// text is made of the given parts and of characters that are hard on a writer
// of JSON. U+0085 is not among them: Json.NET writes it escaped and we do not.
func (g generator) text(parts ...string) string {
	const hard = "aZ09.-_\"\\/\b\f\n\r\t\x00\x1f\x7f<>&'ßé\u2028\u2029\ufeff\ufffd😀"
	var text strings.Builder
	for range g.IntN(4) {
		if g.IntN(2) == 0 {
			text.WriteString(g.pick(parts...))
			continue
		}
		runes := []rune(hard)
		text.WriteRune(runes[g.IntN(len(runes))])
	}
	return text.String()
}

// quote writes text as JSON, some characters escaped that need not be.
func (g generator) quote(text string) string {
	var out strings.Builder
	out.WriteByte('"')
	for _, r := range text {
		switch {
		case g.IntN(8) == 0 && r < 0x10000:
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			quoted, err := json.Marshal(string(r))
			if err != nil {
				panic(err)
			}
			out.Write(quoted[1 : len(quoted)-1])
		}
	}
	out.WriteByte('"')
	return out.String()
}

func (g generator) pick(from ...string) string { return from[g.IntN(len(from))] }
