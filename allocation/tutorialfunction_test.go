// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// functionCase is one request with what the tutorial's function makes of it.
// The answers were written by reading the function in the tutorial, not by
// running ours; TestFunctionCasesAreTheFunctions asks the function itself.
type functionCase struct {
	name, body string

	// status and answer are the function's. 500 has no body: it is what the
	// Functions host answers when the function ends with an exception.
	status int
	answer string

	// ours is the webhook's refusal, with status 400, where it is not the
	// function's answer; why says why we do not follow.
	ours, why string

	// newer marks what Debian's Json.NET fails on, unlike the one in Azure.
	newer bool
}

// Why the webhook answers some requests in another way than the function. None
// of them is an AllocationRequest, so the service never sends one.
const (
	// An exception makes the service ask ten more times, for seven minutes, and
	// then end the registration with the same 400207 (dps-protocol 12.5).
	whyNotAgain = "the function fails; the same request would fail again, so that 400 says it at once"

	// The form is checked before the policy, the function looks at a member only
	// when it gets there.
	whyFormFirst = "the form of a request is checked as a whole, before the policy sees it"

	// Json.NET reads comments, single quotes, names without quotes, trailing
	// commas and more.
	whyStrict = "Json.NET takes more for JSON than the standard does"
)

const (
	noID      = "Registration ID not provided for the device."
	noHubs    = "No hub group defined for the enrollment."
	noToaster = "No toasters hub found for the enrollment."
	noPump    = "No heat pumps hub found for the enrollment."
	unknownID = "Unrecognized device registration."
	notOne    = "The request is not an AllocationRequest: "
)

func toasterAnswer(hub string) string {
	return `{"iotHubHostName":"` + hub + `","initialTwin":{"properties":{"desired":{"state":"ready","darknessSetting":"medium"}},"tags":{"deviceType":"toaster"}}}`
}

func heatPumpAnswer(hub string) string {
	return `{"iotHubHostName":"` + hub + `","initialTwin":{"properties":{"desired":{"state":"on","temperatureSetting":"65"}},"tags":{"deviceType":"heatpump"}}}`
}

