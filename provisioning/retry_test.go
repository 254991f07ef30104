// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"testing"
	"time"
)

func TestDocumentedDelayVectors(t *testing.T) {
	var file struct {
		Retry struct {
			Count  int   `json:"retry_count"`
			Delays []int `json:"delays_s"`
		} `json:"webhook_retry"`
	}
	vectors(t, &file)
	if file.Retry.Count != maxFailures || len(file.Retry.Delays) != maxFailures {
		t.Fatalf("the service retries %d times, we %d", file.Retry.Count, maxFailures)
	}
	for i, want := range file.Retry.Delays {
		if got := documentedDelay(i + 1); got != time.Duration(want)*time.Second {
			t.Errorf("before retry %d: %v, want %d s", i+1, got, want)
		}
	}
}

func TestFleetSpreadVectors(t *testing.T) {
	var file struct {
		Scale struct {
			Vectors []struct {
				Devices int     `json:"devices"`
				PerSec  float64 `json:"service_calls_per_second"`
				Seconds float64 `json:"T_s"`
			} `json:"vectors"`
		} `json:"scale_backoff"`
	}
	vectors(t, &file)
	for _, v := range file.Scale.Vectors {
		got := fleetSpread(v.Devices, v.PerSec*60).Seconds()
		if got < v.Seconds*0.9999 || got > v.Seconds*1.0001 {
			t.Errorf("%d devices at %v/s: T is %v s, want %v", v.Devices, v.PerSec, got, v.Seconds)
		}
	}
}

// TestRetryAfterVectors: where the clients agree with the rules, and where they do not, the number is the header's.
func TestRetryAfterVectors(t *testing.T) {
	var file struct {
		RetryAfter struct {
			Cases []struct {
				Header *string `json:"header"`
				Node   any     `json:"node_mqtt_s"`
			} `json:"cases"`
		} `json:"retry_after"`
	}
	vectors(t, &file)
	now := time.Date(1999, 12, 31, 23, 59, 0, 0, time.UTC)
	for _, v := range file.RetryAfter.Cases {
		switch {
		case v.Header == nil:
			if _, ok := parseRetryAfter("", now); ok {
				t.Error("no header was taken for a hint")
			}
		case len(*v.Header) > 10:
			if got, ok := parseRetryAfter(*v.Header, now); !ok || got != 59*time.Second {
				t.Errorf("%s: got %v, %t, want the 59 s until then", *v.Header, got, ok)
			}
		default:
			want := time.Duration(v.Node.(float64)) * time.Second // Node takes every number as it is
			if got, ok := parseRetryAfter(*v.Header, now); !ok || got != want {
				t.Errorf("%s: got %v, %t, want %v", *v.Header, got, ok, want)
			}
		}
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	tests := []struct {
		name string
		text string
		want time.Duration
		ok   bool
	}{
		{"seconds", "120", 2 * time.Minute, true},
		{"spaces", " 7 ", 7 * time.Second, true},
		{"zero", "0", 0, true},
		{"a week", "604800", 24 * time.Hour, true},
		{"beyond any integer", "99999999999999999999999", 24 * time.Hour, true},
		{"date", "Sat, 21 Nov 2026 10:01:30 GMT", 90 * time.Second, true},
		{"date of the old form", "Saturday, 21-Nov-26 10:01:30 GMT", 90 * time.Second, true},
		{"date that has passed", "Sat, 21 Nov 2026 09:00:00 GMT", 0, true},
		{"date next year", "Sun, 21 Nov 2027 10:00:00 GMT", 24 * time.Hour, true},
		{"nothing", "", 0, false},
		{"fraction", "2.5", 0, false},
		{"negative", "-1", 0, false},
		{"words", "soon", 0, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, ok := parseRetryAfter(test.text, now)
			if got != test.want || ok != test.ok {
				t.Errorf("got %v, %t, want %v, %t", got, ok, test.want, test.ok)
			}
		})
	}
}

// TestPollsOfAnotherDevice forgets no poll that still counts because another device is polled meanwhile (rule 1).
func TestPollsOfAnotherDevice(t *testing.T) {
	p := newPace(nil)
	began := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	for range pollsInIt {
		p.polled("a", began)
	}
	p.polled("b", began.Add(pollWindow))
	if got, want := p.pollAllowedAt("a"), began.Add(pollWindow); !got.Equal(want) {
		t.Errorf("the next poll is allowed at %s, want %s", got, want)
	}
	p.polled("b", began.Add(pollWindow+1))
	if len(p.recent) != 1 {
		t.Errorf("polls of %d devices are remembered, want those of b alone", len(p.recent))
	}
}
