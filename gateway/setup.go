// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/gateway/config"
)

// loaded is a setup with what it is made of and must be closed one day.
type loaded struct {
	setup     allocation.Setup
	policy    sitePolicy
	shadow    sitePolicy // its Policy is nil without one
	front     *front
	directory DeviceDirectory // nil for policies that read none
}

// loadSetup reads all of the webhook that a reload reads again. Everything that
// can fail is in here, so that a failure changes nothing.
func loadSetup(cfg config.Allocation, open OpenDeviceDirectory, log *slog.Logger) (loaded, error) {
	keys, err := functionKeys(cfg.FunctionKeys)
	if err != nil {
		return loaded{}, fmt.Errorf("reading [allocation] function_keys: %w", err)
	}
	decides, err := loadPolicy(cfg.Policy)
	if err != nil {
		return loaded{}, err
	}
	shadow, err := loadShadow(cfg.Shadow)
	if err != nil {
		return loaded{}, err
	}
	l := loaded{policy: decides, shadow: shadow, setup: allocation.Setup{Policy: decides.Policy, PolicyDigest: decides.digest, FunctionKeys: keys}}
	if l.front, err = newFront(cfg.Upstream, log); err != nil {
		return loaded{}, err
	}
	if l.front != nil {
		l.setup.Upstream = l.front.breaker
	}
	if l.directory, err = openDirectory(cfg, directoryReader(l.setup.Policy, shadow.Policy), open, log); err != nil {
		l.close()
		return loaded{}, err
	}
	if l.directory != nil {
		l.setup.Directory = l.directory // a nil one would not be a nil interface
	}
	return l, nil
}

// checkDirectory looks whether the policy fits the directory's table. What a shadow
// misses there is counted when it is asked, and stops nothing.
func (l *loaded) checkDirectory(ctx context.Context, log *slog.Logger) error {
	if !directoryUse(l.setup.Policy).Used {
		return nil
	}
	return checkDirectory(ctx, l.directory, l.setup.Policy, log)
}

// logged tells which policies they are.
func (l *loaded) logged() []any {
	if l.shadow.Policy == nil {
		return l.policy.logged()
	}
	return append(l.policy.logged(), "shadow", l.shadow.name, "shadow_digest", l.shadow.digest)
}

// close lets go of a setup that never answered a request.
func (l *loaded) close() {
	l.front.close()
	if l.directory != nil {
		_ = l.directory.Close()
	}
}

// reload builds the setup of cfg and puts it in the place of the old one, together
// with the certificate. If any part of it fails all of the old stays. What is not
// part of a setup, such as the address to listen on, stays as it is.
func (w *webhook) reload(cfg config.Allocation) error {
	next, err := loadSetup(cfg, w.openDirectory, w.log)
	if err == nil {
		err = next.checkDirectory(context.Background(), w.log)
	}
	var pair certificatePair
	if err == nil && w.certificate != nil {
		if pair, err = w.certificate.read(); err != nil {
			err = fmt.Errorf("reading [allocation] tls_cert and tls_key: %w", err)
		}
	}
	if err != nil {
		next.close()
		return fmt.Errorf("%w; the old ones stay in force", err)
	}
	if err := w.handler.Replace(next.setup); err != nil { // refuses to open what was locked
		next.close()
		return err
	}
	if w.certificate != nil {
		w.certificate.use(pair)
	}
	w.cfg = cfg
	w.shadow.Replace(next.shadow.Policy, next.setup.Directory)
	w.front.Swap(next.front).close()
	w.policy.Store(&next.policy)
	w.directories.replace(next.directory)
	w.log.Info("webhook reloaded; other changes of the configuration need a restart", append(next.logged(), "function_keys", len(next.setup.FunctionKeys))...)
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
