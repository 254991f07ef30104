// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/contoso/gatewayd/provisioning/internal/netdial"
)

// Transport says how the service is spoken to.
type Transport string

// The transports.
const (
	TransportAuto   Transport = "auto"    // the first that works of https, mqtt-ws and mqtt, beginning where it worked before
	TransportHTTPS  Transport = "https"   // all registrations share one pool of connections
	TransportMQTT   Transport = "mqtt"    // a connection for each registration, because it carries the device's credentials
	TransportMQTTWS Transport = "mqtt-ws" // the same over WebSocket, for sites that let only port 443 out
)

// Defaults of [Config].
const (
	DefaultRegistersPerMinute = 100 // a tenth of what one service instance takes (dps-protocol 2.4)
	DefaultPollsPerSecond     = 20
	DefaultAttemptLimit       = 10 * time.Minute // the service itself may take seven (rule 6)
)

// ErrClosed is the error of a registration whose client was closed.
var ErrClosed = errors.New("the provisioning client was closed")

// Config is what a [Client] needs to know.
type Config struct {
	// Endpoint is the service's host, or host:port; the port defaults to 443, and to 8883 for MQTT without WebSocket.
	// Required.
	Endpoint string

	// IDScope names the service instance, such as "0ne00002193". Required.
	IDScope string

	// Transport is one of the constants. Required.
	//
	// With TransportAuto a registration goes from one transport to the next when one cannot connect, or when something
	// answers that is not the service. A register of which something may have been written is not sent again over another
	// (rule 12): then the attempt ends, and the next one begins elsewhere. A port in Endpoint is that of HTTPS and of
	// WebSocket; MQTT stays at 8883.
	Transport Transport

	// Prefer is where TransportAuto begins: what [Client.Worked] told an earlier run of the program. When it fails, the
	// ladder is begun from the top. Empty begins there at once.
	Prefer Transport

	// RootCAs are the roots that the service's certificate must lead to; nil uses the system's.
	RootCAs *x509.CertPool

	// DialContext makes TCP connections, to a proxy too; nil uses a [net.Dialer], which tries both address families.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	// Proxy returns the HTTP proxy through which an address, given as https://host:port, is reached over any of the
	// transports, or nil to reach it directly. A proxy is http://host:port or https://host:port, with user name and
	// password (Basic) if it wants them: http://user:password@host:port. Nil uses the environment as it is when the client
	// is made: HTTPS_PROXY and NO_PROXY, or their lower-case spellings. [NoProxy] uses none.
	Proxy func(*url.URL) (*url.URL, error)

	// RegistersPerMinute and PollsPerSecond are budgets shared by all registrations of the client, spread evenly
	// over time. Zero uses the defaults.
	RegistersPerMinute, PollsPerSecond float64

	// Budget takes the place of these two, for an owner who keeps it across restarts. Nil makes one from them.
	Budget *Budget

	// Fleet is how many devices register through this budget; rule 2 spreads their retries over Fleet / rate. Zero counts
	// as one.
	Fleet int

	// AttemptLimit bounds one registration, from its first request on. Zero uses the default.
	AttemptLimit time.Duration

	// Clock is what tokens are signed with and certificates are checked by (rule 5). Nil makes one without a floor.
	Clock *Clock

	// Logger gets retries as warnings and exchanges as debug records, never a key, token or payload. Nil discards.
	Logger *slog.Logger
}

// NoProxy is a [Config.Proxy] that uses no proxy, whatever the environment says.
func NoProxy(*url.URL) (*url.URL, error) { return nil, nil }

// Client registers devices. It is made once and used for all devices of a gateway, from any number of goroutines;
// its budgets count only if it is.
type Client struct {
	cfg     Config
	log     *slog.Logger
	pace    *pace
	agent   string // product name and version, as sent
	open    func(registrationID string, shown *credential) session
	release func()       // closes what sessions share
	ladder  *ladder      // nil but with TransportAuto
	worked  atomic.Int64 // index of the key that was accepted last

	warned sync.Map // thumbprints of certificates whose expiry was warned of, each once

	life context.Context // until Close
	end  context.CancelFunc

	mu      sync.Mutex // makes "is it closed?" and "one more is running" one step
	running sync.WaitGroup
}

