// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"errors"
	"testing"
)

const (
	toastersHub  = "contoso-toasters-hub-1098.azure-devices.net"
	heatPumpsHub = "contoso-heatpumps-hub-1098.azure-devices.net"
)

// decideText gives what a policy says as one line: the response's bytes, or the
// refusal.
func decideText(t *testing.T, policy Policy, request Request) string {
	t.Helper()
	response, err := policy.Decide(t.Context(), Question{Request: request})
	if refusal, ok := errors.AsType[Refusal](err); ok {
		return "refused: " + refusal.Message
	}
	if err != nil {
		t.Fatal(err)
	}
	wire, err := response.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(wire)
}

func TestTutorialVectors(t *testing.T) {
	t.Parallel()
	rows := loadVectors(t).Webhook.SeedPolicy
	if len(rows) < 5 {
		t.Fatalf("got %d rows, want at least 5", len(rows))
	}
	for _, row := range rows {
		request := Request{
			DeviceRuntimeContext: DeviceRuntimeContext{RegistrationID: row.RegistrationID},
			LinkedHubs:           row.LinkedHubs,
		}
		response, err := Tutorial().Decide(t.Context(), Question{Request: request})
		refusal, _ := errors.AsType[Refusal](err)
		if response.IoTHubHostName != row.ExpectHub || refusal.Message != row.ExpectText {
			t.Errorf("%s: got hub %q and refusal %q, want %q and %q", orEmpty(row.RegistrationID),
				response.IoTHubHostName, refusal.Message, row.ExpectHub, row.ExpectText)
		}
	}
}

// TestTutorialToTheLetter has one row for each branch and each peculiarity of
// the tutorial's function.
func TestTutorialToTheLetter(t *testing.T) {
	t.Parallel()
	toaster := func(hub string) string {
		return `{"iotHubHostName":"` + hub + `","initialTwin":{"properties":{"desired":{"state":"ready","darknessSetting":"medium"}},"tags":{"deviceType":"toaster"}}}`
	}
	heatPump := func(hub string) string {
		return `{"iotHubHostName":"` + hub + `","initialTwin":{"properties":{"desired":{"state":"on","temperatureSetting":"65"}},"tags":{"deviceType":"heatpump"}}}`
	}
	both := []string{toastersHub, heatPumpsHub}
	tests := []struct {
		name string
		id   *string
		hubs []string
		want string
	}{
		{"toaster", new("breakroom499-contoso-tstrsd-007"), both, toaster(toastersHub)},
		{"heat pump", new("mainbuilding167-contoso-hpsd-088"), both, heatPump(heatPumpsHub)},
		{"the model may stand anywhere", new("x-contoso-tstrsd-007-old"), both, toaster(toastersHub)},
		{"toaster before heat pump", new("a-contoso-hpsd-088-contoso-tstrsd-007"), both, toaster(toastersHub)},
		{"the last fitting hub wins", new("a-contoso-tstrsd-007"), []string{"a-toasters-1", "a-toasters-2", "b"}, toaster("a-toasters-2")},
		{"case counts in the ID", new("A-CONTOSO-TSTRSD-007"), both, "refused: Unrecognized device registration."},
		{"case counts in the hub", new("a-contoso-tstrsd-007"), []string{"a-Toasters-1"}, "refused: No toasters hub found for the enrollment."},
		{"no ID", nil, both, "refused: Registration ID not provided for the device."},
		{"no ID comes before no hubs", nil, nil, "refused: Registration ID not provided for the device."},
		{"no hubs", new("a-contoso-tstrsd-007"), nil, "refused: No hub group defined for the enrollment."},
		{"no hubs comes before unknown", new("kettle"), nil, "refused: No hub group defined for the enrollment."},
		{"empty hubs", new("a-contoso-tstrsd-007"), []string{}, "refused: No toasters hub found for the enrollment."},
		{"no heat pumps hub", new("a-contoso-hpsd-088"), []string{toastersHub}, "refused: No heat pumps hub found for the enrollment."},
		{"empty ID", new(""), both, "refused: Unrecognized device registration."},
		{"unknown", new("lobby1-contoso-kettle-001"), both, "refused: Unrecognized device registration."},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			request := Request{DeviceRuntimeContext: DeviceRuntimeContext{RegistrationID: test.id}, LinkedHubs: test.hubs}
			if got := decideText(t, Tutorial(), request); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}
