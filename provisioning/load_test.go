// SPDX-License-Identifier: Apache-2.0

package provisioning_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc/mqttrpctest"
)

// poolSize is how many connections all devices share over HTTPS (rule 12).
const poolSize = 64

// TestFiveHundredAtOnce registers 500 devices with one client. The service decides on none of them before all are under
// way, and one in the middle is cancelled just then, while it polls. The network is in memory and the time the test's
// own, because 500 handshakes take longer on a busy machine than anybody waits for one.
func TestFiveHundredAtOnce(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport provisioning.Transport) {
		synctest.Test(t, func(t *testing.T) { fiveHundredAtOnce(t, transport) })
	})
}

func fiveHundredAtOnce(t *testing.T, transport provisioning.Transport) {
	const (
		devices   = 500
		cancelled = "device-250"
	)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	left := make(chan struct{}) // closed when the cancelled one has left
	var deciding sync.WaitGroup
	deciding.Add(devices)
	hook := webhook(func(body []byte) (int, string) {
		if strings.Contains(string(body), `"first"`) {
			return allocateToasters(body)
		}
		deciding.Done()
		deciding.Wait()
		if strings.Contains(string(body), `"`+cancelled+`"`) {
			cancel()
		}
		<-left
		return allocateToasters(body)
	})
	network := mqttrpctest.NewNetwork()
	https, mqtt := &counter{Listener: network.Listen(nowhere + ":443")}, &counter{Listener: network.Listen(nowhere + ":8883")}
	site := newSiteWith(t, dpslocal.Options{WebhookTransport: hook, HTTPSListener: https, MQTTListener: mqtt})
	newClient := func(transport provisioning.Transport) *provisioning.Client {
		return site.clientWith(t, transport, func(cfg *provisioning.Config) {
			cfg.DialContext, cfg.Proxy = network.DialContext, provisioning.NoProxy
		})
	}
	// After the first registrations the server has all its goroutines for the transports.
	for _, first := range []provisioning.Transport{provisioning.TransportHTTPS, provisioning.TransportMQTT} {
		client := newClient(first)
		if _, err := client.Register(t.Context(), site.request("first")); err != nil {
			t.Fatal(err)
		}
		client.Close()
	}
	synctest.Wait()
	before := goleak.IgnoreCurrent()

	client := newClient(transport)
	var connected atomic.Int64
	request := func(id string) provisioning.Request {
		r := site.request(id)
		r.Observe = func(progress provisioning.Progress) error {
			if progress.Step == provisioning.StepConnected {
				connected.Add(1)
			}
			return nil
		}
		return r
	}
	var group sync.WaitGroup
	for i := range devices {
		id := fmt.Sprintf("device-%d", i)
		group.Go(func() {
			if id == cancelled {
				defer close(left)
				if _, err := client.Register(ctx, request(id)); !errors.Is(err, context.Canceled) {
					t.Errorf("%s was cancelled: %v", id, err)
				}
				return
			}
			assignment, err := client.Register(t.Context(), request(id))
			if err != nil || assignment.DeviceID != id || assignment.AssignedHub != toasters {
				t.Errorf("%s: %+v, %v", id, assignment, err)
			}
		})
	}
	group.Wait()
	client.Close()

	synctest.Wait()
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
	accepted := https.accepted.Load() + mqtt.accepted.Load() - 2 // without those of the first registrations
	want := int64(devices)
	if transport == provisioning.TransportHTTPS {
		want = poolSize + 1 // the cancelled one may have been in the middle of an exchange, which costs the pool a connection
	} else if connected.Load() != devices {
		t.Errorf("%d MQTT sessions for %d devices, want one each", connected.Load(), devices)
	}
	if accepted < 1 || accepted > want {
		t.Errorf("%d connections for %d devices, want at most %d", accepted, devices, want)
	}
	if open := https.open.Load() + mqtt.open.Load(); open != 0 {
		t.Errorf("%d connections are left", open)
	}
}

// counter is a listener that counts connections.
type counter struct {
	net.Listener
	accepted, open atomic.Int64
}

// Accept implements [net.Listener].
func (c *counter) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.accepted.Add(1)
	c.open.Add(1)
	return &counted{Conn: conn, counter: c}, nil
}

// counted is a connection of a counter.
type counted struct {
	net.Conn
	counter *counter
	once    sync.Once
}

// Close implements [net.Conn].
func (c *counted) Close() error {
	c.once.Do(func() { c.counter.open.Add(-1) })
	return c.Conn.Close()
}
