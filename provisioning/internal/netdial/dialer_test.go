// SPDX-License-Identifier: Apache-2.0

package netdial

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc/mqttrpctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	service      = "dps.test:443"
	proxyAddress = "proxy.test:3128"
	secret       = "p%40ss:w0rd" // as in a URL
)

// bench is a network with a service that echoes and a proxy.
type bench struct {
	network *mqttrpctest.Network
	proxy   *mqttrpctest.Proxy
	cfg     Config
}

func newBench(t *testing.T, proxyURL string) *bench {
	t.Helper()
	b := &bench{network: mqttrpctest.NewNetwork()}
	b.proxy = &mqttrpctest.Proxy{Network: b.network}
	listener, echoes := b.network.Listen(proxyAddress), b.network.Listen(service)
	b.proxy.Serve(listener)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := echoes.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			})
		}
	})
	b.cfg = Config{Dial: b.network.DialContext, Proxy: through(t, proxyURL)}
	t.Cleanup(func() {
		_, _ = listener.Close(), echoes.Close()
		b.proxy.Close()
		serving.Wait()
	})
	return b
}

// through returns a proxy function that knows one proxy, or none for "".
func through(t *testing.T, address string) func(*url.URL) (*url.URL, error) {
	t.Helper()
	if address == "" {
		return func(*url.URL) (*url.URL, error) { return nil, nil }
	}
	proxy, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return func(*url.URL) (*url.URL, error) { return proxy, nil }
}

// echo checks that a connection reaches the service and closes it.
func echo(t *testing.T, conn net.Conn) {
	t.Helper()
	defer func() { _ = conn.Close() }()
	got := make([]byte, 5)
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v through the connection, want hello", got, err)
	}
}

func TestDirectly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "")
		conn, err := New(b.cfg).DialContext(t.Context(), "tcp", service)
		if err != nil {
			t.Fatal(err)
		}
		echo(t, conn)
		if n := b.network.Dials(proxyAddress); n != 0 {
			t.Errorf("the proxy was dialled %d times", n)
		}
	})
}

func TestThroughAProxy(t *testing.T) {
	credentials := "Basic " + base64.StdEncoding.EncodeToString([]byte("gateway:p@ss:w0rd"))
	for name, secured := range map[string]bool{"http": false, "https": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, name+"://gateway:"+secret+"@"+proxyAddress)
				b.proxy.Credentials = credentials
				if secured {
					authority := mqttrpctest.NewAuthority(t)
					b.cfg.RootCAs = authority.Pool
					listener := b.network.Listen(proxyAddress)
					defer func() { _ = listener.Close() }()
					b.proxy.Serve(tls.NewListener(listener, authority.Server(t, "proxy.test")))
				}
				conn, err := New(b.cfg).DialContext(t.Context(), "tcp", service)
				if err != nil {
					t.Fatal(err)
				}
				echo(t, conn)
				if got := fmt.Sprint(b.proxy.Targets()); got != "["+service+"]" {
					t.Errorf("asked for %s, want %s", got, service)
				}
				if n := b.network.Dials(proxyAddress); n != 1 {
					t.Errorf("the proxy was dialled %d times by the configured Dial, want once", n)
				}
			})
		})
	}
}

// TestProxyErrors has proxies that refuse, break off or talk nonsense.
func TestProxyErrors(t *testing.T) {
	say := func(text string) func(*bench) {
		return func(b *bench) { b.proxy.Answer = func(string) string { return text } }
	}
	wants := func(b *bench) { b.proxy.Credentials = "Basic eHg=" }
	tests := []struct {
		name   string
		proxy  string
		change func(*bench)
		status int
		want   string
		cause  error
	}{
		{"credentials wanted", "http://" + proxyAddress, wants, 407, "it wants a user name and a password (status 407)", nil},
		{"credentials wrong", "http://gateway:" + secret + "@" + proxyAddress, wants, 407, "it did not accept the user name and the password (status 407)", nil},
		{"forbidden", "http://" + proxyAddress, say("HTTP/1.1 403 Forbidden\r\nContent-Length: 99999\r\n\r\n"), 403, "it did not connect to dps.test:443 (status 403)", nil},
		{"its trouble", "http://" + proxyAddress, say("HTTP/1.1 502 \x1b[2JBad Gateway\r\n\r\n"), 502, "it did not connect to dps.test:443 (status 502)", nil},
		{"continue", "http://" + proxyAddress, say("HTTP/1.1 100 Continue\r\n\r\n"), 100, "status 100", nil},
		{"not HTTP", "http://" + proxyAddress, say("SSH-2.0-OpenSSH_9.2p1\r\n"), 0, "its answer is not HTTP", errNotHTTP},
		{"endless", "http://" + proxyAddress, say("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxAnswer)), 0, "its answer is not HTTP", errNotHTTP},
		{"talkative", "http://" + proxyAddress, say("HTTP/1.1 200 OK\r\n\r\nHello!"), 200, "it sent something of its own", errTalkative},
		{"silent", "http://" + proxyAddress, say(" "), 0, "deadline", context.DeadlineExceeded},
		{"nobody there", "http://elsewhere.test", nil, 0, "proxy elsewhere.test:80: dial tcp elsewhere.test:80: connect: connection refused", syscall.ECONNREFUSED},
		{"no TLS", "https://" + proxyAddress, nil, 0, "EOF", io.EOF},
		{"SOCKS", "socks5://gateway:" + secret + "@" + proxyAddress, nil, 0, "a proxy must be http://host:port or https://host:port", nil},
		{"target it cannot reach", "http://" + proxyAddress, func(b *bench) { _ = b.network.Listen(service).Close() }, 502, "status 502", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, test.proxy)
				if test.change != nil {
					test.change(b)
				}
				_, err := New(b.cfg).DialContext(t.Context(), "tcp", service)
				var proxy *ProxyError
				if !errors.As(err, &proxy) || proxy.Status != test.status || !strings.Contains(err.Error(), test.want) {
					t.Fatalf("got %v (%+v), want a ProxyError with status %d and %q", err, proxy, test.status, test.want)
				}
				if test.cause != nil && !errors.Is(err, test.cause) {
					t.Errorf("%v is not because of %v", err, test.cause)
				}
				if text := fmt.Sprintf("%v %+v %#v", err, proxy, *proxy); strings.Contains(text, "w0rd") || strings.Contains(text, "gateway:") {
					t.Errorf("the error shows the credentials: %s", text)
				}
			})
		})
	}
}

