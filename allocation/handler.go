// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// maxBody bounds a request's body, in bytes. A real one has about 1,200; the
// payload that a device may add is small too, since it came in one MQTT message.
const maxBody = 256 << 10

// maxRefusal bounds the text of a refusal, in bytes.
const maxRefusal = 1 << 10

// Config is what a [Handler] is made of.
type Config struct {
	// Policy decides. Required.
	Policy Policy

	// FunctionKeys are all valid at once, so that a key can be changed without a
	// gap. Without keys everyone is let in: the caller must then serve loopback
	// only.
	FunctionKeys []FunctionKey

	// Logger gets one record per decision. Default: nothing is logged.
	Logger *slog.Logger

	// Observe, unless nil, is told every decision before the answer goes out. It
	// runs on the request's goroutine and should return quickly.
	Observe func(Decision)
}

// Handler serves the webhook at POST /api/{any name}.
type Handler struct {
	policy  atomic.Pointer[Policy]
	keys    atomic.Pointer[[]FunctionKey]
	logger  *slog.Logger
	observe func(Decision)
	mux     *http.ServeMux
}

// NewHandler makes a webhook from cfg.
func NewHandler(cfg Config) *Handler {
	h := &Handler{
		logger:  cfg.Logger,
		observe: cfg.Observe,
		mux:     http.NewServeMux(),
	}
	if h.logger == nil {
		h.logger = slog.New(slog.DiscardHandler)
	}
	h.SetPolicy(cfg.Policy)
	keys := slices.Clone(cfg.FunctionKeys)
	h.keys.Store(&keys)
	h.mux.HandleFunc("/api/{function}", h.serveFunction)
	return h
}

// SetPolicy puts a policy in the place of the one that decided until now. A
// request is decided by one of the two, never by parts of both.
func (h *Handler) SetPolicy(policy Policy) { h.policy.Store(&policy) }

// SetKeys puts keys in the place of the ones that were valid until now. Where
// there were keys an empty list is refused and the old ones stay: it would open
// a webhook that was locked.
func (h *Handler) SetKeys(keys []FunctionKey) error {
	if len(keys) == 0 && len(*h.keys.Load()) > 0 {
		return errors.New("setting function keys: the list is empty; the old keys stay in force")
	}
	keys = slices.Clone(keys)
	h.keys.Store(&keys)
	return nil
}

// ServeHTTP answers one request; see the package's documentation for the
// meaning of each status.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

func (h *Handler) serveFunction(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		writeText(w, http.StatusMethodNotAllowed, "The allocation webhook answers POST only.")
		return
	}
	start := time.Now()
	outcome := h.decide(w, r)
	outcome.Time = start
	outcome.Duration = time.Since(start)

	// Log and observer first: nothing is assigned that was not recorded.
	outcome.log(r.Context(), h.logger, outcome.cause)
	if h.observe != nil {
		h.observe(outcome.Decision)
	}
	if outcome.Status == http.StatusOK {
		write(w, http.StatusOK, "application/json; charset=utf-8", outcome.wire)
		return
	}
	writeText(w, outcome.Status, outcome.Refusal)
}

// result is a decision with what only the handler needs of it.
type result struct {
	Decision
	wire  []byte // the response as it goes out
	cause error  // what a 503 must not tell its caller
}

// decide takes a request through key, size, form and policy, in this order. It
// writes nothing; w is only there for the body's limit.
func (h *Handler) decide(w http.ResponseWriter, r *http.Request) result {
	if !authorized(r, *h.keys.Load()) {
		return refuse(http.StatusUnauthorized, "The function key is missing or wrong: the webhook URL of the enrollment must end in ?code= and a valid key.")
	}
	body, err := readBody(w, r)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf("The request is larger than %d KiB, which no AllocationRequest is.", maxBody>>10))
	}
	if err != nil {
		return unavailable(fmt.Errorf("reading the request: %w", err))
	}
	request, err := ParseRequest(body)
	if err != nil {
		return fromError(err)
	}
	asked := h.ask(r.Context(), Question{Request: request})
	asked.Request = redactBody(body)
	asked.RegistrationID = orEmpty(request.DeviceRuntimeContext.RegistrationID)
	return asked
}

// ask turns what the policy says into a decision.
func (h *Handler) ask(ctx context.Context, question Question) result {
	response, err := h.askPolicy(ctx, question)
	if err != nil {
		return fromError(err)
	}
	// The service fails a registration for a hub that it does not offer, and it
	// does so for good; a policy with such a mistake should be mended instead.
	if !slices.Contains(question.Request.LinkedHubs, response.IoTHubHostName) {
		return unavailable(fmt.Errorf("the policy chose the hub %q, which is not one of the enrollment's linked hubs", shorten(response.IoTHubHostName, maxLoggedID)))
	}
	wire, err := response.Encode()
	if err != nil {
		return unavailable(err)
	}
	decision := Decision{Status: http.StatusOK, Rule: response.Rule, AssignedHub: response.IoTHubHostName, Response: redact(wire)}
	return result{Decision: decision, wire: wire}
}

// askPolicy calls the policy and turns a panic into an error, so that a mistake
// in a policy costs one answer and not the connection.
func (h *Handler) askPolicy(ctx context.Context, question Question) (response Response, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("the policy panicked: %v\n%s", reason, debug.Stack())
		}
	}()
	return (*h.policy.Load()).Decide(ctx, question)
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > maxBody {
		// Known before a byte was read: a client that waits for "100 Continue"
		// need not send the body at all.
		w.Header().Set("Connection", "close")
		return nil, &http.MaxBytesError{Limit: maxBody}
	}
	return io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
}

// fromError maps an error of the parser or of the policy to a status.
func fromError(err error) result {
	if refusal, ok := errors.AsType[Refusal](err); ok {
		refused := refuse(http.StatusBadRequest, refusal.Message)
		refused.Rule = refusal.Rule
		return refused
	}
	return unavailable(err)
}

func refuse(status int, message string) result {
	return result{Decision: Decision{Status: status, Refusal: oneLine(message)}}
}

// unavailable keeps the cause for our own log: the caller can do nothing but
// ask again.
func unavailable(cause error) result {
	trouble := refuse(http.StatusServiceUnavailable, "The allocation policy is not available at the moment; ask again later.")
	trouble.cause = cause
	return trouble
}

// redactBody gives the request as a decision may show it; a body without JSON
// in it (the empty one) gives nil.
func redactBody(body []byte) []byte {
	body = bytes.TrimSpace(withoutByteOrderMark(body))
	if len(body) == 0 {
		return nil
	}
	return redact(body)
}

// oneLine makes a refusal what its readers expect: one line of bounded length.
func oneLine(message string) string {
	return shorten(strings.Join(strings.Fields(message), " "), maxRefusal)
}

func writeText(w http.ResponseWriter, status int, text string) {
	write(w, status, "text/plain; charset=utf-8", []byte(text))
}

// write sends one answer. A write error means that the caller has gone; the
// service asks again then, and gets the same answer.
func write(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
