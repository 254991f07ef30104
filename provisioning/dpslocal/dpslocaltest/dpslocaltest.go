// SPDX-License-Identifier: Apache-2.0

// Package dpslocaltest starts a local Device Provisioning Service for the length
// of a test:
//
//	func TestDevice(t *testing.T) {
//		dps := dpslocaltest.Start(t)
//		device := NewDevice(dps.Endpoint(), dps.IDScope(), dps.DeviceKey("dev-1"), dps.TLSConfig())
//		...
//	}
//
// With InMemory nothing touches the network, and the server runs inside a
// testing/synctest bubble, where the minutes of a throttled or failing
// registration pass in an instant.
package dpslocaltest

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"log/slog"
	"net"
	"net/http"
	"testing"

	"github.com/contoso/gatewayd/provisioning/dpslocal"
)

// What a server has unless a Change says otherwise.
const (
	IDScope = "0ne00002193"
	GroupID = "devices"
	Hub     = "dpslocal-hub.azure-devices.net"

	// Endpoint is the name under which devices know the service. Its certificate
	// holds it, beside 127.0.0.1 and localhost.
	Endpoint = "global.azure-devices-provisioning.net"
)

// Change makes a server other than the usual one.
type Change func(*dpslocal.Config, *dpslocal.Options)

// Server is a server that runs until its test ends.
type Server struct {
	*dpslocal.Server

	groupKey []byte // of the first group with keys, or nil
	roots    *x509.CertPool

	// dialHTTPS and dialMQTT connect without TLS.
	dialHTTPS, dialMQTT func(ctx context.Context) (net.Conn, error)
}

// Start runs a server on loopback: one hub, one enrollment group with a key, no
// waiting between polls, a store in memory, and its log in the test's output. It
// ends with the test.
func Start(t testing.TB, changes ...Change) *Server {
	t.Helper()
	store, err := dpslocal.OpenMemoryStore()
	if err != nil {
		t.Fatalf("starting dpslocal: %v", err)
	}
	cfg := dpslocal.Config{
		IDScope:          IDScope,
		Hubs:             []dpslocal.Hub{{Name: Hub}},
		EnrollmentGroups: []dpslocal.EnrollmentGroup{{ID: GroupID}},
	}
	opts := dpslocal.Options{
		Dir:    t.TempDir(),
		Store:  store,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	for _, change := range changes {
		change(&cfg, &opts)
	}
	if opts.Store != store {
		_ = store.Close()
	}
	server, err := dpslocal.New(cfg, opts)
	if err != nil {
		t.Fatalf("starting dpslocal: %v", err)
	}
	s := &Server{
		Server:    server,
		roots:     x509.NewCertPool(),
		dialHTTPS: dialer(opts.HTTPSListener, server.HTTPSAddr()),
		dialMQTT:  dialer(opts.MQTTListener, server.MQTTAddr()),
	}
	s.roots.AppendCertsFromPEM(server.CAPEM())
	if len(cfg.EnrollmentGroups) > 0 {
		if key, _, err := server.GroupKeys(cfg.EnrollmentGroups[0].ID); err == nil {
			s.groupKey, _ = base64.StdEncoding.DecodeString(key)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("dpslocal: %v", err)
		}
	})
	return s
}

// InMemory is a Change that takes connections in memory instead of the
// network's; Server.DialHTTPS and DialMQTT make them.
func InMemory(_ *dpslocal.Config, opts *dpslocal.Options) {
	opts.HTTPSListener, opts.MQTTListener = newMemoryListener(), newMemoryListener()
}

// dialer connects to a listener of ours, or else to an address.
func dialer(listener net.Listener, address string) func(ctx context.Context) (net.Conn, error) {
	if memory, ok := listener.(*memoryListener); ok {
		return memory.dial
	}
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}
}

// Endpoint is the URL of the device API over HTTPS. For a server in memory it
// leads somewhere with HTTPClient only.
func (s *Server) Endpoint() string {
	if _, _, err := net.SplitHostPort(s.HTTPSAddr()); err != nil {
		return "https://" + Endpoint
	}
	return "https://" + s.HTTPSAddr()
}

// TLSConfig trusts the server, and the server only. The name is the service's;
// set ServerName to a hub's name for a connection to that.
func (s *Server) TLSConfig() *tls.Config {
	return &tls.Config{RootCAs: s.roots, ServerName: Endpoint, MinVersion: tls.VersionTLS12}
}

// DialHTTPS connects to the HTTPS listener, without TLS yet.
func (s *Server) DialHTTPS(ctx context.Context) (net.Conn, error) { return s.dialHTTPS(ctx) }

// DialMQTT connects to the MQTT listener, without TLS yet.
func (s *Server) DialMQTT(ctx context.Context) (net.Conn, error) { return s.dialMQTT(ctx) }

// HTTPClient is a client that trusts the server and reaches it under whatever
// name a URL says. Close its idle connections before a bubble ends.
func (s *Server) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS12},
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dialHTTPS(ctx) },
	}}
}

// DeviceKey derives a device's key, base64, from the primary key of the first
// enrollment group. It is "" when that has no keys.
func (s *Server) DeviceKey(registrationID string) string {
	if s.groupKey == nil {
		return ""
	}
	mac := hmac.New(sha256.New, s.groupKey)
	mac.Write([]byte(registrationID))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
