// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
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

const (
	secret   = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo0NTY3ODkwQUI="
	assigned = `{"iotHubHostName":"contoso-toasters-hub-1098.azure-devices.net","later":[1,  2]}`
)

// outcome is what Ask returned, in words.
func outcome(response []byte, err error) string {
	if refusal, ok := errors.AsType[allocation.Refusal](err); ok {
		return "refused: " + refusal.Message
	}
	if away, ok := errors.AsType[*allocation.UnavailableError](err); ok {
		if away.Slow {
			return "slow: " + away.Reason
		}
		return "away: " + away.Reason
	}
	if err != nil {
		return "error: " + err.Error()
	}
	return "answer: " + string(response)
}

// TestAnswers holds the table of the package's documentation.
func TestAnswers(t *testing.T) {
	t.Parallel()
	const (
		text = "text/plain; charset=utf-8"
		html = "text/html; charset=utf-8"
		json = "application/json; charset=utf-8"
		page = "<!DOCTYPE html><html><head><title>Microsoft Azure Web App - Error 403</title></head>" + secret + "</html>"
	)
	tests := []struct {
		name        string
		status      int
		contentType string
		body        string
		want        string
		wantTries   int
	}{
		{"assigned", 200, json, assigned, "answer: " + assigned, 1},
		{"whatever it says is checked elsewhere", 200, json, `{"iotHubHostName":""}`, `answer: {"iotHubHostName":""}`, 1},
		{"no content type", 200, "", assigned, "answer: " + assigned, 1},
		{"empty", 200, json, "", "answer: ", 1},
		{"the largest", 200, json, strings.Repeat(" ", 64<<10), "answer: " + strings.Repeat(" ", 64<<10), 1},
		{"a byte more", 200, json, strings.Repeat(" ", 64<<10+1), "error: the cloud function answers more than 64 KiB, which no AllocationResponse has", 1},
		{"huge", 200, json, strings.Repeat("[", 10<<20), "error: the cloud function answers more than 64 KiB, which no AllocationResponse has", 1},
		{"a page", 200, html, page, "away: it answers 200 OK with a page for people, so something else speaks for it", 1},
		{"a page in disguise", 200, json, "\n" + page, "away: it answers 200 OK with a page for people, so something else speaks for it", 1},
		{"created", 201, json, assigned, `error: the cloud function answers 201 Created ("{\"iotHubHostName\":\"contoso-toasters-hub-1098.azure-devices.net\",\"later\":[1, 2]}"), which decides nothing`, 1},
		{"accepted, by a function that starts another", 202, json, `{}`, `error: the cloud function answers 202 Accepted ("{}"), which decides nothing`, 1},
		{"no content", 204, "", "", "error: the cloud function answers 204 No Content, which decides nothing", 1},
		{"moved", 301, "", "", "away: it answers 301 Moved Permanently, a redirect to nowhere, which is not followed: it may be a login page, or the app has moved", 1},
		{"not modified", 304, "", "", "away: it answers 304 Not Modified, a redirect to nowhere, which is not followed: it may be a login page, or the app has moved", 1},
		{"refused", 400, text, "Unrecognized device registration.", "refused: Unrecognized device registration.", 1},
		{"refused on two lines", 400, text, "not\r\nhere\x1b[31m", "refused: not here [31m", 1},
		{"refused without a word", 400, "", "", "refused: The allocation function refused the device with status 400 and gave no reason.", 1},
		{"refused by the platform", 400, html, "<h1>Bad Request - Invalid Hostname</h1>", "away: it answers 400 Bad Request with a page for people, so something else speaks for it", 1},
		{"refused and told the key", 400, text, "no " + secret, "refused: no [redacted]", 1},
		{"key", 401, "", "", "away: it answers 401 Unauthorized: the function key is missing or wrong; give the current one (upstream_key and a reload, or gatewayctl's --key-file)", 1},
		{"stopped", 403, html, page, "away: it answers 403 Forbidden: the app is stopped, over its quota, or closed to this address", 1},
		{"forbidden", 403, text, "Ip Forbidden", `away: it answers 403 Forbidden ("Ip Forbidden"): the app is stopped, over its quota, or closed to this address`, 1},
		{"removed", 404, html, page, "away: it answers 404 Not Found: there is no function at this address; compare upstream with the function's URL in the portal", 1},
		{"no such function", 404, "", "", "away: it answers 404 Not Found: there is no function at this address; compare upstream with the function's URL in the portal", 1},
		{"not for POST", 405, "", "", "away: it answers 405 Method Not Allowed: the function does not take POST; compare upstream with the function's URL in the portal", 1},
		{"proxy", 407, "", "", "away: it answers 407 Proxy Authentication Required: a proxy wants a user name and password; set HTTPS_PROXY", 1},
		{"too late", 408, "", "", "away: it answers 408 Request Timeout: the request did not arrive in time", 1},
		{"conflict", 409, text, "two of them", "refused: two of them", 1},
		{"gone", 410, "", "", "refused: The allocation function refused the device with status 410 and gave no reason.", 1},
		{"too large", 413, text, "no", `error: the cloud function answers 413 Request Entity Too Large ("no"), which decides nothing`, 1},
		{"no JSON wanted", 415, "", "", "error: the cloud function answers 415 Unsupported Media Type, which decides nothing", 1},
		{"elsewhere", 421, "", "", "away: it answers 421 Misdirected Request: another server answers at this address", 1},
		{"unprocessable", 422, json, `{"error":"unknown device"}`, `refused: {"error":"unknown device"}`, 1},
		{"last before the limit", 428, text, "no", "refused: no", 1},
		{"throttling", 429, "", "", "away: it answers 429 Too Many Requests", 3},
		{"above the limit", 451, text, "no", `away: it answers 451 Unavailable For Legal Reasons ("no")`, 3},
		{"exception", 500, text, "key " + secret + strings.Repeat("é", 200), `away: it answers 500 Internal Server Error ("key [redacted]` + strings.Repeat("é", 120-14) + `…")`, 3},
		{"host down", 503, text, "Function host is not running.", `away: it answers 503 Service Unavailable ("Function host is not running.")`, 3},
		{"gateway", 502, html, page, "away: it answers 502 Bad Gateway", 3},
		{"not a status", 999, "", "", "away: it answers 999", 3},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				client := askInMemory(t, Config{Key: parseKey(t, secret)}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					calls++
					w.Header()["Content-Type"] = nil // no guessing
					if test.contentType != "" {
						w.Header().Set("Content-Type", test.contentType)
					}
					w.WriteHeader(test.status)
					_, _ = io.WriteString(w, test.body)
				}))
				if diff := cmp.Diff(test.want, outcome(client.Ask(t.Context(), []byte("{}")))); diff != "" {
					t.Errorf("outcome (-want +got):\n%s", diff)
				}
				if calls != test.wantTries {
					t.Errorf("got %d tries, want %d", calls, test.wantTries)
				}
			})
		})
	}
}

