// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"log/slog"
	"sync"

	"github.com/contoso/gatewayd/provisioning"
)

// transportKey is where the store keeps over which transport the service answered last.
const transportKey = "transport"

// climber is a DPS client with transport "auto" whose site is remembered across restarts: what worked yesterday is
// tried first today.
type climber struct {
	*provisioning.Client

	store *store
	log   *slog.Logger

	mu   sync.Mutex // one at a time, so that the newest is what is kept
	kept provisioning.Transport
}

// newClimber makes a client that begins where an earlier run of the gateway ended. A memory that cannot be read costs
// some time and nothing else.
func newClimber(ctx context.Context, cfg provisioning.Config, s *store, log *slog.Logger) (*climber, error) {
	if err := s.recall(ctx, transportKey, &cfg.Prefer); err != nil {
		log.Warn("the transport that worked last is not known; all are tried", "err", err)
	}
	client, err := provisioning.New(cfg)
	if err != nil {
		return nil, err
	}
	return &climber{Client: client, store: s, log: log, kept: cfg.Prefer}, nil
}

// Register runs a registration and keeps what it found out about the transports.
func (c *climber) Register(ctx context.Context, request provisioning.Request) (provisioning.Assignment, error) {
	result, err := c.Client.Register(ctx, request)
	c.keep(ctx)
	return result, err
}

// keep writes only what changed, and no failure: where nothing works today, yesterday's way is the best guess for
// after a restart.
func (c *climber) keep(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	worked := c.Worked()
	if worked == "" || worked == c.kept {
		return
	}
	if err := c.store.remember(ctx, transportKey, worked); err != nil {
		c.log.Warn("the transport that works could not be kept", "err", err)
		return
	}
	c.kept = worked
}
