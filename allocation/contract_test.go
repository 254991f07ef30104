// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What the published documents say twice or wrongly, and how it is read here:
//
//   - The concept page's sample of a later registration ends in a comma and holds
//     deviceRuntimeContext alone. It is no JSON and is refused; without the comma
//     it is read, and has no hubs.
//   - Its sample of a TPM context holds "..", which stands for more members.
//   - Its text once spells currentIoTHubHostname; samples, tables and the logged
//     request spell currentIotHubHostName, which alone is read.
//   - Its text promises primary and secondary keys in symmetricKey; all samples
//     and the log have an empty object there.
//   - Its sample of a registration's result has values without quotes. That
//     document goes to the device, never to a webhook.
//   - Its table says that the hub must be one of linkedHubs, its list of
//     requirements that it should. Here it must.

// contractRow is what is read in one of the documents in testdata/contract.
type contractRow struct {
	file                      string
	group                     bool
	id, hub, deviceID         string // of the context
	attestation, subject      string
	tpm                       TPMKeys
	payload                   string
	hubs                      int
	assigned                  string // by the tutorial's policy
	masked                    bool   // the record masks something
	unknownInEntry, apiSpells string
}

func contractRows() []contractRow {
	const (
		toaster   = "breakroom499-contoso-tstrsd-007"
		toasters  = "contoso-toasters-hub-1098.azure-devices.net"
		published = "custom-allocation-toasters-hub.azure-devices.net"
		payload   = `{"MyDeviceFirmwareVersion":"12.0.2.5","MyDeviceProvisioningVersion":"1.0.0.0"}`
		subject   = `CN=breakroom499-contoso-tstrsd-007, O="Contoso, Toasters", C=US`
	)
	return []contractRow{
		// As published.
		{file: "../tutorial-toaster", group: true, id: toaster, hub: toasters, deviceID: toaster, attestation: "symmetricKey", payload: payload, hubs: 2, assigned: toasters, apiSpells: "2021-10-01"},
		{file: "concept-first", group: true, id: toaster, attestation: "symmetricKey", hubs: 2, assigned: published, apiSpells: "2021-10-01"},

		// Made after the published members (dps-protocol 12.1, 12.3, 17.5).
		{file: "individual-symmetric-key", id: toaster, attestation: "symmetricKey", payload: payload, hubs: 2, assigned: toasters, apiSpells: "2021-10-01", unknownInEntry: `"optionalDeviceInformation":{"room":"break room 499"}`},
		{file: "individual-later", id: toaster, hub: toasters, deviceID: "toaster-499", attestation: "symmetricKey", hubs: 2, assigned: toasters, apiSpells: "2021-10-01"},
		{file: "individual-x509", id: toaster, attestation: "x509", subject: subject, hubs: 2, assigned: toasters, apiSpells: "2021-10-01"},
		{file: "individual-tpm", id: toaster, attestation: "tpm", tpm: TPMKeys{"xxxx-device-endorsement-key-xxxxx", "xxxx-device-storage-root-key-xxxxx"}, payload: `{"property1":"value1","property2":{"propertyA":"valueA","property2-2":1234}}`, hubs: 2, assigned: toasters, masked: true, apiSpells: "2021-10-01"},
		{file: "group-x509", group: true, id: toaster, hub: toasters, deviceID: toaster, attestation: "x509", subject: subject, payload: payload, hubs: 2, assigned: toasters, apiSpells: "2021-10-01"},
		{file: "group-never-reprovision", group: true, id: toaster, hub: toasters, deviceID: toaster, attestation: "symmetricKey", hubs: 1, assigned: toasters, apiSpells: "2021-10-01"},
		{file: "group-2018-09-01-preview", group: true, id: toaster, attestation: "symmetricKey", hubs: 2, assigned: toasters, apiSpells: "2018-09-01-preview"},
		{file: "group-2018-11-01", group: true, id: toaster, attestation: "symmetricKey", hubs: 2, assigned: toasters, apiSpells: "2018-11-01"},
		{file: "group-2019-03-31", group: true, id: toaster, attestation: "symmetricKey", payload: payload, hubs: 2, assigned: toasters, apiSpells: "2019-03-31"},
		{file: "group-2025-07-01-preview", group: true, id: toaster, attestation: "symmetricKey", payload: payload, hubs: 2, assigned: toasters, apiSpells: "2025-07-01-preview", unknownInEntry: `"credentialPolicyName":"contoso-credentials"`},
	}
}

