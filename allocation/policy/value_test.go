// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"

	"github.com/contoso/gatewayd/allocation"
)

// TestValues shows what each kind of value becomes in the answer.
func TestValues(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, lines, want string }{
		{"order of the file", `desired = { z = 1, a = 2, m = { y = 1, b = 2 } }`, `"initialTwin":{"properties":{"desired":{"z":1,"a":2,"m":{"y":1,"b":2}}}}`},
		{"order of dotted keys", "desired.z = 1\ndesired.m.y = 1\ndesired.a = 2\ndesired.m.b = 2", `"initialTwin":{"properties":{"desired":{"z":1,"m":{"y":1,"b":2},"a":2}}}`},
		{"order of sections", "[rule.desired]\nz = 1\n[rule.desired.m]\ny = 1\n[rule.tags]\nt = true", `"initialTwin":{"properties":{"desired":{"z":1,"m":{"y":1}}},"tags":{"t":true}}`},
		{"a list of tables", "[[rule.payload.l]]\na = 1\n[[rule.payload.l]]\na = 2", `"payload":{"l":[{"a":1},{"a":2}]}`},
		{"tags alone", `tags = { a = "x" }`, `"initialTwin":{"properties":{"desired":{}},"tags":{"a":"x"}}`},
		{"desired alone", `desired = { }`, `"initialTwin":{"properties":{"desired":{}}}`},
		{"payload alone", `payload = { "any.name $" = "x" }`, `"payload":{"any.name $":"x"}`},
		{"text", `payload = { a = "\"é<&>\n", b = 'C:\x' }`, `"payload":{"a":"\"é<&>\n","b":"C:\\x"}`},
		{"whole numbers", `payload = { a = 0x1F, b = 1_000, c = -0, d = +7, e = 0o17, f = 0b11, g = 9223372036854775807 }`, `"payload":{"a":31,"b":1000,"c":0,"d":7,"e":15,"f":3,"g":9223372036854775807}`},
		{"other numbers", `payload = { a = 1.0, b = 6.5e2, c = 1e21, d = -0.5 }`, `"payload":{"a":1,"b":650,"c":1e+21,"d":-0.5}`},
		{"booleans and lists", `payload = { a = true, b = [1, "x", [false], {}] }`, `"payload":{"a":true,"b":[1,"x",[false],{}]}`},
		{"times", `payload = { a = 2026-11-22 07:00:00z, b = 2026-11-22T07:00:00.5+01:00, c = 2026-11-22, d = 07:30:00, e = 2026-11-22 07:00:00 }`, `"payload":{"a":"2026-11-22T07:00:00Z","b":"2026-11-22T07:00:00.5+01:00","c":"2026-11-22","d":"07:30:00","e":"2026-11-22T07:00:00"}`},
		{"a member named cel", `payload = { cel = 1 }`, `"payload":{"cel":1}`},
		{"an expression", `payload = { a = { cel = '1 + 1' }, b = [{ cel = '"x"' }] }`, `"payload":{"a":2,"b":["x"]}`},
		{"a whole table", `desired.cel = '{"b": payload.count, "a": payload.load}'`, `"initialTwin":{"properties":{"desired":{"a":2.5,"b":3}}}`},
		{"of the request", `payload = { zone = { cel = 'payload.zone' }, nothing = { cel = 'payload.nothing' } }`, `"payload":{"zone":{"a.b":"dotted","c/~d":"escaped","list":[{"n":1}],"name":"west"},"nothing":null}`},
		{"left out", `payload = { a = { cel = 'payload.?gone' }, b = { cel = 'payload.?model' }, c = { cel = '{?"x": payload.?gone, "y": payload.?count}' } }`, `"payload":{"b":"contoso-tstrsd-007","c":{"y":3}}`},
		{"kinds of CEL", `payload = { cel = '{"n": null, "b": b"ab", "u": 7u, "d": 1.0, "i": -1, "t": timestamp("2026-11-22T08:00:00+01:00"), "s": duration("90.5s"), "l": [true]}' }`, `"payload":{"b":"YWI=","d":1,"i":-1,"l":[true],"n":null,"s":"90.5s","t":"2026-11-22T07:00:00Z","u":7}`},
		{"of the row", `tags = { room = { cel = 'device.room' }, floor = { cel = 'device.floor' }, vip = { cel = 'device.vip' } }`, `"initialTwin":{"properties":{"desired":{}},"tags":{"room":"499","floor":3,"vip":true}}`},
		{"maps in their names' order", `payload = { keys = { cel = '{"c": 1, "a": 2, "b": 3}.map(k, k)' }, of = { cel = 'payload.map(k, k)' } }`, `"payload":{"keys":["a","b","c"],"of":["MyDeviceFirmwareVersion","count","load","model","nothing","vip","zone"]}`},

		// What cannot become an answer.
		{"no value for an element", `payload = { a = [{ cel = 'payload.?gone' }] }`, "trouble: policy.toml:4:26: rule 1: the expression gives no value where one is needed"},
		{"no object", `payload.cel = 'payload.list'`, `trouble: policy.toml:4:23: rule 1: "list" is absent for this device; write .?list with orValue(…), or ask with has(…)`},
		{"a key that is no text", `payload.cel = '{1: 2}'`, "trouble: policy.toml:4:15: rule 1: the expression gives a map with a key of type int; names in JSON are text"},
		{"a number that JSON has not", `payload = { a = { cel = '1.0 / 0.0' } }`, "trouble: policy.toml:4:25: rule 1: the expression gives a number that JSON does not have"},
		{"a type", `payload = { a = { cel = '[dyn(type(1))]' } }`, "trouble: policy.toml:4:25: rule 1: the expression gives type, which is no value of JSON"},
		{"division by zero", `payload = { a = { cel = 'payload.count / 0' } }`, "trouble: policy.toml:4:40: rule 1: division by zero"},
		{"text of another type", `payload = { a = { cel = 'payload.count.trim()' } }`, "trouble: policy.toml:4:44: rule 1: no such overload: trim(int)"},
		{"on another line", "payload = { a = { cel = '''\n  1 +\n  payload.nowhere''' } }", `trouble: policy.toml:6:10: rule 1: "nowhere" is absent for this device; write .?nowhere with orValue(…), or ask with has(…)`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := mustParse(t, directoryLine+"[[rule]]\nhub.pick = \"first\"\n"+test.lines+"\n")
			got := ask(t, p, allocation.Question{Request: mustRequest(t, fullRequest), Device: fullRow})
			if answer, found := strings.CutPrefix(got, `rule 1: {"iotHubHostName":"contoso-toasters-hub-1098.azure-devices.net",`); found {
				got = strings.TrimSuffix(answer, "}")
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// TestRefusalByExpression: a refusal needs text, and names its rule.
func TestRefusalByExpression(t *testing.T) {
	t.Parallel()
	for expression, want := range map[string]string{
		`"No " + string(payload.model) + "."`: "nobody refuses: No contoso-tstrsd-007.",
		`payload.vip == true ? "" : "x"`:      "trouble: policy.toml:3:15: rule \"nobody\": the refusal has no text",
	} {
		p := mustParse(t, "[[rule]]\nname = \"nobody\"\nrefuse = {cel='"+expression+"'}\n")
		if got := ask(t, p, allocation.Question{Request: mustRequest(t, fullRequest)}); got != want {
			t.Errorf("%s: got %s, want %s", expression, got, want)
		}
	}
}
