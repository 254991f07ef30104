// SPDX-License-Identifier: Apache-2.0

package netdial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	connectTimeout = 15 * time.Second // TCP, all addresses of a name together: a silent firewall takes all of it
	tunnelTimeout  = 20 * time.Second // TLS to the proxy, and its answer, for which it connects itself
)

// Config says how to connect. The zero value connects directly, or through the proxy that the environment names.
type Config struct {
	// Dial makes TCP connections, to the proxy too; nil uses a [net.Dialer], which tries both address families.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Proxy returns the proxy for an address, given as https://host:port, or nil to connect directly; nil asks
	// [FromEnvironment].
	Proxy func(*url.URL) (*url.URL, error)

	// RootCAs are the roots that the certificate of an https:// proxy must lead to; nil uses the system's.
	RootCAs *x509.CertPool

	// Now is what that certificate is checked by; nil uses the system's clock.
	Now func() time.Time
}

// Dialer makes connections. It may be used from any number of goroutines.
type Dialer struct{ cfg Config }

// New makes a dialer. It reads the environment now, and not again.
func New(cfg Config) *Dialer {
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Proxy == nil {
		cfg.Proxy = FromEnvironment()
	}
	return &Dialer{cfg: cfg}
}

// DialContext connects to an address, such as "dps.example:443". A proxy that cannot be used is a *[ProxyError]; any
// other error is that of Dial.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	proxy, err := d.cfg.Proxy(&url.URL{Scheme: "https", Host: address})
	switch {
	case err != nil:
		return nil, &ProxyError{Cause: err}
	case proxy == nil:
		return d.connect(ctx, network, address)
	case !usable(proxy):
		return nil, &ProxyError{Proxy: hostPort(proxy), Cause: errors.New("a proxy must be http://host:port or https://host:port")}
	}
	conn, status, err := d.tunnel(ctx, network, proxy, address)
	if err != nil {
		return nil, &ProxyError{Proxy: hostPort(proxy), Status: status, Cause: err}
	}
	return conn, nil
}

// connect makes a TCP connection in a time that leaves some for trying another way.
func (d *Dialer) connect(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return d.cfg.Dial(ctx, network, address)
}

// ProxyError says that the site's proxy did not connect us.
type ProxyError struct {
	Proxy  string // host:port of the proxy; "" if the settings name none
	Status int    // its answer to CONNECT, such as 407 (some say 401) or 403; 0 if there was none that is HTTP
	Cause  error
}

// Error gives one line, without the proxy's user name and password.
func (e *ProxyError) Error() string {
	if e.Proxy == "" {
		return fmt.Sprintf("proxy settings: %v", e.Cause)
	}
	return fmt.Sprintf("proxy %s: %v", e.Proxy, e.Cause)
}

// Credentials tells whether the proxy wants a user name and a password, or others than it got.
func (e *ProxyError) Credentials() bool {
	// Some, tinyproxy among them, say 401 where 407 is meant.
	return e.Status == http.StatusProxyAuthRequired || e.Status == http.StatusUnauthorized
}

// Unwrap returns the cause.
func (e *ProxyError) Unwrap() error { return e.Cause }

// hostPort is where a proxy listens.
func hostPort(proxy *url.URL) string {
	port := proxy.Port()
	switch {
	case port != "":
	case proxy.Scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	return net.JoinHostPort(proxy.Hostname(), port)
}

// secure is TLS to a proxy. The device's certificate is not for it.
func (d *Dialer) secure(conn net.Conn, proxy *url.URL) *tls.Conn {
	return tls.Client(conn, &tls.Config{
		ServerName: proxy.Hostname(), RootCAs: d.cfg.RootCAs, MinVersion: tls.VersionTLS12, Time: d.cfg.Now,
	})
}

// isPlain refuses an address that would break out of the request's first line.
func isPlain(address string) bool {
	return !strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}
