// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	loopback  = "127.0.0.1:40000"
	stranger  = "203.0.113.7:40000"
	neighbour = "203.0.113.8:40000"
)

// postFrom sends the tutorial's request from an address.
func postFrom(handler http.Handler, remote, target, body string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(http.MethodPost, target, strings.NewReader(body))
	request.RemoteAddr = remote
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, request)
	return recorder
}

// countFrom sends n requests from an address and counts the statuses.
func countFrom(handler http.Handler, n int, remote, target, body string) map[int]int {
	statuses := map[int]int{}
	for range n {
		statuses[postFrom(handler, remote, target, body).Code]++
	}
	return statuses
}

// TestRate: the clock of the bubble stands still between two steps, so each step
// sends all at once. A request that is let in gets 400, for it has no body.
func TestRate(t *testing.T) {
	t.Parallel()
	type step struct {
		wait time.Duration
		from string
		n    int
		want map[int]int
	}
	tests := []struct {
		name   string
		limits Limits
		steps  []step
	}{
		{"default, a caller elsewhere", Limits{}, []step{
			{0, stranger, 1_100, map[int]int{400: 1_000, 503: 100}},
			{0, neighbour, 500, map[int]int{400: 500}},
			{time.Second / 2, stranger, 600, map[int]int{400: 500, 503: 100}},
		}},
		{"default, loopback, second after second", Limits{}, []step{
			{0, loopback, 20_000, map[int]int{400: 20_000}},
			{time.Second, loopback, 20_000, map[int]int{400: 20_000}},
		}},
		{"all callers together", Limits{Rate: 10}, []step{
			{0, stranger, 6, map[int]int{400: 6}},
			{0, neighbour, 6, map[int]int{400: 4, 503: 2}},
			{time.Second, loopback, 11, map[int]int{400: 10, 503: 1}},
		}},
		{"of one caller", Limits{RatePerCaller: 3}, []step{
			{0, stranger, 5, map[int]int{400: 3, 503: 2}},
			{0, "203.0.113.7:41111", 1, map[int]int{503: 1}}, // another port
			{0, neighbour, 3, map[int]int{400: 3}},
			{0, loopback, 5, map[int]int{400: 5}},
			{0, "[2001:db8::1]:40000", 3, map[int]int{400: 3}},
			{0, "[2001:db8::ffff:1]:40000", 1, map[int]int{503: 1}}, // another host of the network
			{0, "[2001:db8:0:1::1]:40000", 1, map[int]int{400: 1}},
			{0, "[::ffff:203.0.113.7]:40000", 1, map[int]int{503: 1}}, // the same, as IPv6
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				handler := NewHandler(Config{Setup: Setup{Policy: Tutorial()}, Limits: test.limits})
				for i, step := range test.steps {
					time.Sleep(step.wait)
					if diff := cmp.Diff(step.want, countFrom(handler, step.n, step.from, "/api/f", "")); diff != "" {
						t.Errorf("step %d, statuses (-want +got):\n%s", i+1, diff)
					}
				}
			})
		})
	}
}

// TestWrongKeys: whoever guesses keys is soon told nothing any more, and takes
// nothing from a good caller behind the same proxy.
func TestWrongKeys(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		handler := NewHandler(Config{Setup: Setup{Policy: Tutorial(), FunctionKeys: parseKeys(t, keyOne)}, Limits: Limits{RatePerCaller: 100, Rate: 100}})
		body := string(golden(t, "tutorial-toaster.request.json"))
		guess := func(n int, from string, want map[int]int) {
			t.Helper()
			if diff := cmp.Diff(want, countFrom(handler, n, from, "/api/f?code=guess", body)); diff != "" {
				t.Errorf("guesses (-want +got):\n%s", diff)
			}
		}
		guess(1_000, loopback, map[int]int{401: 20, 503: 980})
		if diff := cmp.Diff(map[int]int{200: 100}, countFrom(handler, 100, loopback, "/api/f?code="+keyOne, body)); diff != "" {
			t.Errorf("good requests of the same address (-want +got):\n%s", diff)
		}
		guess(30, stranger, map[int]int{401: 20, 503: 10})
		time.Sleep(time.Second)
		guess(10, loopback, map[int]int{401: 5, 503: 5})
		for i := range 50 { // many addresses are no way around it
			countFrom(handler, 20, fmt.Sprintf("198.51.100.%d:1", i), "/api/f?code=guess", body)
		}
		guess(10, neighbour, map[int]int{503: 10})
	})
}

