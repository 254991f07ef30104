// SPDX-License-Identifier: Apache-2.0

package dpslocal

import "testing"

func TestETagMatches(t *testing.T) {
	tests := []struct {
		ifMatch, etag string
		want          bool
	}{
		{`"e1"`, `e1`, true},
		{`e1`, `"e1"`, true},
		{` "e1" `, `"e1"`, true},
		{`*`, `e1`, true},
		{`"*"`, `e1`, true},
		{`""e1""`, `e1`, false},
		{`E1`, `e1`, false},
		{`"`, `e1`, false},
		{`""`, `e1`, false},
	}
	for _, tt := range tests {
		if got := etagMatches(tt.ifMatch, tt.etag); got != tt.want {
			t.Errorf("If-Match %s, etag %s: got %v, want %v", tt.ifMatch, tt.etag, got, tt.want)
		}
	}
}
