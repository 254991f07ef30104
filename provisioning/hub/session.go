// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc"
	"github.com/contoso/gatewayd/provisioning/internal/netdial"
)

// The hub's topics (dps-protocol 18.2).
const (
	answerFilter  = "$iothub/twin/res/#"
	desiredFilter = "$iothub/twin/PATCH/properties/desired/#"
	desiredPrefix = "$iothub/twin/PATCH/properties/desired/"
	twinTopic     = "$iothub/twin/GET/"
	reportTopic   = "$iothub/twin/PATCH/properties/reported/"
)

const (
	apiVersion  = "2021-04-12"
	clientType  = "gatewayd"
	mqttPort    = "8883"
	httpsPort   = "443"             // MQTT over WebSocket
	keepAlive   = 240 * time.Second // below the five minutes after which home routers forget a connection
	callTimeout = 30 * time.Second
	connectTime = 60 * time.Second // dial, TLS, login and subscriptions together

	// pushesKept is how many desired changes wait for their reader. Beyond it the oldest goes, which the reader
	// notices by the gap in versions.
	pushesKept = 16

	maxReport  = 32 << 10       // of the reported properties (dps-protocol 18.4)
	longestAsk = 24 * time.Hour // no hint means more
)

// Config says which hub to connect to, and as which device.
type Config struct {
	// Host is the hub's host name, as the assignment gave it. Required.
	Host string

	// Address overrides where to dial, as host:port; "" dials Host on port 8883, or 443 with WebSocket. The TLS name stays
	// Host: this is for local hubs that no name server knows.
	Address string

	// WebSocket carries the session over WebSocket, for sites that let only port 443 out.
	WebSocket bool

	// DeviceID is the device's name at the hub, as the assignment gave it; its case counts. Required.
	DeviceID string

	// Token returns a fresh SAS token, as text, for the hub's resource of this device. It is asked once for each
	// connection. Required without a Certificate.
	Token func(now time.Time) (string, error)

	// Certificate returns the device's client certificate with its chain and key, for a device that registered with
	// one. It is asked once for each connection. Required without a Token.
	Certificate func() (*tls.Certificate, error)

	// Now is the clock that certificates are checked by and that Token is given; nil uses the system's.
	Now func() time.Time

	// RootCAs are the roots that the hub's certificate must lead to; nil uses the system's.
	RootCAs *x509.CertPool

	// DialContext makes the TCP connection, to a proxy too; nil uses a [net.Dialer], which tries both address families.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	// Proxy returns the HTTP proxy through which an address, given as https://host:port, is reached, or nil to reach it
	// directly. Nil uses the environment: HTTPS_PROXY and NO_PROXY, or their lower-case spellings.
	Proxy func(*url.URL) (*url.URL, error)

	// Logger gets what cannot be returned: a push that makes no sense. Nil discards.
	Logger *slog.Logger
}

// Session is a device's connection to its hub. Its methods may be called from several goroutines.
type Session struct {
	conn    *mqttrpc.Conn
	log     *slog.Logger
	desired chan Properties
	done    chan struct{} // closed after err is set
	err     error
	ended   sync.WaitGroup
}

