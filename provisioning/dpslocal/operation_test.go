// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"errors"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// masks make documents comparable: what is random becomes a word.
var masks = []struct {
	pattern *regexp.Regexp
	word    string
}{
	{regexp.MustCompile(`5\.[0-9a-f]{16}\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "OPERATION"},
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "GUID"},
	{regexp.MustCompile(`"etag":"I[jm][A-Za-z0-9+/]{49}="`), `"etag":"QUOTED-GUID"`},
}

func mask(document []byte) []byte {
	text := string(document)
	for _, m := range masks {
		text = m.pattern.ReplaceAllString(text, m.word)
	}
	return []byte(text)
}

// TestDocuments holds every document that a device can be sent, and the one
// that a webhook is, against its file.
func TestDocuments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.Enrollments = []IndividualEnrollment{
			{
				RegistrationID: "boiler-1", PrimaryKey: testPrimary, AllocationPolicy: Custom, WebhookURL: testHook,
				DeviceID: "Boiler-1", InitialTwin: []byte(`{"tags":{"floor":1}}`), ReprovisionPolicy: ReprovisionReset,
			},
			{RegistrationID: "barred", PrimaryKey: testPrimary, ProvisioningStatus: Disabled},
		}
		hook := &scriptedWebhook{answers: []webhookAnswer{
			{status: 200, body: strings.TrimSuffix(goodAnswer, "}") + `,"payload":{ "property1" : "<a> & b" }}`, delay: time.Second},
			{status: 400, body: "Unrecognized device registration."},
		}}
		s := newCore(t, cfg, hook)

		c := request(RegisterCall, toaster)
		c.body = []byte(`{"registrationId":"` + toaster + `","payload":{"MyDeviceFirmwareVersion": "12.0.2.5", "html":"<&>"}}`)
		a := s.service.serve(t.Context(), c)
		golden(t, "register-accepted.json", mask(a.body))
		c.kind, c.operationID = PollCall, decodeStatus(t, a.body).OperationID
		golden(t, "poll-assigning.json", mask(s.service.serve(t.Context(), c).body))
		time.Sleep(2 * time.Second)
		golden(t, "poll-assigned.json", mask(s.service.serve(t.Context(), c).body))
		c.kind = LookupCall
		golden(t, "lookup-assigned.json", mask(s.service.serve(t.Context(), c).body))
		golden(t, "allocation-request-group.json", mask([]byte(hook.body(0))))

		c = request(RegisterCall, "boiler-1")
		c.token = deviceToken("boiler-1", testPrimary)
		a = s.service.serve(t.Context(), c)
		synctest.Wait()
		c.kind, c.operationID = PollCall, decodeStatus(t, a.body).OperationID
		golden(t, "poll-failed.json", mask(s.service.serve(t.Context(), c).body))
		golden(t, "allocation-request-individual.json", mask([]byte(hook.body(1))))

		c = request(RegisterCall, "barred")
		c.token = deviceToken("barred", testPrimary)
		a = s.service.serve(t.Context(), c)
		synctest.Wait()
		c.kind, c.operationID = PollCall, decodeStatus(t, a.body).OperationID
		golden(t, "poll-disabled.json", mask(s.service.serve(t.Context(), c).body))
		c.token = "x"
		golden(t, "unauthorized.json", mask(s.service.serve(t.Context(), c).body))
		if hook.calls() != 2 {
			t.Errorf("webhook called %d times, want not for a disabled enrollment", hook.calls())
		}
	})
}

// TestWebhookAnswers goes beyond the published table: what it leaves open is
// settled by dps-protocol 12.4.
func TestWebhookAnswers(t *testing.T) {
	tests := []struct {
		name    string
		answer  webhookAnswer
		status  string
		code    int
		message string // a part of it
		calls   int
	}{
		{"host name in another case", webhookAnswer{status: 200, body: `{"iotHubHostName":"` + strings.ToUpper(toasters) + `"}`}, "assigned", 0, "", 1},
		{"hub that is not linked", webhookAnswer{status: 200, body: `{"iotHubHostName":"other.azure-devices.net"}`}, "failed", 400207, `"other.azure-devices.net" is not one of the linked hubs`, 1},
		{"member absent", webhookAnswer{status: 200, body: `{}`}, "failed", 400208, "not specified", 1},
		{"not JSON", webhookAnswer{status: 200, body: "ok"}, "failed", 400207, "not an AllocationResponse", 1},
		{"empty", webhookAnswer{status: 200}, "failed", 400207, "not an AllocationResponse", 1},
		{"too long", webhookAnswer{status: 200, body: strings.Repeat(" ", maxWebhookResponse) + goodAnswer}, "failed", 400207, "longer than 65536 bytes", 1},
		{"bad twin", webhookAnswer{status: 200, body: `{"iotHubHostName":"` + toasters + `","initialTwin":{"tags":{"a.b":1}}}`}, "failed", 400207, "initialTwin", 1},
		{"null twin and payload", webhookAnswer{status: 200, body: `{"iotHubHostName":"` + toasters + `","initialTwin":null,"payload":null}`}, "assigned", 0, "", 1},
		{"not UTF-8", webhookAnswer{status: 200, body: "{\"iotHubHostName\":\"" + toasters + "\",\"payload\":\"\xff\"}"}, "failed", 400207, "not an AllocationResponse", 1},
		{"deeply nested payload", webhookAnswer{status: 200, body: `{"iotHubHostName":"` + toasters + `","payload":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`}, "assigned", 0, "", 1},
		{"204", webhookAnswer{status: 204}, "failed", 400207, "status code: 204", 1},
		{"redirect", webhookAnswer{status: 302}, "failed", 400207, "status code: 302", 1},
		{"no connection", webhookAnswer{err: errors.New("connection refused")}, "failed", 400207, "error occurred while sending", 11},
		{"no answer", webhookAnswer{status: 200, body: goodAnswer, delay: time.Hour}, "failed", 400207, "error occurred while sending", 11},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hook := &scriptedWebhook{answers: []webhookAnswer{tt.answer}}
				s := newCore(t, testConfig(), hook)
				got := register(t, s, request(RegisterCall, toaster))
				if got.Status != tt.status || got.RegistrationState.ErrorCode != tt.code {
					t.Errorf("got %s with code %d, want %s with %d", got.Status, got.RegistrationState.ErrorCode, tt.status, tt.code)
				}
				if !strings.Contains(got.RegistrationState.ErrorMessage, tt.message) {
					t.Errorf("message %q, want %q in it", got.RegistrationState.ErrorMessage, tt.message)
				}
				if hook.calls() != tt.calls {
					t.Errorf("%d calls, want %d", hook.calls(), tt.calls)
				}
			})
		})
	}
}

func TestSecondRegister(t *testing.T) {
	for _, strict := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			cfg := testConfig()
			cfg.Strict = strict
			s := newCore(t, cfg, &scriptedWebhook{answers: []webhookAnswer{{status: 200, body: goodAnswer, delay: 5 * time.Second}}})
			first := decodeStatus(t, s.service.serve(t.Context(), request(RegisterCall, toaster)).body)
			a := s.service.serve(t.Context(), request(RegisterCall, toaster))
			second := decodeStatus(t, a.body)
			if strict && (a.status != 409 || second.ErrorCode != 409203) {
				t.Errorf("strict: got %d %s, want 409203", a.status, a.body)
			}
			if !strict && (a.status != 202 || second.OperationID != first.OperationID) {
				t.Errorf("got %d %s, want 202 with operation %s", a.status, a.body, first.OperationID)
			}
			time.Sleep(6 * time.Second)
			if a := s.service.serve(t.Context(), request(RegisterCall, toaster)); a.status != 202 {
				t.Errorf("after the end: got %d %s, want 202", a.status, a.body)
			}
			time.Sleep(6 * time.Second)
			operations := s.Operations(toaster)
			if len(operations) != 2 || !operations[1].Begun.After(operations[0].Ended) || operations[1].Status != Assigned {
				t.Errorf("got %+v, want two operations, one after the other", operations)
			}
		})
	}
}

// TestPollIsHeld holds the rule for retry_after = "0s": up to a second, no
// longer than the operation takes.
func TestPollIsHeld(t *testing.T) {
	tests := []struct {
		name          string
		retryAfter    time.Duration
		webhook, held time.Duration
		status        int
	}{
		{"ends while held", 0, 400 * time.Millisecond, 400 * time.Millisecond, 200},
		{"outlasts the hold", 0, 2 * time.Second, time.Second, 202},
		{"not held", 3 * time.Second, 400 * time.Millisecond, 0, 202},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := testConfig()
				cfg.RetryAfter = tt.retryAfter
				s := newCore(t, cfg, &scriptedWebhook{answers: []webhookAnswer{{status: 200, body: goodAnswer, delay: tt.webhook}}})
				c := request(RegisterCall, toaster)
				a := s.service.serve(t.Context(), c)
				if want := map[bool]string{true: "0", false: "3"}[tt.retryAfter == 0]; a.retryAfter != want {
					t.Errorf("hint %q, want %q", a.retryAfter, want)
				}
				c.kind, c.operationID = PollCall, decodeStatus(t, a.body).OperationID
				begun := time.Now()
				a = s.service.serve(t.Context(), c)
				if held := time.Since(begun); held != tt.held || a.status != tt.status {
					t.Errorf("held %s and answered %d, want %s and %d", held, a.status, tt.held, tt.status)
				}
				time.Sleep(3 * time.Second)
			})
		})
	}
}

func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hook := always(200, goodAnswer)
		s := newCore(t, testConfig(), hook)
		other := register(t, s, request(RegisterCall, "mainbuilding167-contoso-hpsd-088"))
		tests := []struct {
			name   string
			change func(*call)
			status int
			code   int
		}{
			{"no api-version", func(c *call) { c.apiVersion = "" }, 400, 400004},
			{"malformed api-version", func(c *call) { c.apiVersion = "2021-6-1" }, 400, 400004},
			{"malformed ID", func(c *call) { c.registrationID = "dev." }, 400, 400004},
			{"unknown scope", func(c *call) {
				c.idScope = "0ne00009999"
				c.token = sign("0ne00009999/registrations/"+toaster, derive(testPrimary, toaster), time.Now().Add(time.Hour))
			}, 401, 401002},
			{"no token", func(c *call) { c.token = "" }, 401, 401002},
			{"another's key", func(c *call) { c.token = deviceToken(toaster, derive(testPrimary, "other")) }, 401, 401002},
			{"expired by more than the skew", func(c *call) {
				c.token = sign(testScope+"/registrations/"+toaster, derive(testPrimary, toaster), time.Now().Add(-clockSkew-time.Second))
			}, 401, 401002},
			{"body of another", func(c *call) { c.body = []byte(`{"registrationId":"other"}`) }, 400, 400004},
			{"payload is no object", func(c *call) { c.body = []byte(`{"payload":[1]}`) }, 400, 400004},
			{"not JSON", func(c *call) { c.body = []byte(`{`) }, 400, 400004},
			{"not UTF-8", func(c *call) { c.body = []byte("{\"payload\":{\"a\":\"\xff\"}}") }, 400, 400004},
			{"TPM", func(c *call) { c.body = []byte(`{"tpm":{"endorsementKey":"AA=="}}`) }, 400, 400004},
			{"CSR of the preview", func(c *call) { c.apiVersion, c.body = "2025-07-01-preview", []byte(`{"csr":"AA=="}`) }, 400, 400004},
			{"unknown operation", func(c *call) { c.kind, c.operationID = PollCall, "5.0.0" }, 404, 404201},
			{"another's operation", func(c *call) { c.kind, c.operationID = PollCall, other.OperationID }, 404, 404201},
			{"never registered", func(c *call) { c.kind = LookupCall }, 404, 404201},
		}
		for _, tt := range tests {
			c := request(RegisterCall, toaster)
			tt.change(&c)
			a := s.service.serve(t.Context(), c)
			body := decodeStatus(t, a.body)
			if a.status != tt.status || a.code != tt.code || body.ErrorCode != tt.code || body.Message == "" {
				t.Errorf("%s: got %d %s, want %d with %d", tt.name, a.status, a.body, tt.status, tt.code)
			}
		}
		if hook.calls() != 1 || len(s.Operations(toaster)) != 0 {
			t.Errorf("%d webhook calls, operations %+v; want nothing begun", hook.calls(), s.Operations(toaster))
		}
	})
}

func TestAdmissions(t *testing.T) {
	tests := []struct {
		name   string
		id     string // presented
		token  func() string
		status string
		group  string // named in the result
	}{
		{"secondary key", toaster, func() string { return deviceToken(toaster, derive(testSecondary, toaster)) }, "assigned", testGroup},
		{"raw resource, as Node", toaster, func() string {
			return signText(testScope+"/registrations/"+toaster, derive(testPrimary, toaster), "4102444800") + "&skn=registration"
		}, "assigned", testGroup},
		{"lower-cased resource of a mixed-case ID", "Dev-01", func() string { return deviceToken("dev-01", derive(testPrimary, "Dev-01")) }, "assigned", testGroup},
		{"key derived from the lower-cased ID", "Dev-01", func() string { return deviceToken("Dev-01", derive(testPrimary, "dev-01")) }, "assigned", testGroup},
		{"expired within the skew", toaster, func() string {
			return sign(testScope+"/registrations/"+toaster, derive(testPrimary, toaster), time.Now().Add(-clockSkew+time.Second))
		}, "assigned", testGroup},
		{"individual", "boiler-1", func() string { return deviceToken("boiler-1", testSecondary) }, "assigned", ""},
		{"barred, with its own key", "barred", func() string { return deviceToken("barred", testSecondary) }, "disabled", ""},
		{"barred, with the group's", "barred", func() string { return deviceToken("barred", derive(testPrimary, "barred")) }, "disabled", ""},
		{"disabled group", "g", func() string { return deviceToken("g", derive("//////////////////////////////////////////8=", "g")) }, "disabled", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := testConfig()
				cfg.EnrollmentGroups = append(cfg.EnrollmentGroups, EnrollmentGroup{
					ID: "closed", PrimaryKey: "//////////////////////////////////////////8=", ProvisioningStatus: Disabled,
				})
				cfg.Enrollments = []IndividualEnrollment{
					{RegistrationID: "boiler-1", PrimaryKey: testPrimary, SecondaryKey: testSecondary, DeviceID: "Boiler-1"},
					{RegistrationID: "barred", SecondaryKey: testSecondary, ProvisioningStatus: Disabled},
				}
				s := newCore(t, cfg, always(200, goodAnswer))
				c := request(RegisterCall, tt.id)
				c.token = tt.token()
				got := register(t, s, c)
				if got.Status != tt.status {
					t.Fatalf("got %+v, want %s", got, tt.status)
				}
				if tt.status != "assigned" {
					return
				}
				if state := got.RegistrationState; state.SymmetricKey == nil || state.SymmetricKey.EnrollmentGroupID != tt.group {
					t.Errorf("got %+v, want symmetricKey with group %q", state, tt.group)
				}
				if want := map[bool]string{true: tt.id, false: "Boiler-1"}[tt.group != ""]; got.RegistrationState.DeviceID != want {
					t.Errorf("device ID %q, want %q", got.RegistrationState.DeviceID, want)
				}
				device, err := s.store.Device(t.Context(), got.RegistrationState.AssignedHub, got.RegistrationState.DeviceID)
				if err != nil {
					t.Fatal(err)
				}
				token, err := parseSASToken(tt.token())
				if err != nil {
					t.Fatal(err)
				}
				if !token.signedWith(device.PrimaryKey, device.SecondaryKey) {
					t.Error("the key that registered does not open the hub")
				}
			})
		})
	}
}

// TestReprovisioning plays dps-protocol 19: what a second registration does to
// hub, substatus and twin.
func TestReprovisioning(t *testing.T) {
	second := `{"iotHubHostName":"` + heatPumps + `","initialTwin":{"tags":{"deviceType":"new"},"properties":{"desired":{"state":"new"}}},"payload":{"n":2}}`
	tests := []struct {
		name      string
		policy    ReprovisionPolicy
		answer    string
		linked    string // linkedHubs of the second request
		status    string
		hub       string
		substatus string
		desired   string // of the twin where the device is afterwards
		reported  string
	}{
		{"same hub", ReprovisionMigrate, strings.Replace(second, heatPumps, toasters, 1), `["` + toasters + `","` + heatPumps + `"]`, "assigned", toasters, "initialAssignment", `{"darknessSetting":"medium","state":"ready"}`, `{"a":1}`},
		{"same hub, reset", ReprovisionReset, strings.Replace(second, heatPumps, toasters, 1), `["` + toasters + `","` + heatPumps + `"]`, "assigned", toasters, "initialAssignment", `{"darknessSetting":"medium","state":"ready"}`, `{"a":1}`},
		{"move and migrate", ReprovisionMigrate, second, `["` + toasters + `","` + heatPumps + `"]`, "assigned", heatPumps, "deviceDataMigrated", `{"darknessSetting":"medium","state":"ready"}`, `{"a":1}`},
		{"move and reset", ReprovisionReset, second, `["` + toasters + `","` + heatPumps + `"]`, "assigned", heatPumps, "deviceDataReset", `{"state":"new"}`, `{}`},
		{"never", ReprovisionNever, strings.Replace(second, heatPumps, toasters, 1), `["` + toasters + `"]`, "assigned", toasters, "initialAssignment", `{"darknessSetting":"medium","state":"ready"}`, `{"a":1}`},
		{"never, but the webhook wants to", ReprovisionNever, second, `["` + toasters + `"]`, "failed", toasters, "", `{"darknessSetting":"medium","state":"ready"}`, `{"a":1}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := testConfig()
				cfg.EnrollmentGroups[0].ReprovisionPolicy = tt.policy
				hook := &scriptedWebhook{answers: []webhookAnswer{{status: 200, body: goodAnswer}, {status: 200, body: tt.answer}}}
				s := newCore(t, cfg, hook)
				register(t, s, request(RegisterCall, toaster))
				err := s.store.UpdateTwin(t.Context(), toasters, toaster, func(twin *Twin) error {
					twin.Reported["a"] = []byte("1")
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				got := register(t, s, request(RegisterCall, toaster))
				if got.Status != tt.status || got.RegistrationState.Substatus != tt.substatus {
					t.Errorf("got %+v, want %s, %q", got, tt.status, tt.substatus)
				}
				if tt.status == "assigned" && string(got.RegistrationState.Payload) != `{"n":2}` {
					t.Errorf("payload %s, want the second answer's", got.RegistrationState.Payload)
				}
				request := hook.body(1)
				for _, part := range []string{
					`"currentIotHubHostName":"` + toasters + `","currentDeviceId":"` + toaster + `","symmetricKey":{}`,
					`"linkedHubs":` + tt.linked + `}`,
				} {
					if !strings.Contains(request, part) {
						t.Errorf("second request %s: %s is missing", request, part)
					}
				}
				twin, ok := s.Twin(tt.hub, toaster)
				if !ok {
					t.Fatalf("no device on %s", tt.hub)
				}
				if diff := cmp.Diff(tt.desired, sectionText(twin.Desired)); diff != "" {
					t.Errorf("desired (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tt.reported, sectionText(twin.Reported)); diff != "" {
					t.Errorf("reported (-want +got):\n%s", diff)
				}
				if _, ok := s.Twin(toasters, toaster); ok != (tt.hub == toasters) {
					t.Errorf("on %s: %v; a device is on one hub only", toasters, ok)
				}
			})
		})
	}
}

// A failed first attempt leaves no trace of an assignment; a failed later one
// leaves the old assignment in force.
func TestFailureKeepsAssignment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hook := &scriptedWebhook{answers: []webhookAnswer{
			{status: 400}, {status: 200, body: goodAnswer}, {status: 400}, {status: 200, body: goodAnswer},
		}}
		s := newCore(t, testConfig(), hook)
		for range 4 {
			register(t, s, request(RegisterCall, toaster))
		}
		for i, want := range []bool{false, false, true, true} {
			if got := strings.Contains(hook.body(i), "currentIotHubHostName"); got != want {
				t.Errorf("request %d names a current hub: %v, want %v", i, got, want)
			}
		}
	})
}

func TestBuiltInAllocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.EnrollmentGroups[0].AllocationPolicy = Hashed
		cfg.Enrollments = []IndividualEnrollment{{
			RegistrationID: "fixed", PrimaryKey: testPrimary, AllocationPolicy: Static, Hubs: []string{heatPumps},
			InitialTwin: []byte(`{"tags":{"floor":1},"properties":{"desired":{"state":"on"}}}`),
		}}
		s := newCore(t, cfg, nil)
		c := request(RegisterCall, "fixed")
		c.token = deviceToken("fixed", testPrimary)
		if got := register(t, s, c); got.RegistrationState.AssignedHub != heatPumps {
			t.Errorf("static: got %+v, want %s", got, heatPumps)
		}
		if twin, _ := s.Twin(heatPumps, "fixed"); sectionText(twin.Desired) != `{"state":"on"}` || sectionText(twin.Tags) != `{"floor":1}` {
			t.Errorf("twin %+v, want the enrollment's initial twin", twin)
		}
		count := map[string]int{}
		for i := range 40 {
			id := "dev-" + string(rune('a'+i%26)) + string(rune('a'+i/26))
			got := register(t, s, request(RegisterCall, id)).RegistrationState.AssignedHub
			again := register(t, s, request(RegisterCall, id)).RegistrationState.AssignedHub
			if got != again {
				t.Errorf("%s: %s, then %s; want the same again", id, got, again)
			}
			count[got]++
		}
		if count[toasters] < 8 || count[heatPumps] < 8 {
			t.Errorf("spread %v, want both hubs used", count)
		}
	})
}

