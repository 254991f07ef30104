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
	"sync/atomic"
	"time"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/gateway/config"
)

// Deadlines of the webhook's connections; a request has about 1,200 bytes and
// its headers some hundred. Whoever is slower is cut off.
const (
	webhookHeaderTime = 5 * time.Second  // also of a TLS handshake
	webhookReadTime   = 10 * time.Second // of headers and body
	webhookWriteTime  = 30 * time.Second // from the headers to the end of the answer
	webhookIdleTime   = 2 * time.Minute
	drainTime         = allocation.AnswerTime + 500*time.Millisecond // inside stopTime
)

// webhook serves the allocation policy to DPS.
type webhook struct {
	cfg         config.Allocation // of the setup in force; its owner is whoever reloads
	front       atomic.Pointer[front]
	policy      atomic.Pointer[sitePolicy] // in force
	directories directories
	listener    net.Listener
	handler     *allocation.Handler
	certificate *certificateFiles // nil without TLS
	server      *http.Server
	ready       chan struct{}
	log         *slog.Logger

	openDirectory OpenDeviceDirectory
	checkFirst    func(context.Context)     // of the directory that the webhook starts with
	observe       func(allocation.Decision) // nil, or set before Run: told every decision

	shadow   *allocation.Shadow
	shadowed func(allocation.ShadowResult) // likewise: told what came of asking the shadow
}

// http1 leaves HTTP/2 out: neither the service nor a proxy in front of the gateway
// needs it, and with one request at a time on each connection the cap on
// connections also bounds what a caller can start and take back.
func http1() *http.Protocols {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &protocols
}

// newWebhook binds the listener, or takes the activated one in its place, and
// reads the function keys and the certificate, and opens the device directory
// with open.
func newWebhook(cfg config.Allocation, open OpenDeviceDirectory, activated net.Listener, log *slog.Logger) (_ *webhook, err error) {
	first, err := loadSetup(cfg, open, log)
	if err != nil {
		return nil, err
	}
	setup := first.setup
	w := &webhook{cfg: cfg, openDirectory: open, listener: activated, ready: make(chan struct{}), log: log}
	w.front.Store(first.front)
	w.policy.Store(&first.policy)
	w.directories.replace(first.directory)
	w.shadow = allocation.NewShadow(log, func(result allocation.ShadowResult) {
		if w.shadowed != nil {
			w.shadowed(result)
		}
	})
	w.shadow.Replace(first.shadow.Policy, setup.Directory)
	// What is wrong with a table is no reason not to start: it may have changed since
	// yesterday, and the webhook is not all of a gateway.
	w.checkFirst = func(ctx context.Context) {
		if err := first.checkDirectory(ctx, log); err != nil {
			log.Error("the policy cannot decide by the device directory", "err", err)
		}
	}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	w.handler = allocation.NewHandler(allocation.Config{
		Setup:  setup,
		Limits: allocation.Limits{Rate: cfg.RequestsPerSecond, RatePerCaller: cfg.RequestsPerSecondPerCaller},
		Logger: log,
		Observe: func(d allocation.Decision) {
			if w.observe != nil {
				w.observe(d)
			}
			w.shadow.Add(d)
		},
	})
	connections := newConnections(cfg.MaxConnections, log)
	w.server = &http.Server{
		Handler:           w.handler,
		ReadHeaderTimeout: webhookHeaderTime, ReadTimeout: webhookReadTime, WriteTimeout: webhookWriteTime, IdleTimeout: webhookIdleTime,
		MaxHeaderBytes: 16 << 10,
		ConnState:      connections.changed,
		Protocols:      http1(),
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug), // handshakes of port scanners and the like
	}
	if cfg.TLSCert != "" {
		w.certificate = newCertificateFiles(cfg.TLSCert, cfg.TLSKey, log)
		pair, err := w.certificate.read()
		if err != nil {
			return nil, fmt.Errorf("reading [allocation] tls_cert and tls_key: %w", err)
		}
		w.certificate.use(pair)
		w.server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: w.certificate.get}
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
	w.listener = connections.listen(w.listener)
	log.Info("webhook's policy loaded", first.logged()...)
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
	checked := make(chan struct{})
	go func() {
		defer close(checked)
		w.checkFirst(ctx)
	}()
	defer func() { <-checked }()
	inShadow, leave := context.WithCancel(ctx)
	left := make(chan struct{})
	go func() {
		defer close(left)
		w.shadow.Run(inShadow)
	}()
	defer func() {
		leave()
		<-left
	}()
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
	w.close()
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// close lets go of what the webhook has opened besides its listener.
func (w *webhook) close() {
	w.front.Load().close()
	w.directories.close()
}
