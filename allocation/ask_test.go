// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"net/http"
	"testing"
)

// rowPolicy assigns the hub that the device's row names.
type rowPolicy struct{ missing DirectoryOutcome }

func (p rowPolicy) DirectoryUse() DirectoryUse {
	return DirectoryUse{Used: true, Missing: p.missing, Refusal: "Not in the books.", Default: Row{"hub": toastersHub}, Columns: map[string]ColumnType{"hub": ColumnText}}
}

func (p rowPolicy) Decide(_ context.Context, question Question) (Response, error) {
	hub, _ := question.Device["hub"].(string)
	return Response{Rule: "by row", IoTHubHostName: hub}, nil
}

func TestAsk(t *testing.T) {
	t.Parallel()
	request, err := ParseRequest(golden(t, "tutorial-toaster.request.json"))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		policy  Policy
		row     Row
		request Request
		want    Answer // Response is compared as text
		trouble string
	}{
		{"assigned", Tutorial(), nil, request, Answer{Status: 200, Rule: "toasters", Response: golden(t, "tutorial-toaster.response.json")}, ""},
		{"refused", Tutorial(), nil, Request{}, Answer{Status: 400, Rule: "no registration ID", Refusal: "Registration ID not provided for the device."}, ""},
		{"the row", rowPolicy{}, Row{"hub": heatPumpsHub}, request, Answer{Status: 200, Rule: "by row", Response: []byte(`{"iotHubHostName":"` + heatPumpsHub + `"}`)}, ""},
		{"a row without the column is one with NULL", rowPolicy{}, Row{"room": "499"}, request, Answer{Status: 503, Refusal: "The allocation policy is not available at the moment; ask again later."}, `the policy chose the hub "", which is not one of the enrollment's linked hubs`},
		{"no row, the default", rowPolicy{DirectoryDefault}, nil, request, Answer{Status: 200, Rule: "by row", Response: []byte(`{"iotHubHostName":"` + toastersHub + `"}`)}, ""},
		{"no row, refused", rowPolicy{DirectoryRefuse}, nil, request, Answer{Status: 400, Rule: "device directory", Refusal: "Not in the books."}, ""},
		{"no row, again", rowPolicy{DirectoryRetry}, nil, request, Answer{Status: 503, Refusal: "The allocation policy is not available at the moment; ask again later."}, `the device directory has no row for "breakroom499-contoso-tstrsd-007"`},
		{"a hub that is not linked", rowPolicy{}, Row{"hub": "elsewhere"}, request, Answer{Status: 503, Refusal: "The allocation policy is not available at the moment; ask again later."}, `the policy chose the hub "elsewhere", which is not one of the enrollment's linked hubs`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := Ask(t.Context(), test.policy, Question{Request: test.request, Device: test.row})
			if got.Status != test.want.Status || got.Rule != test.want.Rule || got.Refusal != test.want.Refusal || string(got.Response) != string(test.want.Response) {
				t.Errorf("got  %d %q %q %s\nwant %d %q %q %s", got.Status, got.Rule, got.Refusal, got.Response,
					test.want.Status, test.want.Rule, test.want.Refusal, test.want.Response)
			}
			trouble := ""
			if err != nil {
				trouble = err.Error()
			}
			if trouble != test.trouble {
				t.Errorf("got trouble %q, want %q", trouble, test.trouble)
			}
		})
	}
}

func TestAnswerHub(t *testing.T) {
	t.Parallel()
	for response, want := range map[string]string{
		`{"iotHubHostName":"a"}`: "a", `{"iotHubHostName":null}`: "", `{}`: "", `[]`: "", ``: "",
	} {
		if got := (Answer{Status: http.StatusOK, Response: []byte(response)}).Hub(); got != want {
			t.Errorf("%s: got %q, want %q", response, got, want)
		}
	}
}

func TestAnswerRedacted(t *testing.T) {
	t.Parallel()
	answer := Answer{Status: http.StatusOK, Response: []byte(`{"iotHubHostName":"a","payload":{"apiKey":"s3cret"}}`)}
	if got, want := string(answer.Redacted().Response), `{"iotHubHostName":"a","payload":{"apiKey":"`+redacted+`"}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := (Answer{Status: http.StatusOK, Response: []byte(`{`)}).Redacted(); string(got.Response) != `{` {
		t.Errorf("no JSON became %s", got.Response)
	}
}
