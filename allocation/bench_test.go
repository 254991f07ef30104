// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"
)

// BenchmarkWebhook sends the tutorial's logged request to the webhook and, in
// turns, to a bare net/http handler that decodes the same request into typed
// members and encodes the same response. It prints
//
//	of-bare   the webhook's throughput as a part of the bare handler's; budget: at least 0.7
//	p99-ms    the slowest hundredth of the webhook's answers; budget: below 5
//
// The webhook logs each decision, as it does in service. Both are reached over
// loopback by one client that waits for each answer, which is one core's worth
// of load.
func BenchmarkWebhook(b *testing.B) {
	keys := parseKeys(b, keyOne)
	webhook := httptest.NewServer(NewHandler(Config{
		Setup:  Setup{Policy: Tutorial(), FunctionKeys: keys},
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), //nolint:sloglint // DiscardHandler would spare the formatting
	}))
	defer webhook.Close()
	bare := httptest.NewServer(http.HandlerFunc(bareHandler))
	defer bare.Close()
	request := golden(b, "tutorial-toaster.request.json")
	want := golden(b, "tutorial-toaster.response.json")

	var onWebhook, onBare time.Duration
	var times []time.Duration
	for b.Loop() {
		onBare += timePost(b, bare, "/api/HttpTrigger1", request, want)
		took := timePost(b, webhook, "/api/HttpTrigger1?code="+keyOne, request, want)
		onWebhook += took
		times = append(times, took)
	}
	slices.Sort(times)
	b.ReportMetric(float64(onBare)/float64(onWebhook), "of-bare")
	b.ReportMetric(float64(times[len(times)*99/100])/float64(time.Millisecond), "p99-ms")
	b.ReportMetric(float64(len(times))/onWebhook.Seconds(), "requests/s")
}

// timePost sends one request and checks the answer; it gives the time between
// the two.
func timePost(b *testing.B, server *httptest.Server, path string, body, want []byte) time.Duration {
	start := time.Now()
	response, err := server.Client().Post(server.URL+path, "application/json", bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	got, err := io.ReadAll(response.Body)
	took := time.Since(start)
	if err != nil {
		b.Fatal(err)
	}
	if err := response.Body.Close(); err != nil {
		b.Fatal(err)
	}
	if !bytes.Equal(bytes.TrimSpace(got), want) {
		b.Fatalf("got %s, want %s", got, want)
	}
	return took
}

// bareHandler is the least that a webhook in Go can do with the same documents.
func bareHandler(w http.ResponseWriter, r *http.Request) {
	var request struct {
		EnrollmentGroup struct {
			EnrollmentGroupID string `json:"enrollmentGroupId"`
			Attestation       struct {
				Type string `json:"type"`
			} `json:"attestation"`
			Capabilities struct {
				IoTEdge bool `json:"iotEdge"`
			} `json:"capabilities"`
			ETag               string `json:"etag"`
			ProvisioningStatus string `json:"provisioningStatus"`
			ReprovisionPolicy  struct {
				UpdateHubAssignment bool `json:"updateHubAssignment"`
				MigrateDeviceData   bool `json:"migrateDeviceData"`
			} `json:"reprovisionPolicy"`
			CreatedDateTimeUTC         string   `json:"createdDateTimeUtc"`
			LastUpdatedDateTimeUTC     string   `json:"lastUpdatedDateTimeUtc"`
			AllocationPolicy           string   `json:"allocationPolicy"`
			IoTHubs                    []string `json:"iotHubs"`
			CustomAllocationDefinition struct {
				WebhookURL string `json:"webhookUrl"`
				APIVersion string `json:"apiVersion"`
			} `json:"customAllocationDefinition"`
		} `json:"enrollmentGroup"`
		DeviceRuntimeContext struct {
			RegistrationID        string         `json:"registrationId"`
			CurrentIoTHubHostName string         `json:"currentIotHubHostName"`
			CurrentDeviceID       string         `json:"currentDeviceId"`
			Payload               map[string]any `json:"payload"`
		} `json:"deviceRuntimeContext"`
		LinkedHubs []string `json:"linkedHubs"`
	}
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(Response{IoTHubHostName: request.LinkedHubs[0], InitialTwin: toasterTwin()}); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