// TestTrouble: functions that give no answer, each in its own way, on a simulated
// clock. wantTime is exact where nothing is left to chance.
func TestTrouble(t *testing.T) {
	t.Parallel()
	failing := func(err error) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
		}
	}
	const malformed = `net/http: HTTP/1.x transport connection broken: malformed HTTP status code "[redacted]`
	const retried = -1 // between the shortest and the longest two waits
	tests := []struct {
		name     string
		dial     func(ctx context.Context, network, address string) (net.Conn, error)
		function http.HandlerFunc
		want     string
		wantTime time.Duration
	}{
		{"dead", failing(syscall.ECONNREFUSED), nil, "away: dial tcp: connection refused", retried},
		{"black hole", func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }, nil, "slow: no answer in time", 5 * time.Second},
		{"silent", nil, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "slow: no answer in time", 5 * time.Second},
		{"slow, but in time", nil, func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(4900 * time.Millisecond)
			_, _ = io.WriteString(w, assigned)
		}, "answer: " + assigned, 4900 * time.Millisecond},
		{"drip", nil, func(w http.ResponseWriter, r *http.Request) {
			for i := range assigned {
				_, _ = io.WriteString(w, assigned[i:i+1])
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					return
				case <-time.After(time.Second):
				}
			}
		}, "slow: no answer in time", 5 * time.Second},
		{"without end", nil, func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, assigned); err != nil {
					return
				}
			}
		}, "error: the cloud function answers more than 64 KiB, which no AllocationResponse has", 0},
		{"cut short", nil, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, assigned)
		}, "away: reading the answer: unexpected EOF", retried},
		{"hangs up", nil, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "away: EOF", retried},
		{"no HTTP", func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				defer theirs.Close()
				buffer := make([]byte, 4096)
				_, _ = theirs.Read(buffer)
				_, _ = io.WriteString(theirs, "SSH-2.0 "+secret+strings.Repeat("x", 1000)+"\r\n\r\n")
			}()
			return ours, nil
		}, nil, "away: " + malformed + strings.Repeat("x", maxTrouble-len(malformed)) + "…", retried},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client := askInMemory(t, Config{DialContext: test.dial, Key: parseKey(t, secret)}, test.function)
				start := time.Now()
				if diff := cmp.Diff(test.want, outcome(client.Ask(t.Context(), []byte("{}")))); diff != "" {
					t.Errorf("outcome (-want +got):\n%s", diff)
				}
				took := time.Since(start)
				if test.wantTime == retried {
					if took < 2*minWait || took > 2*maxWait {
						t.Errorf("took %v, want two waits of %v to %v", took, minWait, maxWait)
					}
				} else if took != test.wantTime {
					t.Errorf("took %v, want %v", took, test.wantTime)
				}
			})
		})
	}
}

