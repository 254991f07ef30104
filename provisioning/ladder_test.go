// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/contoso/gatewayd/provisioning/internal/conformancetest"
)

// closed refuses connections to ports, as a firewall does.
func closed(ports ...string) func(address string, _ int) error {
	return func(address string, _ int) error {
		for _, port := range ports {
			if strings.HasSuffix(address, ":"+port) {
				return syscall.ECONNREFUSED
			}
		}
		return nil
	}
}

// overWhat tells which transports the service was asked over.
func overWhat(service *dps) string {
	var parts []string
	for _, q := range service.requests() {
		over := "mqtt"
		connection := service.Connections()[q.Connection-1]
		heard := connection.Heard()
		switch {
		case connection.Address == conformancetest.HTTPSAddr && bytes.HasPrefix(heard[0].Data, []byte("GET /$iothub")):
			over = "mqtt-ws"
		case connection.Address == conformancetest.HTTPSAddr:
			over = "https"
		}
		parts = append(parts, q.Do+" over "+over)
	}
	return strings.Join(parts, ", ")
}

func TestLadder(t *testing.T) {
	tests := []struct {
		name   string
		prefer Transport
		change func(t *testing.T, service *dps)
		want   string
		worked Transport
		left   string // in the log, in order
	}{
		{name: "the top works", want: "register over https, poll over https", worked: TransportHTTPS},
		{name: "nothing gets out on 443", want: "register over mqtt, poll over mqtt", worked: TransportMQTT, left: "https mqtt-ws", change: func(_ *testing.T, service *dps) {
			service.network.OnDial(closed("443"))
		}},
		{name: "somebody inspects TLS on 443", want: "register over mqtt, poll over mqtt", worked: TransportMQTT, left: "https mqtt-ws", change: func(t *testing.T, service *dps) {
			roots := service.cfg.RootCAs
			answerAt(t, service, testHost+":443", func(http.ResponseWriter, *http.Request) { t.Error("the other's certificate was trusted") })
			service.cfg.RootCAs = roots
		}},
		{name: "HTTPS in a tunnel of one kind", want: "register over mqtt-ws, poll over mqtt-ws", worked: TransportMQTTWS, left: "https", change: func(_ *testing.T, service *dps) {
			dials := 0 // HTTPS tries three times: twice more after hiccups
			service.network.OnDial(func(string, int) error {
				if dials++; dials <= 3 {
					return syscall.ECONNRESET
				}
				return nil
			})
		}},
		{name: "a proxy that lets only MQTT's port through", want: "register over mqtt, poll over mqtt", worked: TransportMQTT, left: "https mqtt-ws", change: func(t *testing.T, service *dps) {
			site := behindProxy(t, service, "http://gateway:Pa55@"+siteProxy)
			site.Answer = func(target string) string {
				if strings.HasSuffix(target, ":8883") {
					return ""
				}
				return "HTTP/1.1 403 Forbidden\r\n\r\n"
			}
		}},
		{name: "where it worked before", prefer: TransportMQTT, want: "register over mqtt, poll over mqtt", worked: TransportMQTT},
		{name: "where it worked before and does not now", prefer: TransportMQTT, want: "register over https, poll over https", worked: TransportHTTPS, left: "mqtt", change: func(_ *testing.T, service *dps) {
			service.network.OnDial(closed("8883"))
		}},
		{name: "a memory that makes no sense", prefer: "amqp", want: "register over https, poll over https", worked: TransportHTTPS},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				service := newDPS(t, TransportAuto)
				service.cfg.Prefer = test.prefer
				service.script = inOrder(assigning("3"), assigned(testOp))
				if test.change != nil {
					test.change(t, service)
				}
				var log bytes.Buffer
				service.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
				client := service.client(t)
				if _, err := client.Register(t.Context(), request()); err != nil {
					t.Fatal(err)
				}
				if got := overWhat(service); got != test.want {
					t.Errorf("got  %s\nwant %s", got, test.want)
				}
				if got := client.Worked(); got != test.worked {
					t.Errorf("worked over %q, want %q", got, test.worked)
				}
				var left []string
				for line := range strings.Lines(log.String()) {
					if strings.Contains(line, "another transport is tried") {
						_, rest, _ := strings.Cut(line, "transport=")
						name, _, _ := strings.Cut(rest, " ")
						left = append(left, name)
					}
				}
				if got := strings.Join(left, " "); got != test.left {
					t.Errorf("the log tells that %q were left, want %q:\n%s", got, test.left, log.String())
				}

				// What worked is where the next attempt begins.
				before := len(service.Connections())
				if _, err := client.Register(t.Context(), request()); err != nil {
					t.Fatal(err)
				}
				if made := len(service.Connections()) - before; made > 1 {
					t.Errorf("the next attempt made %d connections", made)
				}
			})
		})
	}
}

