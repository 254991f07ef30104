// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"errors"
	"fmt"
)

// ErrNoKey is wrapped by the error of a [KeySource] that has no key for a registration ID.
var ErrNoKey = errors.New("no device key")

// KeySource knows the keys of devices. Whoever holds a group's key holds all devices of the group, wherever they are; a
// map of derived keys costs the devices in it and no other.
type KeySource interface {
	// DeviceKeys returns the keys of one device, primary first: one at least, or an error that wraps [ErrNoKey] or
	// [ErrKey]. They are what [Request] wants, and what opens the assigned hub.
	DeviceKeys(registrationID string) ([]DeviceKey, error)
}

// GroupKeys are an enrollment group's keys, primary first, the secondary if there is one. It is a [KeySource] with
// a key for every registration ID.
type GroupKeys []GroupKey

// DeviceKeys derives the device's key from each group key.
func (g GroupKeys) DeviceKeys(registrationID string) ([]DeviceKey, error) {
	if len(g) == 0 {
		return nil, fmt.Errorf("%w: no group key given", ErrKey)
	}
	var keys []DeviceKey
	for _, group := range g {
		if group.IsZero() {
			return nil, fmt.Errorf("%w: a group key is empty", ErrKey)
		}
		keys = append(keys, group.Derive(registrationID))
	}
	return keys, nil
}

// DerivedKeys maps registration IDs, spelled as they register, to the device's keys, primary first. It is a
// [KeySource] for these devices only, where the group key itself is kept elsewhere.
type DerivedKeys map[string][]DeviceKey

// DeviceKeys looks the device up.
func (d DerivedKeys) DeviceKeys(registrationID string) ([]DeviceKey, error) {
	keys := d[registrationID]
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w for %q among the %d that were granted to this site; ask for it with \"gatewayctl keys request\" and install what headquarters grants",
			ErrNoKey, printable(registrationID, maxRegistrationID), len(d))
	}
	return keys, nil
}
