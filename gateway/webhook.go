// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/gateway/config"
)

// Limits of the webhook's listener. DPS waits about half a minute for an
// answer, a decision takes microseconds.
const (
	webhookHeaderTime = 5 * time.Second
	webhookTime       = 15 * time.Second
	webhookIdleTime   = 2 * time.Minute
	drainTime         = 8 * time.Second // inside the ten seconds of a stop
)

// webhook serves the allocation policy to DPS.
type webhook struct {
	cfg      config.Allocation // of the setup in force; its owner is whoever reloads
	front    atomic.Pointer[front]
	listener net.Listener
	handler  *allocation.Handler
	server   *http.Server
	ready    chan struct{}
	log      *slog.Logger
}

// newWebhook binds the listener, or takes the activated one in its place, and
// reads the function keys and the certificate.
func newWebhook(cfg config.Allocation, activated net.Listener, log *slog.Logger) (*webhook, error) {
	setup, before, err := loadSetup(cfg, log)
	if err != nil {
		return nil, err
	}
	w := &webhook{cfg: cfg, listener: activated, ready: make(chan struct{}), log: log}
	w.front.Store(before)
	w.handler = allocation.NewHandler(allocation.Config{Setup: setup, Logger: log})
	w.server = &http.Server{
		Handler:           w.handler,
		ReadHeaderTimeout: webhookHeaderTime, ReadTimeout: webhookTime, WriteTimeout: webhookTime, IdleTimeout: webhookIdleTime,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug), // handshakes of port scanners and the like
	}
	if cfg.TLSCert != "" {
		certificate := &certificateFiles{certFile: cfg.TLSCert, keyFile: cfg.TLSKey, log: log}
		if _, err := certificate.get(nil); err != nil {
			return nil, fmt.Errorf("reading [allocation] tls_cert and tls_key: %w", err)
		}
		w.server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate.get}
	}
	if w.listener == nil {
		if w.listener, err = net.Listen("tcp", cfg.Listen); err != nil {
			return nil, fmt.Errorf("listening for the allocation webhook: %w (another program may have the port; change [allocation] listen)", err)
		}
	}
	if address := w.listener.Addr().String(); len(setup.FunctionKeys) == 0 && !config.Loopback(address) {
		return nil, errors.Join(
			fmt.Errorf("the allocation webhook at %s can be reached from other machines but has no function_keys; configure them, or listen on 127.0.0.1", address),
			w.listener.Close())
	}
	return w, nil
}

func (w *webhook) String() string         { return fmt.Sprintf("allocation webhook %q", w.listener.Addr()) }
func (w *webhook) Ready() <-chan struct{} { return w.ready }

// Run serves until ctx ends, then lets the requests under way finish.
func (w *webhook) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() {
		if w.server.TLSConfig != nil {
			ended <- w.server.ServeTLS(w.listener, "", "")
			return
		}
		ended <- w.server.Serve(w.listener)
	}()
	close(w.ready)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	w.handler.Drain(drain)
	if err := w.server.Shutdown(drain); err != nil {
		w.log.Warn("webhook requests cut off", "err", err)
		w.server.Close()
	}
	w.front.Load().close()
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// reload builds the setup of cfg and puts it in the place of the old one. If any
// part of it fails the old one stays whole. What is not part of a setup, such as
// the address to listen on, stays as it is.
func (w *webhook) reload(cfg config.Allocation) error {
	setup, before, err := loadSetup(cfg, w.log)
	if err != nil {
		return fmt.Errorf("%w; the old ones stay in force", err)
	}
	if err := w.handler.Replace(setup); err != nil { // refuses to open what was locked
		return err
	}
	w.cfg = cfg
	w.front.Swap(before).close()
	return nil
}

// loadSetup reads all that a reload reads again: everything that can fail comes
// before anything takes effect.
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

// certificateFiles serves the certificate of two PEM files and reads them again
// when they change, so that a renewal needs no restart.
type certificateFiles struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex
	loaded  *tls.Certificate
	changed time.Time // of the newer file when it was loaded
}

func (c *certificateFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed, err := newest(c.certFile, c.keyFile)
	if err == nil && c.loaded != nil && changed.Equal(c.changed) {
		return c.loaded, nil
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.LoadX509KeyPair(c.certFile, c.keyFile)
	}
	if err != nil {
		if c.loaded == nil {
			return nil, err
		}
		c.log.Error("webhook certificate not reloaded; the old one stays in use", "err", err)
		c.changed = changed // said once for each change
		return c.loaded, nil
	}
	c.loaded, c.changed = &pair, changed
	return c.loaded, nil
}

func newest(files ...string) (time.Time, error) {
	var latest time.Time
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			return latest, err
		}
		if info.ModTime().After(latest) {
			latest = info.ModTime()
		}
	}
	return latest, nil
}