// functionCases are the cases apart from the published documents.
func functionCases() []functionCase {
	const (
		toaster  = `{"deviceRuntimeContext":{"registrationId":"a-contoso-tstrsd-007"}`
		heatPump = `{"deviceRuntimeContext":{"registrationId":"a-contoso-hpsd-088"}`
		kettle   = `{"deviceRuntimeContext":{"registrationId":"kettle"}`
		both     = `,"linkedHubs":["x-toasters-1","x-heatpumps-1"]}`
	)
	id := func(value string) string { return `{"deviceRuntimeContext":{"registrationId":` + value + `}` + both }
	return []functionCase{
		// The two appliances and their hubs.
		{name: "toaster", body: toaster + both, status: 200, answer: toasterAnswer("x-toasters-1")},
		{name: "heat pump", body: heatPump + both, status: 200, answer: heatPumpAnswer("x-heatpumps-1")},
		{name: "unknown device", body: kettle + both, status: 400, answer: unknownID},
		{name: "both suffixes, heat pump first", body: id(`"a-contoso-hpsd-088-contoso-tstrsd-007"`), status: 200, answer: toasterAnswer("x-toasters-1")},
		{name: "both suffixes, toaster first", body: id(`"a-contoso-tstrsd-007-contoso-hpsd-088"`), status: 200, answer: toasterAnswer("x-toasters-1")},
		{name: "both suffixes, no toasters hub", body: `{"deviceRuntimeContext":{"registrationId":"a-contoso-hpsd-088-contoso-tstrsd-007"},"linkedHubs":["x-heatpumps-1"]}`, status: 400, answer: noToaster},
		{name: "suffix in the middle", body: id(`"a-contoso-tstrsd-007b"`), status: 200, answer: toasterAnswer("x-toasters-1")},
		{name: "suffix alone", body: id(`"-contoso-tstrsd-007"`), status: 200, answer: toasterAnswer("x-toasters-1")},
		{name: "suffix without its dash", body: id(`"contoso-tstrsd-007"`), status: 400, answer: unknownID},
		{name: "upper case", body: id(`"A-CONTOSO-TSTRSD-007"`), status: 400, answer: unknownID},
		{name: "mixed case before the suffix", body: id(`"BreakRoom-contoso-tstrsd-007"`), status: 200, answer: toasterAnswer("x-toasters-1")},
		{name: "several matching hubs", body: toaster + `,"linkedHubs":["x-toasters-1","x-toasters-2","x-heatpumps-1","x-toasters-3"]}`, status: 200, answer: toasterAnswer("x-toasters-3")},
		{name: "one hub twice", body: toaster + `,"linkedHubs":["x-toasters-1","x-toasters-1"]}`, status: 200, answer: toasterAnswer("x-toasters-1")},
		{name: "one hub for both", body: heatPump + `,"linkedHubs":["x-toasters-heatpumps-1"]}`, status: 200, answer: heatPumpAnswer("x-toasters-heatpumps-1")},
		{name: "hub in upper case", body: toaster + `,"linkedHubs":["X-TOASTERS-1"]}`, status: 400, answer: noToaster},
		{name: "hub without its second dash", body: toaster + `,"linkedHubs":["x-toasters.azure-devices.net"]}`, status: 400, answer: noToaster},
		{name: "no toasters hub", body: toaster + `,"linkedHubs":["x-heatpumps-1"]}`, status: 400, answer: noToaster},
		{name: "no heat pumps hub", body: heatPump + `,"linkedHubs":["x-toasters-1"]}`, status: 400, answer: noPump},
		{name: "unknown device, no hub of its kind", body: kettle + `,"linkedHubs":[]}`, status: 400, answer: unknownID},
		{name: "hub already assigned counts for nothing", body: `{"deviceRuntimeContext":{"registrationId":"a-contoso-tstrsd-007","currentIotHubHostName":"x-toasters-1","currentDeviceId":"a"},"linkedHubs":["x-toasters-1","x-toasters-2"]}`, status: 200, answer: toasterAnswer("x-toasters-2")},

		// No registration ID.
		{name: "empty body", body: ``, status: 400, answer: noID},
		{name: "white space", body: " \r\n\t ", status: 400, answer: noID},
		{name: "JSON null", body: `null`, status: 400, answer: noID},
		{name: "empty object", body: `{}`, status: 400, answer: noID},
		{name: "no context", body: `{"linkedHubs":["x-toasters-1"]}`, status: 400, answer: noID},
		{name: "empty context", body: `{"deviceRuntimeContext":{}` + both, status: 400, answer: noID},
		{name: "null ID", body: id(`null`), status: 400, answer: noID},
		{name: "null ID, null hubs", body: `{"deviceRuntimeContext":{"registrationId":null},"linkedHubs":null}`, status: 400, answer: noID},
		{name: "ID at the top", body: `{"registrationId":"a-contoso-tstrsd-007"` + both, status: 400, answer: noID},
		{name: "ID in another case", body: `{"deviceRuntimeContext":{"RegistrationID":"a-contoso-tstrsd-007"}` + both, status: 400, answer: noID},
		{name: "context in another case", body: `{"DeviceRuntimeContext":{"registrationId":"a-contoso-tstrsd-007"}` + both, status: 400, answer: noID},
		{name: "empty ID", body: id(`""`), status: 400, answer: unknownID},
		{name: "ID of white space", body: id(`"  "`), status: 400, answer: unknownID},

		// Another type in the place of the ID: what can be spelled is text.
		{name: "number as ID", body: id(`7`), status: 400, answer: unknownID},
		{name: "negative number as ID", body: id(`-7.5e3`), status: 400, answer: unknownID},
		{name: "boolean as ID", body: id(`true`), status: 400, answer: unknownID},
		{name: "number beyond 64 bits as ID", body: id(`9223372036854775808`), status: 500, ours: unknownID, why: whyNotAgain},
		{name: "date as ID", body: id(`"2022-08-03T20:34:41Z"`), status: 400, answer: unknownID},
		{name: "object as ID", body: id(`{}`), status: 500, ours: notOne + "deviceRuntimeContext.registrationId is not text.", why: whyNotAgain},
		{name: "list as ID", body: id(`["a-contoso-tstrsd-007"]`), status: 500, ours: notOne + "deviceRuntimeContext.registrationId is not text.", why: whyNotAgain},

		// No hubs.
		{name: "null hubs", body: toaster + `,"linkedHubs":null}`, status: 400, answer: noHubs},
		{name: "absent hubs", body: toaster + `}`, status: 400, answer: noHubs},
		{name: "absent hubs, unknown device", body: kettle + `}`, status: 400, answer: noHubs},
		{name: "hubs in another case", body: toaster + `,"LinkedHubs":["x-toasters-1"]}`, status: 400, answer: noHubs},
		{name: "hubs of the enrollment do not count", body: `{"enrollmentGroup":{"iotHubs":["x-toasters-1"]},"deviceRuntimeContext":{"registrationId":"a-contoso-tstrsd-007"}}`, status: 400, answer: noHubs},
		{name: "empty list", body: toaster + `,"linkedHubs":[]}`, status: 400, answer: noToaster},
		{name: "empty list, heat pump", body: heatPump + `,"linkedHubs":[]}`, status: 400, answer: noPump},
		{name: "empty hub name", body: toaster + `,"linkedHubs":[""]}`, status: 400, answer: noToaster},
		{name: "numbers and booleans among the hubs", body: toaster + `,"linkedHubs":[5,true,"x-toasters-1",1.5]}`, status: 200, answer: toasterAnswer("x-toasters-1")},
		{name: "null among the hubs", body: toaster + `,"linkedHubs":[null,"x-toasters-1"]}`, status: 500, ours: notOne + "linkedHubs[0] is null.", why: whyNotAgain},
		{name: "null among the hubs, unknown device", body: kettle + `,"linkedHubs":["x",null]}`, status: 400, answer: unknownID, ours: notOne + "linkedHubs[1] is null.", why: whyFormFirst},
		{name: "object among the hubs", body: toaster + `,"linkedHubs":[{}]}`, status: 500, ours: notOne + "linkedHubs[0] is not text.", why: whyNotAgain},
		{name: "list among the hubs", body: toaster + `,"linkedHubs":[["x-toasters-1"]]}`, status: 500, ours: notOne + "linkedHubs[0] is not text.", why: whyNotAgain},
		{name: "object as hubs", body: toaster + `,"linkedHubs":{}}`, status: 500, ours: notOne + "linkedHubs is not a list.", why: whyNotAgain},
		{name: "text as hubs", body: toaster + `,"linkedHubs":"x-toasters-1"}`, status: 500, ours: notOne + "linkedHubs is not a list.", why: whyNotAgain},
		{name: "number as hubs", body: toaster + `,"linkedHubs":5}`, status: 500, ours: notOne + "linkedHubs is not a list.", why: whyNotAgain},
		{name: "empty text as hubs", body: toaster + `,"linkedHubs":""}`, status: 400, answer: noHubs, ours: notOne + "linkedHubs is not a list.", why: "Json.NET takes empty text for null where a list is wanted"},
		{name: "object as hubs, no ID", body: `{"linkedHubs":{}}`, status: 400, answer: noID, ours: notOne + "linkedHubs is not a list.", why: whyFormFirst},
		{name: "current hub of another type", body: `{"deviceRuntimeContext":{"registrationId":"kettle","currentIotHubHostName":[]}` + both, status: 400, answer: unknownID, ours: notOne + "deviceRuntimeContext.currentIotHubHostName is not text.", why: whyFormFirst},

		// Another type higher up.
		{name: "null context", body: `{"deviceRuntimeContext":null` + both, status: 500, ours: noID, why: whyNotAgain},
		{name: "text as context", body: `{"deviceRuntimeContext":"a-contoso-tstrsd-007"` + both, status: 500, ours: notOne + "deviceRuntimeContext is not an object.", why: whyNotAgain},
		{name: "number as context", body: `{"deviceRuntimeContext":7` + both, status: 500, ours: notOne + "deviceRuntimeContext is not an object.", why: whyNotAgain},
		{name: "list as context", body: `{"deviceRuntimeContext":[{"registrationId":"a-contoso-tstrsd-007"}]` + both, status: 500, ours: notOne + "deviceRuntimeContext is not an object.", why: whyNotAgain},
		{name: "JSON array", body: `[]`, status: 500, ours: notOne + "the body is not an object.", why: whyNotAgain},
		{name: "array of one request", body: `[` + toaster + both + `]`, status: 500, ours: notOne + "the body is not an object.", why: whyNotAgain},
		{name: "JSON text", body: `"x"`, status: 500, ours: notOne + "the body is not an object.", why: whyNotAgain},
		{name: "JSON number", body: `5`, status: 500, ours: notOne + "the body is not an object.", why: whyNotAgain},
		{name: "JSON boolean", body: `false`, status: 500, ours: notOne + "the body is not an object.", why: whyNotAgain},

		// Spellings of one document.
		{name: "byte order mark", body: "\ufeff" + toaster + both, status: 200, answer: toasterAnswer("x-toasters-1")},
		{name: "white space everywhere", body: " {\n\t\"deviceRuntimeContext\" : { \"registrationId\" : \"a-contoso-tstrsd-007\" } , \"linkedHubs\" : [ \"x-toasters-1\" ] }\r\n", status: 200, answer: toasterAnswer("x-toasters-1")},
		{name: "unknown members", body: `{"x":[{}],"deviceRuntimeContext":{"y":null,"registrationId":"a-contoso-tstrsd-007","payload":{"registrationId":"b"}}` + both, status: 200, answer: toasterAnswer("x-toasters-1")},
		{name: "the last of two IDs", body: `{"deviceRuntimeContext":{"registrationId":"a-contoso-tstrsd-007","registrationId":"a-contoso-hpsd-088"}` + both, status: 200, answer: heatPumpAnswer("x-heatpumps-1"), newer: true},
		{name: "the last of two IDs is null", body: `{"deviceRuntimeContext":{"registrationId":"a-contoso-tstrsd-007","registrationId":null}` + both, status: 400, answer: noID, newer: true},
		{name: "the last of two contexts, not both", body: `{"deviceRuntimeContext":{"registrationId":"a-contoso-tstrsd-007"},"deviceRuntimeContext":{}` + both, status: 400, answer: noID, newer: true},
		{name: "the last of two hub lists", body: toaster + `,"linkedHubs":["x-toasters-1"],"linkedHubs":["x-toasters-2"]}`, status: 200, answer: toasterAnswer("x-toasters-2"), newer: true},
		{name: "escaped member names", body: `{"deviceRuntimeContex\u0074":{"registrationI\u0064":"a-contoso-tstrsd-007"},"linked\u0048ubs":["x-toasters-1"]}`, status: 200, answer: toasterAnswer("x-toasters-1")},
		{name: "a plain and an escaped name are one member", body: `{"deviceRuntimeContext":{"registrationId":"kettle","registration\u0049d":"a-contoso-tstrsd-007"}` + both, status: 200, answer: toasterAnswer("x-toasters-1"), newer: true},
		{name: "escaped ID and hub", body: `{"deviceRuntimeContext":{"registrationId":"a\u002dcontoso-tstrsd-007"},"linkedHubs":["x-\u0074oasters-\"1\\"]}`, status: 200, answer: toasterAnswer(`x-toasters-\"1\\`)},
		{name: "NUL in the ID", body: id(`"\u0000-contoso-tstrsd-007"`), status: 200, answer: toasterAnswer("x-toasters-1")},
		{name: "half a surrogate pair in a hub", body: toaster + `,"linkedHubs":["\ud800-toasters-1"]}`, status: 200, answer: toasterAnswer("\ufffd-toasters-1")},
		{name: "not UTF-8", body: toaster + ",\"linkedHubs\":[\"\xff\xff-toasters-1\"]}", status: 200, answer: toasterAnswer("\ufffd\ufffd-toasters-1")},
		{name: "large numbers where nobody looks", body: toaster + `,"x":123456789012345678901234567890` + both, status: 200, answer: toasterAnswer("x-toasters-1")},

		// What is not JSON.
		{name: "not JSON", body: `hello`, status: 500, ours: notOne + "the body is not valid JSON at byte 1.", why: whyNotAgain},
		{name: "cut short", body: toaster + `,"linkedHubs":["x-toasters-1"`, status: 500, ours: notOne + "the body is not valid JSON at byte 94.", why: whyNotAgain},
		{name: "something behind", body: toaster + both + `{}`, status: 500, ours: notOne + "the body is not valid JSON at byte 113.", why: whyNotAgain},
		{name: "comment", body: `/* hello */` + toaster + both, status: 200, answer: toasterAnswer("x-toasters-1"), ours: notOne + "the body is not valid JSON at byte 1.", why: whyStrict},
		{name: "single quotes", body: `{'deviceRuntimeContext':{'registrationId':'kettle'}` + both, status: 400, answer: unknownID, ours: notOne + "the body is not valid JSON at byte 2.", why: whyStrict},
		{name: "names without quotes", body: `{deviceRuntimeContext:{registrationId:"kettle"}` + both, status: 400, answer: unknownID, ours: notOne + "the body is not valid JSON at byte 2.", why: whyStrict},
		{name: "trailing comma, as in the concept page", body: toaster + `,}`, status: 400, answer: noHubs, ours: notOne + "the body is not valid JSON at byte 67.", why: whyStrict},
		{name: "line break inside text", body: "{\"deviceRuntimeContext\":{\"registrationId\":\"a\n-contoso-tstrsd-007\"}" + both, status: 200, answer: toasterAnswer("x-toasters-1"), ours: notOne + "the body is not valid JSON at byte 45.", why: whyStrict},
		{name: "NaN", body: toaster + `,"x":NaN` + both, status: 200, answer: toasterAnswer("x-toasters-1"), ours: notOne + "the body is not valid JSON at byte 71.", why: whyStrict},
		{name: "UTF-16", body: "\xff\xfe{\x00}\x00", status: 400, answer: noID, ours: notOne + "the body is not valid JSON at byte 1.", why: whyStrict},
		{name: "NUL behind", body: "{}\x00", status: 400, answer: noID, ours: notOne + "the body is not valid JSON at byte 3.", why: whyStrict},
	}
}

