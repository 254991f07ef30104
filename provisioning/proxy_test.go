// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc/mqttrpctest"
)

const siteProxy = "proxy.test:3128"

// behindProxy has a site's proxy between the client and the service, which wants credentials.
func behindProxy(t *testing.T, service *dps, address string) *mqttrpctest.Proxy {
	t.Helper()
	site := &mqttrpctest.Proxy{
		Network:     service.network,
		Credentials: "Basic " + base64.StdEncoding.EncodeToString([]byte("gateway:Pa55")),
	}
	listener := service.network.Listen(siteProxy)
	site.Serve(listener)
	t.Cleanup(func() {
		_ = listener.Close()
		site.Close()
	})
	proxy, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	service.cfg.Proxy = func(*url.URL) (*url.URL, error) { return proxy, nil }
	return site
}

// target is the service's address over a transport.
func target(transport Transport) string {
	if transport == TransportMQTT {
		return testHost + ":8883"
	}
	return testHost + ":443"
}

func TestProxy(t *testing.T) {
	eachTransport(t, func(t *testing.T, service *dps) {
		site := behindProxy(t, service, "http://gateway:Pa55@"+siteProxy)
		service.script = inOrder(assigning("3"), assigned(testOp))
		if _, err := service.client(t).Register(t.Context(), request()); err != nil {
			t.Fatal(err)
		}
		address := target(service.cfg.Transport)
		if got := fmt.Sprint(site.Targets()); got != "["+address+"]" {
			t.Errorf("the proxy was asked for %s, want %s once", got, address)
		}
		if n := service.network.Dials(siteProxy); n != 1 {
			t.Errorf("DialContext reached the proxy %d times, want once", n)
		}
	})
}

// TestProxyRefuses: a proxy that refuses is asked once, and what it was asked with stays secret.
func TestProxyRefuses(t *testing.T) {
	tests := []struct {
		name, address string
		change        func(*mqttrpctest.Proxy)
		status        int
	}{
		{"no credentials", "http://" + siteProxy, nil, 407},
		{"wrong credentials", "http://gateway:Wr0ng@" + siteProxy, nil, 407},
		{"forbidden", "http://gateway:Pa55@" + siteProxy, func(p *mqttrpctest.Proxy) {
			p.Answer = func(string) string { return "HTTP/1.1 403 Forbidden\r\n\r\n" }
		}, 403},
		{"not HTTP", "http://gateway:Pa55@" + siteProxy, func(p *mqttrpctest.Proxy) {
			p.Answer = func(string) string { return "+OK ready\r\n" }
		}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, service *dps) {
				site := behindProxy(t, service, test.address)
				if test.change != nil {
					test.change(site)
				}
				var log bytes.Buffer
				service.cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
				_, err := service.client(t).Register(t.Context(), request())
				var proxy *ProxyError
				var unreachable *UnreachableError
				if !errors.As(err, &proxy) || proxy.Status != test.status || proxy.Proxy != siteProxy || !errors.As(err, &unreachable) {
					t.Errorf("got %v, want an UnreachableError because of a ProxyError of %s with status %d", err, siteProxy, test.status)
				}
				if asked := len(site.Targets()); asked != 1 {
					t.Errorf("the proxy was asked %d times, want once: it is no hiccup", asked)
				}
				if n := len(service.requests()); n != 0 {
					t.Errorf("the service got %d requests", n)
				}
				for _, secret := range []string{"Pa55", "Wr0ng", "gateway:"} {
					if text := fmt.Sprintf("%v %+v %s", err, err, log.String()); strings.Contains(text, secret) {
						t.Errorf("%q is shown in %s", secret, text)
					}
				}
			})
		})
	}
}

// TestProxyFromEnvironment: it is read when the client is made.
func TestProxyFromEnvironment(t *testing.T) {
	for name, transport := range map[string]Transport{"https": TransportHTTPS, "mqtt": TransportMQTT} {
		t.Run(name, func(t *testing.T) {
			for _, name := range []string{"https_proxy", "no_proxy"} {
				t.Setenv(name, "")
			}
			for _, test := range []struct {
				proxy, exempt string
				use           func(*url.URL) (*url.URL, error)
				want          int
			}{
				{"http://gateway:Pa55@" + siteProxy, "", nil, 1},
				{"http://gateway:Pa55@" + siteProxy, testHost, nil, 0},
				{"http://gateway:Pa55@" + siteProxy, "", NoProxy, 0},
				{"", "", nil, 0},
			} {
				t.Setenv("HTTPS_PROXY", test.proxy)
				t.Setenv("NO_PROXY", test.exempt)
				service := newDPS(t, transport)
				site := behindProxy(t, service, "http://"+siteProxy)
				service.cfg.Proxy = test.use
				client := service.client(t)
				t.Setenv("HTTPS_PROXY", "http://elsewhere.test")
				if _, err := client.Register(t.Context(), request()); err != nil {
					t.Error(err)
				}
				if got := len(site.Targets()); got != test.want {
					t.Errorf("HTTPS_PROXY=%q NO_PROXY=%q: asked the proxy %d times, want %d", test.proxy, test.exempt, got, test.want)
				}
			}
		})
	}
}