// TestConcurrent holds requests in the policy and looks who still gets in.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		held, release := make(chan struct{}), make(chan struct{})
		slow := policyFunc(func(request Request) (Response, error) {
			if request.LinkedHubs[0] == "wait" {
				held <- struct{}{}
				<-release
			}
			return Response{IoTHubHostName: request.LinkedHubs[0]}, nil
		})
		handler := NewHandler(Config{Setup: Setup{Policy: slow}, Limits: Limits{Concurrent: 5, ConcurrentPerCaller: 2}})
		const passing = `{"linkedHubs":["a"]}`
		var group sync.WaitGroup
		hold := func(n int, from string) {
			for range n {
				group.Go(func() {
					if got := postFrom(handler, from, "/api/f", `{"linkedHubs":["wait"]}`).Code; got != http.StatusOK {
						t.Errorf("a request under way got status %d", got)
					}
				})
				<-held
			}
		}
		want := func(from string, status int, limit string) {
			t.Helper()
			answer := postFrom(handler, from, "/api/f", passing)
			if answer.Code != status {
				t.Errorf("%s: got status %d, want %d", limit, answer.Code, status)
			}
			if got := answer.Header().Get("Retry-After"); (got == "5") != (status == 503) {
				t.Errorf("%s: got Retry-After %q with status %d", limit, got, status)
			}
		}
		hold(1, stranger)
		want(stranger, 200, "one of two of a caller")
		hold(1, stranger)
		want(stranger, 503, "two of two of a caller")
		want(neighbour, 200, "another caller")
		hold(2, loopback)
		want(loopback, 200, "four of five")
		hold(1, loopback)
		want(neighbour, 503, "five of five")
		want(loopback, 503, "five of five, loopback")
		close(release)
		group.Wait()
		want(stranger, 200, "all have left")
	})
}

// TestLargeBodies: what does not fit into memory is told to come again, and the
// usual request still gets in.
func TestLargeBodies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		handler := NewHandler(Config{Setup: Setup{Policy: policyFunc(func(Request) (Response, error) {
			<-release
			return Response{}, Refusal{Message: "no"}
		})}})
		large := "{}" + strings.Repeat(" ", smallBody)
		var group sync.WaitGroup
		for range largeBodies {
			group.Go(func() {
				if got := postFrom(handler, loopback, "/api/f", large).Code; got != http.StatusBadRequest {
					t.Errorf("a large request under way got status %d, want 400", got)
				}
			})
		}
		synctest.Wait()
		if got := postFrom(handler, loopback, "/api/f", large).Code; got != http.StatusServiceUnavailable {
			t.Errorf("one large request more: got status %d, want 503", got)
		}
		group.Go(func() {
			if got := postFrom(handler, loopback, "/api/f", "{}").Code; got != http.StatusBadRequest {
				t.Errorf("a small request: got status %d, want 400", got)
			}
		})
		synctest.Wait()
		close(release)
		group.Wait()
		if got := postFrom(handler, loopback, "/api/f", large).Code; got != http.StatusBadRequest {
			t.Errorf("after all have left: got status %d, want 400", got)
		}
	})
}

// TestDrain: a stop is no refusal, tells new callers to come back on another
// connection, and waits for those under way.
func TestDrain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		handler := NewHandler(Config{Setup: Setup{Policy: policyFunc(func(request Request) (Response, error) {
			time.Sleep(time.Duration(len(request.LinkedHubs)) * time.Second)
			return Response{IoTHubHostName: request.LinkedHubs[0]}, nil
		})}})
		const body = `{"linkedHubs":["a"]}`
		var group sync.WaitGroup
		for _, underWay := range []string{body, `{"linkedHubs":["a","b"]}`} {
			group.Go(func() {
				if got := post(handler, "/api/f", underWay).Code; got != http.StatusOK {
					t.Errorf("a request under way got status %d, want 200", got)
				}
			})
		}
		synctest.Wait()
		start := time.Now()
		group.Go(func() {
			handler.Drain(t.Context())
			if got := time.Since(start); got != 2*time.Second {
				t.Errorf("drained after %v, want 2s", got)
			}
		})
		synctest.Wait()
		answer := post(handler, "/api/f", body)
		if answer.Code != http.StatusServiceUnavailable {
			t.Errorf("a new request got status %d, want 503", answer.Code)
		}
		if got := answer.Header().Get("Retry-After"); got != "5" {
			t.Errorf("got Retry-After %q, want 5", got)
		}
		if got := answer.Header().Get("Connection"); got != "close" {
			t.Errorf("got Connection %q, want close", got)
		}
		group.Wait()
		handler.Drain(t.Context()) // again, with nothing under way
	})
}

