// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// readingPolicy assigns to the hub of the device's row and refuses a row without.
type readingPolicy struct{ use DirectoryUse }

func (p readingPolicy) DirectoryUse() DirectoryUse { return p.use }

func (p readingPolicy) Decide(_ context.Context, question Question) (Response, error) {
	hub, ok := question.Device["hub"].(string)
	if !ok {
		return Response{}, Refusal{Message: fmt.Sprintf("no hub in %v", question.Device), Rule: "by row"}
	}
	return Response{Rule: "by row", IoTHubHostName: hub}, nil
}

// directoryFunc is a directory for one test.
type directoryFunc func(ctx context.Context, id string) (Row, bool, error)

func (f directoryFunc) Lookup(ctx context.Context, id string) (Row, bool, error) { return f(ctx, id) }

// oneRow has a row for "oven-7" and no other.
func oneRow(row Row) Directory {
	return directoryFunc(func(_ context.Context, id string) (Row, bool, error) {
		if id != "oven-7" {
			return nil, false, nil
		}
		return row, true, nil
	})
}

// TestDirectoryOutcomes has a row for each thing that a lookup can end in, and
// for each that a policy can want then.
func TestDirectoryOutcomes(t *testing.T) {
	t.Parallel()
	const askLater = "The allocation policy is not available at the moment; ask again later."
	const refused = "Not in our books."
	good := oneRow(Row{"hub": "a", "floor": nil, "wired": int64(1)})
	away := directoryFunc(func(context.Context, string) (Row, bool, error) { return nil, false, errors.New("no connection") })
	silent := directoryFunc(func(ctx context.Context, _ string) (Row, bool, error) { <-ctx.Done(); return nil, false, ctx.Err() })
	never := directoryFunc(func(context.Context, string) (Row, bool, error) { panic("looked up") })
	text := map[string]ColumnType{"hub": ColumnText}
	b := Row{"hub": "b"}

	tests := []struct {
		name       string
		directory  Directory
		use        DirectoryUse
		id         string // of the request, as JSON
		wantStatus int
		wantBody   string
		wantRow    Row
		wantRule   string
		wantLogged string // somewhere in the log
	}{
		{"found", good, DirectoryUse{Used: true}, `"oven-7"`, 200, `{"iotHubHostName":"a"}`, Row{"hub": "a", "wired": int64(1)}, "by row", ""},
		{"found in another case", good, DirectoryUse{Used: true}, `"Oven-7"`, 200, `{"iotHubHostName":"a"}`, Row{"hub": "a", "wired": int64(1)}, "by row", ""},
		{"a bool kept as a number", good, DirectoryUse{Used: true, Columns: map[string]ColumnType{"wired": ColumnBool}}, `"oven-7"`, 200, `{"iotHubHostName":"a"}`, Row{"hub": "a", "wired": true}, "by row", ""},
		{"not used", never, DirectoryUse{}, `"oven-7"`, 400, "no hub in map[]", nil, "by row", ""},
		{"missing, by default", good, DirectoryUse{Used: true}, `"kettle"`, 503, askLater, nil, "", `the device directory has no row for \"kettle\"`},
		{"missing, retry", good, DirectoryUse{Used: true, Missing: DirectoryRetry}, `"kettle"`, 503, askLater, nil, "", `no row for \"kettle\"`},
		{"missing, refuse", good, DirectoryUse{Used: true, Missing: DirectoryRefuse, Refusal: refused}, `"kettle"`, 400, refused, nil, "device directory", ""},
		{"missing, default", good, DirectoryUse{Used: true, Missing: DirectoryDefault, Default: b}, `"kettle"`, 200, `{"iotHubHostName":"b"}`, b, "by row", ""},
		{"missing, empty default", good, DirectoryUse{Used: true, Missing: DirectoryDefault}, `"kettle"`, 400, "no hub in map[]", Row{}, "by row", ""},
		{"away, by default", away, DirectoryUse{Used: true, Missing: DirectoryRefuse, Refusal: refused}, `"oven-7"`, 503, askLater, nil, "", "no connection"},
		{"away, retry", away, DirectoryUse{Used: true, Unavailable: DirectoryRetry}, `"oven-7"`, 503, askLater, nil, "", "no connection"},
		{"away, a refusal is not possible", away, DirectoryUse{Used: true, Unavailable: DirectoryRefuse, Refusal: refused}, `"oven-7"`, 503, askLater, nil, "", "no connection"},
		{"away, default", away, DirectoryUse{Used: true, Unavailable: DirectoryDefault, Default: b}, `"oven-7"`, 200, `{"iotHubHostName":"b"}`, b, "by row", "no connection"},
		{"silent, retry", silent, DirectoryUse{Used: true, Timeout: time.Second}, `"oven-7"`, 503, askLater, nil, "", "context deadline exceeded"},
		{"silent, default", silent, DirectoryUse{Used: true, Unavailable: DirectoryDefault, Default: b}, `"oven-7"`, 200, `{"iotHubHostName":"b"}`, b, "by row", "context deadline exceeded"},
		{"none", nil, DirectoryUse{Used: true}, `"oven-7"`, 503, askLater, nil, "", "there is none"},
		{"column missing", good, DirectoryUse{Used: true, Columns: map[string]ColumnType{"room": ColumnText}}, `"oven-7"`, 503, askLater, nil, "", `row for \"oven-7\": the table has no column \"room\"`},
		{"column of another type", oneRow(Row{"hub": int64(7)}), DirectoryUse{Used: true, Columns: text}, `"oven-7"`, 503, askLater, nil, "", `row for \"oven-7\": the column \"hub\" holds a number, and the policy expects a text`},
		{"column of another type, default", oneRow(Row{"hub": true}), DirectoryUse{Used: true, Columns: text, Unavailable: DirectoryDefault, Default: b}, `"oven-7"`, 200, `{"iotHubHostName":"b"}`, b, "by row", "holds a bool"},
		{"NULL is of every type", oneRow(Row{"hub": nil}), DirectoryUse{Used: true, Columns: text}, `"oven-7"`, 400, "no hub in map[]", Row{}, "by row", ""},
		{"no registration ID", never, DirectoryUse{Used: true, Missing: DirectoryRefuse, Refusal: refused}, `null`, 400, refused, nil, "device directory", ""},
		{"empty registration ID", never, DirectoryUse{Used: true, Missing: DirectoryRefuse, Refusal: refused}, `""`, 400, refused, nil, "device directory", ""},
		{"registration ID with a quote", never, DirectoryUse{Used: true, Missing: DirectoryRefuse, Refusal: refused}, `"a' OR 'a'='a"`, 400, refused, nil, "device directory", ""},
		{"registration ID with a Kelvin sign, whose lower case is a k", never, DirectoryUse{Used: true, Missing: DirectoryRefuse, Refusal: refused}, `"Kettle"`, 400, refused, nil, "device directory", ""},
		{"registration ID that ends wrongly", never, DirectoryUse{Used: true, Missing: DirectoryRefuse, Refusal: refused}, `"a."`, 400, refused, nil, "device directory", ""},
		{"registration ID that is too long", never, DirectoryUse{Used: true, Missing: DirectoryRefuse, Refusal: refused}, `"` + strings.Repeat("a", 129) + `"`, 400, "The request is not an AllocationRequest: deviceRuntimeContext.registrationId has more than 128 characters.", nil, "", ""},
		{"longest registration ID", good, DirectoryUse{Used: true, Missing: DirectoryRefuse, Refusal: refused}, `"` + strings.Repeat("a", 128) + `"`, 400, refused, nil, "device directory", ""},
		{"secrets in the row", oneRow(Row{"hub": "a", "api_key": "SECRET", "tokens": int64(7), "door": "https://h/?SECRET"}), DirectoryUse{Used: true}, `"oven-7"`, 200, `{"iotHubHostName":"a"}`, Row{"hub": "a", "api_key": "[redacted]", "tokens": "[redacted]", "door": "https://h/?****"}, "by row", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				var decision Decision
				handler := NewHandler(Config{
					Setup:  Setup{Policy: readingPolicy{test.use}, Directory: test.directory},
					Logger: slog.New(slog.NewTextHandler(&log, nil)), Observe: func(d Decision) { decision = d },
				})
				answer := post(handler, "/api/f", `{"deviceRuntimeContext":{"registrationId":`+test.id+`},"linkedHubs":["a","b"]}`)
				if answer.Code != test.wantStatus || answer.Body.String() != test.wantBody {
					t.Errorf("got %d %q, want %d %q", answer.Code, answer.Body, test.wantStatus, test.wantBody)
				}
				if diff := cmp.Diff(test.wantRow, decision.Device); diff != "" {
					t.Errorf("the row of the decision (-want +got):\n%s", diff)
				}
				if decision.Rule != test.wantRule {
					t.Errorf("got rule %q, want %q", decision.Rule, test.wantRule)
				}
				if !strings.Contains(log.String(), test.wantLogged) {
					t.Errorf("the log does not say %q:\n%s", test.wantLogged, &log)
				}
				if strings.Contains(log.String(), "SECRET") {
					t.Errorf("the log tells a secret:\n%s", &log)
				}
			})
		})
	}
}

