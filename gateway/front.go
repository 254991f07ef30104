// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"log/slog"

	"github.com/contoso/gatewayd/allocation/upstream"
	"github.com/contoso/gatewayd/gateway/config"
)

// front is the cloud function that the webhook asks first. A nil front is none.
type front struct {
	client  *upstream.Client
	breaker *upstream.Breaker
}

// newFront reads the function's key and makes what asks it; nil without a
// function. It sends nothing: a function that is away is no reason not to start.
func newFront(cfg *config.Upstream, log *slog.Logger) (*front, error) {
	if cfg == nil {
		return nil, nil
	}
	settings := upstream.Config{URL: cfg.URL, Timeout: cfg.Timeout, RootCAs: cfg.RootCAs}
	if cfg.Key != "" {
		text, err := config.ReadSecret(cfg.Key)
		if err == nil {
			settings.Key, err = upstream.ParseKey(text)
		}
		if err != nil {
			return nil, fmt.Errorf("reading [allocation] upstream_key: %w", err)
		}
	}
	client, err := upstream.New(settings)
	if err != nil {
		return nil, fmt.Errorf("preparing [allocation] upstream: %w", err)
	}
	return &front{client: client, breaker: upstream.NewBreaker(client, log)}, nil
}

// close lets go of the connections that no request uses.
func (f *front) close() {
	if f != nil {
		f.client.Close()
	}
}

// upstreamState tells how the breaker before the cloud function stands, and
// whether there is one at all.
func (w *webhook) upstreamState() (state upstream.State, fronting bool) {
	f := w.front.Load()
	if f == nil {
		return upstream.State{}, false
	}
	return f.breaker.State(), true
}
