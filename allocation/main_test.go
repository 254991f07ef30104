// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// golden reads a published document.
func golden(t testing.TB, name string) []byte {
	t.Helper()
	document, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return document
}

// vectors are the published webhook documents, requests and responses alike.
type vectors struct {
	Webhook struct {
		Requests []struct {
			ID   string          `json:"id"`
			Raw  string          `json:"raw"`
			Body json.RawMessage `json:"body"`
		} `json:"requests"`
		DeviceRuntimeContextTPM struct {
			Body json.RawMessage `json:"body"`
		} `json:"device_runtime_context_tpm"`
		Responses []struct {
			ID       string          `json:"id"`
			Raw      string          `json:"raw"`
			Body     json.RawMessage `json:"body"`
			BodyText string          `json:"body_text"`
			Status   int             `json:"status"`
		} `json:"responses"`
		SeedPolicy []struct {
			RegistrationID *string  `json:"registration_id"`
			LinkedHubs     []string `json:"linked_hubs"`
			ExpectHub      string   `json:"expect_hub"`
			ExpectStatus   int      `json:"expect_status"`
			ExpectText     string   `json:"expect_text"`
		} `json:"seed_policy"`
	} `json:"webhook"`
}

func loadVectors(t testing.TB) vectors {
	t.Helper()
	var v vectors
	if err := json.Unmarshal(golden(t, "webhook-vectors.json"), &v); err != nil {
		t.Fatal(err)
	}
	return v
}
