// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEncodePublishedResponses reads every published response into a Response
// and encodes it again, byte for byte in compact form.
func TestEncodePublishedResponses(t *testing.T) {
	t.Parallel()
	encoded := 0
	for _, vector := range loadVectors(t).Webhook.Responses {
		if vector.Status != 200 {
			continue
		}
		encoded++
		t.Run(vector.ID, func(t *testing.T) {
			t.Parallel()
			want := []byte(vector.Raw)
			if vector.Raw == "" {
				want = compact(t, vector.Body)
			}
			decoder := json.NewDecoder(bytes.NewReader(want))
			decoder.DisallowUnknownFields()
			var response Response
			if err := decoder.Decode(&response); err != nil {
				t.Fatal(err)
			}
			got, err := response.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("response (-published +encoded):\n%s", diff)
			}
		})
	}
	if encoded < 4 {
		t.Errorf("got %d published responses, want at least 4", encoded)
	}
}

func TestEncode(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		response Response
		want     string
	}{
		{"twin of tags alone", Response{IoTHubHostName: "h", InitialTwin: &InitialTwin{Tags: json.RawMessage(`{"a":1}`)}}, `{"iotHubHostName":"h","initialTwin":{"properties":{"desired":{}},"tags":{"a":1}}}`},
		{"empty twin", Response{IoTHubHostName: "h", InitialTwin: &InitialTwin{}}, `{"iotHubHostName":"h","initialTwin":{"properties":{"desired":{}}}}`},
		{"hub alone", Response{IoTHubHostName: "h"}, `{"iotHubHostName":"h"}`},
		{
			"white space goes, order stays, text is not escaped",
			Response{IoTHubHostName: "h", Payload: json.RawMessage(`{ "z" : "a<b>&c", "a" : 1 }`)},
			`{"iotHubHostName":"h","payload":{"z":"a<b>&c","a":1}}`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := test.response.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Errorf("response (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEncodeRefusesBrokenPayload(t *testing.T) {
	t.Parallel()
	if got, err := (Response{Payload: json.RawMessage(`{`)}).Encode(); err == nil {
		t.Errorf("got %s, want an error", got)
	}
}
