// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestLookupIsTold: a decision tells what became of the look into the directory,
// whatever came of it.
func TestLookupIsTold(t *testing.T) {
	t.Parallel()
	found := directoryFunc(func(context.Context, string) (Row, bool, error) { return Row{"hub": "a"}, true, nil })
	empty := directoryFunc(func(context.Context, string) (Row, bool, error) { return nil, false, nil })
	away := directoryFunc(func(context.Context, string) (Row, bool, error) { return nil, false, errors.New("no connection") })
	gone := directoryFunc(func(ctx context.Context, _ string) (Row, bool, error) { <-ctx.Done(); return nil, false, ctx.Err() })
	for _, test := range []struct {
		name      string
		directory Directory
		use       DirectoryUse
		want      Lookup
	}{
		{"not used", found, DirectoryUse{}, LookupNone},
		{"found", found, DirectoryUse{Used: true}, LookupFound},
		{"missing, retry", empty, DirectoryUse{Used: true}, LookupMissing},
		{"missing, refuse", empty, DirectoryUse{Used: true, Missing: DirectoryRefuse}, LookupMissing},
		{"missing, default", empty, DirectoryUse{Used: true, Missing: DirectoryDefault}, LookupMissing},
		{"away", away, DirectoryUse{Used: true}, LookupFailed},
		{"away, default", away, DirectoryUse{Used: true, Unavailable: DirectoryDefault}, LookupFailed},
		{"the caller has gone", gone, DirectoryUse{Used: true}, LookupNone},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var decision Decision
			handler := NewHandler(Config{
				Setup:   Setup{Policy: readingPolicy{test.use}, Directory: test.directory, PolicyDigest: "0f1e2d"},
				Observe: func(d Decision) { decision = d },
			})
			body := strings.NewReader(`{"deviceRuntimeContext":{"registrationId":"oven-7"},"linkedHubs":["a"]}`)
			request := httptest.NewRequest(http.MethodPost, "/api/f", body)
			if test.name == "the caller has gone" {
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				request = request.WithContext(ctx)
			}
			handler.ServeHTTP(httptest.NewRecorder(), request)
			if decision.Lookup != test.want || decision.PolicyDigest != "0f1e2d" {
				t.Errorf("got %q, by policy %q; want %q", decision.Lookup, decision.PolicyDigest, test.want)
			}
		})
	}
}
