// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// maxBody bounds a request's body, in bytes. A real one has about 1,200; the
// payload that a device may add is small too, since it came in one MQTT message.
const maxBody = 256 << 10

// Config is what a [Handler] is made of.
type Config struct {
	// Setup decides until [Handler.Replace] puts another in its place.
	Setup

	// Limits bound what callers may ask. Default: those of [Limits].
	Limits Limits

	// Logger gets one record per decision. Default: nothing is logged.
	Logger *slog.Logger

	// Observe, unless nil, is told every decision before the answer goes out. It
	// runs on the request's goroutine and should return quickly.
	Observe func(Decision)
}

// Handler serves the webhook at POST /api/{any name}.
type Handler struct {
	setup   atomic.Pointer[Setup]
	guard   *guard
	logger  *slog.Logger
	turned  turnedAway
	observe func(Decision)
}

// NewHandler makes a webhook from cfg.
func NewHandler(cfg Config) *Handler {
	h := &Handler{
		guard:   newGuard(cfg.Limits),
		logger:  cfg.Logger,
		observe: cfg.Observe,
	}
	if h.logger == nil {
		h.logger = slog.New(slog.DiscardHandler)
	}
	h.setup.Store(cfg.Setup.clone())
	return h
}

// Drain makes the webhook answer every request that comes from now on with 503
// and an end of its connection, and waits until those under way are decided, or
// ctx ends. It is for a stop: the service asks again, and by then this program or
// another one beside it answers.
func (h *Handler) Drain(ctx context.Context) {
	select {
	case <-h.guard.drain():
	case <-ctx.Done():
	}
}

// ServeHTTP answers one request; see the package's documentation for the
// meaning of each status.
//
// It routes by itself, because http.ServeMux would redirect an address with two
// slashes in a row, and the service takes a redirect for the end of a
// registration.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if name, ok := strings.CutPrefix(r.URL.Path, "/api/"); !ok || name == "" || strings.Contains(name, "/") {
		writeText(w, http.StatusNotFound, "The allocation webhook is at /api/ and one name, such as /api/HttpTrigger1.")
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		writeText(w, http.StatusMethodNotAllowed, "The allocation webhook answers POST only.")
		return
	}
	start := time.Now()
	outcome := h.decide(w, r, start)
	outcome.Time = start
	outcome.Duration = time.Since(start)

	// Log and observer first: nothing is assigned that was not recorded.
	if outcome.Limit != "" {
		h.turned.log(r.Context(), h.logger, outcome.Limit, CallerOf(r.RemoteAddr), start)
	} else {
		outcome.log(r.Context(), h.logger, outcome.cause)
	}
	if h.observe != nil {
		h.observe(outcome.Decision)
	}
	outcome.write(w)
}

// decide takes a request through its stages, in this order: key, limits, size,
// form, and what the setup decides. It writes nothing; w is only there for the
// body's limit. One setup serves all stages.
//
// The key comes before the limits, so that whoever has none cannot use up what
// the service needs.
func (h *Handler) decide(w http.ResponseWriter, r *http.Request, now time.Time) result {
	if h.guard.stopping() {
		return beyond(limitStop)
	}
	from := CallerOf(r.RemoteAddr)
	setup := h.setup.Load()
	if !authorized(r, setup.FunctionKeys) {
		if !h.guard.mayMiss(from, now) {
			return beyond(limitWrongKeys)
		}
		wrong := refuse(http.StatusUnauthorized, "The function key is missing or wrong: the webhook URL of the enrollment must end in ?code= and a valid key.")
		wrong.unread = true
		return wrong
	}
	v, limit := h.guard.admit(from, now)
	if limit != "" {
		return beyond(limit)
	}
	defer h.guard.leave(v)
	body, refused := h.readBody(w, r, v)
	if refused != nil {
		return *refused
	}
	request, err := ParseRequest(body)
	if err != nil {
		return fromError(err)
	}
	ctx, cancel := setup.bound(r.Context())
	defer cancel()
	decided := setup.decide(ctx, body, request)
	decided.Request = redactBody(body)
	decided.RegistrationID = orEmpty(request.DeviceRuntimeContext.RegistrationID)
	return decided
}

// readBody gives the body, or what to answer in its place.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request, v *visit) (body []byte, refused *result) {
	if r.ContentLength > maxBody {
		// Known before a byte was read: a client that waits for "100 Continue"
		// need not send the body at all.
		w.Header().Set("Connection", "close")
		return nil, new(tooLarge())
	}
	whole := http.MaxBytesReader(w, r.Body, maxBody)
	body, err := readSmall(whole, r.ContentLength)
	if err == nil && len(body) == smallBody {
		if !h.guard.admitLarge(v) {
			return nil, new(beyond(limitLargeBodies))
		}
		var rest []byte
		rest, err = io.ReadAll(whole)
		body = append(body, rest...)
	}
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return nil, new(tooLarge())
	}
	if err != nil {
		return nil, new(cutShort(err))
	}
	return body, nil
}

// readSmall reads up to smallBody bytes, at once where the caller told how many
// there are.
func readSmall(body io.Reader, told int64) ([]byte, error) {
	if told < 0 || told >= smallBody {
		return io.ReadAll(io.LimitReader(body, smallBody))
	}
	small := make([]byte, told)
	n, err := io.ReadFull(body, small)
	return small[:n], err
}
