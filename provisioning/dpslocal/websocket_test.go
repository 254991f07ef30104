// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// dialWebSocket connects to the HTTPS port and returns the WebSocket.
func dialWebSocket(t *testing.T, s *Server, path, subprotocol string, certificates ...tls.Certificate) *websocket.Conn {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CAPEM())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certificates}}
	t.Cleanup(transport.CloseIdleConnections)
	ws, response, err := websocket.Dial(t.Context(), "wss://"+viaLocalhost(t, s.HTTPSAddr())+path, &websocket.DialOptions{
		HTTPClient:   &http.Client{Transport: transport},
		Subprotocols: []string{subprotocol},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := response.Header.Get("Sec-WebSocket-Protocol"); got != subprotocol {
		t.Errorf("subprotocol %q, want it echoed as offered, %q", got, subprotocol)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	return ws
}

// mqttOver makes a packet client of a WebSocket.
func mqttOver(t *testing.T, ws *websocket.Conn) *rawClient {
	return newRawClient(t, websocket.NetConn(context.Background(), ws, websocket.MessageBinary))
}

// TestWebSocketRegisters goes both paths in both spellings, for the service and
// for a hub.
func TestWebSocketRegisters(t *testing.T) {
	cfg := testConfig()
	cfg.RetryAfter = 0
	s := start(t, cfg, Options{WebhookTransport: always(200, goodAnswer)})
	for _, path := range []string{"/$iothub/websocket", "/", "/$iothub/websocket?iothub-no-client-cert=true"} {
		for _, subprotocol := range []string{"mqtt", "MQTT"} {
			t.Run(path+" "+subprotocol, func(t *testing.T) {
				c := mqttOver(t, dialWebSocket(t, s, path, subprotocol))
				c.connectDPS(toaster, deviceToken(toaster, derive(testPrimary, toaster)))
				if topic, body := c.request(dpsRegisterTopic+"?$rid=1", ""); !strings.HasPrefix(topic, "$dps/registrations/res/202/?$rid=1") {
					t.Errorf("got %s %s, want 202", topic, body)
				} else {
					operation := decodeStatus(t, []byte(body)).OperationID
					topic, body = c.request(dpsPollTopic+"?$rid=2&operationId="+operation, " ")
					if topic != "$dps/registrations/res/200/?$rid=2" || decodeStatus(t, []byte(body)).RegistrationState.AssignedHub != toasters {
						t.Errorf("got %s %s, want 200 and the hub", topic, body)
					}
				}
				hub := mqttOver(t, dialWebSocket(t, s, path, subprotocol))
				if code := hub.connectHub(toasters, toaster, derive(testPrimary, toaster)); code != 0 {
					t.Fatalf("hub: CONNACK %d", code)
				}
				hub.subscribe(twinResultFilter, 1)
				if topic, body := hub.request(twinGetTopic+"?$rid=3", ""); topic != twinResultTopic+"200/?$rid=3" {
					t.Errorf("hub: got %s %s", topic, body)
				}
			})
		}
	}
	c := mqttOver(t, dialWebSocket(t, s, "/", "mqtt"))
	if code := c.connectHub(toasters, toaster, testPrimary); code != 5 {
		t.Errorf("hub with a wrong key: CONNACK %d, want 5", code)
	}
}

// TestWebSocketFrames cuts the stream of packets into frames in every way:
// Node spreads one packet over thirteen.
func TestWebSocketFrames(t *testing.T) {
	s := start(t, testConfig(), Options{WebhookTransport: always(200, goodAnswer)})
	var stream bytes.Buffer
	user := testScope + "/registrations/" + toaster + "/api-version=2019-03-31"
	subscribe := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	subscribe.MessageID, subscribe.Topics, subscribe.Qoss = 7, []string{dpsFilter}, []byte{1}
	for _, p := range []packets.ControlPacket{
		connectPacket(toaster, user, deviceToken(toaster, derive(testPrimary, toaster)), 60),
		subscribe,
		publishPacket(dpsRegisterTopic+"?$rid=1", `{"registrationId":"`+toaster+`"}`, 1),
	} {
		if err := p.Write(&stream); err != nil {
			t.Fatal(err)
		}
	}
	for name, size := range map[string]int{"one byte each": 1, "seven bytes each": 7, "all at once": stream.Len()} {
		t.Run(name, func(t *testing.T) {
			ws := dialWebSocket(t, s, "/$iothub/websocket", "mqtt")
			for rest := stream.Bytes(); len(rest) > 0; {
				n := min(size, len(rest))
				if err := ws.Write(t.Context(), websocket.MessageBinary, rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			c := mqttOver(t, ws)
			for _, want := range []byte{packets.Connack, packets.Suback, packets.Puback, packets.Publish} {
				if got := c.receive(); packets.PacketNames[want] != packetName(got) {
					t.Fatalf("got %s, want %s", packetName(got), packets.PacketNames[want])
				}
			}
			c.send(packets.NewControlPacket(packets.Disconnect))
			if _, err := io.ReadAll(c.conn); err != nil {
				t.Errorf("after DISCONNECT: %v, want a goodbye", err)
			}
		})
	}
}

func packetName(packet packets.ControlPacket) string {
	name, _, _ := strings.Cut(packet.String(), ":")
	return name
}

// TestWebSocketRefusals breaks the rules: the connection ends, or never begins.
func TestWebSocketRefusals(t *testing.T) {
	s := start(t, testConfig(), Options{})
	for name, send := range map[string]func(ws *websocket.Conn) error{
		"text frame": func(ws *websocket.Conn) error { return ws.Write(t.Context(), websocket.MessageText, []byte("x")) },
		"not MQTT":   func(ws *websocket.Conn) error { return ws.Write(t.Context(), websocket.MessageBinary, []byte("GET /")) },
		"256 MiB promised": func(ws *websocket.Conn) error {
			return ws.Write(t.Context(), websocket.MessageBinary, []byte{0x10, 0xff, 0xff, 0xff, 0x7f})
		},
	} {
		t.Run(name, func(t *testing.T) {
			ws := dialWebSocket(t, s, "/", "mqtt")
			if err := send(ws); err != nil {
				t.Fatal(err)
			}
			if _, _, err := ws.Read(t.Context()); websocket.CloseStatus(err) == -1 {
				t.Errorf("got %v, want a closing frame", err)
			}
		})
	}
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="}
	tests := []struct {
		name, method, path string
		headers            []string
		status             int
	}{
		{"AMQP", "GET", "/$iothub/websocket", append(upgrade, "Sec-WebSocket-Protocol", "AMQPWSB10"), 400},
		{"no subprotocol", "GET", "/", upgrade, 400},
		{"another path", "GET", "/mqtt", append(upgrade, "Sec-WebSocket-Protocol", "mqtt"), 404},
		{"another site's page", "GET", "/", append(upgrade, "Sec-WebSocket-Protocol", "mqtt", "Origin", "https://example.org"), 403},
		{"PUT", "PUT", "/", append(upgrade, "Sec-WebSocket-Protocol", "mqtt"), 405},
		{"no upgrade", "GET", "/$iothub/websocket", nil, 404},
	}
	client := caller(t, s)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			response, body := do(t, client, tt.method, "https://"+s.HTTPSAddr()+tt.path, "", "", tt.headers...)
			if response.StatusCode != tt.status {
				t.Errorf("got %d %s, want %d", response.StatusCode, body, tt.status)
			}
		})
	}
}

// TestWebSocketEndsWithTheServer leaves connections open, one of them without
// having said who it is, and one that never answers a goodbye.
func TestWebSocketEndsWithTheServer(t *testing.T) {
	s := start(t, testConfig(), Options{})
	dialWebSocket(t, s, "/", "mqtt")
	mute := dialWebSocket(t, s, "/", "mqtt")
	if err := mute.Write(t.Context(), websocket.MessageBinary, []byte{0}); err != nil {
		t.Fatal(err)
	}
	c := mqttOver(t, dialWebSocket(t, s, "/", "mqtt"))
	c.connectDPS(toaster, deviceToken(toaster, derive(testPrimary, toaster)))
}

// TestQuickAck only sees that the wrapper hands bytes and errors through; that
// the kernel hurries is seen in the time of a whole exchange.
func TestQuickAck(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	server = withQuickAck(server)
	defer server.Close()
	if _, err := client.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	client.Close()
	if got, err := io.ReadAll(server); err != nil || string(got) != "abc" {
		t.Errorf("got %q, %v", got, err)
	}
	one, other := net.Pipe()
	defer other.Close()
	if withQuickAck(one) != one {
		t.Error("a pipe was wrapped")
	}
	one.Close()
}
