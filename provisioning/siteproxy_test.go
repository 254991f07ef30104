// SPDX-License-Identifier: Apache-2.0

package provisioning_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/hub"
	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc/mqttrpctest"
)

// The tests in this file put real sockets, and a real proxy, between the client and the local service.

// TestAddressFamilies reaches a service whose name has an IPv6 address at which nobody answers.
func TestAddressFamilies(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport provisioning.Transport) {
		site := newSite(t, allocateToasters, nil)
		client := site.clientWith(t, transport, func(cfg *provisioning.Config) {
			_, port, _ := net.SplitHostPort(cfg.Endpoint)
			cfg.Endpoint = net.JoinHostPort(nowhere, port)
			cfg.DialContext = mqttrpctest.DeadIPv6().DialContext
			cfg.Proxy = provisioning.NoProxy
		})
		if got, err := client.Register(t.Context(), site.request(toaster)); err != nil || got.AssignedHub != toasters {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

// tinyproxy starts one that wants a user name and a password, and returns its address.
func tinyproxy(t *testing.T) string {
	t.Helper()
	if os.Getenv("PEERS") != "1" {
		t.Skip("needs tinyproxy: set PEERS=1")
	}
	program, err := exec.LookPath("tinyproxy")
	if err != nil {
		t.Fatalf("PEERS=1, but there is no tinyproxy: %v", err)
	}
	for try := 1; ; try++ {
		address, err := startTinyproxy(t, program)
		if err == nil {
			return address
		}
		if try == 5 {
			t.Fatal(err)
		}
	}
}

// startTinyproxy runs one on a port that is free. As it takes no listener, another process may have the port before it
// does: then it ends, and that is the error.
func startTinyproxy(t *testing.T, program string) (address string, err error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	address = listener.Addr().String()
	_ = listener.Close()
	file := filepath.Join(t.TempDir(), "tinyproxy.conf")
	text := fmt.Sprintf("Port %d\nListen 127.0.0.1\nTimeout 60\nMaxClients 50\nAllow 127.0.0.1\nBasicAuth gateway Pa55\n", port)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-d", "-c", file)
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Log(output.String())
		}
	})
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); {
		if isTinyproxy(address) {
			return address, nil
		}
		select {
		case <-ended:
			return "", fmt.Errorf("tinyproxy ended: %s", output.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return "", fmt.Errorf("tinyproxy does not listen at %s", address)
}

// isTinyproxy tells whether it is tinyproxy that answers at an address.
func isTinyproxy(address string) bool {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second)) // it is asked again
	_, _ = io.WriteString(conn, "GET http://dps.test/ HTTP/1.0\r\n\r\n")
	answer, _ := io.ReadAll(io.LimitReader(conn, 4096))
	return strings.Contains(string(answer), "tinyproxy")
}

// TestTinyproxy registers through a proxy that nobody here wrote, and goes on to the hub through it.
func TestTinyproxy(t *testing.T) {
	address := tinyproxy(t)
	through := func(user string) func(*url.URL) (*url.URL, error) {
		proxy, err := url.Parse("http://" + user + address)
		if err != nil {
			t.Fatal(err)
		}
		return func(*url.URL) (*url.URL, error) { return proxy, nil }
	}
	eachTransport(t, func(t *testing.T, transport provisioning.Transport) {
		site := newSite(t, allocateToasters, nil)
		register := func(user string) (provisioning.Assignment, error) {
			client := site.clientWith(t, transport, func(cfg *provisioning.Config) { cfg.Proxy = through(user) })
			return client.Register(t.Context(), site.request(toaster))
		}
		got, err := register("gateway:Pa55@")
		if err != nil {
			t.Fatal(err)
		}
		webSocket, hubAddress := transport == provisioning.TransportMQTTWS, site.server.MQTTAddr()
		if webSocket {
			hubAddress = site.server.HTTPSAddr()
		}
		session, err := hub.Connect(t.Context(), hub.Config{
			Host: got.AssignedHub, Address: hubAddress, WebSocket: webSocket, DeviceID: got.DeviceID, RootCAs: site.roots,
			Proxy: through("gateway:Pa55@"),
			Token: func(now time.Time) (string, error) {
				resource := provisioning.HubResource(got.AssignedHub, got.DeviceID)
				return site.request(toaster).Keys[0].SASToken(resource, "", now.Add(time.Hour)).Reveal(), nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		if _, err := session.Twin(t.Context()); err != nil {
			t.Error(err)
		}

		for _, user := range []string{"", "gateway:Wr0ng@"} {
			_, err := register(user)
			var proxy *provisioning.ProxyError
			if !errors.As(err, &proxy) || proxy.Proxy != address || proxy.Status != 401 && proxy.Status != 407 || strings.Contains(err.Error(), "Wr0ng") {
				t.Errorf("as %q: got %v, want the proxy's refusal", user, err)
			}
		}
	})
}

// TestTinyproxyExempt goes around the proxy for a name in NO_PROXY, and through it, where the name means nothing,
// without.
func TestTinyproxyExempt(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://gateway:Pa55@"+tinyproxy(t))
	t.Setenv("https_proxy", "")
	t.Setenv("no_proxy", "")
	eachTransport(t, func(t *testing.T, transport provisioning.Transport) {
		site := newSite(t, allocateToasters, nil)
		register := func(exempt string) error {
			t.Setenv("NO_PROXY", exempt)
			client := site.clientWith(t, transport, func(cfg *provisioning.Config) {
				_, port, _ := net.SplitHostPort(cfg.Endpoint)
				cfg.Endpoint = net.JoinHostPort(nowhere, port)
				cfg.DialContext = mqttrpctest.DeadIPv6().DialContext // which knows every name
			})
			_, err := client.Register(t.Context(), site.request(toaster))
			return err
		}
		if err := register("invalid"); err != nil {
			t.Errorf("with an exemption: %v", err)
		}
		var proxy *provisioning.ProxyError
		if err := register("elsewhere.example"); !errors.As(err, &proxy) || proxy.Status < 500 {
			t.Errorf("without: got %v, want the proxy's word that it does not reach the service", err)
		}
	})
}
