// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/allocation"
)

// webhook is a handler in front mode as a gateway has it, with what it leaves
// behind.
type webhook struct {
	*allocation.Handler
	breaker *Breaker

	mu        sync.Mutex
	log       bytes.Buffer
	decisions []allocation.Decision
}

func (w *webhook) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

// newWebhook puts a handler with the tutorial's policy behind client.
func newWebhook(t *testing.T, client *Client) *webhook {
	t.Helper()
	w := &webhook{}
	logger := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.breaker = NewBreaker(client, logger)
	w.Handler = allocation.NewHandler(allocation.Config{
		Setup:  allocation.Setup{Policy: allocation.Tutorial(), Upstream: w.breaker},
		Logger: logger,
		Observe: func(d allocation.Decision) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.decisions = append(w.decisions, d)
		},
	})
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if strings.Contains(w.log.String()+fmt.Sprintf("%+v", w.decisions), secret) {
			t.Errorf("the function key is shown: %s", w.log.String())
		}
	})
	return w
}

// post sends a toaster's request from this machine and gives status and body.
func (w *webhook) post() string {
	const toaster = `{"deviceRuntimeContext":{"registrationId":"a-contoso-tstrsd-007"},"linkedHubs":["a-toasters-1","b"]}`
	request := httptest.NewRequest(http.MethodPost, "/api/HttpTrigger1", strings.NewReader(toaster))
	request.RemoteAddr = "127.0.0.1:40000"
	recorder := httptest.NewRecorder()
	w.ServeHTTP(recorder, request)
	return fmt.Sprint(recorder.Code, " ", recorder.Body)
}

// last is the last decision: its source and why the policy stood in.
func (w *webhook) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.decisions[len(w.decisions)-1]
	return strings.TrimSpace(string(d.Source) + " " + d.FallbackReason)
}

const (
	byFunction = `200 {"iotHubHostName":"b"}`
	byPolicy   = `200 {"iotHubHostName":"a-toasters-1","initialTwin":{"properties":{"desired":{"state":"ready","darknessSetting":"medium"}},"tags":{"deviceType":"toaster"}}}`
	askLater   = "503 The allocation policy is not available at the moment; ask again later."
)

func refused(context.Context, string, string) (net.Conn, error) {
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
}

