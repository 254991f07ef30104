// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// callTime bounds the reading of a call, and from then the writing of its answer.
const callTime = 30 * time.Second

// newHTTPServer makes the HTTPS side of the service. Idle connections are kept
// longer than any poll wait: the C client fails when its connection is closed
// between two calls.
func newHTTPServer(s *service, cfg Config, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           newHTTPFront(s, cfg),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       callTime,
		WriteTimeout:      callTime,
		IdleTimeout:       10 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// httpFront is everything that is served over HTTPS: the device API
// (dps-protocol 3), and what operators use.
type httpFront struct {
	service   *service
	operators *serviceAPI
	hubs      *hubAPI
}

// newHTTPFront makes the handler of all HTTPS calls.
func newHTTPFront(s *service, cfg Config) httpFront {
	hosts := append([]string{"localhost", "127.0.0.1", "::1", cfg.Name + serviceDomain}, cfg.TLSNames...)
	hubPolicies := make(map[string]policies)
	for _, hub := range cfg.Hubs {
		hubPolicies[strings.ToLower(hub.Name)] = hub.PolicyKeys
	}
	return httpFront{
		service:   s,
		operators: &serviceAPI{service: s, linked: cfg.Hubs, policies: cfg.PolicyKeys, hosts: hosts},
		hubs:      &hubAPI{hubs: s.hubs, policies: hubPolicies, hosts: hosts},
	}
}

// ServeHTTP routes by path, whatever the Host; only a hub's own name leads
// elsewhere. A path can be of the service API and of the device API only if the
// ID scope is one of the words "enrollments", "enrollmentGroups" and
// "registrations". The standard mux is not used because its own answers,
// redirects and refused methods, have no JSON body.
func (f httpFront) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	segments, ok := splitPath(r.URL)
	if hub, rest, found := f.hubs.find(hostname(r.Host), segments); found {
		f.hubs.serveHTTP(w, r, hub, rest)
		return
	}
	if ok && f.operators.serves(segments) {
		f.operators.serveHTTP(w, r, segments)
		return
	}
	f.serveDevice(w, r)
}

// serveDevice is the device API.
func (f httpFront) serveDevice(w http.ResponseWriter, r *http.Request) {
	c, method, ok := parsePath(r.URL)
	if !ok {
		respond(w, refuse(404, codeUnknown, "There is nothing at this path."))
		return
	}
	if r.Method != method {
		w.Header().Set("Allow", method)
		respond(w, refuse(405, codeMethodNotAllowed, "The method is not allowed here."))
		return
	}
	c.transport = "https"
	c.apiVersion = r.URL.Query().Get("api-version")
	c.token = r.Header.Get("Authorization")
	if r.TLS != nil {
		c.chain = r.TLS.PeerCertificates
	}
	if c.kind != PollCall { // Node sends a body with its poll, which means nothing
		body, refused := readBody(w, r)
		if refused != nil {
			respond(w, *refused)
			return
		}
		c.body = body
	}
	a := f.service.serve(r.Context(), c)
	if a.delay > 0 {
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Time{})
		_ = control.SetWriteDeadline(time.Now().Add(a.delay + callTime))
	}
	if !f.service.holdBack(r.Context(), a.delay) || a.drop {
		panic(http.ErrAbortHandler) // the documented way to close a connection without an answer
	}
	if c.kind == RegisterCall && a.status == http.StatusAccepted {
		w.Header().Set("Location", "https://"+globalEndpoint+r.URL.EscapedPath())
	}
	respond(w, a)
}

// hostname is a Host header without its port.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return host
}

// parsePath reads the three paths of the device API, each segment decoded once,
// and says which method goes with it.
func parsePath(u *url.URL) (c call, method string, ok bool) {
	segments := strings.Split(strings.TrimPrefix(u.EscapedPath(), "/"), "/")
	for i, segment := range segments {
		plain, err := url.PathUnescape(segment)
		if err != nil || plain == "" {
			return call{}, "", false
		}
		segments[i] = plain
	}
	if len(segments) < 3 || segments[1] != "registrations" {
		return call{}, "", false
	}
	c.idScope, c.registrationID = segments[0], segments[2]
	switch {
	case len(segments) == 3:
		c.kind = LookupCall
		return c, http.MethodPost, true
	case len(segments) == 4 && segments[3] == "register":
		c.kind = RegisterCall
		return c, http.MethodPut, true
	case len(segments) == 5 && segments[3] == "operations":
		c.kind, c.operationID = PollCall, segments[4]
		return c, http.MethodGet, true
	default:
		return call{}, "", false
	}
}

// readBody reads a bounded JSON body. Content-Encoding is ignored: Microsoft's
// own samples send the nonsense value utf-8 (dps-protocol 3.3).
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, *answer) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		refused := refuse(413, codeTooLarge, fmt.Sprintf("The body is longer than %d bytes.", maxBody))
		return nil, &refused
	}
	if err != nil {
		refused := refuse(400, codeInvalid, "The body could not be read.")
		return nil, &refused
	}
	if len(body) == 0 {
		return nil, nil
	}
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/json" {
		refused := refuse(415, codeMediaType, "The Content-Type must be application/json.")
		return nil, &refused
	}
	return body, nil
}

// respond writes an answer with the headers of dps-protocol 3.4 and 3.7.
func respond(w http.ResponseWriter, a answer) {
	header := w.Header()
	if len(a.body) > 0 {
		header.Set("Content-Type", "application/json; charset=utf-8")
	}
	for name, value := range a.header {
		header.Set(name, value)
	}
	header.Set("x-ms-request-id", newGUID())
	if a.retryAfter != "" {
		header.Set("Retry-After", a.retryAfter)
	}
	if a.skew != 0 {
		header.Set("Date", dateHeader(a.skew))
	}
	if a.code != 0 {
		header.Set("x-ms-error-code", strconv.Itoa(a.code))
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body)
}
