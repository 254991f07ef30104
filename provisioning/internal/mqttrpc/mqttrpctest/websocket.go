// SPDX-License-Identifier: Apache-2.0

package mqttrpctest

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"

	"github.com/coder/websocket"
)

// WebSocketPath is where Azure's services take MQTT over WebSocket (dps-protocol 7).
const WebSocketPath = "/$iothub/websocket"

// ServeHTTP takes a client over a WebSocket, for as long as it stays: the server's owner gives it the requests for
// [WebSocketPath]. Answers go out in frames of s.FrameSize bytes.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	socket, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"mqtt"}})
	if err != nil {
		return // it has been answered
	}
	s.running.Add(1)
	defer s.running.Done()
	s.client(&frames{
		Conn:   websocket.NetConn(context.Background(), socket, websocket.MessageBinary),
		socket: socket,
		size:   s.FrameSize,
	})
}

// ServeWebSocket accepts clients over TLS and WebSocket until the listener is closed. To any other request it answers
// 404.
func (s *Server) ServeWebSocket(l net.Listener, config *tls.Config) {
	routes := http.NewServeMux()
	routes.Handle(WebSocketPath, s)
	web := &http.Server{Handler: routes, ErrorLog: log.New(io.Discard, "", 0)}
	s.running.Go(func() { _ = web.Serve(tls.NewListener(l, config)) })
	s.running.Go(func() {
		<-s.ending()
		_ = web.Close()
	})
}

// frames cuts what is written into frames of a size.
type frames struct {
	net.Conn
	socket *websocket.Conn
	size   int
}

// Write sends p in as many frames as it takes.
func (f *frames) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		size := len(p)
		if f.size > 0 {
			size = min(size, f.size)
		}
		written, err := f.Conn.Write(p[:size])
		n += written
		if err != nil {
			return n, err
		}
		p = p[size:]
	}
	return n, nil
}

// Close does without a WebSocket's own way of closing, which waits for the other end.
func (f *frames) Close() error { return f.socket.CloseNow() }