// TestSilentDirectory: a lookup ends at the policy's time and not later.
func TestSilentDirectory(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ timeout, want time.Duration }{{0, 2 * time.Second}, {300 * time.Millisecond, 300 * time.Millisecond}, {time.Hour, 3 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			silent := directoryFunc(func(ctx context.Context, _ string) (Row, bool, error) { <-ctx.Done(); return nil, false, ctx.Err() })
			handler := NewHandler(Config{Setup: Setup{Policy: readingPolicy{DirectoryUse{Used: true, Timeout: test.timeout}}, Directory: silent}})
			start := time.Now()
			post(handler, "/api/f", `{"deviceRuntimeContext":{"registrationId":"oven-7"},"linkedHubs":["a"]}`)
			if got := time.Since(start); got != test.want {
				t.Errorf("timeout %v: answered after %v, want %v", test.timeout, got, test.want)
			}
		})
	}
}

// TestPolicyAndDirectorySwapTogether: no policy meets the directory of another.
func TestPolicyAndDirectorySwapTogether(t *testing.T) {
	t.Parallel()
	pair := func(hub string) Setup {
		return Setup{
			Policy:    readingPolicy{DirectoryUse{Used: true, Columns: map[string]ColumnType{"of_" + hub: ColumnText}}},
			Directory: oneRow(Row{"hub": hub, "of_" + hub: "yes"}),
		}
	}
	handler := NewHandler(Config{Setup: pair("a")})
	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				if err := handler.Replace(pair([]string{"a", "b"}[i%2])); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 2000 {
		if answer := post(handler, "/api/f", `{"deviceRuntimeContext":{"registrationId":"oven-7"},"linkedHubs":["a","b"]}`); answer.Code != 200 {
			t.Fatalf("got %d %s; a policy met the other's directory", answer.Code, answer.Body)
		}
	}
	close(stop)
	swapping.Wait()
}

