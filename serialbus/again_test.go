// SPDX-License-Identifier: Apache-2.0

package serialbus_test

import "testing"

// again makes a test in real time until it succeeds once; after the tenth time it fails with what that says. A machine
// that stalls one side of a line for longer than a reply may take makes a real trouble of it, of which the bus rightly
// tells. What is wrong by its code is wrong each time.
func again(t *testing.T, try func() error) {
	t.Helper()
	for left := 9; ; left-- {
		err := try()
		if err == nil {
			return
		}
		if left == 0 {
			t.Fatal(err)
		}
		t.Logf("made again, because %v", err)
	}
}