// New makes a client. It checks the configuration and sends nothing; its error is a *[ConfigError].
func New(cfg Config) (*Client, error) {
	host, port, err := splitEndpoint(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	if !isPlain(cfg.IDScope, 64) {
		return nil, &ConfigError{Field: "IDScope", Problem: "the ID scope is missing or malformed; it looks like 0ne00002193"}
	}
	if err := cfg.fillIn(); err != nil {
		return nil, err
	}

	c := &Client{
		cfg:   cfg,
		log:   cfg.Logger,
		pace:  newPace(cfg.Budget),
		agent: "gatewayd/" + version(),
	}
	cfg.DialContext = netdial.New(netdial.Config{
		Dial: cfg.DialContext, Proxy: cfg.Proxy, RootCAs: cfg.RootCAs, Now: cfg.Clock.Now,
	}).DialContext
	secure := &tls.Config{ServerName: host, RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12, Time: cfg.Clock.Now}
	https := newHTTPSTransport(cfg, host, port, secure, c.agent)
	webSocket := newMQTTTransport(cfg, orPort(host, port, httpsPort), true, secure, c.agent)
	c.release = https.close
	switch cfg.Transport {
	case TransportAuto:
		mqtt := newMQTTTransport(cfg, net.JoinHostPort(host, mqttPort), false, secure, c.agent)
		c.ladder = newLadder(cfg.Prefer, c.log,
			rung{TransportHTTPS, https.session}, rung{TransportMQTTWS, webSocket.session}, rung{TransportMQTT, mqtt.session})
		c.open = c.ladder.session
	case TransportHTTPS:
		c.open = https.session
	case TransportMQTTWS:
		c.open = webSocket.session
	case TransportMQTT:
		c.open = newMQTTTransport(cfg, orPort(host, port, mqttPort), false, secure, c.agent).session
	default:
		return nil, &ConfigError{Field: "Transport", Problem: fmt.Sprintf("transport %q is unknown; use auto, https, mqtt-ws or mqtt", cfg.Transport)}
	}
	c.life, c.end = context.WithCancel(context.Background())
	return c, nil
}

// fillIn sets defaults and refuses numbers that make no sense.
func (cfg *Config) fillIn() error {
	if cfg.RegistersPerMinute == 0 {
		cfg.RegistersPerMinute = DefaultRegistersPerMinute
	}
	if cfg.PollsPerSecond == 0 {
		cfg.PollsPerSecond = DefaultPollsPerSecond
	}
	if cfg.AttemptLimit == 0 {
		cfg.AttemptLimit = DefaultAttemptLimit
	}
	if cfg.Budget == nil {
		var err error
		if cfg.Budget, err = NewBudget(cfg.RegistersPerMinute, cfg.PollsPerSecond, BudgetState{}); err != nil {
			return err
		}
	}
	if cfg.Fleet < 0 {
		return &ConfigError{Field: "Fleet", Problem: "a fleet below zero makes no sense"}
	}
	if cfg.AttemptLimit < 0 {
		return &ConfigError{Field: "AttemptLimit", Problem: "an attempt limit below zero makes no sense"}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = NewClock(time.Time{}, cfg.Logger)
	}
	return nil
}

// orPort joins a host with its port, or with the usual one.
func orPort(host, port, usual string) string {
	if port == "" {
		port = usual
	}
	return net.JoinHostPort(host, port)
}

// splitEndpoint takes "host" or "host:port"; port is "" for the former.
func splitEndpoint(endpoint string) (host, port string, err error) {
	host = endpoint
	if split, number, err := net.SplitHostPort(endpoint); err == nil {
		host, port = split, number
	} else if strings.HasPrefix(endpoint, "[") && strings.HasSuffix(endpoint, "]") { // an IPv6 address as URLs have it
		host = endpoint[1 : len(endpoint)-1]
	}
	_, badPort := strconv.ParseUint(port, 10, 16)
	if port != "" && badPort != nil || !isHostName(host) && net.ParseIP(host) == nil {
		return "", "", &ConfigError{
			Field:   "Endpoint",
			Problem: fmt.Sprintf("endpoint %q is neither host nor host:port, such as global.azure-devices-provisioning.net", endpoint),
		}
	}
	return host, port, nil
}

// version is the running program's, as its build recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

// Register runs one registration to its end: it submits, polls and returns the assignment. It blocks for as long as
// the service needs, up to the configured limit and the wait for its turn, and keeps to the rules of the
// package comment. Ending ctx abandons the attempt; what the service has begun goes on there.
//
// The error wraps one of these, to be looked for in this order: a *[ThrottledError], an *[UnreachableError], a
// *[FailedError], a *[CredentialError] (a 401), a *[ServiceError] (a refusal, below 429), [ErrRegistrationID],
// [ErrKey], [ErrCertificate], [ErrRequest], ctx's error, [ErrClosed], or the error of Observe. [Verdict] says what each means to a person.
func (c *Client) Register(ctx context.Context, r Request) (Assignment, error) {
	assignment, err := c.register(ctx, r)
	if err != nil {
		return Assignment{}, fmt.Errorf("registering %q: %w", printable(r.RegistrationID, maxRegistrationID), err)
	}
	return assignment, nil
}

func (c *Client) register(ctx context.Context, r Request) (Assignment, error) {
	if err := r.check(); err != nil {
		return Assignment{}, err
	}
	body, err := registerBody(r)
	if err != nil {
		return Assignment{}, err
	}
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return Assignment{}, err
	}
	defer end()

	shown := newCredential(c.cfg, r)
	if err := shown.check(r.RegistrationID); err != nil {
		return Assignment{}, err
	}
	c.warnOfExpiry(shown)
	a := &attempt{
		request:    r,
		body:       body,
		credential: shown,
		tried:      make(map[string]*remedies),
		worked:     &c.worked,
		session:    c.open(r.RegistrationID, shown),
		pace:       c.pace,
		limit:      c.cfg.AttemptLimit,
		spread:     fleetSpread(c.cfg.Fleet, c.pace.perMinute()),
		log:        c.log.With("registration_id", r.RegistrationID),
	}
	defer a.session.close()
	return a.run(ctx)
}

