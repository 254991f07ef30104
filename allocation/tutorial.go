// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"encoding/json"
	"strings"
)

// The two appliance models of the tutorial, by the part of a registration ID
// that names them.
const (
	toasterModel  = "-contoso-tstrsd-007"
	heatPumpModel = "-contoso-hpsd-088"
)

// TutorialPolicy is the policy that [Tutorial] gives.
type TutorialPolicy struct{}

// Tutorial is the policy of Azure's tutorial "Use custom allocation policies",
// to the letter: a toaster goes to the linked hub with -toasters- in its name
// and a heat pump to the one with -heatpumps-, each with its own initial twin.
//
// To the letter means that a model is looked for anywhere in the registration
// ID and not only at its end, that case counts, that a toaster is looked for
// first, and that the last of several fitting hubs wins. The webhook with this
// policy answers every AllocationRequest as the function does, byte for byte;
// what is none it refuses, where the function fails or reads on.
func Tutorial() TutorialPolicy { return TutorialPolicy{} }

// Rules names the policy's rules in the order in which they are tried.
func (TutorialPolicy) Rules() []string {
	return []string{"no registration ID", "no hub group", "toasters", "heat pumps", "unrecognized"}
}

// Decide answers with a hub and an initial twin, or with a [Refusal]. The checks
// keep the order of the tutorial's function, because an operator may know its
// refusals by heart.
func (TutorialPolicy) Decide(_ context.Context, question Question) (Response, error) {
	request := question.Request
	id := request.DeviceRuntimeContext.RegistrationID
	if id == nil {
		return Response{}, Refusal{Message: "Registration ID not provided for the device.", Rule: "no registration ID"}
	}
	if request.LinkedHubs == nil {
		return Response{}, Refusal{Message: "No hub group defined for the enrollment.", Rule: "no hub group"}
	}
	switch {
	case strings.Contains(*id, toasterModel):
		hub, ok := lastContaining(request.LinkedHubs, "-toasters-")
		if !ok {
			return Response{}, Refusal{Message: "No toasters hub found for the enrollment.", Rule: "toasters"}
		}
		return Response{Rule: "toasters", IoTHubHostName: hub, InitialTwin: toasterTwin()}, nil
	case strings.Contains(*id, heatPumpModel):
		hub, ok := lastContaining(request.LinkedHubs, "-heatpumps-")
		if !ok {
			return Response{}, Refusal{Message: "No heat pumps hub found for the enrollment.", Rule: "heat pumps"}
		}
		return Response{Rule: "heat pumps", IoTHubHostName: hub, InitialTwin: heatPumpTwin()}, nil
	default:
		return Response{}, Refusal{Message: "Unrecognized device registration.", Rule: "unrecognized"}
	}
}

func toasterTwin() *InitialTwin {
	return &InitialTwin{
		Properties: InitialProperties{Desired: json.RawMessage(`{"state":"ready","darknessSetting":"medium"}`)},
		Tags:       json.RawMessage(`{"deviceType":"toaster"}`),
	}
}

// heatPumpTwin sets the temperature as text, as the tutorial does.
func heatPumpTwin() *InitialTwin {
	return &InitialTwin{
		Properties: InitialProperties{Desired: json.RawMessage(`{"state":"on","temperatureSetting":"65"}`)},
		Tags:       json.RawMessage(`{"deviceType":"heatpump"}`),
	}
}

func lastContaining(hubs []string, part string) (hub string, found bool) {
	for _, candidate := range hubs {
		if strings.Contains(candidate, part) {
			hub, found = candidate, true
		}
	}
	return hub, found
}
