// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/contoso/gatewayd/provisioning/dpslocal/internal/mqttserve"
)

// openTimeout is how long a server that starts waits for another instance that
// starts.
const openTimeout = 30 * time.Second

// drainTime is how long Run waits for HTTPS calls that are being answered.
const drainTime = 5 * time.Second

// Options say where a Server works. Everything that a test wants in its own
// hands is here; time is the package time, which a synctest bubble drives.
type Options struct {
	// Dir holds the store, the CA and the server certificate. It is made when it
	// does not exist. Required.
	Dir string

	// HTTPS and MQTT are listen addresses, such as "127.0.0.1:8443". Port 0 is
	// allowed. Default "127.0.0.1:0".
	HTTPS, MQTT string

	// HTTPSListener and MQTTListener take the place of the addresses. The server
	// speaks TLS on what they accept, and closes them, also when New fails.
	HTTPSListener, MQTTListener net.Listener

	// Store takes the place of the SQLite file in Dir. The server closes it, also
	// when New fails. With a SharedStore, servers that were given the same
	// configuration are one service.
	Store Store

	// WebhookTransport carries all webhook calls; by default each enrollment has
	// one that trusts its webhook_ca_file.
	WebhookTransport http.RoundTripper

	// LogWebhook is where each exchange with a webhook is printed, or nil.
	LogWebhook io.Writer

	// Logger is where the server logs; nil is silence.
	Logger *slog.Logger

	// Admin is the address of the admin port, plain HTTP on loopback, by which the
	// fault script can be changed. With "" there is none.
	Admin string

	// Fault is asked before each call of the device API how to answer badly; nil
	// answers well. It is called from many goroutines.
	Fault func(FaultPoint) Fault
}

// Server is one provisioning service with its hubs. Make it with New, run it
// with Run; everything else may be called before, during and after.
type Server struct {
	config  Config
	logger  *slog.Logger
	certs   *certificates
	store   Store
	service *service

	https, mqtt net.Listener // as bound, without TLS
	admin       net.Listener // or nil
	stop        context.CancelFunc
	closeOnce   sync.Once
}

// New checks the configuration, opens the store, sees to the certificates and
// binds the listeners, so that clients can connect from now on; they are served
// by Run. A *ConfigError says that the configuration is at fault. A Server that
// is not run needs Close.
func New(cfg Config, opts Options) (_ *Server, err error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if opts.Dir == "" {
		return nil, errors.New("no directory for the store and the certificates: set Options.Dir")
	}
	logger := opts.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory: %w", err)
	}
	s := &Server{config: cfg, logger: logger, store: opts.Store, https: opts.HTTPSListener, mqtt: opts.MQTTListener}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if s.store == nil {
		if cfg.StoreURL != "" {
			return nil, errors.New("the store is a database server: open it with package pgstore and set Options.Store")
		}
		if s.store, err = OpenStore(filepath.Join(opts.Dir, cfg.StoreFile)); err != nil {
			return nil, err
		}
	}
	s.service = newService(cfg, opts, s.store, logger)
	s.service.ctx, s.stop = context.WithCancel(context.Background())
	if err := s.open(cfg, opts.Dir); err != nil {
		return nil, err
	}
	if s.https, err = listen(s.https, opts.HTTPS); err != nil {
		return nil, fmt.Errorf("listening for HTTPS: %w", err)
	}
	if s.mqtt, err = listen(s.mqtt, opts.MQTT); err != nil {
		return nil, fmt.Errorf("listening for MQTT: %w", err)
	}
	if opts.Admin != "" {
		if err := checkLoopback(opts.Admin); err != nil {
			return nil, fmt.Errorf("admin address %w", err)
		}
		if s.admin, err = listen(nil, opts.Admin); err != nil {
			return nil, fmt.Errorf("listening for the admin port: %w", err)
		}
	}
	return s, nil
}

