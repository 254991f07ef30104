// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// Limits of one HTTPS exchange.
const (
	answerTimeout    = 30 * time.Second // as long as Azure's clients wait for an answer
	handshakeTimeout = 10 * time.Second
	idleTimeout      = 90 * time.Second
	maxConnections   = 64       // to the service, for all devices together
	maxHeaders       = 64 << 10 // bytes of an answer, in front of its body
)

// Transport hiccups get two more tries, soon after.
const (
	hiccupTries   = 2
	hiccupWaitMin = 100 * time.Millisecond
	hiccupWaitMax = 500 * time.Millisecond
)

// httpsTransport is what all HTTPS sessions share: one pool of connections, because a SAS token authenticates the
// request and not the connection (rule 12).
type httpsTransport struct {
	base   string // scheme, host and ID scope
	agent  string
	pool   *http.Transport
	client *retryablehttp.Client
}

func newHTTPSTransport(cfg Config, host, port string, secure *tls.Config, agent string) *httpsTransport {
	authority := strings.TrimSuffix(net.JoinHostPort(host, port), ":") // with an IPv6 address in brackets
	pool := &http.Transport{
		DialContext:            cfg.DialContext,
		TLSClientConfig:        secure,
		TLSHandshakeTimeout:    handshakeTimeout,
		ResponseHeaderTimeout:  answerTimeout,
		MaxConnsPerHost:        maxConnections,
		MaxIdleConnsPerHost:    maxConnections,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeaders,
		DisableCompression:     true, // answers are small, and bounded as they come
	}
	return &httpsTransport{
		base:   "https://" + authority + "/" + url.PathEscape(cfg.IDScope) + "/registrations/",
		agent:  agent,
		pool:   pool,
		client: retryingClient(pool),
	}
}

// retryingClient sends over a pool. Of go-retryablehttp's retrying only the loop is left: what is a hiccup, how long to
// wait and what the caller gets are ours.
func retryingClient(pool *http.Transport) *retryablehttp.Client {
	client := retryablehttp.NewClient()
	client.HTTPClient = &http.Client{
		Transport:     unclosable{pool},
		Timeout:       answerTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	client.Logger = nil // it would log every failed try as an error that a person must see to
	client.RetryMax = hiccupTries
	client.CheckRetry = checkHiccup
	client.Backoff = func(time.Duration, time.Duration, int, *http.Response) time.Duration { return hiccupDelay() }
	client.ErrorHandler = func(resp *http.Response, err error, _ int) (*http.Response, error) { return resp, err }
	return client
}

// unclosable hides the pool's CloseIdleConnections, which go-retryablehttp calls after every failed request: one
// device's failure would cost all others their connections (rule 12).
type unclosable struct{ pool *http.Transport }

// RoundTrip implements [http.RoundTripper].
func (u unclosable) RoundTrip(request *http.Request) (*http.Response, error) {
	return u.pool.RoundTrip(request)
}

func (t *httpsTransport) close() { t.pool.CloseIdleConnections() }

func (t *httpsTransport) session(registrationID string, shown *credential) session {
	s := &httpsSession{
		transport:  t,
		url:        t.base + url.PathEscape(registrationID),
		credential: shown,
	}
	if shown.certificate != nil {
		s.transport = t.withCertificate(shown)
	}
	return s
}

// withCertificate is a transport with a pool of its own: a certificate authenticates the connection, which must
// not carry another device's requests (rule 12). Its user closes it.
func (t *httpsTransport) withCertificate(shown *credential) *httpsTransport {
	own := *t
	own.pool = t.pool.Clone()
	own.pool.TLSClientConfig = shown.secure(t.pool.TLSClientConfig)
	own.client = retryingClient(own.pool)
	return &own
}

// httpsSession speaks for one device.
type httpsSession struct {
	transport  *httpsTransport
	url        string // of the registration, without a query
	credential *credential
}

// connect has nothing to do: the pool connects when a request needs it.
func (s *httpsSession) connect(context.Context) (bool, error) { return false, nil }

func (s *httpsSession) canLookUp() bool { return true }

// reset has nothing to do either: each request carries a token of its own.
func (s *httpsSession) reset() {}

// close ends the connections that were made with a certificate; the shared ones stay.
func (s *httpsSession) close() {
	if s.credential.certificate != nil {
		s.transport.close()
	}
}

func (s *httpsSession) register(ctx context.Context, body []byte) (reply, error) {
	return s.exchange(ctx, http.MethodPut, s.url+"/register", body)
}

func (s *httpsSession) poll(ctx context.Context, operationID string) (reply, error) {
	return s.exchange(ctx, http.MethodGet, s.url+"/operations/"+url.PathEscape(operationID), nil)
}

func (s *httpsSession) lookup(ctx context.Context, body []byte) (reply, error) {
	return s.exchange(ctx, http.MethodPost, s.url, body)
}

// exchange sends one request with a fresh token and reads its answer.
func (s *httpsSession) exchange(ctx context.Context, method, address string, body []byte) (reply, error) {
	if method == http.MethodPut { // the others change nothing and may be sent twice
		ctx = watchWriting(ctx)
	}
	request, err := retryablehttp.NewRequestWithContext(ctx, method, address+"?api-version="+apiVersion, body)
	if err != nil {
		return reply{}, withoutURL(err)
	}
	if s.credential.certificate == nil {
		request.Header.Set("Authorization", s.credential.token().Reveal())
	}
	request.Header.Set("User-Agent", s.transport.agent)
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/json; charset=utf-8")
	}

	response, err := s.transport.client.Do(request)
	if err != nil {
		err = withoutURL(err)
		if !isWritten(ctx) {
			err = &unsentError{err}
		}
		return reply{}, err
	}
	defer func() { _ = response.Body.Close() }()
	// One byte more than allowed, so that a longer answer is noticed and not read as a shorter one.
	text, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	if err != nil {
		return reply{}, fmt.Errorf("reading the answer: %w", withoutURL(err))
	}
	date, _ := http.ParseTime(response.Header.Get("Date"))
	return reply{
		status:     response.StatusCode,
		retryAfter: response.Header.Get("Retry-After"),
		at:         time.Now(),
		date:       date,
		body:       text,
		marked:     response.Header.Get("X-Ms-Request-Id") != "" || response.Header.Get("X-Ms-Error-Code") != "",
	}, nil
}