// TestLadderEnds has nothing left to try.
func TestLadderEnds(t *testing.T) {
	timeout := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	tests := []struct {
		name   string
		change func(t *testing.T, service *dps)
		want   []string // parts of the error's lines
		kind   string
	}{
		{"all closed", func(_ *testing.T, service *dps) { service.network.OnDial(closed("443", "8883")) }, []string{
			"over https: dial tcp dps.test:443: connection refused", "over mqtt-ws: dialling dps.test:443: ", "over mqtt: dialling dps.test:8883: ",
		}, "connection-refused"},
		{"all silent", func(_ *testing.T, service *dps) { service.cfg.DialContext = timeout }, []string{
			"over https: ", "over mqtt-ws: ", "over mqtt: ",
		}, "timeout"},
		{"a portal that is trusted, after which only WebSocket is closed", func(t *testing.T, service *dps) {
			service.cfg.Prefer = TransportMQTTWS
			answerAt(t, service, testHost+":443", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>Welcome!</html>")) })
			service.network.OnDial(closed("8883"))
		}, []string{
			"over mqtt-ws: the answer is not the provisioning service's: the server did not open a WebSocket for MQTT: status 200",
			"over https: the answer is not the provisioning service's: it is not a JSON object",
		}, "not-dps"},
		{"the name is unknown", func(_ *testing.T, service *dps) {
			service.cfg.DialContext = func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.DNSError{Err: "no such host", Name: testHost, IsNotFound: true}
			}
		}, []string{"no such host"}, "dns"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				service := newDPS(t, TransportAuto)
				test.change(t, service)
				client := service.client(t)
				_, err := client.Register(t.Context(), request())
				if got := kindName(err) + " " + Verdict(err).Kind; got != "*provisioning.UnreachableError "+test.kind {
					t.Errorf("got %s, want an UnreachableError and %s (%v)", got, test.kind, err)
				}
				lines := strings.Split(err.Error(), "\n")
				if len(lines) != len(test.want) {
					t.Fatalf("got %d lines, want %d:\n%v", len(lines), len(test.want), err)
				}
				for i, line := range lines {
					if !strings.Contains(line, test.want[i]) {
						t.Errorf("got %s, want %q in it", line, test.want[i])
					}
				}
				if got := client.Worked(); got != "" {
					t.Errorf("worked over %q", got)
				}
				if n := len(service.requests()); n != 0 {
					t.Errorf("the service got %d requests", n)
				}
			})
		})
	}
}

// TestLadderAsksAProxyOnce: what is wrong with the proxy is wrong on every rung.
func TestLadderAsksAProxyOnce(t *testing.T) {
	for _, address := range []string{"http://gateway:Wr0ng@" + siteProxy, "http://nobody.test"} {
		synctest.Test(t, func(t *testing.T) {
			service := newDPS(t, TransportAuto)
			behindProxy(t, service, address)
			_, err := service.client(t).Register(t.Context(), request())
			var proxy *ProxyError
			if !errors.As(err, &proxy) {
				t.Errorf("got %v, want a ProxyError", err)
			}
			if n := service.network.Dials(siteProxy) + service.network.Dials("nobody.test:80"); n != 1 {
				t.Errorf("%d connections to %s, want 1", n, address)
			}
		})
	}
}

// TestLadderNeverRepeatsARegister loses the answer to one that was written: the attempt ends, and the next begins on
// another rung (rule 12).
func TestLadderNeverRepeatsARegister(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := newDPS(t, TransportAuto)
		service.script = inOrder(said{}, assigned(testOp))
		client := service.client(t)
		_, err := client.Register(t.Context(), request())
		var unreachable *UnreachableError
		if !errors.As(err, &unreachable) || Verdict(err).Kind != "connection-lost" {
			t.Errorf("got %v, want a lost connection", err)
		}
		if got, want := overWhat(service), "register over https"; got != want {
			t.Errorf("got %s, want %s and no more", got, want)
		}
		if _, err := client.Register(t.Context(), request()); err != nil {
			t.Fatal(err)
		}
		if got, want := overWhat(service), "register over https, register over mqtt-ws"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// TestLadderUnsent: a register that was written on one rung was sent, whatever the rungs above it came to; and one that
// was written on none was not.
func TestLadderUnsent(t *testing.T) {
	tests := []struct {
		name   string
		change func(service *dps)
		unsent bool
	}{
		{"nothing is open", func(service *dps) { service.network.OnDial(closed("443", "8883")) }, true},
		{"written on the last", func(service *dps) {
			service.network.OnDial(closed("443"))
			service.script = inOrder(said{})
		}, false},
		{"written on the first", func(service *dps) { service.script = inOrder(said{}) }, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				service := newDPS(t, TransportAuto)
				test.change(service)
				_, err := service.client(t).Register(t.Context(), request())
				var unreachable *UnreachableError
				if !errors.As(err, &unreachable) || unreachable.Unsent != test.unsent {
					t.Errorf("got %v, want an UnreachableError, unsent: %v", err, test.unsent)
				}
			})
		})
	}
}

