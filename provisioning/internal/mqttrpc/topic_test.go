// SPDX-License-Identifier: Apache-2.0

package mqttrpc

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseTopic(t *testing.T) {
	tests := []struct {
		name   string
		topic  string
		status int
		params map[string]string
	}{
		{"hub answer with a version", "$iothub/twin/res/204/?$rid=2&$version=5", 204, map[string]string{"$rid": "2", "$version": "5"}},
		{"push", "$iothub/twin/PATCH/properties/desired/?$version=2", 0, map[string]string{"$version": "2"}},
		{"no query", "$dps/registrations/res/200/", 200, map[string]string{}},
		{"repeated parameter", "a/res/200/?$rid=1&$rid=2", 200, map[string]string{"$rid": "1"}},
		{"parameter without a value", "a/res/200/?$rid&x=", 200, map[string]string{"$rid": "", "x": ""}},
		{"plus is a plus", "a/res/200/?$rid=a+b", 200, map[string]string{"$rid": "a+b"}},
		{"broken escape", "a/res/200/?$rid=%zz", 200, map[string]string{"$rid": "%zz"}},
		{"status in words", "a/res/ok/?$rid=1", 0, map[string]string{"$rid": "1"}},
		{"status out of range", "a/res/999/?$rid=1", 0, map[string]string{"$rid": "1"}},
		{"empty", "", 0, map[string]string{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			status, params := parseTopic(test.topic)
			if status != test.status {
				t.Errorf("status %d, want %d", status, test.status)
			}
			if diff := cmp.Diff(test.params, params); diff != "" {
				t.Errorf("parameters (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseTopicVectors(t *testing.T) {
	text, err := os.ReadFile("../../testdata/dps-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		MQTT struct {
			FromService []struct {
				Topic      string `json:"topic"`
				Status     int    `json:"status"`
				RID        string `json:"rid"`
				RetryAfter *int   `json:"retry_after_s"`
			} `json:"topics_from_service"`
		} `json:"mqtt"`
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors.MQTT.FromService) == 0 {
		t.Fatal("no vectors")
	}
	for _, vector := range vectors.MQTT.FromService {
		status, params := parseTopic(vector.Topic)
		want := map[string]string{"$rid": vector.RID}
		if vector.RetryAfter != nil {
			want["retry-after"] = strconv.Itoa(*vector.RetryAfter)
		}
		if status != vector.Status || !cmp.Equal(params, want) {
			t.Errorf("%s: got %d %v, want %d %v", vector.Topic, status, params, vector.Status, want)
		}
	}
}

func FuzzParseTopic(f *testing.F) {
	f.Add("$dps/registrations/res/202/?$rid=1&retry-after=3")
	f.Add("$iothub/twin/PATCH/properties/desired/?$version=2")
	f.Add("a/res/200/?$rid=%zz&&=&x")
	f.Fuzz(func(t *testing.T, topic string) {
		status, params := parseTopic(topic)
		if status != 0 && (status < 100 || status > 599 || !strings.Contains(topic, strconv.Itoa(status))) {
			t.Errorf("status %d is out of range, or not in the topic", status)
		}
		if len(params) > 1+strings.Count(topic, "&") {
			t.Errorf("%d parameters from nowhere", len(params))
		}
		for name, value := range params {
			if strings.ContainsAny(name, "&=") || strings.Contains(value, "&") && !strings.Contains(topic, "%26") {
				t.Errorf("the parameter %q=%q is more than one", name, value)
			}
		}
		if _, nameless := params[""]; nameless {
			t.Error("a parameter without a name")
		}
	})
}