// TestHiccup: what is over at the next try is no trouble, and a wish to be left
// alone is granted where there is time for it.
func TestHiccup(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		retryAfter string
		want       string
		wantTries  int
	}{
		{"no wish", "", "answer: " + assigned, 2},
		{"a second", "1", "answer: " + assigned, 2},
		{"a date", "Sat, 01 Jan 2000 00:00:02 GMT", "answer: " + assigned, 2},
		{"a date that is over", "Fri, 31 Dec 1999 00:00:00 GMT", "answer: " + assigned, 2},
		{"nonsense", "soon", "answer: " + assigned, 2},
		{"more than half of the time", "3", "away: it answers 503 Service Unavailable", 1},
		{"a day", "86400", "away: it answers 503 Service Unavailable", 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				var first time.Time
				client := askInMemory(t, Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if calls++; calls == 1 {
						first = time.Now()
						if test.retryAfter != "" {
							w.Header().Set("Retry-After", test.retryAfter)
						}
						w.WriteHeader(http.StatusServiceUnavailable)
						return
					}
					if wish := retryAfter(test.retryAfter); time.Since(first) < wish {
						t.Errorf("asked again after %v, and %v was wished for", time.Since(first), wish)
					}
					_, _ = io.WriteString(w, assigned)
				}))
				start := time.Now()
				if diff := cmp.Diff(test.want, outcome(client.Ask(t.Context(), nil))); diff != "" {
					t.Errorf("outcome (-want +got):\n%s", diff)
				}
				if calls != test.wantTries {
					t.Errorf("got %d tries, want %d", calls, test.wantTries)
				}
				if test.wantTries == 1 && time.Since(start) != 0 {
					t.Errorf("waited %v for nothing", time.Since(start))
				}
			})
		})
	}
}

// TestRetryAfterIsTold: the breaker is to know the wish.
func TestRetryAfterIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := askInMemory(t, Config{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(http.StatusTooManyRequests)
		}))
		_, err := client.Ask(t.Context(), nil)
		away, ok := errors.AsType[*allocation.UnavailableError](err)
		if !ok || away.RetryAfter != 30*time.Second {
			t.Errorf("got %v, want a wish of 30 s", err)
		}
	})
}

