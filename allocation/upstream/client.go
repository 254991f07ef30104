// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/contoso/gatewayd/allocation"
)

// Bounds of [Config.Timeout].
const (
	DefaultTimeout = 5 * time.Second
	MinTimeout     = 100 * time.Millisecond
	MaxTimeout     = allocation.UpstreamTime
)

// Limits of one exchange.
const (
	maxAnswer      = 64 << 10 // bytes; what the service itself may take is not documented (dps-protocol 12.3)
	maxHeaders     = 64 << 10 // bytes of an answer, in front of its body
	maxConnections = 64       // to the function; a gateway has few descriptors (see the unit file)
	idleTimeout    = 30 * time.Second
)

// What passes by itself gets two more tries, soon after.
const (
	tries   = 3
	minWait = 100 * time.Millisecond
	maxWait = 400 * time.Millisecond
)

// Config is what a [Client] needs to know.
type Config struct {
	// URL is the function's address, such as
	// https://contoso-function-app-1098.azurewebsites.net/api/HttpTrigger1, without
	// a key; see [CheckURL]. Required.
	URL string

	// Key is shown in the header x-functions-key; the zero Key shows none.
	Key Key

	// Timeout bounds one question with all its tries. Zero uses DefaultTimeout.
	Timeout time.Duration

	// RootCAs are the roots that the function's certificate must lead to; nil uses
	// the system's.
	RootCAs *x509.CertPool

	// DialContext makes TCP connections, to a proxy too; nil uses a [net.Dialer].
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	// Proxy returns the HTTP proxy for a request, or nil to reach the function
	// directly. Nil uses the environment: HTTPS_PROXY and NO_PROXY.
	Proxy func(*http.Request) (*url.URL, error)
}

// Client asks a cloud function. It implements [allocation.Upstream] and is used
// from any number of goroutines.
type Client struct {
	address string
	key     Key
	timeout time.Duration
	pool    *http.Transport
}

var _ allocation.Upstream = (*Client)(nil)

// New makes a client. It checks the configuration and sends nothing.
func New(cfg Config) (*Client, error) {
	if err := CheckURL(cfg.URL); err != nil {
		return nil, err
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Timeout < MinTimeout || cfg.Timeout > MaxTimeout {
		return nil, fmt.Errorf("a timeout of %v is not between %v and %v", cfg.Timeout, MinTimeout, MaxTimeout)
	}
	if cfg.Proxy == nil {
		cfg.Proxy = http.ProxyFromEnvironment
	}
	if cfg.DialContext == nil {
		// A dial goes on after its request has run out of time, for the next one.
		cfg.DialContext = (&net.Dialer{Timeout: cfg.Timeout}).DialContext
	}
	// HTTP/1.1 alone: there a request that ran out of time takes its connection
	// along, while HTTP/2 would send the next one over the same dead connection.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &Client{
		address: cfg.URL,
		key:     cfg.Key,
		timeout: cfg.Timeout,
		pool: &http.Transport{
			Proxy:                  cfg.Proxy,
			DialContext:            cfg.DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    cfg.Timeout,
			Protocols:              &protocols,
			MaxConnsPerHost:        maxConnections,
			MaxIdleConnsPerHost:    maxConnections,
			IdleConnTimeout:        idleTimeout,
			MaxResponseHeaderBytes: maxHeaders,
			DisableCompression:     true, // answers are small, and bounded as they come
		},
	}, nil
}

// CheckURL tells whether text can be the address of a function: https, or http on
// this machine; no user name, and no key in the query, because addresses end up
// in logs. The error does not show the query.
func CheckURL(text string) error {
	address, err := url.Parse(text)
	if err != nil || address.Host == "" || address.Hostname() == "" {
		return errors.New("this is no URL of a function, such as https://contoso-function-app-1098.azurewebsites.net/api/HttpTrigger1")
	}
	switch {
	case address.User != nil:
		return errors.New("the URL holds a user name or password, which would end up in logs; functions are shown a key: give it by upstream_key, or gatewayctl's --key-file")
	case hasKey(address):
		return errors.New("the URL holds a function key (code=), which would end up in logs: put the key into a file of its own, name that (upstream_key, or gatewayctl's --key-file), and remove it here")
	case address.Fragment != "":
		return errors.New("the URL has a fragment (#), which is never sent")
	case address.Scheme == "http" && !isLoopback(address.Hostname()):
		return fmt.Errorf("http://%s would send the function key and the appliance's identity in clear text; use https", address.Host)
	case address.Scheme != "http" && address.Scheme != "https":
		return fmt.Errorf("the scheme is %q; use https", address.Scheme)
	}
	return nil
}

