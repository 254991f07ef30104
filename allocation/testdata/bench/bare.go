// SPDX-License-Identifier: Apache-2.0

// Bare is the least that a webhook in Go can do: net/http, a request decoded
// into typed members, a response encoded. It checks no key, asks no policy and
// keeps no record. It is the limit in make bench-allocation.
//
//	bare ADDRESS [CERTIFICATE KEY]
package main

import (
	"encoding/json"
	"log"
	"net/http"
	"os"
	"strings"
)

// request is the whole of the tutorial's logged AllocationRequest.
type request struct {
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
		SymmetricKey          struct{}       `json:"symmetricKey"`
		Payload               map[string]any `json:"payload"`
	} `json:"deviceRuntimeContext"`
	LinkedHubs []string `json:"linkedHubs"`
}

// response is the tutorial's logged AllocationResponse.
type response struct {
	IoTHubHostName string `json:"iotHubHostName"`
	InitialTwin    struct {
		Properties struct {
			Desired struct {
				State           string `json:"state"`
				DarknessSetting string `json:"darknessSetting"`
			} `json:"desired"`
		} `json:"properties"`
		Tags struct {
			DeviceType string `json:"deviceType"`
		} `json:"tags"`
	} `json:"initialTwin"`
}

func main() {
	http.HandleFunc("POST /api/HttpTrigger1", allocate)
	if len(os.Args) == 4 {
		log.Fatal(http.ListenAndServeTLS(os.Args[1], os.Args[2], os.Args[3], nil))
	}
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}

func allocate(w http.ResponseWriter, r *http.Request) {
	var asked request
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var answer response
	for _, hub := range asked.LinkedHubs {
		if strings.Contains(hub, "-toasters-") {
			answer.IoTHubHostName = hub
		}
	}
	answer.InitialTwin.Properties.Desired.State = "ready"
	answer.InitialTwin.Properties.Desired.DarknessSetting = "medium"
	answer.InitialTwin.Tags.DeviceType = "toaster"
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		log.Print(err)
	}
}