// TestSent is the request on the wire.
func TestSent(t *testing.T) {
	t.Parallel()
	const body = "{ \"unknown\": [1,  2],\n\"linkedHubs\":[]}"
	for name, key := range map[string]string{"with a key": secret, "without": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cfg := Config{}
				want := http.Header{
					"Content-Type":   {"application/json; charset=utf-8"},
					"Content-Length": {"38"},
					"User-Agent":     {"gatewayd"},
				}
				if key != "" {
					cfg.Key = parseKey(t, key)
					want["X-Functions-Key"] = []string{key}
				}
				client := askInMemory(t, cfg, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method != http.MethodPost || r.RequestURI != "/api/HttpTrigger1" || r.Host != "127.0.0.1:7071" {
						t.Errorf("got %s %s at %s", r.Method, r.RequestURI, r.Host)
					}
					if diff := cmp.Diff(want, r.Header); diff != "" {
						t.Errorf("headers (-want +got):\n%s", diff)
					}
					got, err := io.ReadAll(r.Body)
					if diff := cmp.Diff(body, string(got)); diff != "" || err != nil {
						t.Errorf("%v, body (-want +got):\n%s", err, diff)
					}
				}))
				if _, err := client.Ask(t.Context(), []byte(body)); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestRedirect: neither the key nor the appliance's identity goes elsewhere, and
// what the address holds is not told.
func TestRedirect(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		client := askInMemory(t, Config{Key: parseKey(t, secret)}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls++
			w.Header().Set("Location", "http://user:pass@127.0.0.1:7071/login/"+secret+"?state=SECRET#f")
			w.WriteHeader(http.StatusTemporaryRedirect)
		}))
		const want = `away: it answers 307 Temporary Redirect, a redirect to "http://127.0.0.1:7071/login/[redacted]", which is not followed: it may be a login page, or the app has moved`
		if diff := cmp.Diff(want, outcome(client.Ask(t.Context(), nil))); diff != "" {
			t.Errorf("outcome (-want +got):\n%s", diff)
		}
		if calls != 1 {
			t.Errorf("got %d requests, want 1", calls)
		}
	})
}

// TestCallerLeaves: that the caller hung up says nothing of the function.
func TestCallerLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := askInMemory(t, Config{}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if got, want := outcome(client.Ask(ctx, nil)), "error: context canceled"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got, want := outcome(client.Ask(ctx, nil)), "error: context canceled"; got != want {
			t.Errorf("with a dead context: got %q, want %q", got, want)
		}
	})
}

// TestBudget: where the caller has little time, a third of it is left to the
// policy, and the function is not blamed.
func TestBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := askInMemory(t, Config{}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		if got, want := outcome(client.Ask(ctx, nil)), "away: no answer in time"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := time.Since(start); got != 2*time.Second {
			t.Errorf("took %v of 3 s, want 2 s", got)
		}
		<-ctx.Done()
		if got, want := outcome(client.Ask(ctx, nil)), "error: context deadline exceeded"; got != want {
			t.Errorf("without any time: got %q, want %q", got, want)
		}
	})
}

// TestManyAtOnce: the function sees no more connections than it is allowed to cost.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int32
		client := askInMemory(t, Config{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for n := now.Add(1); ; {
				if old := most.Load(); n <= old || most.CompareAndSwap(old, n) {
					break
				}
			}
			time.Sleep(time.Second)
			now.Add(-1)
			_, _ = io.WriteString(w, assigned)
		}))
		for range 4 * maxConnections {
			go func() {
				if got := outcome(client.Ask(t.Context(), nil)); got != "answer: "+assigned {
					t.Errorf("got %q", got)
				}
			}()
		}
		time.Sleep(time.Minute)
		if got := most.Load(); got != maxConnections {
			t.Errorf("got %d requests at once, want %d", got, maxConnections)
		}
	})
}

// TestDeadConnections: when the network forgets the connections that are open, as
// after a restart of a router, one question finds out for all.
func TestDeadConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var dials, forgotten atomic.Int32
		listener := listenInMemory()
		type number struct{}
		server := &http.Server{
			ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
				return context.WithValue(ctx, number{}, dials.Add(1))
			},
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if r.Context().Value(number{}).(int32) <= forgotten.Load() {
					<-r.Context().Done()
					return
				}
				time.Sleep(time.Second) // so that both of the first two need a connection
				_, _ = io.WriteString(w, assigned)
			}),
		}
		go func() { _ = server.Serve(listener) }()
		defer server.Close()
		client := askInMemory(t, Config{DialContext: listener.dial}, nil)
		var group sync.WaitGroup
		for range 2 {
			group.Go(func() { _, _ = client.Ask(t.Context(), nil) })
		}
		group.Wait()
		if got := dials.Load(); got != 2 {
			t.Fatalf("got %d connections, want 2", got)
		}
		forgotten.Store(2)
		for _, want := range []string{"slow: no answer in time", "answer: " + assigned} {
			if got := outcome(client.Ask(t.Context(), nil)); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	})
}