// warnOfExpiry says once for each certificate that it is about to run out, or an issuer of it.
func (c *Client) warnOfExpiry(shown *credential) {
	if shown.certificate == nil {
		return
	}
	warning := shown.certificate.Warning(shown.clock.Now())
	if warning == "" {
		return
	}
	if _, said := c.warned.LoadOrStore(shown.certificate.Thumbprint(), true); !said {
		c.log.Warn(warning, "common_name", shown.certificate.CommonName(), "not_after", shown.certificate.NotAfter())
	}
}

// begin notes that a registration runs and ties it to the client's life.
func (c *Client) begin(ctx context.Context) (_ context.Context, end func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life.Err() != nil {
		return nil, nil, ErrClosed
	}
	c.running.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	untie := context.AfterFunc(c.life, func() { cancel(ErrClosed) })
	return ctx, func() {
		untie()
		cancel(nil)
		c.running.Done()
	}, nil
}

// Worked is the transport over which the service answered last, to be kept for [Config.Prefer], with which it begins; ""
// while it has not, or since it failed there. With another transport than TransportAuto it is that one.
func (c *Client) Worked() Transport {
	if c.ladder == nil {
		return c.cfg.Transport
	}
	return c.ladder.known()
}

// Close ends all registrations that are running with [ErrClosed], waits for them, and closes the connections. It
// may be called more than once, but not from Observe, which it would wait for.
func (c *Client) Close() {
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
	c.running.Wait()
	c.release()
}