// TestCancelled ends the context while the proxy is silent. The bubble fails if anything is left over.
func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "http://"+proxyAddress)
		b.proxy.Answer = func(string) string { return " " }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		_, err := New(b.cfg).DialContext(ctx, "tcp", service)
		if took := time.Since(begun); !errors.Is(err, context.DeadlineExceeded) || took != time.Second {
			t.Errorf("ended after %v with %v, want the context's error after a second", took, err)
		}
	})
}

// TestASilentFirewall must leave time for another way.
func TestASilentFirewall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialer := New(Config{Proxy: through(t, ""), Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		begun := time.Now()
		_, err := dialer.DialContext(t.Context(), "tcp", service)
		if took := time.Since(begun); !errors.Is(err, context.DeadlineExceeded) || took != connectTimeout {
			t.Errorf("ended after %v with %v, want after %v", took, err, connectTimeout)
		}
	})
}

func TestAnAddressThatBreaksOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "http://"+proxyAddress)
		_, err := New(b.cfg).DialContext(t.Context(), "tcp", "dps.test:443 HTTP/1.1\r\nX: y")
		if err == nil || len(b.proxy.Targets()) != 0 {
			t.Errorf("got %v, and the proxy was asked for %q", err, b.proxy.Targets())
		}
	})
}

func TestFromEnvironment(t *testing.T) {
	const service = "https://global.azure-devices-provisioning.net:443"
	tests := []struct {
		name        string
		environment map[string]string
		address     string
		want        string
	}{
		{"nothing", nil, service, "<nil> <nil>"},
		{"URL", map[string]string{"HTTPS_PROXY": "http://proxy.site:3128"}, service, "http://proxy.site:3128 <nil>"},
		{"lower case wins", map[string]string{"https_proxy": "http://lower:1", "HTTPS_PROXY": "http://upper:1"}, service, "http://lower:1 <nil>"},
		{"host and port", map[string]string{"HTTPS_PROXY": "proxy.site:3128"}, service, "http://proxy.site:3128 <nil>"},
		{"plain HTTP's", map[string]string{"HTTP_PROXY": "http://proxy.site:3128"}, service, "<nil> <nil>"},
		{"MQTT", map[string]string{"HTTPS_PROXY": "https://proxy.site"}, "https://hub.azure-devices.net:8883", "https://proxy.site <nil>"},
		{"exempt domain", map[string]string{"HTTPS_PROXY": "http://proxy.site:3128", "NO_PROXY": "other, azure-devices-provisioning.net"}, service, "<nil> <nil>"},
		{"exempt port", map[string]string{"HTTPS_PROXY": "http://proxy.site:3128", "no_proxy": "hub.site:8883"}, "https://hub.site:8883", "<nil> <nil>"},
		{"another port", map[string]string{"HTTPS_PROXY": "http://proxy.site:3128", "no_proxy": "hub.site:8883"}, "https://hub.site:443", "http://proxy.site:3128 <nil>"},
		{"exempt network", map[string]string{"HTTPS_PROXY": "http://proxy.site:3128", "NO_PROXY": "10.0.0.0/8"}, "https://10.1.2.3:8443", "<nil> <nil>"},
		{"all exempt", map[string]string{"HTTPS_PROXY": "http://proxy.site:3128", "NO_PROXY": "*"}, service, "<nil> <nil>"},
		{"loopback", map[string]string{"HTTPS_PROXY": "http://proxy.site:3128"}, "https://127.0.0.1:8443", "<nil> <nil>"},
		{"SOCKS", map[string]string{"HTTPS_PROXY": "socks5://u:w0rd@proxy.site:1080"}, service, "<nil> " + errEnvironment.Error()},
		{"nonsense", map[string]string{"HTTPS_PROXY": "http://u:w0rd@proxy.site:port"}, service, "<nil> " + errEnvironment.Error()},
		{"nonsense but exempt", map[string]string{"HTTPS_PROXY": "::", "NO_PROXY": "*"}, service, "<nil> <nil>"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"} {
				t.Setenv(name, test.environment[name])
			}
			address, err := url.Parse(test.address)
			if err != nil {
				t.Fatal(err)
			}
			proxy, err := FromEnvironment()(address)
			got := fmt.Sprint(err)
			if proxy == nil {
				got = "<nil> " + got
			} else {
				got = proxy.String() + " " + got
			}
			if got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// TestAddressFamilies: a name whose IPv6 address is dead is reached by IPv4.
func TestAddressFamilies(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	dialer := New(Config{Proxy: through(t, ""), Dial: mqttrpctest.DeadIPv6().DialContext})
	conn, err := dialer.DialContext(t.Context(), "tcp", "dps.test:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if got := conn.RemoteAddr().String(); got != listener.Addr().String() {
		t.Errorf("connected to %s, want %s", got, listener.Addr())
	}
}
