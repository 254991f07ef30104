// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// upstreamFunc is a cloud function for one test.
type upstreamFunc func(body []byte) ([]byte, error)

func (f upstreamFunc) Ask(_ context.Context, body []byte) ([]byte, error) { return f(body) }

// TestFront: what the function says is passed on, and the policy decides only
// when nobody spoke for it.
func TestFront(t *testing.T) {
	t.Parallel()
	const (
		// Spaces and a member that nobody here knows: the function gets these bytes.
		kettle   = `{ "deviceRuntimeContext":{"registrationId":"kettle","new":{"a":1}}, "linkedHubs":["a-toasters-1","b"], "code": 7 }`
		toaster  = `{"deviceRuntimeContext":{"registrationId":"a-contoso-tstrsd-007"},"linkedHubs":["a-toasters-1","b"]}`
		askLater = "The allocation policy is not available at the moment; ask again later."
		byPolicy = `{"iotHubHostName":"a-toasters-1","initialTwin":{"properties":{"desired":{"state":"ready","darknessSetting":"medium"}},"tags":{"deviceType":"toaster"}}}`
	)
	answers := func(text string) upstreamFunc {
		return func([]byte) ([]byte, error) { return []byte(text), nil }
	}
	fails := func(err error) upstreamFunc {
		return func([]byte) ([]byte, error) { return nil, err }
	}
	away := fails(fmt.Errorf("asking: %w", &UnavailableError{Reason: "it answers\n503"}))
	tests := []struct {
		name       string
		upstream   upstreamFunc
		body       string
		wantStatus int
		wantBody   string
		wantSource Source
		wantCause  string
	}{
		{"assigned, passed on byte for byte", answers("{ \"IotHubHostName\":\"b\", \"later\":[1,  2], \"initialTwin\":null }\n"), kettle, 200, "{ \"IotHubHostName\":\"b\", \"later\":[1,  2], \"initialTwin\":null }\n", SourceUpstream, ""},
		{"with the mark of an editor", answers("\ufeff{\"iotHubHostName\":\"b\"}"), kettle, 200, "\ufeff{\"iotHubHostName\":\"b\"}", SourceUpstream, ""},
		{"refused", fails(Refusal{Message: "No kettles here."}), toaster, 400, "No kettles here.", SourceUpstream, ""},
		{"away, the policy assigns", away, toaster, 200, byPolicy, SourceFallback, ""},
		{"away, the policy refuses", away, kettle, 400, "Unrecognized device registration.", SourceFallback, ""},
		{"wrong", fails(errors.New("the cloud function answers 204")), toaster, 503, askLater, SourceUpstream, "the cloud function answers 204"},
		{"nothing", answers(""), toaster, 503, askLater, SourceUpstream, "the cloud function answers 200, but the answer is empty"},
		{"not JSON", answers(`{"iotHubHostName":"b"`), toaster, 503, askLater, SourceUpstream, "the cloud function answers 200, but the answer is not valid JSON at byte 21"},
		{"no object", answers(`["b"]`), toaster, 503, askLater, SourceUpstream, "the cloud function answers 200, but the answer is no JSON object"},
		{"no hub", answers(`{"initialTwin":{}}`), toaster, 503, askLater, SourceUpstream, "the cloud function answers 200, but the answer names no iotHubHostName"},
		{"null hub", answers(`{"iotHubHostName":null}`), toaster, 503, askLater, SourceUpstream, "the cloud function answers 200, but the answer names no iotHubHostName"},
		{"empty hub", answers(`{"iotHubHostName":""}`), toaster, 503, askLater, SourceUpstream, "the cloud function answers 200, but the answer names no iotHubHostName"},
		{"hub is a number", answers(`{"iotHubHostName":7}`), toaster, 503, askLater, SourceUpstream, "the cloud function answers 200, but the answer's iotHubHostName is not text"},
		{"foreign hub", answers(`{"iotHubHostName":"evil"}`), toaster, 503, askLater, SourceUpstream, `the cloud function answers 200, but the answer names the hub "evil", which is not one of the enrollment's linked hubs`},
		{"two hubs", answers(`{"iotHubHostName":"b","iothubhostname":"a-toasters-1"}`), toaster, 503, askLater, SourceUpstream, "the cloud function answers 200, but the answer names iotHubHostName twice"},
		{"a twin of text", answers(`{"iotHubHostName":"b","initialTwin":"x"}`), toaster, 503, askLater, SourceUpstream, "the cloud function answers 200, but the answer's initialTwin is not an object"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			var seen []Decision
			upstream := upstreamFunc(func(body []byte) ([]byte, error) {
				if diff := cmp.Diff(test.body, string(body)); diff != "" {
					t.Errorf("the function was sent (-want +got):\n%s", diff)
				}
				return test.upstream(body)
			})
			handler := NewHandler(Config{
				Setup:   Setup{Policy: Tutorial(), Upstream: upstream},
				Logger:  slog.New(slog.NewJSONHandler(&log, nil)),
				Observe: func(d Decision) { seen = append(seen, d) },
			})
			answer := post(handler, "/api/f", test.body)
			if answer.Code != test.wantStatus {
				t.Errorf("got status %d, want %d", answer.Code, test.wantStatus)
			}
			if diff := cmp.Diff(test.wantBody, answer.Body.String()); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			if len(seen) != 1 || seen[0].Source != test.wantSource {
				t.Fatalf("got decisions %+v, want one by %q", seen, test.wantSource)
			}
			wantReason, wantLevel := "", "INFO"
			switch {
			case test.wantSource == SourceFallback:
				wantReason, wantLevel = "it answers 503", "WARN"
			case test.wantStatus == 503:
				wantLevel = "ERROR"
			}
			if got := seen[0].FallbackReason; got != wantReason {
				t.Errorf("got reason %q, want %q", got, wantReason)
			}
			var record struct {
				Level, Source, Err string
				FallbackReason     string `json:"fallback_reason"`
			}
			if err := json.Unmarshal(log.Bytes(), &record); err != nil {
				t.Fatal(err)
			}
			if record.Level != wantLevel || record.Source != string(test.wantSource) || record.Err != test.wantCause || record.FallbackReason != wantReason {
				t.Errorf("got the record %+v, want %s by %s, cause %q, reason %q", record, wantLevel, test.wantSource, test.wantCause, wantReason)
			}
			if want := assignedHub(test.wantStatus, test.wantBody); seen[0].AssignedHub != want {
				t.Errorf("got hub %q, want %q", seen[0].AssignedHub, want)
			}
		})
	}
}