// TestTLS meets certificates over real connections.
func TestTLS(t *testing.T) {
	t.Parallel()
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, assigned) })
	server := httptest.NewUnstartedServer(answer)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	plain := httptest.NewServer(answer)
	t.Cleanup(plain.Close)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	trusted := Config{URL: server.URL + "/api/f", RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	named := trusted
	named.URL = "https://localhost:" + port + "/api/f" // the certificate is for 127.0.0.1
	tests := []struct {
		name string
		cfg  Config
		want string
	}{
		{"right", trusted, "answer: " + assigned},
		{"wrong name", named, "away: tls: failed to verify certificate: x509: certificate is valid for example.com, *.example.com, not localhost"},
		{"unknown issuer", Config{URL: trusted.URL}, "away: tls: failed to verify certificate: x509: certificate signed by unknown authority"},
		{"no TLS", Config{URL: strings.Replace(plain.URL, "http:", "https:", 1)}, "away: tls: first record does not look like a TLS handshake"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dials := 0
			test.cfg.Proxy = noProxy
			test.cfg.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				dials++
				return new(net.Dialer).DialContext(ctx, network, address)
			}
			client, err := New(test.cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if diff := cmp.Diff(test.want, outcome(client.Ask(t.Context(), nil))); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
			if dials != 1 {
				t.Errorf("dialled %d times; a certificate does not change from one try to the next", dials)
			}
		})
	}
}

// TestProxy: the site's proxy is used where there is one.
func TestProxy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		listener := listenInMemory()
		proxy := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodConnect || r.Host != "function.example:443" {
				t.Errorf("the proxy got %s %s", r.Method, r.Host)
			}
			w.WriteHeader(http.StatusProxyAuthRequired)
		})}
		go func() { _ = proxy.Serve(listener) }()
		defer proxy.Close()
		client, err := New(Config{URL: "https://function.example/api/f", DialContext: listener.dial, Proxy: func(r *http.Request) (*url.URL, error) {
			return url.Parse("http://user:PASSWORD@proxy.example:3128")
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if got, want := outcome(client.Ask(t.Context(), nil)), "away: Proxy Authentication Required"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestProxyFromEnvironment: without a word about proxies the environment counts.
// It is read once in a program, so this one starts itself again.
func TestProxyFromEnvironment(t *testing.T) {
	if os.Getenv("UPSTREAM_TEST_CHILD") != "" {
		client, err := New(Config{URL: "https://function.example/api/f"})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		fmt.Println(outcome(client.Ask(t.Context(), nil)))
		return
	}
	t.Parallel()
	var connects atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect && r.Host == "function.example:443" && r.Header.Get("Proxy-Authorization") != "" {
			connects.Add(1)
		}
		w.WriteHeader(http.StatusProxyAuthRequired)
	}))
	t.Cleanup(proxy.Close)
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProxyFromEnvironment$")
	child.Env = append(os.Environ(), "UPSTREAM_TEST_CHILD=1", "NO_PROXY=", "no_proxy=",
		"HTTPS_PROXY="+strings.Replace(proxy.URL, "//", "//user:PASSWORD@", 1))
	said, err := child.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(said), "away: Proxy Authentication Required\n") {
		t.Errorf("got %v: %s", err, said)
	}
	if connects.Load() == 0 {
		t.Error("the proxy was not asked")
	}
}

