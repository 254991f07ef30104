// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// policyFunc is a policy for one test.
type policyFunc func(Request) (Response, error)

func (f policyFunc) Decide(_ context.Context, question Question) (Response, error) {
	return f(question.Request)
}

// post sends one request to handler, as from this machine, and gives the whole answer.
func post(handler http.Handler, target, body string) *httptest.ResponseRecorder {
	return postFrom(handler, loopback, target, body)
}

// TestTutorialOnTheWire holds the logged exchange of the tutorial, and its twin
// for the heat pump, byte for byte.
func TestTutorialOnTheWire(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"tutorial-toaster", "tutorial-heatpump"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			handler := NewHandler(Config{Setup: Setup{Policy: Tutorial()}})
			response := post(handler, "/api/HttpTrigger1", string(golden(t, name+".request.json")))
			if response.Code != http.StatusOK {
				t.Errorf("got status %d, want 200", response.Code)
			}
			if got, want := response.Header().Get("Content-Type"), "application/json; charset=utf-8"; got != want {
				t.Errorf("got content type %q, want %q", got, want)
			}
			if diff := cmp.Diff(string(golden(t, name+".response.json")), response.Body.String()); diff != "" {
				t.Errorf("response (-logged +got):\n%s", diff)
			}
		})
	}
}