// writtenKey finds the flag of [watchWriting] in a context.
type writtenKey struct{}

// watchWriting makes ctx remember whether anything of the request was written.
func watchWriting(ctx context.Context) context.Context {
	written := new(atomic.Bool)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaderField: func(string, []string) { written.Store(true) },
	})
	return context.WithValue(ctx, writtenKey{}, written)
}

// isWritten tells whether something was, as far as anybody watches.
func isWritten(ctx context.Context) bool {
	written, watched := ctx.Value(writtenKey{}).(*atomic.Bool)
	return watched && written.Load()
}

// unsentError is why a request was not sent: nothing of it was written, or sending it again does no harm.
type unsentError struct{ err error }

func (e *unsentError) Error() string { return e.err.Error() }
func (e *unsentError) Unwrap() error { return e.err }

// checkHiccup is go-retryablehttp's policy: it never repeats what was answered, whatever the answer, and never a PUT
// of which something was written (rule 12). Answers are rule 2's business.
func checkHiccup(ctx context.Context, _ *http.Response, err error) (bool, error) {
	if err == nil {
		return false, nil
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if isWritten(ctx) {
		return false, err
	}
	return isHiccup(err), nil
}

// isHiccup tells whether trying again at once may help: not with a certificate, not with something that does not
// speak TLS, not with a proxy that refuses, and not after a timeout, which has waited long enough.
func isHiccup(err error) bool {
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var proxy *ProxyError
	var network net.Error
	timeout := errors.As(err, &network) && network.Timeout()
	return !timeout && !errors.As(err, &certificate) && !errors.As(err, &record) && !errors.As(err, &proxy)
}

func hiccupDelay() time.Duration {
	return hiccupWaitMin + upTo(hiccupWaitMax-hiccupWaitMin)
}

// withoutURL drops the URL that net/http puts around its errors: the message names the device already.
func withoutURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}