func TestCheckURL(t *testing.T) {
	t.Parallel()
	tests := []struct{ url, want string }{
		{"https://contoso-function-app-1098.azurewebsites.net/api/HttpTrigger1", ""},
		{"https://h:8443/f?clientId=site", ""},
		{"http://127.0.0.1:7071/api/f", ""},
		{"http://[::1]:7071/api/f", ""},
		{"http://localhost/api/f", ""},
		{"http://10.0.0.1/api/f", "http://10.0.0.1 would send the function key and the appliance's identity in clear text; use https"},
		{"ftp://h/f", `the scheme is "ftp"; use https`},
		{"https://h/f?code=SECRET", "the URL holds a function key (code=), which would end up in logs: put the key into a file of its own, name that (upstream_key, or gatewayctl's --key-file), and remove it here"},
		{"https://h/f?a=b&CODE=SECRET", "the URL holds a function key (code=), which would end up in logs: put the key into a file of its own, name that (upstream_key, or gatewayctl's --key-file), and remove it here"},
		{"https://h/f?c%6fde=SECRET", "the URL holds a function key (code=), which would end up in logs: put the key into a file of its own, name that (upstream_key, or gatewayctl's --key-file), and remove it here"},
		{"https://h/f?a;code=SECRET", "the URL holds a function key (code=), which would end up in logs: put the key into a file of its own, name that (upstream_key, or gatewayctl's --key-file), and remove it here"},
		{"https://u:SECRET@h/f", "the URL holds a user name or password, which would end up in logs; functions are shown a key: give it by upstream_key, or gatewayctl's --key-file"},
		{"https://h/f#x", "the URL has a fragment (#), which is never sent"},
		{"h/api/f", "this is no URL of a function, such as https://contoso-function-app-1098.azurewebsites.net/api/HttpTrigger1"},
		{"https://:443/f", "this is no URL of a function, such as https://contoso-function-app-1098.azurewebsites.net/api/HttpTrigger1"},
		{"https://h/%zz?code=SECRET", "this is no URL of a function, such as https://contoso-function-app-1098.azurewebsites.net/api/HttpTrigger1"},
		{"", "this is no URL of a function, such as https://contoso-function-app-1098.azurewebsites.net/api/HttpTrigger1"},
	}
	for _, test := range tests {
		got := ""
		if _, err := New(Config{URL: test.url}); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s:\ngot  %q\nwant %q", test.url, got, test.want)
		}
	}
	for _, timeout := range []time.Duration{-1, time.Millisecond, 11 * time.Second} {
		if _, err := New(Config{URL: functionURL, Timeout: timeout}); err == nil {
			t.Errorf("a timeout of %v was accepted", timeout)
		}
	}
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, text, want, wantErr string }{
		{"alone", secret, secret, ""},
		{"with a comment", "# of HttpTrigger1\r\n\r\n  " + secret + " \r\n", secret, ""},
		{"none", "# nothing\n", "", "the key of the cloud function: no key found; write it on a line of its own"},
		{"two", secret + "\n" + secret, "", "the key of the cloud function: more than one line; only one key can be shown to the function"},
		{"with a space", "SECRET SECRET", "", "the key of the cloud function: a key is made of visible ASCII characters without spaces"},
		{"with a letter from elsewhere", "SECRÉT", "", "the key of the cloud function: a key is made of visible ASCII characters without spaces"},
		{"long", strings.Repeat("S", 513), "", "the key of the cloud function has 513 characters; 512 are possible"},
	}
	for _, test := range tests {
		key, err := ParseKey(test.text)
		if got := key.hide(secret); (got == redacted) != (test.want == secret) {
			t.Errorf("%s: got another key than %q", test.name, test.want)
		}
		if got := fmt.Sprint(err); err != nil && got != test.wantErr || (err == nil) != (test.wantErr == "") {
			t.Errorf("%s: got error %q, want %q", test.name, got, test.wantErr)
		}
	}
}

// TestKeyIsRedacted: no way of printing a key, or what holds it, shows it.
func TestKeyIsRedacted(t *testing.T) {
	t.Parallel()
	key := parseKey(t, secret)
	client, err := New(Config{URL: functionURL, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	text, err := key.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %+v %#v %s %q %x %v %+v %#v %s", key, key, key, key, key, key, Config{Key: key}, client, *client, key.LogValue()) + string(text)
	for _, part := range []string{secret, fmt.Sprintf("%x", secret)} {
		if strings.Contains(all, part) {
			t.Errorf("the key is shown: %s", all)
		}
	}
	if !strings.Contains(all, redacted) {
		t.Errorf("got %s, want %s in it", all, redacted)
	}
}
