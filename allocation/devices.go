// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"hash/maphash"
	"strings"
	"sync"
)

// maxDevices bounds what a [DeviceCounter] remembers, about 4 MB.
const maxDevices = 100_000

// DeviceCounter counts devices where a counter of requests would count calls: the
// service may send one request eleven times, and a device that registers again
// is the same device (dps-protocol 12.6). Use it from [Config].Observe. The zero
// value is ready, for any number of goroutines.
//
// It remembers the devices since it was made, not those of another process, and
// up to 100,000 of them; those that come then are not counted.
type DeviceCounter struct {
	once sync.Once
	seed maphash.Seed

	mu   sync.Mutex // guards seen
	seen map[uint64]struct{}
}

// Add counts the device of a decision, unless it was counted before. Registration
// IDs are compared without case, as the service does; a decision without one
// belongs to no device.
func (c *DeviceCounter) Add(d Decision) {
	if d.RegistrationID == "" {
		return
	}
	c.once.Do(func() { c.seed = maphash.MakeSeed() })
	sum := maphash.String(c.seed, strings.ToLower(d.RegistrationID))
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.seen[sum]; known || len(c.seen) >= maxDevices {
		return
	}
	if c.seen == nil {
		c.seen = map[uint64]struct{}{}
	}
	c.seen[sum] = struct{}{}
}

// Count gives how many devices there were.
func (c *DeviceCounter) Count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.seen)
}