// TestTutorialFunctionCases holds the webhook with the built-in policy to the
// tutorial's function: the same answer or, where the table says why, a refusal
// of its own. It never answers 500, and never assigns where the function does
// not.
func TestTutorialFunctionCases(t *testing.T) {
	t.Parallel()
	handler := NewHandler(Config{Setup: Setup{Policy: Tutorial()}})
	names := map[string]bool{}
	for _, test := range functionCases() {
		if names[test.name] {
			t.Errorf("two cases have the name %q", test.name)
		}
		names[test.name] = true
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			status, answer := test.status, test.answer
			if test.ours != "" {
				status, answer = http.StatusBadRequest, test.ours
			}
			if (test.ours == "") != (test.why == "") || test.ours == "" && status == http.StatusInternalServerError {
				t.Fatal("the case does not say what the webhook does in the function's place, and why")
			}
			response := post(handler, "/api/HttpTrigger1", test.body)
			if response.Code != status {
				t.Errorf("got status %d, want %d", response.Code, status)
			}
			if diff := cmp.Diff(answer, response.Body.String()); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			wantType := "application/json; charset=utf-8"
			if status != http.StatusOK {
				wantType = "text/plain; charset=utf-8"
			}
			if got := response.Header().Get("Content-Type"); !strings.EqualFold(got, wantType) {
				t.Errorf("got content type %q, want %q", got, wantType)
			}
		})
	}
}