// TestRestart stops a service amid the retries of a webhook; the next one
// carries on with the call that was due.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		hook := always(503, "")
		open := func() *Server {
			store, err := OpenStore(filepath.Join(dir, "store.db"))
			if err != nil {
				t.Fatal(err)
			}
			s, err := New(testConfig(), Options{
				Dir: dir, Store: store, WebhookTransport: hook, Logger: testLogger(t),
				HTTPSListener: newPipeListener(), MQTTListener: newPipeListener(),
			})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s := open()
		begun := time.Now()
		c := request(RegisterCall, toaster)
		c.kind, c.operationID = PollCall, decodeStatus(t, s.service.serve(t.Context(), c).body).OperationID
		time.Sleep(35 * time.Second) // calls at 0, 1, 11 and 30
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if hook.calls() != 4 {
			t.Fatalf("%d calls, want 4", hook.calls())
		}
		time.Sleep(5 * time.Second)

		hook.answers = []webhookAnswer{{status: 200, body: goodAnswer}}
		s = open()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		synctest.Wait()
		if got := decodeStatus(t, s.service.serve(t.Context(), c).body); got.Status != "assigning" {
			t.Errorf("right after the start: %+v, want assigning", got)
		}
		time.Sleep(30 * time.Second)
		if got := decodeStatus(t, s.service.serve(t.Context(), c).body); got.Status != "assigned" {
			t.Errorf("got %+v, want assigned", got)
		}
		if at := hook.times[len(hook.times)-1].Sub(begun); hook.calls() != 5 || at != 58*time.Second {
			t.Errorf("%d calls, the last at %s; want the fifth at 58s", hook.calls(), at)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCore(t, testConfig(), always(200, goodAnswer))
		var points []FaultPoint
		faults := []Fault{{Status: 429, RetryAfter: "7"}, {Drop: true}, {RetryAfter: "Fri, 31 Dec 1999 23:59:59 GMT"}, {}}
		s.service.fault = func(p FaultPoint) Fault {
			points = append(points, p)
			return faults[len(points)-1]
		}
		c := request(RegisterCall, toaster)
		if a := s.service.serve(t.Context(), c); a.status != 429 || a.retryAfter != "7" || decodeStatus(t, a.body).ErrorCode != 429001 {
			t.Errorf("got %+v, want 429 after 7", a)
		}
		if n := len(s.Operations(toaster)); n != 0 {
			t.Errorf("%d operations begun by a 429, want none", n)
		}
		if a := s.service.serve(t.Context(), c); !a.drop || len(s.Operations(toaster)) != 1 {
			t.Errorf("got %+v and %d operations, want a dropped answer of one that began", a, len(s.Operations(toaster)))
		}
		if a := s.service.serve(t.Context(), c); a.status != 202 || a.retryAfter != faults[2].RetryAfter {
			t.Errorf("got %+v, want 202 with the hint as given", a)
		}
		if a := s.service.serve(t.Context(), c); a.retryAfter != "3" {
			t.Errorf("got %+v, want a good answer", a)
		}
		if want := (FaultPoint{Transport: "https", Call: RegisterCall, RegistrationID: toaster}); points[0] != want {
			t.Errorf("got %+v, want %+v", points[0], want)
		}
	})
}

