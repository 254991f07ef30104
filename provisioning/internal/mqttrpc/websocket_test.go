// SPDX-License-Identifier: Apache-2.0

package mqttrpc

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc/mqttrpctest"
)

// overWebSocket is for tests of the WebSocket alone.
var overWebSocket = way{name: "websocket", webSocket: true}

// answerHTTP makes a server that reads one request and says text, and passes the request on.
func answerHTTP(t *testing.T, b *bench, secure *tls.Config, text string, asked func(*http.Request)) {
	t.Helper()
	listener := b.network.Listen(address)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			raw, err := listener.Accept()
			if err != nil {
				return
			}
			conn := tls.Server(raw, secure)
			request, err := http.ReadRequest(bufio.NewReader(conn))
			if err == nil && asked != nil {
				asked(request)
			}
			_, _ = io.WriteString(conn, text)
			if !strings.HasSuffix(text, "…") { // which waits for the client to hang up
				_ = conn.Close()
				continue
			}
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
}

// TestUpgradeOnTheWire compares the request with real-clients-wire "Connecting".
func TestUpgradeOnTheWire(t *testing.T) {
	tests := []struct{ name, address, host string }{
		{"usual port", "service.test:443", "service.test"},
		{"another port", "service.test:8443", "service.test:8443"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, overWebSocket, &mqttrpctest.Server{})
				b.cfg.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
					return b.network.DialContext(ctx, network, address)
				}
				var got string
				authority := mqttrpctest.NewAuthority(t)
				b.cfg.TLS.RootCAs = authority.Pool
				answerHTTP(t, b, authority.Server(t, "service.test"), "HTTP/1.1 404 Not Found\r\n\r\n", func(r *http.Request) {
					if key := r.Header.Get("Sec-WebSocket-Key"); len(key) != 24 {
						t.Errorf("the key is %q, want 16 bytes as base64", key)
					}
					r.Header.Set("Sec-WebSocket-Key", "KEY")
					wire, _ := httputil.DumpRequest(r, false)
					got = string(wire)
				})
				b.cfg.Address = test.address
				_, _ = Connect(t.Context(), b.cfg)
				want := "GET /$iothub/websocket HTTP/1.1\r\nHost: " + test.host + "\r\nConnection: Upgrade\r\nSec-Websocket-Key: KEY\r\n" +
					"Sec-Websocket-Protocol: mqtt\r\nSec-Websocket-Version: 13\r\nUpgrade: websocket\r\n\r\n"
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("the request (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestUpgradeRefused has something answer that is no MQTT server.
func TestUpgradeRefused(t *testing.T) {
	const agreed = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
	tests := []struct {
		name, answer string
		status       int
		retryAfter   string
	}{
		{"captive portal", "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>Welcome!</html>", 200, ""},
		{"portal that says nothing more", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n…", 200, ""},
		{"redirect", "HTTP/1.1 302 Found\r\nLocation: https://login.example/\r\n\r\n", 302, ""},
		{"not found", "HTTP/1.1 404 Not Found\r\n\r\n", 404, ""},
		{"forbidden", "HTTP/1.1 403 Forbidden\r\n\r\n", 403, ""},
		{"throttled", "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\n\r\n", 429, "7"},
		{"away", "HTTP/1.1 503 Service Unavailable\r\n\r\n", 503, ""},
		{"wrong accept", agreed + "Sec-WebSocket-Accept: AAAA\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n", 101, ""},
		{"not HTTP", "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", 0, ""},
		{"endless header", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxUpgrade+1) + "…", 0, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, overWebSocket, &mqttrpctest.Server{})
				authority := mqttrpctest.NewAuthority(t)
				b.cfg.TLS.RootCAs = authority.Pool
				answerHTTP(t, b, authority.Server(t, "service.test"), test.answer, nil)
				open := make(map[net.Conn]bool)
				b.cfg.DialContext = track(b.cfg.DialContext, open)

				begun := time.Now()
				_, err := Connect(t.Context(), b.cfg)
				var refused *UpgradeError
				if !errors.As(err, &refused) || refused.Status != test.status || refused.RetryAfter != test.retryAfter {
					t.Errorf("got %v (%+v), want an UpgradeError with status %d and hint %q", err, refused, test.status, test.retryAfter)
				}
				if took := time.Since(begun); took > time.Second {
					t.Errorf("it took %v", took)
				}
				if len(open) != 0 {
					t.Errorf("%d connections are left open", len(open))
				}
			})
		})
	}
}

