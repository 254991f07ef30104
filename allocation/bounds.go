// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"fmt"
	"unicode/utf8"
)

// Bounds of an AllocationRequest beside its size. A real one is 5 levels deep and
// has some 40 members; the service knows 50 linked hubs and registration IDs of
// 128 characters (dps-protocol 2.2, 2.4).
const (
	maxDepth          = 64
	maxMembers        = 8192 // of all objects and lists together
	maxLinkedHubs     = 256
	maxHostName       = 253 // characters; the longest name that DNS knows
	maxRegistrationID = 128 // characters
)

// checkLengths bounds the members that go into messages and decisions.
func (r *Request) checkLengths() error {
	if utf8.RuneCountInString(orEmpty(r.DeviceRuntimeContext.RegistrationID)) > maxRegistrationID {
		return notAllocationRequest(fmt.Sprintf("deviceRuntimeContext.registrationId has more than %d characters", maxRegistrationID))
	}
	if utf8.RuneCountInString(r.DeviceRuntimeContext.CurrentIoTHubHostName) > maxHostName {
		return notAllocationRequest(fmt.Sprintf("deviceRuntimeContext.currentIotHubHostName has more than %d characters", maxHostName))
	}
	if utf8.RuneCountInString(r.DeviceRuntimeContext.CurrentDeviceID) > maxRegistrationID {
		return notAllocationRequest(fmt.Sprintf("deviceRuntimeContext.currentDeviceId has more than %d characters", maxRegistrationID))
	}
	if len(r.LinkedHubs) > maxLinkedHubs {
		return notAllocationRequest(fmt.Sprintf("linkedHubs has more than %d host names", maxLinkedHubs))
	}
	for i, hub := range r.LinkedHubs {
		if utf8.RuneCountInString(hub) > maxHostName {
			return notAllocationRequest(fmt.Sprintf("linkedHubs[%d] has more than %d characters", i, maxHostName))
		}
	}
	return nil
}
