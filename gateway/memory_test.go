// SPDX-License-Identifier: Apache-2.0

package gateway

import "testing"

func TestMemory(t *testing.T) {
	directory := t.TempDir()
	s := openTestStore(t, directory)
	got := "as it was"
	if err := s.recall(t.Context(), "transport", &got); err != nil || got != "as it was" {
		t.Errorf("of nothing: got %q, %v", got, err)
	}
	for _, value := range []string{"mqtt", "https"} {
		if err := s.remember(t.Context(), "transport", value); err != nil {
			t.Fatal(err)
		}
	}
	s.close()

	again := openTestStore(t, directory)
	if err := again.recall(t.Context(), "transport", &got); err != nil || got != "https" {
		t.Errorf("after a restart: got %q, %v; want https", got, err)
	}
	var number int
	if err := again.recall(t.Context(), "transport", &number); err == nil {
		t.Error("a text was read as a number without an error")
	}
}
