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

// checkShape bounds the nesting and the number of values of a valid document,
// before anything descends into it. Depth costs whoever decodes it a stack, and
// each value more memory than the few bytes that it takes on the wire.
func checkShape(document []byte) error {
	depth, values := 0, 0
	for i := 0; i < len(document); {
		switch document[i] {
		case '"':
			i = endOfString(document, i)
			continue
		case '{', '[':
			depth++
			values++
			if depth > maxDepth {
				return notAllocationRequest(fmt.Sprintf("it is nested deeper than %d levels", maxDepth))
			}
		case '}', ']':
			depth--
		case ',':
			values++
		}
		i++
	}
	if values > maxMembers {
		return notAllocationRequest(fmt.Sprintf("it has more than %d members", maxMembers))
	}
	return nil
}

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