// TestStatusContract has one row for each status and each way to it
// (dps-protocol 12.4: the status decides what becomes of the appliance).
func TestStatusContract(t *testing.T) {
	t.Parallel()
	const toaster = `{"deviceRuntimeContext":{"registrationId":"a-contoso-tstrsd-007"},"linkedHubs":["a-toasters-1"]}`
	const keyWanted = "The function key is missing or wrong: the webhook URL of the enrollment must end in ?code= and a valid key."
	const askLater = "The allocation policy is not available at the moment; ask again later."
	keys := parseKeys(t, keyOne, keyTwo)
	failing := policyFunc(func(Request) (Response, error) { return Response{}, errors.New("directory away") })
	panicking := policyFunc(func(Request) (Response, error) { panic("no such row") })
	foreign := policyFunc(func(Request) (Response, error) { return Response{IoTHubHostName: "evil.example"}, nil })
	nameless := policyFunc(func(Request) (Response, error) { return Response{}, nil })
	broken := policyFunc(func(Request) (Response, error) {
		return Response{IoTHubHostName: "a-toasters-1", Payload: json.RawMessage(`{`)}, nil
	})
	refusing := func(message string) Policy {
		return policyFunc(func(Request) (Response, error) { return Response{}, Refusal{Message: message} })
	}
	wrapped := policyFunc(func(Request) (Response, error) {
		return Response{}, fmt.Errorf("rule 7: %w", Refusal{Message: "not here"})
	})
	twin := func(desired, tags string) Policy {
		return policyFunc(func(Request) (Response, error) {
			return Response{IoTHubHostName: "a-toasters-1", InitialTwin: &InitialTwin{InitialProperties{json.RawMessage(desired)}, json.RawMessage(tags)}}, nil
		})
	}
	wordy := policyFunc(func(Request) (Response, error) { return Response{}, Refusal{Message: "not\r\nhere,\tsorry"} })

	tests := []struct {
		name           string
		policy         Policy
		keys           []FunctionKey
		method, target string
		body           string
		wantStatus     int
		wantBody       string
	}{
		{"assigned", Tutorial(), nil, "POST", "/api/HttpTrigger1", toaster, 200, `{"iotHubHostName":"a-toasters-1","initialTwin":{"properties":{"desired":{"state":"ready","darknessSetting":"medium"}},"tags":{"deviceType":"toaster"}}}`},
		{"any name will do", Tutorial(), keys, "POST", "/api/x.y-z?code=" + keyOne, toaster, 200, `{"iotHubHostName":"a-toasters-1","initialTwin":{"properties":{"desired":{"state":"ready","darknessSetting":"medium"}},"tags":{"deviceType":"toaster"}}}`},
		{"empty body", Tutorial(), nil, "POST", "/api/f", "", 400, "Registration ID not provided for the device."},
		{"no hubs", Tutorial(), nil, "POST", "/api/f", `{"deviceRuntimeContext":{"registrationId":"a"}}`, 400, "No hub group defined for the enrollment."},
		{"no toasters hub", Tutorial(), nil, "POST", "/api/f", `{"deviceRuntimeContext":{"registrationId":"a-contoso-tstrsd-007"},"linkedHubs":["b"]}`, 400, "No toasters hub found for the enrollment."},
		{"no heat pumps hub", Tutorial(), nil, "POST", "/api/f", `{"deviceRuntimeContext":{"registrationId":"a-contoso-hpsd-088"},"linkedHubs":["b"]}`, 400, "No heat pumps hub found for the enrollment."},
		{"unknown device", Tutorial(), nil, "POST", "/api/f", `{"deviceRuntimeContext":{"registrationId":"kettle"},"linkedHubs":["b"]}`, 400, "Unrecognized device registration."},
		{"not JSON", Tutorial(), nil, "POST", "/api/f", `<xml/>`, 400, "The request is not an AllocationRequest: the body is not valid JSON at byte 1."},
		{"refusal of two lines", wordy, nil, "POST", "/api/f", toaster, 400, "not here, sorry"},
		{"refusal with what a terminal obeys", refusing("not \x1b[31mhere\x00\u009b, \xffsorry"), nil, "POST", "/api/f", toaster, 400, "not [31mhere , \ufffdsorry"},
		{"refusal without words", refusing(" \n"), nil, "POST", "/api/f", toaster, 400, "The policy refuses the device."},
		{"refusal inside another error", wrapped, nil, "POST", "/api/f", toaster, 400, "not here"},
		{"no key", Tutorial(), keys, "POST", "/api/f", toaster, 401, keyWanted},
		{"wrong key", Tutorial(), keys, "POST", "/api/f?code=wrong", toaster, 401, keyWanted},
		{"wrong key and too large", Tutorial(), keys, "POST", "/api/f?code=wrong", strings.Repeat(" ", maxBody+1), 401, keyWanted},
		{"GET", Tutorial(), nil, "GET", "/api/f", "", 405, "The allocation webhook answers POST only."},
		{"PUT", Tutorial(), keys, "PUT", "/api/f", toaster, 405, "The allocation webhook answers POST only."},
		{"largest body", Tutorial(), nil, "POST", "/api/f", toaster + strings.Repeat(" ", maxBody-len(toaster)), 200, `{"iotHubHostName":"a-toasters-1","initialTwin":{"properties":{"desired":{"state":"ready","darknessSetting":"medium"}},"tags":{"deviceType":"toaster"}}}`},
		{"one byte more", Tutorial(), nil, "POST", "/api/f", toaster + strings.Repeat(" ", maxBody-len(toaster)+1), 413, "The request is larger than 256 KiB, which no AllocationRequest is."},
		{"failing policy", failing, nil, "POST", "/api/f", toaster, 503, askLater},
		{"panicking policy", panicking, nil, "POST", "/api/f", toaster, 503, askLater},
		{"hub outside linkedHubs", foreign, nil, "POST", "/api/f", toaster, 503, askLater},
		{"no hub", nameless, nil, "POST", "/api/f", toaster, 503, askLater},
		{"desired properties that are no object", twin(`[]`, `{}`), nil, "POST", "/api/f", toaster, 503, askLater},
		{"tags that are no object", twin(`{}`, `"x"`), nil, "POST", "/api/f", toaster, 503, askLater},
		{"tags that are not JSON", twin(`{}`, `{x}`), nil, "POST", "/api/f", toaster, 503, askLater},
		{"payload that is not JSON", broken, nil, "POST", "/api/f", toaster, 503, askLater},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			handler := NewHandler(Config{Setup: Setup{Policy: test.policy, FunctionKeys: test.keys}})
			recorder := httptest.NewRecorder()
			handler.ServeHTTP(recorder, httptest.NewRequest(test.method, test.target, strings.NewReader(test.body)))
			if recorder.Code != test.wantStatus {
				t.Errorf("got status %d, want %d", recorder.Code, test.wantStatus)
			}
			if diff := cmp.Diff(test.wantBody, recorder.Body.String()); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			if got := recorder.Header().Get("Retry-After"); (got == "5") != (test.wantStatus == 503) {
				t.Errorf("got Retry-After %q with status %d", got, test.wantStatus)
			}
			if got := recorder.Header().Get("Allow"); (got == "POST") != (test.wantStatus == 405) {
				t.Errorf("got Allow %q with status %d", got, test.wantStatus)
			}
		})
	}
}

