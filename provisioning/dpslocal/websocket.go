// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"

	"github.com/coder/websocket"

	"github.com/contoso/gatewayd/provisioning/dpslocal/internal/mqttserve"
)

// mqttSubprotocol is the WebSocket subprotocol of MQTT; the C client writes it in
// capitals, and everybody is answered in his own spelling.
const mqttSubprotocol = "mqtt"

// webSocketFront takes the MQTT connections out of what arrives at the HTTPS
// port: those that ask for a WebSocket at one of the two paths that clients use
// (dps-protocol 7). Everything else is for next.
type webSocketFront struct {
	mqtt *mqttserve.Server
	next http.Handler

	// ctx ends with the server; that of a request means nothing once its
	// connection is a WebSocket.
	ctx context.Context
}

// ServeHTTP implements http.Handler.
func (f webSocketFront) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !wantsWebSocket(r) {
		f.next.ServeHTTP(w, r)
		return
	}
	if !offersMQTT(r) {
		respond(w, refuse(400, codeInvalid, "The WebSocket subprotocol must be mqtt."))
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{mqttSubprotocol}})
	if err != nil {
		return // it has been answered
	}
	conn := &webSocketConn{
		Conn: websocket.NetConn(context.Background(), ws, websocket.MessageBinary),
		raw:  r.Context().Value(rawConnKey{}).(net.Conn),
	}
	if r.TLS != nil {
		conn.tls = *r.TLS
	}
	f.mqtt.ServeConn(f.ctx, conn, conn.sayGoodbye)
}

// wantsWebSocket tells a request for an MQTT connection from any other.
func wantsWebSocket(r *http.Request) bool {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return false
	}
	return r.URL.Path == "/" || r.URL.Path == "/$iothub/websocket"
}

// offersMQTT looks for the subprotocol among those that the client offers.
func offersMQTT(r *http.Request) bool {
	for _, header := range r.Header.Values("Sec-WebSocket-Protocol") {
		for offered := range strings.SplitSeq(header, ",") {
			if strings.EqualFold(strings.TrimSpace(offered), mqttSubprotocol) {
				return true
			}
		}
	}
	return false
}

// rawConnKey is where keepRawConn leaves the connection.
type rawConnKey struct{}

// keepRawConn is for http.Server.ConnContext.
func keepRawConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, rawConnKey{}, conn)
}

// webSocketConn is the byte stream in a WebSocket's binary frames, however it is
// cut into them. What is written at once goes into one frame.
type webSocketConn struct {
	net.Conn
	raw net.Conn // below the WebSocket
	tls tls.ConnectionState
}

// Close cuts the connection off at once; a WebSocket's own way of closing waits
// for the peer.
func (c *webSocketConn) Close() error { return c.raw.Close() }

// sayGoodbye closes in the WebSocket's way and gives the peer some seconds to
// answer.
func (c *webSocketConn) sayGoodbye() { _ = c.Conn.Close() }

// ConnectionState is that of the TLS session below the WebSocket.
func (c *webSocketConn) ConnectionState() tls.ConnectionState { return c.tls }