// TestDrainGivesUp: the wait for requests under way has an end.
func TestDrainGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		handler := NewHandler(Config{Setup: Setup{Policy: policyFunc(func(Request) (Response, error) {
			<-release
			return Response{}, Refusal{Message: "no"}
		})}})
		var group sync.WaitGroup
		group.Go(func() { post(handler, "/api/f", "{}") })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		handler.Drain(ctx)
		close(release)
		group.Wait()
	})
}

// patient is a policy that thinks until it is stopped.
type patient struct{}

func (patient) Decide(ctx context.Context, _ Question) (Response, error) {
	<-ctx.Done()
	return Response{}, ctx.Err()
}

// TestPolicyTime: a policy gets two seconds, and then the caller is told to ask
// again.
func TestPolicyTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		handler := NewHandler(Config{Setup: Setup{Policy: patient{}}})
		start := time.Now()
		if got := post(handler, "/api/f", "{}").Code; got != http.StatusServiceUnavailable {
			t.Errorf("got status %d, want 503", got)
		}
		if got := time.Since(start); got != policyTime {
			t.Errorf("answered after %v, want %v", got, policyTime)
		}
	})
}

// TestTurnedAwayLog: a flood beyond a limit is a few lines and not a flood.
func TestTurnedAwayLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var seen []Decision
		handler := NewHandler(Config{
			Setup: Setup{Policy: Tutorial(), FunctionKeys: parseKeys(t, keyOne)}, Limits: Limits{Rate: 1},
			Logger:  slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: withoutTime})),
			Observe: func(d Decision) { seen = append(seen, d) },
		})
		countFrom(handler, 500, stranger, "/api/f?code="+keyOne, "{}")
		time.Sleep(999 * time.Millisecond)
		countFrom(handler, 1, stranger, "/api/f?code="+keyOne, "{}")
		time.Sleep(time.Millisecond)
		countFrom(handler, 2, neighbour, "/api/f?code="+keyOne, "{}")
		const want = `level=WARN msg="webhook turned requests away; the service asks again" limit="requests a second" caller=203.0.113.7 count=1
level=WARN msg="webhook turned requests away; the service asks again" limit="requests a second" caller=203.0.113.8 count=500
`
		if diff := cmp.Diff(want, log.String()); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
		turned := 0
		for _, decision := range seen {
			if decision.Limit == limitRate && decision.Status == 503 {
				turned++
			}
		}
		if len(seen) != 503 || turned != 501 {
			t.Errorf("got %d decisions, %d of them turned away, want 503 and 501", len(seen), turned)
		}
	})
}

// TestCallerTable: no number of addresses makes it grow, and who is being served
// is not forgotten.
func TestCallerTable(t *testing.T) {
	t.Parallel()
	table := newCallerTable(10)
	busy := table.find(netip.MustParseAddr("192.0.2.1"))
	busy.underWay = 1
	idle := table.find(netip.MustParseAddr("192.0.2.2"))
	recent := netip.MustParseAddr("192.0.2.3")
	first := table.find(recent)
	for i := range 1_000 {
		table.find(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}))
		if table.find(recent) != first {
			t.Fatalf("after %d others the most recent caller was forgotten", i)
		}
	}
	if len(table.byAddr) != 10 || table.recent.Len() != 10 {
		t.Errorf("got %d callers, %d in their order, want 10", len(table.byAddr), table.recent.Len())
	}
	if table.find(netip.MustParseAddr("192.0.2.1")) != busy {
		t.Error("a caller with a request under way was forgotten")
	}
	if table.find(netip.MustParseAddr("192.0.2.2")) == idle {
		t.Error("the caller that was away for longest was not forgotten")
	}
}

func TestCallerOf(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string]string{
		"192.0.2.1:5":                   "192.0.2.1",
		"[::ffff:192.0.2.1]:5":          "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:5":      "2001:db8:1:2::",
		"[fe80::1:2%eth0]:5":            "fe80::",
		"127.0.0.1:5":                   "127.0.0.1",
		"[::1]:5":                       "::1",
		"@":                             "invalid IP",
		"":                              "invalid IP",
		"192.0.2.1":                     "invalid IP",
		"evil.example:80":               "invalid IP",
		"[fe80::1%\x1b[31mzone\n]:8080": "fe80::",
	} {
		if got := CallerOf(remote).String(); got != want {
			t.Errorf("%q: got %s, want %s", remote, got, want)
		}
	}
}