func TestOtherPathsAreNotFound(t *testing.T) {
	t.Parallel()
	handler := NewHandler(Config{Setup: Setup{Policy: Tutorial()}})
	for _, target := range []string{"/", "/api", "/api/", "/api/a/b", "/other"} {
		if got := post(handler, target, "{}").Code; got != http.StatusNotFound {
			t.Errorf("%s: got status %d, want 404", target, got)
		}
	}
}

// TestLargeBodyOverTCP sends 10 MB over a real connection, once with its length
// told and once chunked: the answer must come through although the body was
// not read.
func TestLargeBodyOverTCP(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(NewHandler(Config{Setup: Setup{Policy: Tutorial()}}))
	t.Cleanup(server.Close)
	for _, test := range []struct {
		name string
		body io.Reader
	}{
		{"length told", bytes.NewReader(make([]byte, 10_000_000))},
		{"chunked", io.MultiReader(bytes.NewReader(make([]byte, 10_000_000)))},
	} {
		t.Run(test.name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/api/f", test.body)
			if err != nil {
				t.Fatal(err)
			}
			// As curl does; without it a client may see its connection reset
			// while it still sends.
			request.Header.Set("Expect", "100-continue")
			transport := &http.Transport{ExpectContinueTimeout: time.Minute}
			defer transport.CloseIdleConnections()
			response, err := transport.RoundTrip(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if response.StatusCode != http.StatusRequestEntityTooLarge {
				t.Errorf("got status %d, want 413", response.StatusCode)
			}
			body, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := string(body), "The request is larger than 256 KiB, which no AllocationRequest is."; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// TestBodyCutShort: a caller that goes away in the middle is no refusal, and no
// matter for whoever looks after the gateway.
func TestBodyCutShort(t *testing.T) {
	t.Parallel()
	var seen []Decision
	var log strings.Builder
	handler := NewHandler(Config{
		Setup:   Setup{Policy: Tutorial()},
		Logger:  slog.New(slog.NewTextHandler(&log, nil)),
		Observe: func(d Decision) { seen = append(seen, d) },
	})
	body := io.MultiReader(strings.NewReader(`{"linkedHubs"`), errorReader{net.ErrClosed})
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodPost, "/api/f", body))
	if recorder.Code != http.StatusServiceUnavailable {
		t.Errorf("got status %d, want 503", recorder.Code)
	}
	if len(seen) != 1 || seen[0].Status != http.StatusServiceUnavailable {
		t.Errorf("got decisions %+v, want one with status 503", seen)
	}
	if got, want := recorder.Body.String(), "The request did not arrive whole; send it again."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("got the record %s, want a warning", log.String())
	}
}

// TestTwoLengths sends a request that tells its length twice, as Content-Length and
// as chunks, and another behind it. Who reads that in two ways could be made to take
// a piece of one caller's request for the next one's; here the chunks alone count
// (RFC 9112, section 6.3), so each is read as it was written.
func TestTwoLengths(t *testing.T) {
	t.Parallel()
	var seen []Decision
	server := httptest.NewServer(NewHandler(Config{Setup: Setup{Policy: Tutorial()}, Observe: func(d Decision) { seen = append(seen, d) }}))
	t.Cleanup(server.Close)
	connection, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	first := `{"deviceRuntimeContext":{"registrationId":"first"},"linkedHubs":["a"]}`
	second := `{"deviceRuntimeContext":{"registrationId":"second"},"linkedHubs":["a"]}`
	fmt.Fprintf(connection, "POST /api/f HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(first), first)
	fmt.Fprintf(connection, "POST /api/f HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(second), second)
	answers, err := io.ReadAll(connection)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(answers), "HTTP/1.1 400 Bad Request"); got != 2 {
		t.Errorf("got %d refusals, want 2:\n%s", got, answers)
	}
	var ids []string
	for _, decision := range seen {
		ids = append(ids, decision.RegistrationID)
	}
	if diff := cmp.Diff([]string{"first", "second"}, ids); diff != "" {
		t.Errorf("asked about (-want +got):\n%s", diff)
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func TestReplaceKeys(t *testing.T) {
	t.Parallel()
	handler := NewHandler(Config{Setup: Setup{Policy: Tutorial(), FunctionKeys: parseKeys(t, keyOne)}})
	status := func(key string) int {
		request := httptest.NewRequest(http.MethodPost, "/api/f", nil)
		request.Header.Set("X-Functions-Key", key)
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		return recorder.Code
	}
	steps := []struct {
		name             string
		keys             []FunctionKey
		wantErr          string
		wantOne, wantTwo int
	}{
		{"both, while the URL is changed", parseKeys(t, keyOne, keyTwo), "", 400, 400},
		{"the new one", parseKeys(t, keyTwo), "", 401, 400},
		{"none is refused", nil, "replacing the function keys: the list is empty; the old keys stay in force", 401, 400},
	}
	for _, step := range steps {
		if got := errText(handler.Replace(Setup{Policy: Tutorial(), FunctionKeys: step.keys})); got != step.wantErr {
			t.Errorf("%s: got error %q, want %q", step.name, got, step.wantErr)
		}
		if one, two := status(keyOne), status(keyTwo); one != step.wantOne || two != step.wantTwo {
			t.Errorf("%s: got statuses %d and %d, want %d and %d", step.name, one, two, step.wantOne, step.wantTwo)
		}
	}
}

// TestReplaceNoKeysOnAnOpenWebhook: a reload of a webhook without keys is no error.
func TestReplaceNoKeysOnAnOpenWebhook(t *testing.T) {
	t.Parallel()
	if err := NewHandler(Config{Setup: Setup{Policy: Tutorial()}}).Replace(Setup{Policy: Tutorial()}); err != nil {
		t.Error(err)
	}
}

// TestReplaceWhileServing gives the race detector something to look at.
func TestReplaceWhileServing(t *testing.T) {
	t.Parallel()
	one := Setup{Policy: Tutorial(), FunctionKeys: parseKeys(t, keyOne)}
	two := Setup{Policy: Tutorial(), FunctionKeys: parseKeys(t, keyOne, keyTwo)}
	handler := NewHandler(Config{Setup: one})
	body := string(golden(t, "tutorial-toaster.request.json"))
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 50 {
				if got := post(handler, "/api/f?code="+keyOne, body).Code; got != http.StatusOK {
					t.Errorf("got status %d, want 200", got)
				}
			}
		})
	}
	for range 50 {
		if err := errors.Join(handler.Replace(two), handler.Replace(one)); err != nil {
			t.Error(err)
		}
	}
	group.Wait()
}

// TestTutorialInTheLog holds the record of a decision against the log that the
// tutorial shows of its function: the same lines in the same order, word for word.
// The two labels in it are names of members of the record.
func TestTutorialInTheLog(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	handler := NewHandler(Config{Setup: Setup{Policy: Tutorial()}, Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	post(handler, "/api/HttpTrigger1", string(golden(t, "tutorial-toaster.request.json")))
	var record struct {
		Message        string `json:"msg"`
		RegistrationID string `json:"registration_id"`
		Status         int
		Hub            string
		Source         string
		Rule           string
		Duration       *time.Duration
		RequestBody    string `json:"request_body"`
		Response       string
	}
	if err := json.Unmarshal(log.Bytes(), &record); err != nil { // one record and no more
		t.Fatal(err)
	}
	got := []string{record.Message, "Request.Body:...", record.RequestBody, "Response", record.Response}

	var want []string
	for line := range strings.Lines(string(golden(t, "tutorial-function.log"))) {
		_, said, _ := strings.Cut(strings.TrimSpace(line), " [Information] ")
		want = append(want, said)
	}
	want = want[1 : len(want)-1] // the first and the last line are the host's, not the function's
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the function's log (-tutorial +ours):\n%s", diff)
	}
	if record.RegistrationID != "breakroom499-contoso-tstrsd-007" || record.Status != 200 || record.Duration == nil ||
		record.Hub != "contoso-toasters-hub-1098.azure-devices.net" || record.Source != "policy" || record.Rule != "toasters" {
		t.Errorf("got %+v", record)
	}
}

// TestDecisions reads both traces of a decision, the value and the log record,
// on a clock that stands at midnight and moves only while the policy thinks.
func TestDecisions(t *testing.T) {
	t.Parallel()
	const toasterTwin = `"initialTwin":{"properties":{"desired":{"state":"ready","darknessSetting":"medium"}},"tags":{"deviceType":"toaster"}}`
	tests := []struct {
		name, target, body string
		policy             Policy
		want               Decision
		wantLog            string
	}{
		{
			name: "assigned", target: "/api/f?code=" + keyOne, policy: Tutorial(),
			body: `{"enrollmentGroup":{"customAllocationDefinition":{"webhookUrl":"https://h/f?code=` + keyOne + `"}},"deviceRuntimeContext":{"registrationId":"a-contoso-tstrsd-007","symmetricKey":{"primaryKey":"SECRET"}},"linkedHubs":["a-toasters-1"]}`,
			want: Decision{
				Source: SourcePolicy, RegistrationID: "a-contoso-tstrsd-007", Rule: "toasters", AssignedHub: "a-toasters-1", Status: 200,
				Request:  json.RawMessage(`{"enrollmentGroup":{"customAllocationDefinition":{"webhookUrl":"https://h/f?****"}},"deviceRuntimeContext":{"registrationId":"a-contoso-tstrsd-007","symmetricKey":{"primaryKey":"[redacted]"}},"linkedHubs":["a-toasters-1"]}`),
				Response: json.RawMessage(`{"iotHubHostName":"a-toasters-1",` + toasterTwin + `}`),
			},
			wantLog: `{"level":"INFO","msg":"C# HTTP trigger function processed a request.","registration_id":"a-contoso-tstrsd-007","status":200,"hub":"a-toasters-1","source":"policy","rule":"toasters","duration":1000000000,` +
				`"request_body":"{\"enrollmentGroup\":{\"customAllocationDefinition\":{\"webhookUrl\":\"https://h/f?****\"}},\"deviceRuntimeContext\":{\"registrationId\":\"a-contoso-tstrsd-007\",\"symmetricKey\":{\"primaryKey\":\"[redacted]\"}},\"linkedHubs\":[\"a-toasters-1\"]}",` +
				`"response":"{\"iotHubHostName\":\"a-toasters-1\",\"initialTwin\":{\"properties\":{\"desired\":{\"state\":\"ready\",\"darknessSetting\":\"medium\"}},\"tags\":{\"deviceType\":\"toaster\"}}}"}`,
		},
		{
			name: "refused", target: "/api/f?code=" + keyOne, policy: Tutorial(),
			body: `{"deviceRuntimeContext":{"registrationId":"kettle"},"linkedHubs":["a"]}`,
			want: Decision{
				Source: SourcePolicy, RegistrationID: "kettle", Rule: "unrecognized", Status: 400, Refusal: "Unrecognized device registration.",
				Request: json.RawMessage(`{"deviceRuntimeContext":{"registrationId":"kettle"},"linkedHubs":["a"]}`),
			},
			wantLog: `{"level":"INFO","msg":"C# HTTP trigger function processed a request.","registration_id":"kettle","status":400,"source":"policy","rule":"unrecognized","duration":1000000000,` +
				`"request_body":"{\"deviceRuntimeContext\":{\"registrationId\":\"kettle\"},\"linkedHubs\":[\"a\"]}","response":"Unrecognized device registration."}`,
		},
		{
			name: "empty body", target: "/api/f?code=" + keyOne, policy: Tutorial(),
			want:    Decision{Source: SourcePolicy, Rule: "no registration ID", Status: 400, Refusal: "Registration ID not provided for the device."},
			wantLog: `{"level":"INFO","msg":"C# HTTP trigger function processed a request.","registration_id":"","status":400,"source":"policy","rule":"no registration ID","duration":1000000000,"response":"Registration ID not provided for the device."}`,
		},
		{
			name: "wrong key", target: "/api/f?code=SECRETSECRETSECRET", policy: Tutorial(), body: `{}`,
			want:    Decision{Status: 401, Refusal: "The function key is missing or wrong: the webhook URL of the enrollment must end in ?code= and a valid key."},
			wantLog: `{"level":"WARN","msg":"C# HTTP trigger function processed a request.","registration_id":"","status":401,"duration":0,"response":"The function key is missing or wrong: the webhook URL of the enrollment must end in ?code= and a valid key."}`,
		},
		{
			name: "trouble of our own", target: "/api/f?code=" + keyOne, body: `{"linkedHubs":[]}`,
			policy:  policyFunc(func(Request) (Response, error) { return Response{}, errors.New("directory away") }),
			want:    Decision{Source: SourcePolicy, Status: 503, Refusal: "The allocation policy is not available at the moment; ask again later.", Request: json.RawMessage(`{"linkedHubs":[]}`)},
			wantLog: `{"level":"ERROR","msg":"C# HTTP trigger function processed a request.","registration_id":"","status":503,"source":"policy","duration":1000000000,"err":"directory away","request_body":"{\"linkedHubs\":[]}","response":"The allocation policy is not available at the moment; ask again later."}`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				var seen []Decision
				thoughtful := policyFunc(func(request Request) (Response, error) {
					time.Sleep(time.Second)
					return test.policy.Decide(t.Context(), Question{Request: request})
				})
				handler := NewHandler(Config{
					Setup:   Setup{Policy: thoughtful, FunctionKeys: parseKeys(t, keyOne)},
					Logger:  slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{ReplaceAttr: withoutTime})),
					Observe: func(d Decision) { seen = append(seen, d) },
				})
				test.want.Time = time.Now()
				post(handler, test.target, test.body)
				if test.want.Status != http.StatusUnauthorized {
					test.want.Duration = time.Second
				}
				if diff := cmp.Diff([]Decision{test.want}, seen, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("decisions (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(test.wantLog+"\n", log.String()); diff != "" {
					t.Errorf("log (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func withoutTime(groups []string, attr slog.Attr) slog.Attr {
	if len(groups) == 0 && attr.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return attr
}

// TestLogIsBounded: a hostile registration ID and a long body are cut.
func TestLogIsBounded(t *testing.T) {
	t.Parallel()
	for _, letter := range []string{"e", "é"} {
		var log bytes.Buffer
		handler := NewHandler(Config{Setup: Setup{Policy: Tutorial()}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		post(handler, "/api/f", `{"deviceRuntimeContext":{"registrationId":"`+strings.Repeat(letter, maxRegistrationID)+`","payload":"`+strings.Repeat(letter, 100_000)+`"},"linkedHubs":[]}`)
		if got, limit := log.Len(), maxLoggedBody+4*maxLoggedID; got > limit || got < maxLoggedBody {
			t.Errorf("%s: got a record of %d bytes, want about %d", letter, got, maxLoggedBody)
		}
		if strings.Contains(log.String(), `\x`) {
			t.Errorf("%s: a character was cut in two", letter)
		}
		if got := strings.Count(log.String(), "\n"); got != 1 {
			t.Errorf("%s: got %d lines, want 1", letter, got)
		}
	}
}