// open sees to certificates and enrollments. Instances of one service do it one
// after the other, so that all get what the first has made.
func (s *Server) open(cfg Config, dir string) (err error) {
	shared := s.service.shared
	if shared == nil {
		if s.certs, err = openCertificates(dir, cfg, s.logger); err != nil {
			return err
		}
		return s.service.open(cfg)
	}
	ctx, cancel := context.WithTimeout(s.service.ctx, openTimeout)
	defer cancel()
	return shared.Exclusive(ctx, "start", func() error {
		if s.certs, err = openSharedCertificates(ctx, shared, dir, cfg, s.logger); err != nil {
			return err
		}
		return s.service.open(cfg)
	})
}

// newService makes the parts behind the transports and ties them together.
func newService(cfg Config, opts Options, store Store, logger *slog.Logger) *service {
	s := &service{
		idScope:    cfg.IDScope,
		retryAfter: cfg.RetryAfter,
		strict:     cfg.Strict,
		cas:        make(map[string]*x509.Certificate),
		store:      store,
		webhook:    &webhook{transport: opts.WebhookTransport},
		fault:      opts.Fault,
		gate:       newGate(),
		weights:    make(map[string]int),
		throttle:   newThrottle(cfg.Throttle),
		logger:     logger,
		running:    make(map[string]*operation),
	}
	if opts.LogWebhook != nil {
		s.webhook.log = &webhookLog{w: opts.LogWebhook}
	}
	for _, ca := range cfg.CACertificates {
		s.cas[ca.Name], _ = parseCertificate(ca.Certificate) // validated before
	}
	for _, rule := range cfg.Faults {
		_, _ = s.script.add(rule) // checked with the configuration
	}
	s.shared, _ = store.(SharedStore)
	for _, hub := range cfg.Hubs {
		s.hubNames = append(s.hubNames, hub.Name)
		s.weights[strings.ToLower(hub.Name)] = max(hub.Weight, 1)
	}
	s.hubs = &hubs{names: s.hubNames, store: store, logger: logger, devices: new(table[*hubSession])}
	return s
}

// listen returns the listener that was given, or binds an address.
func listen(given net.Listener, address string) (net.Listener, error) {
	if given != nil {
		return given, nil
	}
	if address == "" {
		address = "127.0.0.1:0"
	}
	return net.Listen("tcp", address)
}

