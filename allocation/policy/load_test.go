// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// last ends the policies of the tables below.
const last = "\n[[rule]]\nname = \"last\"\nrefuse = \"no\"\n"

// directoryLine is a [directory] on one line, so that what follows begins on the
// second.
const directoryLine = "directory = { columns = { hub = \"text\", room = \"text\", floor = \"number\", vip = \"bool\" } }\n"

// rule1 is a rule that needs nothing but the given lines.
func rule1(lines ...string) string { return "[[rule]]\n" + strings.Join(lines, "\n") + last }

// numbered repeats a text with a number in it.
func numbered(format string, times int) string {
	var out strings.Builder
	for i := range times {
		fmt.Fprintf(&out, format, i)
	}
	return out.String()
}

// TestMistakes has a row for each thing that can be wrong, with the words and the
// place that a person gets.
func TestMistakes(t *testing.T) {
	t.Parallel()
	when := func(condition string) string { return rule1(condition, `refuse = "x"`) }
	hub := func(hub string) string { return rule1(`when.model = "x"`, hub) }
	tests := []struct{ name, policy, want string }{
		// The file.
		{"TOML", "[[rule]\n", `1:7: expected ']]' to close array table name`},
		{"a key twice", "[[rule]]\nrefuse = \"a\"\nrefuse = \"b\"\n", `3:1: key refuse is already defined`},
		{"empty", "", `1:1: there is no [[rule]]; the shortest policy is one with refuse = "…"`},
		{"no list", "[rule]\nrefuse = \"x\"\n", `1:2: rules are written as [[rule]], with two brackets`},
		{"unknown section", "[[rules]]\nrefuse = \"x\"\n" + last, `1:3: unknown key "rules"; did you mean "rule"?`},

		{"too many keys", numbered("k%d = 1\n", maxKeys+1), `2001:1: the table with "k2000" has more than 2000 keys`},
		{"too many keys of an inline table", "x = [{ " + numbered("k%d = 1, ", maxKeys+1) + "}]", `1:20898: the table with "k2000" has more than 2000 keys`},
		{"too many rules", numbered("[[rule]]\nname = \"n%d\"\nwhen.model = \"x\"\nrefuse = \"x\"\n", maxRules) + last, `4002:3: more than 1000 rules; a [directory] may hold what differs from device to device`},

		// Rules as a whole.
		{"misspelt key", rule1(`refuze = "x"`, `hub = "h"`), `2:1: rule 1: unknown key "refuze" of a rule; did you mean "refuse"?`},
		{"no answer", rule1(`when.model = "x"`), `1:3: rule 1: a rule answers with hub = … or with refuse = "…", and this one has neither`},
		{"two answers", rule1(`when.model = "x"`, `hub = "h"`, `refuse = "x"`), `1:3: rule 1: a rule answers with hub = … or with refuse = "…", and this one has both`},
		{"gifts for a refused one", rule1(`when.model = "x"`, `refuse = "x"`, `tags = { a = 1 }`), `1:3: rule 1: a refused device gets no tags, desired properties or payload`},
		{"never reached", rule1(`hub = "h"`), `4:8: rule "last" is never reached, because rule "rule 1" takes every device`},
		{"last has a condition", "[[rule]]\nwhen.model = \"x\"\nrefuse = \"x\"\n", `1:3: the last rule has a condition, so a device that it does not fit would get no answer; end with a rule without when, such as refuse = "Unrecognized device registration."`},
		{"last goes on", "[[rule]]\nhub = { pick = \"spread\", none = \"next\" }\n", `1:3: there is no next rule for none = "next"; end with a rule that answers every device`},
		{"same name", rule1(`name = "last"`, `when.model = "x"`, `refuse = "x"`), `6:8: rule 2 is named "last" like rule 1; records tell rules apart by their names`},
		{"long name", rule1(`name = "`+strings.Repeat("x", 101)+`"`, `when.model = "x"`, `refuse = "x"`), `2:8: a name has 1 to 100 bytes on one line`},

		// Refusals.
		{"no sentence", rule1(`when.model = "x"`, `refuse = " "`), `3:10: rule 1: refuse needs a sentence: the device's owner will look for a reason`},
		{"two lines", rule1(`when.model = "x"`, `refuse = "a\nb"`), `3:10: rule 1: refuse must be one line`},
		{"refusal of another type", rule1(`when.model = "x"`, `refuse = true`), `3:10: rule 1: refuse must be text between quotes, and true or false stands here`},
		{"refusal with a table", rule1(`when.model = "x"`, `refuse = { text = "x" }`), `3:1: rule 1: refuse may be text or { cel = '…' }`},

		// Conditions.
		{"empty when", when(`when = {}`), `2:1: rule 1: when is empty; a rule without when takes every device`},
		{"no alternatives", when(`when = []`), `2:1: rule 1: the list of conditions is empty, so the rule could never apply`},
		{"when of another type", when(`when = 3`), `2:1: rule 1: when must be a table such as { registration_id = { contains = "…" } }, an expression, or a list of these, and a number stands here`},
		{"unknown field", when(`when.registraton_id = "x"`), `2:6: rule 1: unknown condition "registraton_id"; did you mean "registration_id"?`},
		{"the wire's name", when(`when.registrationId = "x"`), `2:6: rule 1: unknown condition "registrationId"; here it is called registration_id`},
		{"unknown test", when(`when.model = { contians = "x" }`), `2:16: rule 1: unknown test "contians" of model; did you mean "contains"?`},
		{"another language's word", when(`when.model.startswith = "x"`), `2:12: rule 1: unknown test "startswith" of model; write prefix = "…"`},
		{"a range of text", when(`when.model.from = "x"`), `2:12: rule 1: from does not fit model; it takes "equals", "contains", "prefix", "suffix", "glob", "regex", "ignore_case", "present" or "not"`},
		{"empty tests", when(`when.model = {}`), `2:6: rule 1: nothing is said about model; write what it must be, such as { contains = "…" }`},
		{"empty list", when(`when.model = []`), `2:6: rule 1: the list is empty, so model could never fit`},
		{"empty list of a test", when(`when.model.equals = []`), `2:12: rule 1: the list is empty, so model could never fit`},
		{"list in a list", when(`when.model = [["x"]]`), `2:6: rule 1: a list in a list has no meaning here`},
		{"another type", when(`when.model = 7`), `2:14: rule 1: model is text, and a number stands here`},
		{"everything contains it", when(`when.model.contains = ""`), `2:23: rule 1: contains = "" would fit every text`},
		{"case alone", when(`when.model.ignore_case = true`), `2:6: rule 1: ignore_case alone compares nothing`},
		{"absent and more", when(`when.model = { present = false, prefix = "x" }`), `2:6: rule 1: present = false leaves nothing for the other tests of model to look at`},
		{"presence", when(`when.model.present = "yes"`), `2:22: rule 1: present must be true or false, and text stands here`},
		{"never", when(`when.attestation = "symetricKey"`), `2:20: rule 1: attestation is never "symetricKey"; did you mean "symmetricKey"?`},
		{"a version as a number", when(`when.firmware.from = 12.1`), `2:22: rule 1: versions are text, because 12.10 is newer than 12.9: from = "12.1"`},
		{"no version", when(`when.firmware.below = "13.x"`), `2:23: rule 1: below: "13.x" is no version, which is numbers with dots between them`},
		{"bad regex", when(`when.model.regex = "a("`), `2:20: rule 1: regex "a(": missing closing )`},
		{"huge regex", when(`when.model.regex = '((a{100}){100}){10}'`), `2:20: rule 1: regex "((a{100}){100}){10}": invalid repeat count: {100}`},
		{"large regex", when(`when.model.regex = '(abcde){200}'`), `2:20: rule 1: regex "(abcde){200}": repeats so much that it would become 1402 instructions; allowed are 1000`},
		{"many patterns", when("when.model.glob = [" + numbered("\"%d*\", ", maxPatterns+1) + "]"), `2:360: rule 1: more than 50 patterns in one list; a regex can say several with |`},
		{"long glob", when(`when.model.glob = "` + strings.Repeat("a", 1100) + `"`), `2:19: rule 1: glob "` + strings.Repeat("a", 200) + `…": longer than 1024 bytes`},
		{"certificate", when(`when.certificate.subjectName = "x"`), `2:18: rule 1: unknown member "subjectName" of certificate; did you mean "subject"?`},
		{"certificate as text", when(`when.certificate = "x"`), `2:6: rule 1: certificate must be a table, and text stands here`},
		{"payload path", when(`when.payload.zone.name.prefix = "x"`), `2:19: rule 1: unknown test "name" of payload.zone; a member inside a member is one quoted path: payload."zone.name"`},
		{"device without directory", when(`when.device.hub = "x"`), `2:6: rule 1: a rule that reads device needs a [directory] section with columns = { … }, which says what a row holds`},
		{"misspelt column", directoryLine + when(`when.device.hbu = "x"`), `3:13: rule 1: columns of [directory] does not name "hbu"; did you mean "hub"?`},
		{"text for a number", directoryLine + when(`when.device.floor = "2"`), `3:21: rule 1: device.floor is a number, and text stands here`},
		{"limit of another type", directoryLine + when(`when.device.floor.from = "2"`), `3:26: rule 1: from of device.floor must be a number, and text stands here`},

		// Hubs.
		{"hub of another type", hub(`hub = 3`), `3:7: rule 1: hub must be a host name, a list of them, or a table such as { contains = "…" }, and a number stands here`},
		{"no host name", hub(`hub = "my hub"`), `3:7: rule 1: "my hub" is no host name of a hub, which looks like contoso-toasters-hub-1098.azure-devices.net`},
		{"a URL", hub(`hub = "https://h"`), `3:7: rule 1: "https://h" is no host name of a hub, which looks like contoso-toasters-hub-1098.azure-devices.net`},
		{"twice", hub(`hub = ["h", "H"]`), `3:13: rule 1: hub "H" is named twice`},
		{"no hubs", hub(`hub = []`), `3:1: rule 1: the list of hubs is empty`},
		{"empty hub", hub(`hub = {}`), `3:1: rule 1: hub is empty; name one, or say what its name contains`},
		{"misspelt", hub(`hub.contans = "x"`), `3:5: rule 1: unknown key "contans" of hub; did you mean "contains"?`},
		{"exact", hub(`hub.exact = "x"`), `3:5: rule 1: unknown key "exact" of hub; a hub is named by hub = "…"`},
		{"which", hub(`hub.none = "retry"`), `3:1: rule 1: hub does not say which; to spread devices over all linked hubs, write hub = { pick = "spread" }`},
		{"twice which", hub(`hub = { contains = "x", weights = { h = 1 } }`), `3:1: rule 1: hub says twice which hubs it means, by weights and by contains; keep one`},
		{"pick", hub(`hub = { contains = "x", pick = "lst" }`), `3:32: rule 1: pick may be "first", "last" or "spread", and not "lst"; did you mean "last"?`},
		{"weights and pick", hub(`hub = { weights = { h = 1 }, pick = "last" }`), `3:37: rule 1: weights spread the devices, and pick = "last" does not`},
		{"weight", hub(`hub.weights = { h = -1 }`), `3:21: rule 1: a weight is between 0, which takes no new devices, and 1000000`},
		{"weight as text", hub(`hub.weights = { h = "1", i = 1 }`), `3:21: rule 1: a weight must be a number, and text stands here`},
		{"too many weights", hub("[rule.hub.weights]\n" + numbered("h%d = 1\n", maxHubs+1)), `104:1: rule 1: more than 100 hubs, and a service links 50`},
		{"no weight", hub(`hub.weights = { h = 0 }`), `3:5: rule 1: weights leaves no hub that takes devices`},
		{"none", hub(`hub = { contains = "x", none = "nxt" }`), `3:32: rule 1: none may be "retry", "next" or { refuse = "…" }, and not "nxt"; did you mean "next"?`},
		{"none as a sentence", hub(`hub = { contains = "x", none = "No hub found." }`), `3:32: rule 1: to refuse with this sentence, write none = { refuse = "No hub found." }`},
		{"none of another type", hub(`hub = { contains = "x", none = false }`), `3:25: rule 1: none may be "retry", "next" or { refuse = "…" }`},
		{"expression and pick", hub(`hub = { cel = '"h"', pick = "last" }`), `3:29: rule 1: an expression gives one hub, so there is nothing to pick from`},
		{"expression and current", hub(`hub = { cel = '"h"', keep_current = true }`), `3:37: rule 1: an expression gives one hub; let it give the current one where that should stay`},

		// Values.
		{"no table", hub("hub = \"h\"\ndesired = 3"), `4:1: rule 1: desired must be a table, and a number stands here`},
		{"a twin's name", hub("hub = \"h\"\ndesired = { a.\"b.c\" = 3 }"), `4:15: rule 1: a hub takes no twin with "b.c" in it: names have no dots, spaces or dollar signs`},
		{"secret by name", hub("hub = \"h\"\ndesired = { primaryKey = \"abc\" }"), `4:13: rule 1: "primaryKey" looks like a secret, and a policy holds none: it is copied, shared and logged`},
		{"secret by text", hub("hub = \"h\"\npayload = { url = \"https://f/api?code=abc\" }"), `4:13: rule 1: "url" looks like a secret, and a policy holds none: it is copied, shared and logged`},
		{"not a number", hub("hub = \"h\"\ntags = { a = nan }"), `4:14: rule 1: nan is no number that JSON has`},
		{"depth", hub("hub = \"h\"\ntags = { a = " + strings.Repeat("[", 20) + strings.Repeat("]", 20) + " }"), `4:10: rule 1: tags.a is nested deeper than 16 levels`},

		// The directory.
		{"no columns", "[directory]\n" + last, `1:2: [directory] needs columns, such as columns = { hub = "text", floor = "number" }`},
		{"column type", "[directory]\ncolumns = { hub = \"txt\" }\n" + last, `2:19: a column holds "text", "number" or "bool", and not "txt"; did you mean "text"?`},
		{"column name", "[directory]\ncolumns = { in = \"text\" }\n" + last, `2:13: a column that rules can read is named by letters, digits and underscores, and is no word of the expression language; "in" is not`},
		{"missing", "[directory]\ncolumns = { }\nmissing = \"defalt\"\n" + last, `3:11: missing may be "retry", "default" or { refuse = "…" }, and not "defalt"; did you mean "default"?`},
		{"missing without a sentence", "[directory]\ncolumns = { }\nmissing = \"refuse\"\n" + last, `3:11: missing = "refuse" needs the sentence to refuse with: missing = { refuse = "…" }`},
		{"unavailable", "[directory]\ncolumns = { }\nunavailable = \"refuse\"\n" + last, `3:15: a directory that does not answer is our own trouble, which must not refuse a device for good; unavailable may be "retry" or "default"`},
		{"unavailable with a sentence", "[directory]\ncolumns = { }\nunavailable = { refuse = \"x\" }\n" + last, `3:17: a directory that does not answer is our own trouble, which must not refuse a device for good; unavailable may be "retry" or "default"`},
		{"timeout", "[directory]\ncolumns = { }\ntimeout = \"5 minutes\"\n" + last, `3:11: timeout must be a time between "1ms" and "3s", such as "500ms"`},
		{"no default row", "[directory]\ncolumns = { }\nmissing = \"default\"\n" + last, `1:2: missing or unavailable is "default", and there is no default = { … } row`},
		{"unknown default", "[directory]\ncolumns = { hub = \"text\" }\ndefault = { hob = \"x\" }\n" + last, `3:13: columns does not name "hob"; did you mean "hub"?`},
		{"default of another type", "[directory]\ncolumns = { hub = \"text\" }\ndefault = { hub = 3 }\n" + last, `3:19: column hub holds text, and a number stands here`},
		{"misspelt key of the directory", "[directory]\ncolumns = { }\nmising = \"retry\"\n" + last, `3:1: unknown key "mising" of [directory]; did you mean "missing"?`},

		// Expressions: the place is that in the file.
		{"misspelt member", when(`when = 'request.deviceRuntimeContxt.payload.model == "x"'`), `2:17: rule 1: there is no "deviceRuntimeContxt" in AllocationRequest; did you mean "deviceRuntimeContext"?`},
		{"misspelt member inside", when(`when.cel = 'has(request.enrollmentGroup.reprovisionPolicy.updateHub)'`), `2:59: rule 1: there is no "updateHub" in ReprovisionPolicy; known are "migrateDeviceData" and "updateHubAssignment"`},
		{"misspelt variable", when(`when = 'reqest.linkedHubs == []'`), `2:9: rule 1: there is no "reqest"; did you mean "request"?`},
		{"unknown variable", when(`when = 'context.x == 1'`), `2:9: rule 1: there is no "context"; an expression reads "request" and "payload"`},
		{"misspelt function", when(`when = '"a".startWith("b")'`), `2:22: rule 1: there is no "startWith"; did you mean "startsWith"?`},
		{"device undeclared", when(`when = 'device.hub == "x"'`), `2:9: rule 1: a rule that reads device needs a [directory] section with columns = { … }, which says what a row holds`},
		{"misspelt column in CEL", directoryLine + when(`when = 'device.hbu == "x"'`), `3:16: rule 1: there is no "hbu" in columns of [directory]; did you mean "hub"?`},
		{"types", when(`when = '"a" + 1 == "b"'`), `2:13: rule 1: + does not take (string, int)`},
		{"a member that does not exist for has", when(`when = 'has(request.deviceRuntimeContext.registrationID)'`), `2:42: rule 1: there is no "registrationID" in DeviceRuntimeContext; did you mean "registrationId"?`},
		{"column type in CEL", directoryLine + when(`when = 'device.vip == "yes"'`), `3:20: rule 1: == does not take (bool, string)`},
		{"syntax", when(`when = 'payload.model =='`), `2:25: rule 1: the expression cannot be read: it ends too early`},
		{"no condition", when(`when = '"x"'`), `2:8: rule 1: a condition must be true or false, and this expression gives string`},
		{"dynamic condition", when(`when = 'payload.vip'`), `2:8: rule 1: whether the condition is true or false is only known for a request; compare the value, as in … == true`},
		{"no hub name", hub(`hub.cel = '1'`), `3:11: rule 1: a hub is named by text, and this expression gives int`},
		{"dynamic hub", hub(`hub.cel = 'payload.hub'`), `3:11: rule 1: whether the expression gives text is only known for a request; write string(…) around it`},
		{"no sentence by CEL", rule1(`when.model = "x"`, `refuse.cel = 'size(request.linkedHubs)'`), `3:14: rule 1: the expression must give text, and gives int`},
		{"no object", hub("hub = \"h\"\ntags.cel = '[1]'"), `4:12: rule 1: the expression must give a map, and gives list(int)`},
		{"a type", hub("hub = \"h\"\ntags = { a = { cel = 'type(1)' } }"), `4:22: rule 1: the expression gives a type, which is no value of JSON`},
		{"on a later line", when("when = '''\n  true &&\n  reqest == 1\n'''"), `4:3: rule 1: there is no "reqest"; did you mean "request"?`},
		{"behind escapes", when(`when = "\"\u00e9\" == \"é\" && reqest == 1"`), `2:32: rule 1: there is no "reqest"; did you mean "request"?`},
		{"behind a line's end", when("when = \"\"\"true && \\\n    reqest == 1\"\"\""), `3:5: rule 1: there is no "reqest"; did you mean "request"?`},
		{"pattern in CEL", when(`when = '"a".matches("(")'`), `2:21: rule 1: invalid matches argument`},
		{"too long", when(`when = '` + strings.Repeat(" ", 5000) + `true'`), `2:8: rule 1: the expression is longer than 4096 bytes`},
		{"loops in loops", when(`when = '[1].all(a, [1].all(b, [1].all(c, [1].all(d, true))))'`), `2:49: rule 1: comprehension exceeds nesting limit`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse("policy.toml", []byte(test.policy))
			if err == nil {
				t.Fatalf("the policy was taken:\n%s", test.policy)
			}
			if diff := cmp.Diff("policy.toml:"+test.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if failed, ok := errors.AsType[*LoadError](err); !ok || failed.Report() == "" {
				t.Errorf("got a %T without a report", err)
			}
		})
	}
}

