// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc/mqttrpctest"
)

// The tests in this file end a registration wherever it can be. A bubble fails if a goroutine stays, and the network
// counts the connections that nobody closed.

var (
	overHTTPS = []Transport{TransportHTTPS}
	overMQTT  = []Transport{TransportMQTT, TransportMQTTWS}
)

// point is where a registration is when it is ended.
type point struct {
	name   string
	over   []Transport // that can be there; nil is all
	change func(*testing.T, *dps)
	script func(int, asked) said
	first  bool // another device is registered before
	ask    func(*Request)
	step   Step // it is ended when this is reported, or else after a while
}

// TestCancelAnywhere ends the context, and in a second round the client, while a registration waits for something.
func TestCancelAnywhere(t *testing.T) {
	hang := said{Hang: true}
	endEverywhere(t, []point{
		{name: "during the dial", change: func(_ *testing.T, d *dps) {
			d.network.Listen(testHost + ":443") // nobody accepts
			d.network.Listen(testHost + ":8883")
		}},
		{name: "during the TLS handshake", change: func(t *testing.T, d *dps) {
			serveConns(t, d, theService, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
		}},
		{name: "during the proxy's CONNECT", change: func(t *testing.T, d *dps) {
			d.cfg.Proxy = proxyAt("proxy.test:3128")
			serveConns(t, d, []string{"proxy.test:3128"}, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
		}},
		{name: "during the TLS handshake behind a proxy", change: func(t *testing.T, d *dps) {
			d.cfg.Proxy = proxyAt("proxy.test:3128")
			serveConns(t, d, []string{"proxy.test:3128"}, func(conn net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
				}
				_, _ = io.Copy(io.Discard, conn)
			})
		}},
		{name: "during the upgrade to a WebSocket", over: []Transport{TransportMQTTWS}, change: func(t *testing.T, d *dps) {
			serveTLS(t, d, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
		}},
		{name: "no answer to CONNECT", over: overMQTT, change: func(t *testing.T, d *dps) {
			end := untilEnd(t)
			d.mqtt.Connect = func(*mqttrpctest.Client) int {
				<-end
				return 0
			}
		}},
		{name: "no answer to SUBSCRIBE", over: overMQTT, change: func(t *testing.T, d *dps) {
			end := untilEnd(t)
			d.mqtt.Subscribe = func(*mqttrpctest.Client, string) byte {
				<-end
				return 0
			}
		}},
		{name: "no answer to the register", script: inOrder(hang)},
		{name: "half an answer to the register", over: overHTTPS, change: func(t *testing.T, d *dps) {
			serveTLS(t, d, func(conn net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
				}
				_, _ = io.Copy(io.Discard, conn)
			})
		}},
		{name: "half an answer to the register", over: overMQTT, change: func(_ *testing.T, d *dps) {
			d.mqtt.Publish = func(c *mqttrpctest.Client, _ string, _ []byte) { c.Raw([]byte{0x32, 100, 0}) }
		}},
		{name: "no answer to the status lookup", over: overHTTPS, ask: interrupted, script: inOrder(hang)},
		{name: "waiting to look again", over: overHTTPS, ask: interrupted, script: inOrder(said{Status: 200, RetryAfter: "200", Body: `{"status":"assigning"}`})},
		{name: "waiting to poll", script: inOrder(assigning("200"))},
		{name: "no answer to the poll", script: inOrder(assigning("3"), hang)},
		{name: "waiting because throttled", script: inOrder(refusal(429, 429001, "200"))},
		{name: "waiting after a 503 to a poll", script: inOrder(assigning("1"), refusal(503, 0, "200"))},
		{name: "waiting for its turn", first: true, change: func(_ *testing.T, d *dps) { d.cfg.RegistersPerMinute = 0.01 }},
		{name: "waiting for its turn to poll", first: true, change: func(_ *testing.T, d *dps) { d.cfg.PollsPerSecond = 0.001 }, script: inOrder(assigning("1"), assigned(testOp))},
	})
}

// TestCancelAtEveryStep does the same at the very moment at which a step is reported. Nothing is sent after it.
func TestCancelAtEveryStep(t *testing.T) {
	forgotten := inOrder(assigning("1"), refusal(404, 404202, ""), assigning("1"), assigned(testOp))
	endEverywhere(t, []point{
		{step: StepWaiting, first: true, change: func(_ *testing.T, d *dps) { d.cfg.RegistersPerMinute = 6 }},
		{step: StepConnected, over: overMQTT},
		{step: StepLookingUp, over: overHTTPS, ask: interrupted},
		{step: StepSubmitting},
		{step: StepAssigning, script: inOrder(assigning("3"), assigned(testOp))},
		{step: StepThrottled, script: inOrder(refusal(429, 429001, "3"), assigned(testOp))},
		{step: StepRetrying, script: inOrder(assigning("1"), refusal(503, 0, "3"), assigned(testOp))},
		{step: StepRestarting, script: forgotten},
	})
}

func interrupted(r *Request) { r.Interrupted = true }

// endEverywhere ends a registration at each point in each way, over each transport.
func endEverywhere(t *testing.T, points []point) {
	t.Helper()
	for _, p := range points {
		for _, how := range []string{"context", "client"} {
			t.Run(p.name+string(p.step)+" by the "+how, func(t *testing.T) {
				eachTransport(t, func(t *testing.T, service *dps) {
					if p.over != nil && !slices.Contains(p.over, service.cfg.Transport) {
						t.Skip("this transport has no such point")
					}
					endOnce(t, service, p, how)
				})
				for _, rung := range []Transport{TransportHTTPS, TransportMQTT} {
					if p.over != nil && !slices.Contains(p.over, rung) {
						continue
					}
					t.Run("auto, on "+string(rung), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							service := newDPS(t, TransportAuto)
							if rung == TransportMQTT {
								service.network.OnDial(portClosed(testHost + ":443"))
							}
							endOnce(t, service, p, how)
						})
					})
				}
			})
		}
	}
}