// assignedHub reads a response the way the service might.
func assignedHub(status int, body string) string {
	var response struct {
		Hub string `json:"iotHubHostName"`
	}
	if status != http.StatusOK || json.Unmarshal([]byte(strings.TrimPrefix(body, "\ufeff")), &response) != nil {
		return ""
	}
	return response.Hub
}

// TestFrontIsNotAsked: what is no AllocationRequest, or comes without a key, goes
// no further than this program.
func TestFrontIsNotAsked(t *testing.T) {
	t.Parallel()
	handler := NewHandler(Config{Setup: Setup{
		Policy: Tutorial(), FunctionKeys: parseKeys(t, keyOne),
		Upstream: upstreamFunc(func([]byte) ([]byte, error) {
			t.Error("the function was asked")
			return nil, errors.New("asked")
		}),
	}})
	if got := post(handler, "/api/f", `{"linkedHubs":["b"]}`).Code; got != http.StatusUnauthorized {
		t.Errorf("without a key: got status %d, want 401", got)
	}
	if got := post(handler, "/api/f?code="+keyOne, `<xml/>`).Code; got != http.StatusBadRequest {
		t.Errorf("not JSON: got status %d, want 400", got)
	}
}

// TestFrontLogsNoSecret: what a function may put into its answer is masked.
func TestFrontLogsNoSecret(t *testing.T) {
	t.Parallel()
	const response = `{"iotHubHostName":"b","payload":{"apiKey":"SECRET","url":"https://h/x?code=SECRET"}}`
	var log bytes.Buffer
	var seen []Decision
	handler := NewHandler(Config{
		Setup:   Setup{Policy: Tutorial(), Upstream: upstreamFunc(func([]byte) ([]byte, error) { return []byte(response), nil })},
		Logger:  slog.New(slog.NewTextHandler(&log, nil)),
		Observe: func(d Decision) { seen = append(seen, d) },
	})
	if got := post(handler, "/api/f", `{"linkedHubs":["b"]}`).Body.String(); got != response {
		t.Errorf("got %s, want it as the function wrote it", got)
	}
	want := []Decision{{
		Source: SourceUpstream, AssignedHub: "b", Status: http.StatusOK, Request: json.RawMessage(`{"linkedHubs":["b"]}`),
		Response: json.RawMessage(`{"iotHubHostName":"b","payload":{"apiKey":"[redacted]","url":"https://h/x?****"}}`),
	}}
	if diff := cmp.Diff(want, seen, cmpopts.IgnoreFields(Decision{}, "Time", "Duration")); diff != "" {
		t.Errorf("decisions (-want +got):\n%s", diff)
	}
	if strings.Contains(log.String(), "SECRET") {
		t.Errorf("the log shows a secret: %s", log.String())
	}
}

// FuzzUpstreamResponse: whatever a function answers, what is passed on names a
// linked hub, and what is recorded is JSON.
func FuzzUpstreamResponse(f *testing.F) {
	f.Add([]byte(`{"iotHubHostName":"a","initialTwin":{"tags":{}}}`))
	f.Add([]byte(`{"iotHubHostName":"a","IOTHUBHOSTNAME":"c"}`))
	f.Add([]byte("\ufeff {\"iotHubHostName\":\"\\u0062\"}\n"))
	f.Add([]byte(`<html>`))
	f.Fuzz(func(t *testing.T, response []byte) {
		linked := []string{"a", "b"}
		decided := passOn(response, nil, linked)
		if decided.Status == http.StatusServiceUnavailable {
			return
		}
		if decided.Status != http.StatusOK || !slices.Contains(linked, decided.AssignedHub) {
			t.Fatalf("got status %d and hub %q", decided.Status, decided.AssignedHub)
		}
		if got := assignedHub(200, strings.TrimSpace(string(decided.wire))); got != decided.AssignedHub {
			t.Errorf("another reader finds the hub %q, we %q", got, decided.AssignedHub)
		}
		if !json.Valid(decided.Response) {
			t.Errorf("the record is not JSON: %q", decided.Response)
		}
	})
}