// hasKey looks for ?code= in any spelling. A query that cannot be read counts as
// one with a key.
func hasKey(address *url.URL) bool {
	query, err := url.ParseQuery(address.RawQuery)
	if err != nil {
		return true
	}
	for name := range query {
		if strings.EqualFold(name, "code") {
			return true
		}
	}
	return false
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Close closes the connections that no request uses. Requests under way are
// finished.
func (c *Client) Close() { c.pool.CloseIdleConnections() }

// Ask posts body to the function and tells what its answer means, as
// [allocation.Upstream] has it and the package's documentation lists it. When ctx
// is cancelled because the caller went away, it returns the error of ctx.
func (c *Client) Ask(ctx context.Context, body []byte) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	budget := c.budget(ctx)
	asking, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	response, err := c.askOften(asking, body)
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, ctx.Err() // which says nothing of the function
	}
	if away, ok := errors.AsType[*allocation.UnavailableError](err); ok && budget < c.timeout {
		away.Slow = false // it had less time than it is given
	}
	return response, err
}

// askOften tries until there is an answer, or more tries are of no use.
func (c *Client) askOften(ctx context.Context, body []byte) ([]byte, error) {
	for try := 1; ; try++ {
		response, err := c.try(ctx, body)
		hiccup, ok := errors.AsType[*hiccupError](err)
		if !ok {
			return response, err
		}
		if try == tries || !pause(ctx, hiccup.RetryAfter) {
			return nil, &hiccup.UnavailableError
		}
	}
}

// hiccupError is an unavailability that may be over at the next try.
type hiccupError struct{ allocation.UnavailableError }

// budget is how long a question may take: two thirds of what ctx has left at the
// most, so that something remains for the policy.
func (c *Client) budget(ctx context.Context) time.Duration {
	deadline, limited := ctx.Deadline()
	if !limited {
		return c.timeout
	}
	return min(c.timeout, time.Until(deadline)*2/3)
}

// pause waits before the next try. It returns false at once when the wait would
// take more than half of the time that is left: the answer needs some too.
func pause(ctx context.Context, hint time.Duration) bool {
	wait := max(minWait+rand.N(maxWait-minWait), hint)
	deadline, _ := ctx.Deadline()
	if wait > time.Until(deadline)/2 {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// try posts body once.
func (c *Client) try(ctx context.Context, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.address, bytes.NewReader(body))
	if err != nil {
		return nil, withoutURL(err)
	}
	// No Accept: the tutorial's function answers a refusal as plain text unless it
	// is asked for JSON, and would put quotes around it then.
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	request.Header.Set("User-Agent", "gatewayd")
	if c.key.text != nil {
		request.Header.Set("X-Functions-Key", *c.key.text)
	}
	// RoundTrip follows no redirect: the key and the appliance's identity go to the
	// configured address and nowhere else.
	response, err := c.pool.RoundTrip(request)
	if err != nil {
		return nil, c.noAnswer(ctx, err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return nil, c.noAnswer(ctx, fmt.Errorf("reading the answer: %w", err))
	}
	return c.meaning(response, text)
}

// noAnswer is an exchange that did not come to its end.
func (c *Client) noAnswer(ctx context.Context, err error) error {
	// Other connections may be as dead as this one, after a change of the network.
	c.pool.CloseIdleConnections()
	if ctx.Err() != nil {
		return &allocation.UnavailableError{Reason: "no answer in time", Slow: true}
	}
	away := allocation.UnavailableError{Reason: shorten(c.plain(withoutURL(err).Error()), maxTrouble)}
	if isHiccup(err) {
		return &hiccupError{away}
	}
	return &away
}

// isHiccup tells whether another try may help: not with a certificate that does
// not fit, and not with something that does not speak TLS.
func isHiccup(err error) bool {
	_, certificate := errors.AsType[*tls.CertificateVerificationError](err)
	_, record := errors.AsType[tls.RecordHeaderError](err)
	return !certificate && !record
}

// withoutURL drops the URL that net/http puts around its errors.
func withoutURL(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}
