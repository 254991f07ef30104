// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/contoso/gatewayd/gateway/config"
	"github.com/contoso/gatewayd/provisioning"
)

// keyring is the key source of all appliances. A reload puts another one in its place; the keys live in memory only.
type keyring struct {
	cfg config.DPS
	log *slog.Logger

	mu     sync.Mutex
	source provisioning.KeySource // guarded by mu
}

// reload reads the keys again. If that fails the old ones stay.
func (k *keyring) reload() error {
	source, err := config.ReadKeys(k.cfg)
	if err != nil {
		return err
	}
	switch keys := source.(type) {
	case provisioning.GroupKeys:
		k.log.Info("group key read", "group_key", keys[0].Fingerprint(), "keys", len(keys))
	case provisioning.DerivedKeys:
		k.log.Info("keys of devices opened; there is no group key on this gateway", "devices", len(keys))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.source = source
	return nil
}

// DeviceKeys implements [provisioning.KeySource].
func (k *keyring) DeviceKeys(registrationID string) ([]provisioning.DeviceKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.source.DeviceKeys(registrationID)
}

// keyless takes in that there is no key for the appliance, and waits for another place or a reload. Nothing that it
// writes holds the next run up: after a restart with other keys DPS is asked at once.
func (a *appliance) keyless(ctx context.Context, err error) {
	a.update(ctx, func(r *record) {
		r.Error = trouble(fmt.Errorf("finding its key: %w", err))
		if r.Assignment == nil {
			r.State = StateRefused
		}
	})
	a.rest(ctx, 0)
}

// wakeAll makes every appliance look at everything anew.
func (s *supervisor) wakeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.appliances {
		a.wakeUp()
	}
}