// Connect opens a session within ctx: it dials, logs in and subscribes to answers and to desired changes. A hub that
// does not accept the device is a *[RefusedError], one that takes no connections just now a *[BusyError]; anything else
// is the network's or TLS's error, wrapped.
func Connect(ctx context.Context, cfg Config) (*Session, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s := &Session{
		log:     cfg.Logger,
		desired: make(chan Properties, pushesKept),
		done:    make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.log = s.log.With("hub", cfg.Host)

	now := cfg.Now
	if now == nil {
		now = time.Now
	}
	// A hub that takes the connection and says nothing must not hold its caller for ever.
	connecting, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	conn, err := mqttrpc.Connect(connecting, mqttrpc.Config{
		Address:     cfg.address(),
		WebSocket:   cfg.WebSocket,
		TLS:         cfg.secure(now),
		DialContext: netdial.New(netdial.Config{Dial: cfg.DialContext, Proxy: cfg.Proxy, RootCAs: cfg.RootCAs, Now: now}).DialContext,
		ClientID:    cfg.DeviceID,
		Username:    cfg.Host + "/" + cfg.DeviceID + "/?api-version=" + apiVersion + "&DeviceClientType=" + clientType,
		Password:    cfg.password(now),
		KeepAlive:   keepAlive,
		Filters:     []string{answerFilter, desiredFilter}, // before the first GET, or its answer is lost
		Push:        s.receive,
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to hub %s: %w", cfg.Host, translate(err))
	}
	s.conn = conn
	s.ended.Go(func() {
		<-conn.Done()
		s.err = translate(conn.Err())
		close(s.done)
	})
	return s, nil
}

// address is where to dial.
func (cfg Config) address() string {
	switch {
	case cfg.Address != "":
		return cfg.Address
	case cfg.WebSocket:
		return net.JoinHostPort(cfg.Host, httpsPort)
	default:
		return net.JoinHostPort(cfg.Host, mqttPort)
	}
}

func (cfg Config) check() error {
	switch {
	case cfg.Host == "" || strings.ContainsAny(cfg.Host, "/?#&+ "):
		return fmt.Errorf("hub: %q is no host name of a hub", cfg.Host)
	case cfg.DeviceID == "" || strings.ContainsAny(cfg.DeviceID, "/#+ "):
		return fmt.Errorf("hub: %q is no device ID", cfg.DeviceID)
	case (cfg.Token == nil) == (cfg.Certificate == nil):
		return errors.New("hub: give a token function or a certificate, and not both")
	}
	return nil
}

// secure is how TLS connects. A certificate is shown whatever the hub says of the issuers that it accepts.
func (cfg Config) secure(now func() time.Time) *tls.Config {
	secure := &tls.Config{ServerName: cfg.Host, RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12, Time: now}
	if cfg.Certificate != nil {
		secure.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cfg.Certificate() }
	}
	return secure
}

// password makes the connection's token; nil with a certificate, which goes without one.
func (cfg Config) password(now func() time.Time) func() (string, error) {
	if cfg.Token == nil {
		return nil
	}
	return func() (string, error) { return cfg.Token(now()) }
}

// Twin reads both halves of the twin. An error status of the hub is a *[TwinError].
func (s *Session) Twin(ctx context.Context) (Twin, error) {
	answer, err := s.call(ctx, twinTopic, nil)
	if err != nil {
		return Twin{}, fmt.Errorf("reading the twin: %w", err)
	}
	twin, err := parseTwin(answer.Body)
	if err != nil {
		return Twin{}, fmt.Errorf("reading the twin: %w", err)
	}
	return twin, nil
}

// Report merges patch into the reported properties; a value of null deletes its property. It returns the version of
// the reported properties after that, 0 if the hub did not name it. An error status of the hub is a *[TwinError].
func (s *Session) Report(ctx context.Context, patch map[string]json.RawMessage) (version int64, err error) {
	body, err := json.Marshal(patch)
	if err != nil {
		return 0, fmt.Errorf("reporting properties: %w", err)
	}
	if len(patch) == 0 || len(body) > maxReport {
		return 0, fmt.Errorf("reporting properties: a report of %d properties and %d bytes cannot be sent; the limit is %d bytes", len(patch), len(body), maxReport)
	}
	answer, err := s.call(ctx, reportTopic, body)
	if err != nil {
		return 0, fmt.Errorf("reporting properties: %w", err)
	}
	version, _ = strconv.ParseInt(answer.Params["$version"], 10, 64)
	return version, nil
}

// call makes one twin operation.
func (s *Session) call(ctx context.Context, topic string, body []byte) (mqttrpc.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := s.conn.Call(ctx, topic, "", body)
	if err != nil {
		return mqttrpc.Response{}, translate(err)
	}
	if answer.Status < 200 || answer.Status > 299 {
		return mqttrpc.Response{}, &TwinError{Status: answer.Status, RetryAfter: retryAfter(answer.Params["retry-after"])}
	}
	return answer, nil
}

// retryAfter reads a hint in whole seconds, the only form a hub uses.
func retryAfter(text string) time.Duration {
	seconds, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, longestAsk)
}

// Desired carries the changes of the desired properties, in the hub's order. Its owner merges them over the twin that
// it read, ignores versions that it has, and reads the twin again when a version is missing: the hub drops changes
// while there is no session, and the session drops the oldest of more than 16 that nobody took. The channel is not
// closed at the end of the session; wait for [Session.Done] too.
func (s *Session) Desired() <-chan Properties { return s.desired }

// receive takes a pushed change. It runs on the reading path, alone, and never blocks.
func (s *Session) receive(topic string, _ map[string]string, body []byte) {
	if !strings.HasPrefix(topic, desiredPrefix) {
		return
	}
	change, err := parseDesired(body)
	if err != nil {
		s.log.Warn("the hub pushed desired properties that cannot be read", "err", err)
		return
	}
	for {
		select {
		case s.desired <- change:
			return
		default:
		}
		select {
		case <-s.desired: // make room; the newest tells the reader what it missed
		default:
		}
	}
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns why the session ended: it wraps [ErrLost] or is [ErrClosed]. Before that it is nil.
func (s *Session) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Close ends the session politely, within a quarter of a second. It may be called more than once.
func (s *Session) Close() {
	s.conn.Close()
	s.ended.Wait()
}
