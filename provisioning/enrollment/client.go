// SPDX-License-Identifier: Apache-2.0

package enrollment

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// apiVersion is the wire contract (dps-protocol 17).
const apiVersion = "2021-10-01"

// Limits of one exchange.
const (
	answerTimeout    = 60 * time.Second // from the first byte sent to the last one read
	handshakeTimeout = 10 * time.Second
	maxBody          = 1 << 20  // of an answer about one entry
	maxPage          = 16 << 20 // of a page, 100 entries of the greatest size
	maxHeader        = 64 << 10
)

// ErrConfig is wrapped by every complaint of [New].
var ErrConfig = errors.New("no usable settings")

// Config says which service to talk to and how to reach it.
type Config struct {
	// ConnectionString names the service and the policy. Required.
	ConnectionString ConnectionString

	// Address is the host:port to connect to instead of port 443 of the host of
	// the connection string, for a local service. The certificate must be good for
	// the host of the connection string all the same.
	Address string

	// RootCAs are trusted instead of the system's, unless nil.
	RootCAs *x509.CertPool

	// UserAgent is sent with every request; default "gatewayd".
	UserAgent string
}

// Client talks to one service. It is safe for concurrent use.
type Client struct {
	policy ConnectionString
	agent  string
	pool   *http.Transport
	http   *http.Client
}

// New makes a client. It sends nothing; an error wraps [ErrConfig].
func New(cfg Config) (*Client, error) {
	if !isHostName(cfg.ConnectionString.HostName) || cfg.ConnectionString.Policy == "" || cfg.ConnectionString.Key.IsZero() {
		return nil, fmt.Errorf("%w: the connection string needs a host, a policy and its key", ErrConfig)
	}
	pool := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		ForceAttemptHTTP2:      true,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.RootCAs},
		TLSHandshakeTimeout:    handshakeTimeout,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true, // answers are bounded as they come
	}
	if cfg.Address != "" {
		host, port, err := net.SplitHostPort(cfg.Address)
		if number, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || bad != nil || number == 0 {
			return nil, fmt.Errorf("%w: the address %q is not a host:port", ErrConfig, cfg.Address)
		}
		pool.Proxy = nil // the address says already where to go
		pool.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, network, cfg.Address)
		}
	}
	return &Client{
		policy: cfg.ConnectionString,
		agent:  cmp.Or(cfg.UserAgent, "gatewayd"),
		pool:   pool,
		http: &http.Client{
			Transport: pool,
			Timeout:   answerTimeout,
			// A redirect would carry the token elsewhere; the service sends none.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.pool.CloseIdleConnections() }

// HostName names the service, for messages.
func (c *Client) HostName() string { return c.policy.HostName }

// request is one call of the API.
type request struct {
	method       string
	path         string // escaped, without the query
	ifMatch      string // an etag with or without its quotes, AnyETag, or "" for no condition
	body         []byte // JSON, or nil
	pageSize     int    // of a query; 0 leaves it to the service
	continuation string // of the pages after the first
}

// answer is a success.
type answer struct {
	header http.Header
	body   []byte
}

// exchange sends a request once and reads its answer. An answer of an error is a
// *ServiceError, or wraps ErrNotService.
func (c *Client) exchange(ctx context.Context, r request) (answer, error) {
	var body io.Reader // nil, and not a nil *bytes.Reader, for none
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	address := "https://" + c.policy.HostName + r.path + "?api-version=" + apiVersion
	sent, err := http.NewRequestWithContext(ctx, r.method, address, body)
	if err != nil {
		return answer{}, withoutURL(err)
	}
	sent.Header.Set("Authorization", c.policy.token(time.Now().Add(tokenLifetime)))
	sent.Header.Set("User-Agent", c.agent)
	sent.Header.Set("Accept", "application/json")
	if r.body != nil {
		sent.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	if r.ifMatch != "" {
		sent.Header.Set("If-Match", quoted(r.ifMatch))
	}
	if r.pageSize > 0 {
		sent.Header.Set("X-Ms-Max-Item-Count", strconv.Itoa(r.pageSize))
	}
	if r.continuation != "" {
		sent.Header.Set("X-Ms-Continuation", r.continuation)
	}

	response, err := c.http.Do(sent)
	if err != nil {
		return answer{}, withoutURL(err)
	}
	defer response.Body.Close()
	most := int64(maxBody)
	if strings.HasSuffix(r.path, "/query") {
		most = maxPage
	}
	// One byte more than allowed, so that a longer answer is noticed.
	text, err := io.ReadAll(io.LimitReader(response.Body, most+1))
	switch {
	case err != nil:
		return answer{}, fmt.Errorf("reading the answer: %w", withoutURL(err))
	case int64(len(text)) > most:
		return answer{}, fmt.Errorf("%w: it is longer than %d MiB", ErrNotService, most>>20)
	case response.StatusCode < 200 || response.StatusCode > 299:
		return answer{}, serviceError(response.StatusCode, response.Header, text)
	}
	return answer{header: response.Header, body: text}, nil
}

// list reads the elements of all pages of a query (dps-protocol 17.2).
func list[Element any](ctx context.Context, c *Client, r request, pageSize int) iter.Seq2[Element, error] {
	return func(yield func(Element, error) bool) {
		var none Element
		r.pageSize = pageSize
		for {
			page, err := c.exchange(ctx, r)
			if err != nil {
				yield(none, err)
				return
			}
			var elements []Element
			if err := decode(page.body, &elements); err != nil {
				yield(none, err)
				return
			}
			for _, element := range elements {
				if !yield(element, nil) {
					return
				}
			}
			next := page.header.Get("X-Ms-Continuation")
			switch {
			case next == "":
				return
			case next == r.continuation || len(next) > maxToken:
				yield(none, fmt.Errorf("%w: its pages do not end", ErrNotService))
				return
			}
			r.continuation = next
		}
	}
}

// decode reads one JSON document and nothing after it. A document of another
// shape is not the service's.
func decode(body []byte, into any) error {
	if text := bytes.TrimSpace(body); len(text) == 0 || text[0] != '{' && text[0] != '[' {
		return fmt.Errorf("%w: it is not JSON", ErrNotService) // "null" would be read as anything
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%w: %s", ErrNotService, printable(err.Error(), maxMessage))
	}
	return nil
}

// quoted puts an etag into the quotes that If-Match wants, unless it has them.
func quoted(etag string) string {
	if etag == AnyETag || strings.HasPrefix(etag, `"`) {
		return etag
	}
	return `"` + etag + `"`
}

// withoutURL drops the URL that net/http puts around its errors: the message
// names the entry already.
func withoutURL(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}