// TestRowAsJSON: a row comes back from a record as it went in.
func TestRowAsJSON(t *testing.T) {
	t.Parallel()
	row := Row{"text": "ü\n\"", "whole": int64(9007199254740993), "fraction": 1.5, "huge": 1e300, "yes": true, "no": false}
	text, err := json.Marshal(row)
	if err != nil {
		t.Fatal(err)
	}
	var got Row
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(row, got); diff != "" {
		t.Errorf("row (-want +got):\n%s", diff)
	}
	for _, test := range []struct {
		text string
		want Row
		fail bool
	}{
		{`null`, nil, false},
		{`{}`, Row{}, false},
		{`{"a":null,"b":-0.5,"c":12}`, Row{"b": -0.5, "c": int64(12)}, false},
		{`{"a":18446744073709551615}`, Row{"a": 18446744073709551615.0}, false},
		{`{"a":1e999}`, nil, true},
		{`{"a":[1]}`, nil, true},
		{`{"a":{}}`, nil, true},
		{`[]`, nil, true},
	} {
		var got Row
		err := json.Unmarshal([]byte(test.text), &got)
		if diff := cmp.Diff(test.want, got); diff != "" || (err != nil) != test.fail {
			t.Errorf("%s: error %v; row (-want +got):\n%s", test.text, err, diff)
		}
	}
}
