// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"context"
	"fmt"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/allocation/policy"
)

func ExamplePolicy_Explain() {
	id := "breakroom499-contoso-tstrsd-007"
	question := allocation.Question{Request: allocation.Request{
		DeviceRuntimeContext: allocation.DeviceRuntimeContext{RegistrationID: &id},
		LinkedHubs:           []string{"contoso-toasters-hub-1098.azure-devices.net", "contoso-heatpumps-hub-1098.azure-devices.net"},
	}}
	fmt.Print(policy.Tutorial().Explain(context.Background(), question))
	// Output:
	// tutorial policy, registration ID "breakroom499-contoso-tstrsd-007"
	//   1 no registration ID (line 3): does not apply
	//     no  registration_id wants absent, saw "breakroom499-contoso-tstrsd-007"
	//   2 no hub group (line 8): does not apply
	//     no  linked_hubs wants absent, saw "contoso-toasters-hub-1098.azure-devices.net", "contoso-heatpumps-hub-1098.azure-devices.net"
	//   3 toasters (line 13): applies
	//     yes registration_id wants contains "-contoso-tstrsd-007", saw "breakroom499-contoso-tstrsd-007"
	//     hub: contains "-toasters-", pick last
	//     * contoso-toasters-hub-1098.azure-devices.net fits
	//       contoso-heatpumps-hub-1098.azure-devices.net does not fit
	//   not tried: 2 more
	// assigned to contoso-toasters-hub-1098.azure-devices.net by rule "toasters"
	// {"iotHubHostName":"contoso-toasters-hub-1098.azure-devices.net","initialTwin":{"properties":{"desired":{"state":"ready","darknessSetting":"medium"}},"tags":{"deviceType":"toaster"}}}
}
