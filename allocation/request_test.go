// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestParsePublishedRequests reads every published request and writes it again:
// nothing may be lost, added or put in another order.
func TestParsePublishedRequests(t *testing.T) {
	t.Parallel()
	requests := loadVectors(t).Webhook.Requests
	if len(requests) < 4 {
		t.Fatalf("got %d published requests, want at least 4", len(requests))
	}
	for _, vector := range requests {
		t.Run(vector.ID, func(t *testing.T) {
			t.Parallel()
			body := []byte(vector.Raw)
			if vector.Raw == "" {
				body = compact(t, vector.Body)
			}
			request, err := ParseRequest(body)
			if err != nil {
				t.Fatal(err)
			}
			again, err := json.Marshal(request)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(body), string(again)); diff != "" {
				t.Errorf("request changed (-published +written again):\n%s", diff)
			}
		})
	}
}

func TestParseRequestKeepsTPMContext(t *testing.T) {
	t.Parallel()
	published := compact(t, loadVectors(t).Webhook.DeviceRuntimeContextTPM.Body)
	request, err := ParseRequest(fmt.Appendf(nil, `{"deviceRuntimeContext":%s,"linkedHubs":[]}`, published))
	if err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(request.DeviceRuntimeContext)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(published), string(again)); diff != "" {
		t.Errorf("device runtime context changed (-published +written again):\n%s", diff)
	}
}

// TestParseRequestLikeTheFunction holds what the tutorial's function makes of
// unusual bodies, as far as it does not simply fail on them.
func TestParseRequestLikeTheFunction(t *testing.T) {
	t.Parallel()
	const noID = "<nil>"
	tests := []struct {
		name, body string
		wantID     string
		wantHubs   string // in Go's syntax
	}{
		{"empty body", ``, noID, `[]string(nil)`},
		{"white space", " \r\n\t", noID, `[]string(nil)`},
		{"byte order mark", "\ufeff" + `{"deviceRuntimeContext":{"registrationId":"a"}}`, "a", `[]string(nil)`},
		{"null", `null`, noID, `[]string(nil)`},
		{"empty object", `{}`, noID, `[]string(nil)`},
		{"context null", `{"deviceRuntimeContext":null}`, noID, `[]string(nil)`},
		{"ID null", `{"deviceRuntimeContext":{"registrationId":null}}`, noID, `[]string(nil)`},
		{"ID empty", `{"deviceRuntimeContext":{"registrationId":""}}`, "", `[]string(nil)`},
		{"ID number", `{"deviceRuntimeContext":{"registrationId":7}}`, "7", `[]string(nil)`},
		{"ID boolean", `{"deviceRuntimeContext":{"registrationId":true}}`, "true", `[]string(nil)`},
		{"hubs null", `{"linkedHubs":null}`, noID, `[]string(nil)`},
		{"hubs empty", `{"linkedHubs":[]}`, noID, `[]string{}`},
		{"hub number", `{"linkedHubs":[5,"b"]}`, noID, `[]string{"5", "b"}`},
		{"other case is another member", `{"LinkedHubs":["a"],"DeviceRuntimeContext":{"registrationId":"a"}}`, noID, `[]string(nil)`},
		{"last of two counts", `{"linkedHubs":["a"],"linkedHubs":["b"]}`, noID, `[]string{"b"}`},
		{"unknown members are passed over", `{"linkedHubs":["a"],"x":{"y":[1]}}`, noID, `[]string{"a"}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			request, err := ParseRequest([]byte(test.body))
			if err != nil {
				t.Fatal(err)
			}
			id := noID
			if got := request.DeviceRuntimeContext.RegistrationID; got != nil {
				id = *got
			}
			if id != test.wantID {
				t.Errorf("got registration ID %q, want %q", id, test.wantID)
			}
			if got := fmt.Sprintf("%#v", request.LinkedHubs); got != test.wantHubs {
				t.Errorf("got linked hubs %s, want %s", got, test.wantHubs)
			}
		})
	}
}

func TestParseRequestRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, body, want string }{
		{"not JSON", `hello`, "the body is not valid JSON at byte 1"},
		{"cut short", `{"linkedHubs":["a"`, "the body is not valid JSON at byte 18"},
		{"something behind", `{} {}`, "the body is not valid JSON at byte 4"},
		{"list", `[]`, "the body is not an object"},
		{"text", `"x"`, "the body is not an object"},
		{"number", `5`, "the body is not an object"},
		{"context is text", `{"deviceRuntimeContext":"x"}`, "deviceRuntimeContext is not an object"},
		{"ID is an object", `{"deviceRuntimeContext":{"registrationId":{}}}`, "deviceRuntimeContext.registrationId is not text"},
		{"ID is a list", `{"deviceRuntimeContext":{"registrationId":[]}}`, "deviceRuntimeContext.registrationId is not text"},
		{"current hub is an object", `{"deviceRuntimeContext":{"currentIotHubHostName":{}}}`, "deviceRuntimeContext.currentIotHubHostName is not text"},
		{"current device is a list", `{"deviceRuntimeContext":{"currentDeviceId":[]}}`, "deviceRuntimeContext.currentDeviceId is not text"},
		{"hubs are text", `{"linkedHubs":"a"}`, "linkedHubs is not a list"},
		{"hubs are an object", `{"linkedHubs":{}}`, "linkedHubs is not a list"},
		{"hub is null", `{"linkedHubs":["a",null]}`, "linkedHubs[1] is null"},
		{"hub is an object", `{"linkedHubs":[{}]}`, "linkedHubs[0] is not text"},
		{"too deep", `{"x":` + string(bytes.Repeat([]byte("["), 20_000)), "it is nested deeper than 64 levels"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseRequest([]byte(test.body))
			want := Refusal{Message: "The request is not an AllocationRequest: " + test.want + "."}
			if diff := cmp.Diff(error(want), err); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func compact(t *testing.T, document []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, document); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