// Without an enrollment's case mattering, the first spelling is echoed and
// names the device.
func TestFirstSpellingStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCore(t, testConfig(), always(200, goodAnswer))
		register(t, s, request(RegisterCall, "Dev-01"))
		got := register(t, s, request(RegisterCall, "dev-01")).RegistrationState
		if got.RegistrationID != "Dev-01" || got.DeviceID != "Dev-01" {
			t.Errorf("got %+v, want the first spelling", got)
		}
	})
}

func TestSetGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCore(t, testConfig(), nil)
		if err := s.SetGroup(EnrollmentGroup{ID: "new"}); err != nil {
			t.Fatal(err)
		}
		primary, secondary, err := s.GroupKeys("NEW")
		if err != nil || primary == secondary {
			t.Fatalf("keys %q and %q, %v; want two", primary, secondary, err)
		}
		if key, err := decodeKey(primary); err != nil || len(key) != 64 {
			t.Errorf("generated key of %d bytes, %v; want 64", len(key), err)
		}
		if err := s.SetGroup(EnrollmentGroup{ID: "new", AllocationPolicy: Static}); err != nil {
			t.Fatal(err)
		}
		if again, _, _ := s.GroupKeys("new"); again != primary {
			t.Error("the stored key was replaced though none was given")
		}
		var config *ConfigError
		if err := s.SetGroup(EnrollmentGroup{ID: "new", AllocationPolicy: Custom, WebhookURL: "http://example.com/?code=SECRET"}); !errors.As(err, &config) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("got %v, want a ConfigError without the key", err)
		}
		if _, _, err := s.GroupKeys("absent"); !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
	})
}
