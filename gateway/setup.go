// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"log/slog"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/gateway/config"
)

// loadSetup reads all of the webhook that a reload reads again. Everything that
// can fail is in here, so that a failure changes nothing.
func loadSetup(cfg config.Allocation, log *slog.Logger) (allocation.Setup, *front, error) {
	keys, err := functionKeys(cfg.FunctionKeys)
	if err != nil {
		return allocation.Setup{}, nil, fmt.Errorf("reading [allocation] function_keys: %w", err)
	}
	setup := allocation.Setup{Policy: allocation.Tutorial(), FunctionKeys: keys}
	before, err := newFront(cfg.Upstream, log)
	if err != nil {
		return allocation.Setup{}, nil, err
	}
	if before != nil {
		setup.Upstream = before.breaker
	}
	return setup, before, nil
}

// reload builds the setup of cfg and puts it in the place of the old one, together
// with the certificate. If any part of it fails all of the old stays. What is not
// part of a setup, such as the address to listen on, stays as it is.
func (w *webhook) reload(cfg config.Allocation) error {
	setup, before, err := loadSetup(cfg, w.log)
	if err == nil && w.certificate != nil {
		if err = w.certificate.reload(); err != nil {
			err = fmt.Errorf("reading [allocation] tls_cert and tls_key: %w", err)
		}
	}
	if err != nil {
		return fmt.Errorf("%w; the old ones stay in force", err)
	}
	if err := w.handler.Replace(setup); err != nil { // refuses to open what was locked
		return err
	}
	w.cfg = cfg
	w.front.Swap(before).close()
	w.log.Info("webhook reloaded; other changes of the configuration need a restart", "function_keys", len(setup.FunctionKeys))
	return nil
}

// functionKeys reads the keys that a caller may show; none without a name.
func functionKeys(name string) ([]allocation.FunctionKey, error) {
	if name == "" {
		return nil, nil
	}
	text, err := config.ReadSecret(name)
	if err != nil {
		return nil, err
	}
	return allocation.ParseFunctionKeys(text)
}