// TestUpgradeNeedsItsSubprotocol: without it nobody knows what the frames hold.
func TestUpgradeNeedsItsSubprotocol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, overWebSocket, &mqttrpctest.Server{})
		listener := b.network.Listen(address)
		authority := mqttrpctest.NewAuthority(t)
		b.cfg.TLS.RootCAs = authority.Pool
		served := make(chan struct{})
		web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(served)
			r.Header.Del("Sec-WebSocket-Protocol")
			b.server.ServeHTTP(w, r)
		})}
		var serving sync.WaitGroup
		serving.Go(func() { _ = web.Serve(tls.NewListener(listener, authority.Server(t, "service.test"))) })
		defer func() {
			_ = web.Close()
			serving.Wait()
			<-served // it has taken the connection over, so that Close does not wait for it
		}()

		conn, err := Connect(t.Context(), b.cfg)
		if err == nil {
			conn.Close()
		}
		if !errors.Is(err, errNoMQTT) {
			t.Errorf("got %v, want %v", err, errNoMQTT)
		}
	})
}

// TestUpgradeBreaksOff: no answer is the network's trouble, not a refusal.
func TestUpgradeBreaksOff(t *testing.T) {
	for name, answer := range map[string]string{"at once": "", "in the middle": "HTTP/1.1 101 Swi"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, overWebSocket, &mqttrpctest.Server{})
				authority := mqttrpctest.NewAuthority(t)
				b.cfg.TLS.RootCAs = authority.Pool
				answerHTTP(t, b, authority.Server(t, "service.test"), answer, nil)
				_, err := Connect(t.Context(), b.cfg)
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("got %v, want the connection's end", err)
				}
			})
		})
	}
}

// TestConnectEndsWithItsContextDuringTheUpgrade has a server that never answers it.
func TestConnectEndsWithItsContextDuringTheUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, overWebSocket, &mqttrpctest.Server{})
		authority := mqttrpctest.NewAuthority(t)
		b.cfg.TLS.RootCAs = authority.Pool
		answerHTTP(t, b, authority.Server(t, "service.test"), "…", nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		_, err := Connect(ctx, b.cfg)
		if took := time.Since(begun); !errors.Is(err, context.DeadlineExceeded) || took > 2*time.Second {
			t.Errorf("ended after %v with %v, want the context's error after a second", took, err)
		}
	})
}

// TestManyPacketsInOneFrame has the PUBACK, a stray message and the answer come together.
func TestManyPacketsInOneFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publish := func(topic, body string) []byte {
			packet := []byte{0x30, byte(2 + len(topic) + len(body)), 0, byte(len(topic))}
			return append(append(packet, topic...), body...)
		}
		b := newBench(t, overWebSocket, &mqttrpctest.Server{Publish: func(c *mqttrpctest.Client, topic string, _ []byte) {
			c.Raw(append(publish("stray", "x"), publish("x/res/200/?$rid="+rid(topic), "answer")...))
		}})
		got, err := b.connect(t).Call(t.Context(), "x/", "", nil)
		if err != nil || string(got.Body) != "answer" {
			t.Errorf("got %q, %v, want the answer", got.Body, err)
		}
	})
}

func TestAuthority(t *testing.T) {
	tests := []struct{ name, address, want string }{
		{"dps.test", "dps.test:443", "dps.test"},
		{"dps.test", "10.0.0.1:8443", "dps.test:8443"},
		{"::1", "[::1]:443", "[::1]"},
		{"::1", "[::1]:8443", "[::1]:8443"},
	}
	for _, test := range tests {
		if got := authority(test.name, test.address); got != test.want {
			t.Errorf("authority(%q, %q) = %q, want %q", test.name, test.address, got, test.want)
		}
	}
}
