// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCurl lets a client that nobody here wrote talk to the webhook.
func TestCurl(t *testing.T) {
	if os.Getenv("PEERS") == "" {
		t.Skip("needs curl: run make test-peers")
	}
	server := httptest.NewServer(NewHandler(Config{Setup: Setup{Policy: Tutorial(), FunctionKeys: parseKeys(t, keyTwo)}}))
	t.Cleanup(server.Close)
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, bytes.Repeat([]byte("x"), 10_000_000), 0o600); err != nil {
		t.Fatal(err)
	}
	const toaster = "testdata/tutorial-toaster.request.json"
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"assigned", []string{"--data-binary", "@" + toaster, server.URL + "/api/HttpTrigger1?code=" + keyTwo}, string(golden(t, "tutorial-toaster.response.json")) + "\n200"},
		{"key in the header", []string{"-H", "x-functions-key: " + keyTwo, "--data-binary", "@" + toaster, server.URL + "/api/f"}, string(golden(t, "tutorial-toaster.response.json")) + "\n200"},
		{"no key", []string{"--data-binary", "@" + toaster, server.URL + "/api/f"}, "The function key is missing or wrong: the webhook URL of the enrollment must end in ?code= and a valid key.\n401"},
		{"10 MB", []string{"--data-binary", "@" + large, server.URL + "/api/f?code=" + keyTwo}, "The request is larger than 256 KiB, which no AllocationRequest is.\n413"},
		{"10 MB, chunked", []string{"-H", "Transfer-Encoding: chunked", "--data-binary", "@" + large, server.URL + "/api/f?code=" + keyTwo}, "The request is larger than 256 KiB, which no AllocationRequest is.\n413"},
		{"GET", []string{server.URL + "/api/f?code=" + keyTwo}, "The allocation webhook answers POST only.\n405"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			args := append([]string{"--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}"}, test.args...)
			got, err := exec.CommandContext(t.Context(), "curl", args...).CombinedOutput()
			if err != nil {
				t.Fatalf("curl: %v: %s", err, got)
			}
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}