// TestBadFunctions: what a device gets from the webhook in front mode, and after
// how long, from a function that is well and from one that is not in each of its
// ways.
func TestBadFunctions(t *testing.T) {
	t.Parallel()
	says := func(status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Key", r.Header.Get("X-Functions-Key"))
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		}
	}
	tests := []struct {
		name       string
		dial       func(context.Context, string, string) (net.Conn, error)
		function   http.HandlerFunc
		want, last string
		wantMost   time.Duration
	}{
		{"well", nil, says(200, `{"iotHubHostName":"b"}`), byFunction, "upstream", 0},
		{"refusing", nil, says(400, "No toasters on Sundays."), "400 No toasters on Sundays.", "upstream", 0},
		{"dead", refused, nil, byPolicy, "fallback dial tcp: connection refused", 2 * maxWait},
		{"slow", nil, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, byPolicy, "fallback no answer in time", 5 * time.Second},
		{"unauthorised", nil, says(401, ""), byPolicy, "fallback it answers 401 Unauthorized: the function key is missing or wrong; give the current one (upstream_key and a reload, or gatewayctl's --key-file)", 0},
		{"throttling", nil, says(429, secret), byPolicy, `fallback it answers 429 Too Many Requests ("[redacted]")`, 2 * maxWait},
		{"stopped", nil, says(403, "<html>stopped</html>"), byPolicy, "fallback it answers 403 Forbidden: the app is stopped, over its quota, or closed to this address", 0},
		{"removed", nil, says(404, ""), byPolicy, "fallback it answers 404 Not Found: there is no function at this address; compare upstream with the function's URL in the portal", 0},
		{"a page", nil, says(200, "<html>"+secret+"</html>"), byPolicy, "fallback it answers 200 OK with a page for people, so something else speaks for it", 0},
		{"bad JSON", nil, says(200, `{"iotHubHostName":"b",`+secret), askLater, "upstream", 0},
		{"foreign hub", nil, says(200, `{"iotHubHostName":"evil"}`), askLater, "upstream", 0},
		{"no hub", nil, says(200, `{"iotHubHostName":null}`), askLater, "upstream", 0},
		{"huge", nil, says(200, strings.Repeat("[", 10<<20)), askLater, "upstream", 0},
		{"no content", nil, says(204, ""), askLater, "upstream", 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWebhook(t, askInMemory(t, Config{Key: parseKey(t, secret), DialContext: test.dial}, test.function))
				start := time.Now()
				if diff := cmp.Diff(test.want, w.post()); diff != "" {
					t.Errorf("answer (-want +got):\n%s", diff)
				}
				if took := time.Since(start); took > test.wantMost {
					t.Errorf("took %v, want %v at the most", took, test.wantMost)
				}
				if diff := cmp.Diff(test.last, w.last()); diff != "" {
					t.Errorf("decision (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestFleetWithoutFunction: 256 devices at once, while the function is a black
// hole: one of them waits for it, and the others are decided at once.
func TestFleetWithoutFunction(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int32
		hole := func(ctx context.Context, _, _ string) (net.Conn, error) {
			dials.Add(1)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		w := newWebhook(t, askInMemory(t, Config{DialContext: hole}, nil))
		if got := w.post(); got != byPolicy { // opens the breaker
			t.Errorf("got %s", got)
		}
		time.Sleep(time.Until(w.breaker.State().NextProbe))
		start := time.Now()
		var waited atomic.Int32
		var group sync.WaitGroup
		for range 256 {
			group.Go(func() {
				if got := w.post(); got != byPolicy {
					t.Errorf("got %s", got)
				}
				if time.Since(start) > 0 {
					waited.Add(1)
				}
			})
		}
		group.Wait()
		if waited.Load() != 1 || dials.Load() != 2 {
			t.Errorf("%d devices waited, and the function was dialled %d times; want 1 and 2", waited.Load(), dials.Load())
		}
	})
}

// TestFlapping: a function that comes and goes every twenty seconds, and a device
// each 100 ms. Every device is decided, by the function while that is there but
// for the wait before a probe.
func TestFlapping(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		listener := listenInMemory()
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"iotHubHostName":"b"}`)
		})}
		go func() { _ = server.Serve(listener) }()
		defer server.Close()
		const phase = 20 * time.Second
		began := time.Now()
		up := func() bool { return time.Since(began)%(2*phase) < phase }
		var inVain atomic.Int32
		client := askInMemory(t, Config{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if !up() {
				inVain.Add(1)
				return refused(ctx, network, address)
			}
			return listener.dial(ctx, network, address)
		}}, nil)
		w := newWebhook(t, client)
		var group sync.WaitGroup
		var byFallback, missed atomic.Int32 // missed: although the function was there
		for range 10 * 2 * phase / (100 * time.Millisecond) {
			if !up() {
				client.Close() // connections do not outlive the function
			}
			group.Go(func() {
				there := up()
				switch got := w.post(); got {
				case byFunction:
				case byPolicy:
					byFallback.Add(1)
					if there {
						missed.Add(1)
					}
				default:
					t.Errorf("got %s", got)
				}
			})
			time.Sleep(100 * time.Millisecond)
		}
		group.Wait()
		// Ten absences of 200 devices each. In one the breaker opens after three
		// questions, and those that were under way then, and probes after 1, 2, 4, 8
		// and 16 s at the most, half of that at the least. A question has three tries.
		if got := inVain.Load(); got > 10*3*(3+8+6) {
			t.Errorf("the function was dialled %d times in vain", got)
		}
		// When it comes back, the next probe is at most 16 s away.
		if got := missed.Load(); got > 10*160 {
			t.Errorf("%d devices went by although the function was there", got)
		}
		if got := byFallback.Load(); got < 10*190 {
			t.Errorf("%d devices were decided by the fallback, which is fewer than there were", got)
		}
		t.Logf("dialled in vain %d times, %d devices by the fallback, %d of them while the function was there", inVain.Load(), byFallback.Load(), missed.Load())
	})
}