// TestBounds has documents on both sides of each bound.
func TestBounds(t *testing.T) {
	t.Parallel()
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	hubs := func(n int) string { return `{"linkedHubs":["a` + strings.Repeat(`","a`, n-1) + `"]}` }
	text := func(n int) string { return `"` + strings.Repeat("é", n) + `"` }
	device := func(name, value string) string { return `{"deviceRuntimeContext":{"` + name + `":` + value + `}}` }
	tests := []struct {
		name, body string
		want       string // why it is no AllocationRequest; "" if it is one
	}{
		{"64 levels", `{"a":` + nested(63) + `}`, ""},
		{"65 levels", `{"a":` + nested(64) + `}`, "it is nested deeper than 64 levels"},
		{"100,000 levels", nested(100_000), "it is nested deeper than 64 levels"},
		{"9,000 levels", nested(9_000), "it is nested deeper than 64 levels"},
		{"levels in a string", `{"a":"` + strings.Repeat("[", 100) + `"}`, ""},
		{"brackets closed again", `{"a":[` + strings.Repeat("[],", 100) + `[]]}`, ""},
		{"8,192 members", `{"a":[` + strings.Repeat("1,", 8_190) + `1]}`, ""},
		{"8,193 members", `{"a":[` + strings.Repeat("1,", 8_191) + `1]}`, "it has more than 8192 members"},
		{"8,193 empty lists", `{"a":[` + strings.Repeat("[],", 4_096) + `[]]}`, "it has more than 8192 members"},
		{"commas in a string", `{"a":"` + strings.Repeat(",", 10_000) + `"}`, ""},
		{"256 hubs", hubs(256), ""},
		{"257 hubs", hubs(257), "linkedHubs has more than 256 host names"},
		{"hub of 253 characters", `{"linkedHubs":["a",` + text(253) + `]}`, ""},
		{"hub of 254 characters", `{"linkedHubs":["a",` + text(254) + `]}`, "linkedHubs[1] has more than 253 characters"},
		{"ID of 128 characters", device("registrationId", text(128)), ""},
		{"ID of 129 characters", device("registrationId", text(129)), "deviceRuntimeContext.registrationId has more than 128 characters"},
		{"device ID of 129 characters", device("currentDeviceId", text(129)), "deviceRuntimeContext.currentDeviceId has more than 128 characters"},
		{"current hub of 254 characters", device("currentIotHubHostName", text(254)), "deviceRuntimeContext.currentIotHubHostName has more than 253 characters"},
		{"payload of 250,000 characters", device("payload", `"`+strings.Repeat("x", 250_000)+`"`), ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			want := ""
			if test.want != "" {
				want = "The request is not an AllocationRequest: " + test.want + "."
			}
			_, err := ParseRequest([]byte(test.body))
			if got := errText(err); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// BenchmarkGuard is what the limits cost a request, with many callers at once.
func BenchmarkGuard(b *testing.B) {
	g := newGuard(Limits{Rate: 1e9, RatePerCaller: 1e9})
	b.RunParallel(func(p *testing.PB) {
		for i := 0; p.Next(); i++ {
			from := CallerOf("192.0.2.1:40000")
			v, limit := g.admit(from, time.Now())
			if limit != "" {
				b.Fatal(limit)
			}
			g.leave(v)
		}
	})
}

// TestUnreadBody: who is turned away is told so at once, and not after a body that
// comes slowly or never.
func TestUnreadBody(t *testing.T) {
	t.Parallel()
	handler := NewHandler(Config{Setup: Setup{Policy: Tutorial(), FunctionKeys: parseKeys(t, keyOne)}, Limits: Limits{Rate: 1}})
	post(handler, "/api/f?code="+keyOne, "")
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	for _, test := range []struct{ name, target, want string }{
		{"wrong key", "/api/f?code=wrong", "HTTP/1.1 401 Unauthorized\r\n"},
		{"beyond a limit", "/api/f?code=" + keyOne, "HTTP/1.1 503 Service Unavailable\r\n"},
	} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(3 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "POST "+test.target+" HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{"); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn) // to the end of the connection
		if err != nil || !strings.HasPrefix(string(answer), test.want) || !strings.Contains(string(answer), "Connection: close\r\n") {
			t.Errorf("%s: got %q, %v", test.name, answer, err)
		}
	}
}
