// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/dpslocal"
)

// TestWebhookOutage stands a gatewayd without a line beside a local service, and
// kills, reloads and stops it while devices register: each ends assigned, none is
// refused by an outage that is over within the service's seven minutes.
func TestWebhookOutage(t *testing.T) {
	t.Parallel()
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	s := &outageSite{config: filepath.Join(t.TempDir(), "gatewayd.toml")}
	dir := filepath.Dir(s.config)
	for name, text := range map[string]string{
		"function-keys": functionKey + "\n",
		"gatewayd.toml": fmt.Sprintf("site = \"mainbuilding\"\nstate_dir = %q\n\n[allocation]\nlisten = %q\nfunction_keys = %q\n",
			filepath.Join(dir, "state"), address, filepath.Join(dir, "function-keys")),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var stop func()
	if s.service, stop, err = startDPS(t.TempDir(), address, false, dpslocal.Options{WebhookTransport: s}); err != nil {
		t.Fatal(err)
	}
	defer stop()
	s.restart(t)
	defer func() { s.daemon().kill() }()

	t.Run("killed before it answers", func(t *testing.T) {
		s.atCall(func(ask func() (*http.Response, error)) (*http.Response, error) {
			s.daemon().kill()
			response, err := ask()
			s.restart(t)
			return response, err
		})
		s.register(t, "killed", 6)
	})
	t.Run("killed, and its answer lost", func(t *testing.T) {
		s.atCall(func(ask func() (*http.Response, error)) (*http.Response, error) {
			response, err := ask()
			if err != nil {
				return nil, err
			}
			response.Body.Close()
			s.daemon().kill()
			s.restart(t)
			return nil, io.ErrUnexpectedEOF
		})
		s.register(t, "lost", 6)
	})
	t.Run("reloaded", func(t *testing.T) {
		s.atCall(func(ask func() (*http.Response, error)) (*http.Response, error) {
			s.daemon().command.Process.Signal(syscall.SIGHUP) //nolint:errcheck // the log tells
			return ask()
		})
		s.register(t, "reloaded", 6)
		if !s.daemon().waitUntil(scriptWait, func() bool { return strings.Contains(s.daemon().log(), "reload") }) {
			t.Errorf("the log tells of no reload:\n%s", s.daemon().log())
		}
	})
	t.Run("stopped in order and started again", func(t *testing.T) {
		s.atCall(func(ask func() (*http.Response, error)) (*http.Response, error) {
			s.daemon().command.Process.Signal(syscall.SIGTERM) //nolint:errcheck // the exit status tells
			response, err := ask()
			<-s.daemon().ended
			if status := s.daemon().command.ProcessState.ExitCode(); status != 0 {
				t.Errorf("exit status %d, want 0:\n%s", status, s.daemon().log())
			}
			s.restart(t)
			return response, err
		})
		s.register(t, "stopped", 6)
	})
}

// outageSite is a service, and a daemon that something happens to.
type outageSite struct {
	config  string
	service *dpslocal.Server

	mu      sync.Mutex
	running *daemon
	event   func(ask func() (*http.Response, error)) (*http.Response, error) // at the next call, once
}

// restart starts a daemon and waits until it serves, by the word that systemd gets.
func (s *outageSite) restart(t *testing.T) {
	t.Helper()
	// A socket's path is short: the test's own directory may be too deep.
	directory, err := os.MkdirTemp("", "outage")
	if err != nil {
		t.Error(err)
		return
	}
	defer os.RemoveAll(directory)
	path := filepath.Join(directory, "s")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Error(err)
		return
	}
	defer socket.Close()
	d, err := startDaemon(s.config, "NOTIFY_SOCKET="+path, "GORACE=atexit_sleep_ms=0") // or each stop takes a second longer under the race detector
	if err != nil {
		t.Error(err)
		return
	}
	s.mu.Lock()
	s.running = d
	s.mu.Unlock()
	buffer := make([]byte, 4096)
	for n := 0; !strings.Contains(string(buffer[:n]), "READY=1"); {
		if err := socket.SetReadDeadline(time.Now().Add(scriptWait)); err != nil {
			t.Error(err)
			return
		}
		if n, err = socket.Read(buffer); err != nil {
			t.Errorf("waiting for READY: %v; the daemon said:\n%s", err, d.log())
			return
		}
	}
}

// daemon is the one that runs now, or ran last.
func (s *outageSite) daemon() *daemon {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

// atCall says what happens at the next call of the webhook.
func (s *outageSite) atCall(event func(ask func() (*http.Response, error)) (*http.Response, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.event = event
}

// oneCall makes a connection for each call: one that is opened and not used yet
// would hold up an orderly stop for seconds.
var oneCall = &http.Transport{DisableKeepAlives: true}

// RoundTrip carries a question to the daemon. The others wait while the event
// takes its course, except that they meet whatever it has made of the daemon.
func (s *outageSite) RoundTrip(r *http.Request) (*http.Response, error) {
	ask := func() (*http.Response, error) { return oneCall.RoundTrip(r) }
	s.mu.Lock()
	event := s.event
	s.event = nil
	s.mu.Unlock()
	if event != nil {
		return event(ask)
	}
	return ask()
}

// register registers devices at once, and wants each of them assigned.
func (s *outageSite) register(t *testing.T, name string, devices int) {
	t.Helper()
	text, _, err := s.service.GroupKeys(groupID)
	if err != nil {
		t.Fatal(err)
	}
	key, err := provisioning.ParseGroupKey(text)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.service.CAPEM())
	client, err := provisioning.New(provisioning.Config{
		Endpoint: s.service.HTTPSAddr(), IDScope: idScope, Transport: provisioning.TransportHTTPS,
		RootCAs: roots, Proxy: provisioning.NoProxy, RegistersPerMinute: 6000,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	results := make(chan error)
	for n := range devices {
		id := fmt.Sprintf("%s%d-contoso-tstrsd-007", name, n)
		go func() {
			assignment, err := client.Register(context.Background(), provisioning.Request{RegistrationID: id, Keys: []provisioning.DeviceKey{key.Derive(id)}})
			if err == nil && assignment.AssignedHub != toasterHub {
				err = errors.New("assigned to " + assignment.AssignedHub)
			}
			results <- err
		}()
	}
	for range devices {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}