// Run serves until ctx ends: it takes up what an earlier run left unfinished,
// answers, and at the end lets calls that are being answered finish. Operations
// that still run stay in the store for the next start. Run closes the server
// and returns nil when ctx was the reason.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() { _ = s.Close() }()
	stop := context.AfterFunc(ctx, s.stop)
	defer stop()

	if err := s.service.resume(); err != nil {
		if ctx.Err() != nil {
			return nil // ended before it began
		}
		return err
	}
	var group sync.WaitGroup
	failures := make(chan error, 3)
	serve := func(f func() error) {
		group.Go(func() {
			if err := f(); err != nil {
				failures <- err
			}
			cancel()
		})
	}
	mqtt := mqttserve.New(newMQTTFront(s.service), s.logger)
	serve(func() error {
		return mqtt.Serve(ctx, tls.NewListener(limitListener(s.mqtt, s.service.gate), s.certs.tlsConfig()))
	})
	serve(func() error { return s.serveHTTPS(ctx, mqtt) })
	if s.admin != nil {
		serve(func() error { return s.serveAdmin(ctx) })
	}
	group.Go(func() { s.certs.keepFresh(ctx) })
	if s.service.shared != nil {
		group.Go(func() { s.service.keepLease(ctx) })
	}
	s.logger.Info("serving", "https", s.HTTPSAddr(), "mqtt", s.MQTTAddr())

	group.Wait()
	s.service.group.Wait()
	s.logger.Info("stopped")
	close(failures)
	var errs []error
	for err := range failures {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// serveHTTPS serves the device API until ctx ends, and then waits for the calls
// that are being answered. Connections that become WebSockets are handed to mqtt.
func (s *Server) serveHTTPS(ctx context.Context, mqtt *mqttserve.Server) error {
	server := newHTTPServer(s.service, s.config, s.logger)
	server.Handler = webSocketFront{mqtt: mqtt, next: server.Handler, ctx: ctx}
	server.ConnContext = keepRawConn
	drained := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(drained)
		limit, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		if err := server.Shutdown(limit); err != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(tls.NewListener(limitListener(s.https, s.service.gate), s.certs.tlsConfig("http/1.1")))
	if stop() { // nobody asked for it
		_ = server.Close()
		return fmt.Errorf("serving HTTPS: %w", err)
	}
	<-drained
	return nil
}

// Close releases listeners and store. Run does it too; it is for a Server that
// is not run. It may be called more than once.
func (s *Server) Close() error {
	var errs []error
	s.closeOnce.Do(func() {
		if s.stop != nil {
			s.stop()
			s.service.group.Wait()
			s.service.webhook.closeIdle()
		}
		for _, listener := range []net.Listener{s.https, s.mqtt, s.admin} {
			if listener == nil {
				continue
			}
			if err := listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
		if s.store != nil {
			errs = append(errs, s.store.Close())
		}
	})
	return errors.Join(errs...)
}

// HTTPSAddr is the address of the HTTPS listener, host:port.
func (s *Server) HTTPSAddr() string { return s.https.Addr().String() }

// MQTTAddr is the address of the MQTT listener, host:port.
func (s *Server) MQTTAddr() string { return s.mqtt.Addr().String() }

// AdminAddr is the address of the admin port, host:port, or "" without one.
func (s *Server) AdminAddr() string {
	if s.admin == nil {
		return ""
	}
	return s.admin.Addr().String()
}

// CAFile is the path of the CA certificate that clients must trust.
func (s *Server) CAFile() string { return s.certs.path(caCertFile) }

// CAPEM is the content of CAFile.
func (s *Server) CAPEM() []byte { return s.certs.caPEM }

// IDScope is the ID scope that devices must name.
func (s *Server) IDScope() string { return s.config.IDScope }

// GroupKeys returns the keys of an enrollment group, base64, generated ones included.
func (s *Server) GroupKeys(enrollmentGroupID string) (primary, secondary string, err error) {
	group, ok := s.service.enrollments.find(Group, enrollmentGroupID)
	if !ok {
		return "", "", fmt.Errorf("enrollment group %q: %w", enrollmentGroupID, ErrNotFound)
	}
	return string(group.PrimaryKey), string(group.SecondaryKey), nil
}

// SetGroup makes an enrollment group or replaces it. Keys that are not given
// stay as stored, or are generated. The change takes effect with the next
// registration; nothing moves by itself.
func (s *Server) SetGroup(g EnrollmentGroup) error {
	return s.service.setEnrollment(g.entry(), s.config.Hubs)
}

// Operations returns the operations of a registration of the last day, oldest
// first, so that a test can see whether one was begun while another ran.
func (s *Server) Operations(registrationID string) []Operation {
	operations, err := s.store.Operations(context.Background(), registrationID)
	if err != nil {
		s.logger.Error("reading operations", "registration_id", registrationID, "err", err)
	}
	return operations
}

// Twin returns the twin of a device on a hub, and whether there is one.
func (s *Server) Twin(hub, deviceID string) (Twin, bool) {
	device, err := s.store.Device(context.Background(), hub, deviceID)
	if err != nil && !errors.Is(err, ErrNotFound) {
		s.logger.Error("reading a twin", "hub", hub, "device_id", deviceID, "err", err)
	}
	return device.Twin, err == nil
}

// SetDesired is an operator's hand: it merges a patch into the desired
// properties of a device, where null removes a member, and tells the device if
// it is connected.
func (s *Server) SetDesired(hub, deviceID string, patch map[string]json.RawMessage) error {
	return s.service.hubs.setDesired(context.Background(), hub, deviceID, patch)
}

// DeleteDevice removes a device identity from a hub and closes its connection,
// so that the hub refuses the device until it registers again.
func (s *Server) DeleteDevice(hub, deviceID string) error {
	return s.service.hubs.deleteDevice(context.Background(), hub, deviceID)
}
