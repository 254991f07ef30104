// SPDX-License-Identifier: Apache-2.0

package provisioning_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/contoso/gatewayd/provisioning"
)

// auto makes a client that climbs down to the local service, whose ports are not the usual ones: front, if it is not
// "", stands where a client finds port 443, and MQTT answers at its own only if it is open.
func (s *site) auto(t *testing.T, front string, openMQTT bool) *provisioning.Client {
	t.Helper()
	return s.clientWith(t, provisioning.TransportAuto, func(cfg *provisioning.Config) {
		cfg.Endpoint = anyHost
		cfg.Proxy = provisioning.NoProxy
		cfg.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			to := front
			if strings.HasSuffix(address, ":8883") {
				if to = ""; openMQTT {
					to = s.server.MQTTAddr()
				}
			}
			if to == "" { // as where nobody listens: a port that is free now may not be in a moment
				return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
			}
			return new(net.Dialer).DialContext(ctx, network, to)
		}
	})
}

// front is an HTTPS server with a certificate that the site trusts, as one that inspects TLS has.
func (s *site) front(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	s.roots.AddCert(server.Certificate())
	return server.Listener.Addr().String()
}

// onward passes requests on to the local service, upgrades to WebSocket too.
func (s *site) onward() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "https", Host: s.server.HTTPSAddr()})
			r.Out.Host = nowhere
		},
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: s.roots, ServerName: nowhere},
			DisableKeepAlives: true,
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
}

// TestAuto registers with the local service wherever there is a way to it.
func TestAuto(t *testing.T) {
	t.Parallel()
	register := func(t *testing.T, s *site, client *provisioning.Client, want provisioning.Transport) {
		t.Helper()
		got, err := client.Register(t.Context(), s.request(toaster))
		if err != nil || got.AssignedHub != toasters {
			t.Errorf("got %+v, %v", got, err)
		}
		if got := client.Worked(); got != want {
			t.Errorf("worked over %q, want %q", got, want)
		}
	}
	portal := func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html>Please log in.</html>")
	}

	t.Run("all open", func(t *testing.T) {
		t.Parallel() // it waits before it tries again, in real time
		s := newSite(t, allocateToasters, nil)
		register(t, s, s.auto(t, s.server.HTTPSAddr(), true), provisioning.TransportHTTPS)
	})
	t.Run("443 closed", func(t *testing.T) {
		t.Parallel() // it waits before it tries again, in real time
		s := newSite(t, allocateToasters, nil)
		register(t, s, s.auto(t, "", true), provisioning.TransportMQTT)
	})
	t.Run("all closed", func(t *testing.T) {
		t.Parallel() // it waits before it tries again, in real time
		s := newSite(t, allocateToasters, nil)
		_, err := s.auto(t, "", false).Register(t.Context(), s.request(toaster))
		if got := provisioning.Verdict(err).Kind; got != "connection-refused" || strings.Count(err.Error(), "\n") != 2 {
			t.Errorf("got %s, want connection-refused, a line for each transport:\n%v", got, err)
		}
	})
	t.Run("captive portal", func(t *testing.T) {
		t.Parallel() // it waits before it tries again, in real time
		s := newSite(t, allocateToasters, nil)
		var wrote int
		client := s.auto(t, s.front(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				wrote++
			}
			portal(w)
		}), true)
		// The register was written, so this attempt must not send it again.
		if _, err := client.Register(t.Context(), s.request(toaster)); !errors.Is(err, provisioning.ErrNotService) {
			t.Errorf("got %v, want an answer that is not the service's", err)
		}
		register(t, s, client, provisioning.TransportMQTT)
		if wrote != 1 {
			t.Errorf("the portal got %d registers, want 1", wrote)
		}
	})
	t.Run("WebSocket alone gets through", func(t *testing.T) {
		t.Parallel() // it waits before it tries again, in real time
		s := newSite(t, allocateToasters, nil)
		onward := s.onward()
		client := s.auto(t, s.front(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") == "" {
				portal(w)
				return
			}
			onward.ServeHTTP(w, r)
		}), false)
		if _, err := client.Register(t.Context(), s.request(toaster)); !errors.Is(err, provisioning.ErrNotService) {
			t.Errorf("got %v, want an answer that is not the service's", err)
		}
		register(t, s, client, provisioning.TransportMQTTWS)
	})
	t.Run("WebSocket refused", func(t *testing.T) {
		t.Parallel() // it waits before it tries again, in real time
		s := newSite(t, allocateToasters, nil)
		onward := s.onward()
		address := s.front(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") != "" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			onward.ServeHTTP(w, r)
		})
		client := s.clientWith(t, provisioning.TransportAuto, func(cfg *provisioning.Config) {
			cfg.Endpoint, cfg.Prefer, cfg.Proxy = address, provisioning.TransportMQTTWS, provisioning.NoProxy
		})
		register(t, s, client, provisioning.TransportHTTPS)
	})
}