// endOnce runs one registration into p and ends it there.
func endOnce(t *testing.T, service *dps, p point, how string) {
	t.Helper()
	if p.change != nil {
		p.change(t, service)
	}
	if p.script != nil {
		service.script = p.script
	}
	client := service.client(t)
	if p.first {
		r := request()
		r.RegistrationID = "first"
		if _, err := client.Register(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	end, why := cancel, error(context.Canceled)
	if how == "client" {
		end, why = client.Close, ErrClosed
	}

	const after = 8 * time.Second
	var ended time.Time
	var sent int
	endNow := func() {
		ended, sent = time.Now(), len(service.requests())
		end()
	}
	r := request()
	if p.ask != nil {
		p.ask(&r)
	}
	if p.step == "" {
		time.AfterFunc(after, endNow)
	} else {
		r.Observe = func(progress Progress) error {
			if progress.Step == p.step && ended.IsZero() {
				go endNow() // Close waits for the registration, and so for this function
				synctest.Wait()
			}
			return nil
		}
	}

	_, err := client.Register(ctx, r)
	if !errors.Is(err, why) || kindName(err) != "other" {
		t.Errorf("got %v, want %v", err, why)
	}
	if ended.IsZero() {
		t.Fatal("the registration never got there")
	}
	if took := time.Since(ended); took > 500*time.Millisecond {
		t.Errorf("it went on for %v", took)
	}
	if more := len(service.requests()) - sent; more != 0 {
		t.Errorf("%d requests were sent after the end", more)
	}
	synctest.Wait()
	if open := service.network.Open(); open != 0 && slices.Contains(overMQTT, service.cfg.Transport) { // HTTPS has a pool, which may keep one
		t.Errorf("%d connections are left by the registration", open)
	}
	client.Close()
	synctest.Wait()
	if open := service.network.Open(); open != 0 {
		t.Errorf("%d connections are left by the client", open)
	}
}

// portClosed fails the dials to one address.
func portClosed(closed string) func(address string, _ int) error {
	return func(address string, _ int) error {
		if address == closed {
			return syscall.ECONNREFUSED
		}
		return nil
	}
}

// untilEnd returns a channel that is closed when the test ends, before its service.
func untilEnd(t *testing.T) <-chan struct{} {
	t.Helper()
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	return end
}

func proxyAt(address string) func(*url.URL) (*url.URL, error) {
	return func(*url.URL) (*url.URL, error) { return &url.URL{Scheme: "http", Host: address}, nil }
}

// theService is where the service listens.
var theService = []string{testHost + ":443", testHost + ":8883"}

// serveConns takes the place of whoever listens at the addresses: every connection is handed to serve, and closed after it.
func serveConns(t *testing.T, d *dps, addresses []string, serve func(net.Conn)) {
	t.Helper()
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait) // runs after those that close the listeners
	for _, address := range addresses {
		listener := d.network.Listen(address)
		t.Cleanup(func() { _ = listener.Close() })
		serving.Go(func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				serving.Go(func() {
					defer func() { _ = conn.Close() }()
					serve(conn)
				})
			}
		})
	}
}

// serveTLS is [serveConns] behind a TLS handshake.
func serveTLS(t *testing.T, d *dps, serve func(net.Conn)) {
	t.Helper()
	authority := mqttrpctest.NewAuthority(t)
	d.cfg.RootCAs = authority.Pool
	secure := authority.Server(t, testHost)
	serveConns(t, d, theService, func(conn net.Conn) { serve(tls.Server(conn, secure)) })
}