// TestLadderResumes polls an operation of an earlier run over what is open now: its ID is good over any transport.
func TestLadderResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := newDPS(t, TransportAuto)
		service.network.OnDial(closed("443"))
		var steps []string
		r := request()
		r.Observe = func(p Progress) error { steps = append(steps, string(p.Step)); return nil }
		r.OperationID = testOp
		if _, err := service.client(t).Register(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if got, want := overWhat(service), "poll over mqtt"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got, want := fmt.Sprint(steps), "[connected]"; got != want {
			t.Errorf("steps %s, want %s", got, want)
		}
	})
}

// TestLadderPollsOnAfterARegister has the way close between the two.
func TestLadderPollsOnAfterARegister(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := newDPS(t, TransportAuto)
		service.script = inOrder(assigning("3"), assigned(testOp))
		r := request()
		r.Observe = func(p Progress) error {
			if p.Step == StepAssigning {
				service.network.OnDial(closed("443"))
				for _, connection := range service.Connections() {
					_ = connection.NetConn().Close()
				}
			}
			return nil
		}
		got, err := service.client(t).Register(t.Context(), r)
		if err != nil || got.OperationID != testOp {
			t.Fatalf("got %+v, %v", got, err)
		}
		if got, want := overWhat(service), "register over https, poll over mqtt"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// TestLadderLooksUp: a lookup that cannot be made is no reason to stop, because other transports have none.
func TestLadderLooksUp(t *testing.T) {
	tests := []struct {
		name  string
		ports []string
		want  string
	}{
		{"over HTTPS", nil, "lookup over https"},
		{"not over MQTT", []string{"443"}, "register over mqtt"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				service := newDPS(t, TransportAuto)
				service.script = func(_ int, q asked) said {
					if q.Do == "lookup" {
						return said{Status: 200, Body: `{"registrationId":"` + testID + `","status":"assigned","assignedHub":"` + testHub + `","deviceId":"device-1"}`}
					}
					return assigned(testOp)
				}
				service.network.OnDial(closed(test.ports...))
				r := request()
				r.Interrupted = true
				if _, err := service.client(t).Register(t.Context(), r); err != nil {
					t.Fatal(err)
				}
				if got := overWhat(service); got != test.want {
					t.Errorf("got %s, want %s", got, test.want)
				}
			})
		})
	}
}

// TestLadderLeavesRefusalsAlone: the service's word counts wherever it is given.
func TestLadderLeavesRefusalsAlone(t *testing.T) {
	for _, prefer := range []Transport{TransportHTTPS, TransportMQTTWS, TransportMQTT} {
		synctest.Test(t, func(t *testing.T) {
			service := newDPS(t, TransportAuto)
			service.cfg.Prefer = prefer
			service.script = inOrder(refusal(404, 404201, ""))
			client := service.client(t)
			_, err := client.Register(t.Context(), request())
			if Verdict(err).Kind != "not-enrolled" || len(service.requests()) != 1 || client.Worked() != prefer {
				t.Errorf("%s: got %v after %s, worked over %q", prefer, err, overWhat(service), client.Worked())
			}
		})
	}
}

// TestLadderMemory: what attempts at once learn does not confuse those to come.
func TestLadderMemory(t *testing.T) {
	way := func(l *ladder) string {
		var names []string
		for _, r := range l.way() {
			names = append(names, string(r.name))
		}
		return strings.Join(names, " ")
	}
	rungs := []rung{{name: TransportHTTPS}, {name: TransportMQTTWS}, {name: TransportMQTT}}
	tests := []struct {
		name   string
		prefer Transport
		learn  func(l *ladder)
		want   string
	}{
		{"at first", "", func(*ladder) {}, "https mqtt-ws mqtt"},
		{"preferred", TransportMQTT, func(*ladder) {}, "mqtt https mqtt-ws"},
		{"worked", "", func(l *ladder) { l.answered(TransportMQTTWS) }, "mqtt-ws https mqtt"},
		{"the top failed half-way", "", func(l *ladder) { l.failed(TransportHTTPS) }, "mqtt-ws mqtt https"},
		{"the second failed half-way", "", func(l *ladder) { l.failed(TransportHTTPS); l.failed(TransportMQTTWS) }, "mqtt https mqtt-ws"},
		{"all failed", "", func(l *ladder) {
			l.failed(TransportHTTPS)
			l.failed(TransportMQTTWS)
			l.failed(TransportMQTT)
			l.exhausted()
		}, "https mqtt-ws mqtt"},
		{"what had worked failed", TransportMQTT, func(l *ladder) { l.failed(TransportMQTT) }, "https mqtt-ws mqtt"},
		{"the top had worked and failed", TransportHTTPS, func(l *ladder) { l.failed(TransportHTTPS) }, "https mqtt-ws mqtt"},
		{"the top had worked and failed twice", TransportHTTPS, func(l *ladder) { l.failed(TransportHTTPS); l.failed(TransportHTTPS) }, "mqtt-ws mqtt https"},
		{"a late failure elsewhere", "", func(l *ladder) { l.answered(TransportMQTT); l.failed(TransportHTTPS); l.exhausted() }, "mqtt https mqtt-ws"},
	}
	for _, test := range tests {
		l := newLadder(test.prefer, slog.New(slog.DiscardHandler), rungs...)
		test.learn(l)
		if got := way(l); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}