// TestContractRequests reads every kind of AllocationRequest, asks the whole
// webhook, and looks whether the record keeps it byte for byte, with members that
// nobody here knows.
func TestContractRequests(t *testing.T) {
	t.Parallel()
	for _, row := range contractRows() {
		t.Run(row.file, func(t *testing.T) {
			t.Parallel()
			body := golden(t, filepath.Join("contract", row.file+".request.json"))
			request, err := ParseRequest(body)
			if err != nil {
				t.Fatal(err)
			}
			device := request.DeviceRuntimeContext
			certificate, _ := device.Certificate()
			tpm, _ := device.TPMKeys()
			entry := request.IndividualEnrollment
			if row.group {
				entry = request.EnrollmentGroup
			}
			got := contractRow{
				file: row.file, group: request.EnrollmentGroup != nil && request.IndividualEnrollment == nil,
				id: orEmpty(device.RegistrationID), hub: device.CurrentIoTHubHostName, deviceID: device.CurrentDeviceID,
				attestation: device.Attestation(), subject: certificate.SubjectName, tpm: tpm, payload: string(device.Payload), hubs: len(request.LinkedHubs),
				assigned: row.assigned, masked: row.masked, unknownInEntry: row.unknownInEntry, apiSpells: row.apiSpells,
			}
			if diff := cmp.Diff(row, got, cmp.AllowUnexported(contractRow{})); diff != "" {
				t.Errorf("read (-want +got):\n%s", diff)
			}
			for _, part := range []string{row.unknownInEntry, row.apiSpells} {
				if !strings.Contains(string(entry), part) {
					t.Errorf("the entry lost %s: %s", part, entry)
				}
			}

			var decided Decision
			handler := NewHandler(Config{Setup: Setup{Policy: Tutorial()}, Observe: func(d Decision) { decided = d }})
			if response := post(handler, "/api/HttpTrigger1", string(body)); response.Code != 200 || decided.AssignedHub != row.assigned {
				t.Errorf("got %d %s, want an assignment to %s", response.Code, response.Body, row.assigned)
			}
			if kept := string(decided.Request) == string(body); kept == row.masked {
				t.Errorf("the record holds %s", decided.Request)
			}
		})
	}
}

// TestContractFilesAreAllRead: no golden file is forgotten.
func TestContractFilesAreAllRead(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/contract/*.request.json")
	if err != nil || len(files) < 11 {
		t.Fatalf("got %d files, %v, want 11 at least", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".request.json")
		if !slices.ContainsFunc(contractRows(), func(row contractRow) bool { return row.file == name }) {
			t.Errorf("nobody reads %s", file)
		}
	}
}

// TestContractAsMisprinted takes the samples that are no JSON as they are
// printed.
func TestContractAsMisprinted(t *testing.T) {
	t.Parallel()
	later := string(golden(t, "contract/concept-later.context.txt"))
	tpm := string(golden(t, "contract/concept-tpm.context.txt"))
	tests := []struct{ name, body, want string }{
		{"later registration", later, "refused: The request is not an AllocationRequest: the body is not valid JSON at byte 277."},
		{"later registration without the last comma", strings.Replace(later, "},\n}", "}\n}", 1), "refused: No hub group defined for the enrollment."},
		{"TPM context", `{"deviceRuntimeContext":` + tpm + `}`, "refused: The request is not an AllocationRequest: the body is not valid JSON at byte 310."},
		{"TPM context without the dots", `{"deviceRuntimeContext":` + strings.Replace(tpm, ", ..", "", 1) + `}`, "refused: No hub group defined for the enrollment."},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			request, err := ParseRequest([]byte(test.body))
			got := ""
			if refusal, ok := errors.AsType[Refusal](err); ok {
				got = "refused: " + refusal.Message
			} else {
				got = decideText(t, Tutorial(), request)
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// TestContractSpelling: the concept page's other spelling of the current hub is a
// member that nobody knows.
func TestContractSpelling(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"currentIotHubHostName": "h", "currentIoTHubHostname": "", "currentIoTHubHostName": "", "currentIotHubHostname": ""} {
		request, err := ParseRequest([]byte(`{"deviceRuntimeContext":{"` + name + `":"h"}}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := request.DeviceRuntimeContext.CurrentIoTHubHostName; got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

// TestContractPayload: a payload is any JSON, and is kept as it came.
func TestContractPayload(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{`{}`, `{"a":{"b":[1,2.50,1e400,"\u00e9"]},"a":null}`, `[]`, `[{"modelId":"dtmi:a;1"}]`, `"text"`, `7`, `true`, `null`} {
		request, err := ParseRequest([]byte(`{"deviceRuntimeContext":{"registrationId":"a","payload": ` + payload + ` },"linkedHubs":[]}`))
		if err != nil {
			t.Errorf("%s: %v", payload, err)
		}
		if got := string(request.DeviceRuntimeContext.Payload); got != payload {
			t.Errorf("got %s, want %s", got, payload)
		}
	}
}

// TestContractResponses writes the concept page's responses again, byte for byte
// but for the white space.
func TestContractResponses(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"concept", "concept-payload"} {
		published := golden(t, filepath.Join("contract", name+".response.json"))
		var response Response
		if err := json.Unmarshal(published, &response); err != nil {
			t.Fatal(err)
		}
		got, err := response.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(compact(t, published)), string(got)); diff != "" {
			t.Errorf("%s (-published +encoded):\n%s", name, diff)
		}
	}
}
