// SPDX-License-Identifier: Apache-2.0

package mqttrpc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

// MQTT over WebSocket, as Azure's services speak it (dps-protocol 7).
const (
	webSocketPath = "/$iothub/websocket"
	subprotocol   = "mqtt"
	maxUpgrade    = 64 << 10 // of the answer to the upgrade, headers and all
	httpsPort     = "443"
)

var errNoMQTT = errors.New("it agreed to a WebSocket, but not to MQTT in it")

// UpgradeError is an HTTP answer that did not become a WebSocket for MQTT.
type UpgradeError struct {
	Status     int    // as it came; 101 when the answer agreed and was wrong in its details
	RetryAfter string // the hint as it came, "" if none
	Cause      error
}

// Error gives one line.
func (e *UpgradeError) Error() string {
	return fmt.Sprintf("the server did not open a WebSocket for MQTT: status %d", e.Status)
}

// Unwrap returns the cause.
func (e *UpgradeError) Unwrap() error { return e.Cause }

// openWebSocket asks for a WebSocket on conn, which has TLS already, and returns the stream of bytes in its binary
// frames. When ctx ends first it closes raw, which lies below conn.
//
// No limit is set on a frame: the server may put as much of the stream into one as it likes, because a frame is read as
// it comes and not kept. What must be bounded are packets, and the guard sees to that.
func openWebSocket(ctx context.Context, raw, conn net.Conn, authority string) (net.Conn, error) {
	release := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer release()

	opening := &upgrade{conn: conn}
	//nolint:bodyclose // Dial closes it, or makes it the socket
	socket, answer, err := websocket.Dial(ctx, "https://"+authority+webSocketPath, &websocket.DialOptions{
		HTTPClient: &http.Client{
			Transport:     opening,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		HTTPHeader:   http.Header{"User-Agent": {""}}, // leaves it out
		Subprotocols: []string{subprotocol},
	})
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case opening.err != nil:
		return nil, opening.err // without the URL that net/http puts around it
	case err == nil && socket.Subprotocol() == "":
		err = errNoMQTT
	}
	if err != nil {
		refused := &UpgradeError{Cause: err}
		if answer != nil {
			refused.Status, refused.RetryAfter = answer.StatusCode, answer.Header.Get("Retry-After")
		}
		return nil, refused
	}
	return &webSocket{
		Conn:   websocket.NetConn(context.Background(), socket, websocket.MessageBinary),
		socket: socket,
		raw:    raw,
	}, nil
}

// webSocket is the stream in a WebSocket's frames.
type webSocket struct {
	net.Conn
	socket *websocket.Conn
	raw    net.Conn
}

// Close cuts the connection off at once. A WebSocket's own way of closing waits for its peer, and DISCONNECT has said
// goodbye already.
func (w *webSocket) Close() error {
	_ = w.raw.Close()
	return w.socket.CloseNow()
}

// upgrade is the transport of one request: it goes over conn, and conn stays open after a good answer. Unlike
// [http.Transport] it has no goroutines and pools nothing, so that closing conn ends everything.
type upgrade struct {
	conn net.Conn
	err  error // of the connection, as opposed to what was answered on it
}

// RoundTrip implements [http.RoundTripper].
func (u *upgrade) RoundTrip(request *http.Request) (*http.Response, error) {
	bounded := &io.LimitedReader{R: u.conn, N: maxUpgrade}
	reader := bufio.NewReader(bounded)
	if u.err = request.Write(u.conn); u.err != nil {
		return nil, u.err
	}
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		u.err = unreadable(err, bounded.N == 0)
		return nil, u.err
	}
	if response.StatusCode == http.StatusSwitchingProtocols {
		bounded.N = math.MaxInt64
		response.Body = struct {
			io.Reader
			io.WriteCloser
		}{reader, u.conn}
		return response, nil
	}
	// The little that is read of a refusal must not keep anybody waiting.
	_ = u.conn.SetReadDeadline(time.Now().Add(time.Second))
	return response, nil
}

// unreadable tells an answer that is no HTTP from a connection that gave none.
func unreadable(err error, tooLong bool) error {
	var network net.Error
	switch {
	case tooLong:
		return &UpgradeError{Cause: errors.New("its answer is too long")}
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return fmt.Errorf("asking for a WebSocket: %w", err)
	default:
		return &UpgradeError{Cause: err}
	}
}

// authority is what the Host header says: the server's name, and its port unless that is the usual one.
func authority(name, address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		port = httpsPort
	}
	host := net.JoinHostPort(name, port)
	if port == httpsPort {
		host = host[:len(host)-len(":"+httpsPort)]
	}
	return host
}