// TestReport is how all mistakes of a file look to a person.
func TestReport(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile(filepath.Join("testdata", "mistakes.toml"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join("testdata", "mistakes.txt"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = Parse("mistakes.toml", source)
	failed, ok := errors.AsType[*LoadError](err)
	if !ok {
		t.Fatalf("got %v, want a LoadError", err)
	}
	if diff := cmp.Diff(string(want), failed.Report()); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

// TestUnreachedAmongOtherMistakes: what is wrong with the order of the rules is told
// together with what is wrong inside them, and never guessed from a rule that was
// not understood.
func TestUnreachedAmongOtherMistakes(t *testing.T) {
	t.Parallel()
	broken := "[[rule]]\nname = \"broken\"\nwhen.modl = \"x\"\nrefuse = \"x\"\n"
	unknown := `policy.toml:3:6: rule "broken": unknown condition "modl"; did you mean "model"?`
	tests := []struct{ name, policy, want string }{
		{
			"never reached", broken + rule1(`hub = "h"`),
			unknown + "\n" + `policy.toml:8:8: rule "last" is never reached, because rule "rule 2" takes every device`,
		},
		{
			"a last rule that is broken", broken,
			`policy.toml:2:8: the last rule has a condition, so a device that it does not fit would get no answer; end with a rule without when, such as refuse = "Unrecognized device registration."` + "\n" + unknown,
		},
		{
			"a misspelt condition is none that is absent", rule1(`whn.model = "x"`, `hub = "h"`),
			`policy.toml:2:1: rule 1: unknown key "whn" of a rule; did you mean "when"?`,
		},
		{
			"a last rule that says next", broken + "[[rule]]\nhub = { contains = \"x\", none = \"next\" }\n",
			unknown + "\n" + `policy.toml:5:3: there is no next rule for none = "next"; end with a rule that answers every device`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse("policy.toml", []byte(test.policy))
			if err == nil {
				t.Fatal("the policy was taken")
			}
			if diff := cmp.Diff(test.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "policy.toml")
	if _, err := Load(path); err == nil || !strings.HasPrefix(err.Error(), "opening the allocation policy: ") {
		t.Errorf("got %v, want an error about opening", err)
	}
	if err := os.WriteFile(path, tutorialText, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if p.Name() != path || len(p.Rules()) != 5 {
		t.Errorf("got %q with the rules %q", p.Name(), p.Rules())
	}
	if err := os.WriteFile(path, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || err.Error() != path+": larger than 512 KiB, which no policy is" {
		t.Errorf("got %v, want an error about the size", err)
	}
}
