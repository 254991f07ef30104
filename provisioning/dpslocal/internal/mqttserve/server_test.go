// SPDX-License-Identifier: Apache-2.0

package mqttserve

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a handler and its sessions in one: it takes everything and
// writes down what it was called with.
type recorder struct {
	code ReturnCode

	mu    sync.Mutex
	calls []string
	conn  *Conn
}

func (r *recorder) note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, text)
}

func (r *recorder) seen() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.calls, " ")
}

func (r *recorder) Connect(c *Conn, hello Hello) (Session, ReturnCode) {
	r.note("connect:" + hello.ClientID + "," + hello.UserName + "," + hello.Password)
	r.conn = c
	return r, r.code
}

func (r *recorder) Start() { r.note("start") }

func (r *recorder) Publish(_ context.Context, m Message) error {
	r.note("publish:" + m.Topic)
	if m.Topic == "no" {
		return ErrRefuse
	}
	return nil
}

func (r *recorder) Subscribe(filter string, qos byte) (byte, error) {
	r.note("subscribe:" + filter)
	return qos, nil
}

func (r *recorder) Unsubscribe(filter string) { r.note("unsubscribe:" + filter) }
func (r *recorder) Closed()                   { r.note("closed") }

// oneConn is a listener with one connection to give.
type oneConn struct {
	conn   chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *oneConn) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// serve runs a server with one connection and returns its other end. stop ends
// the server and waits for it.
func serve(t *testing.T, r *recorder) (client net.Conn, stop func()) {
	t.Helper()
	client, server := net.Pipe()
	listener := &oneConn{conn: make(chan net.Conn, 1), closed: make(chan struct{})}
	listener.conn <- server
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- New(r, slog.New(slog.DiscardHandler)).Serve(ctx, listener) }()
	return client, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		_ = client.Close()
	}
}

const connectDev = "\x10\x13\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01d\x00\x01u\x00\x01p"

func write(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, conn net.Conn, n int) string {
	t.Helper()
	buffer := make([]byte, n)
	if _, err := io.ReadFull(conn, buffer); err != nil {
		t.Fatal(err)
	}
	return string(buffer)
}

func TestConversation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		conn, stop := serve(t, r)
		for _, step := range []struct{ send, want string }{
			{connectDev, "\x20\x02\x00\x00"},
			{"\x82\x06\x00\x05\x00\x01a\x02", "\x90\x03\x00\x05\x01"},
			{"\x32\x06\x00\x01t\x00\x07x", "\x40\x02\x00\x07"},
			{"\x30\x04\x00\x01tx\xc0\x00", "\xd0\x00"},
			{"\x40\x02\x00\x01\xa2\x05\x00\x08\x00\x01a", "\xb0\x02\x00\x08"},
		} {
			write(t, conn, step.send)
			if got := read(t, conn, len(step.want)); got != step.want {
				t.Errorf("sent %q: got %q, want %q", step.send, got, step.want)
			}
		}
		go func() {
			for _, qos := range []byte{0, 1, 2} {
				if err := r.conn.Publish("t", []byte("x"), qos); err != nil {
					t.Error(err)
				}
			}
		}()
		if got, want := read(t, conn, 6+8+8), "\x30\x04\x00\x01tx\x32\x06\x00\x01t\x00\x01x\x32\x06\x00\x01t\x00\x02x"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		write(t, conn, "\xe0\x00")
		synctest.Wait()
		want := "connect:d,u,p start subscribe:a publish:t publish:t unsubscribe:a closed"
		if got := r.seen(); got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
		stop()
	})
}

func TestRefusedConnects(t *testing.T) {
	tests := []struct {
		name, send string
		code       ReturnCode
		want       string // what comes before the end
	}{
		{"by the handler", connectDev, NotAuthorized, "\x20\x02\x00\x05"},
		{"MQTT 3.1", "\x10\x11\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x03dev", Accepted, "\x20\x02\x00\x01"},
		{"MQTT 5", strings.Replace(connectDev, "MQTT\x04", "MQTT\x05", 1), Accepted, "\x20\x02\x00\x01"},
		{"another protocol", strings.Replace(connectDev, "MQTT", "HTTP", 1), Accepted, ""},
		{"no CONNECT", "\xc0\x00", Accepted, ""},
		{"HTTP", "GET / HTTP/1.1\r\n\r\n", Accepted, ""},
		{"CONNECT too large", "\x10\x81\x80\x01", Accepted, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &recorder{code: tt.code}
				conn, stop := serve(t, r)
				go func() { _, _ = conn.Write([]byte(tt.send)) }()
				got, err := io.ReadAll(conn)
				if string(got) != tt.want || err != nil {
					t.Errorf("got %q, %v; want %q and the end", got, err, tt.want)
				}
				if strings.Contains(r.seen(), "start") {
					t.Errorf("a session was started: %s", r.seen())
				}
				stop()
			})
		})
	}
}

func TestSessionErrorCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		conn, stop := serve(t, r)
		write(t, conn, connectDev)
		read(t, conn, 4)
		write(t, conn, "\x30\x05\x00\x02nox")
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want the end", err)
		}
		synctest.Wait()
		if !strings.HasSuffix(r.seen(), "publish:no closed") {
			t.Errorf("got %s", r.seen())
		}
		stop()
	})
}

// The end of the server is the end of its connections, also of silent ones.
func TestStopEndsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		conn, stop := serve(t, r)
		write(t, conn, connectDev)
		read(t, conn, 4)
		begun := time.Now()
		stop()
		if got := time.Since(begun); got != 0 || !strings.HasSuffix(r.seen(), "closed") {
			t.Errorf("stopped after %s, %s; want at once and closed", got, r.seen())
		}
	})
}

// A peer that does not take what it is sent loses its connection after the
// write time-out and holds nobody up for longer.
func TestStuckPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		conn, stop := serve(t, r)
		write(t, conn, connectDev)
		read(t, conn, 4)
		begun := time.Now()
		err := r.conn.Publish("t", bytes.Repeat([]byte("x"), 100), 0)
		if err == nil || time.Since(begun) != writeTimeout {
			t.Errorf("got %v after %s, want an error after %s", err, time.Since(begun), writeTimeout)
		}
		synctest.Wait()
		if !strings.HasSuffix(r.seen(), "closed") {
			t.Errorf("got %s, want the session closed", r.seen())
		}
		stop()
	})
}

// Packet IDs go round without ever being 0.
func TestPacketIDs(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	c := &Conn{net: server, packetID: 65534}
	go func() {
		for range 3 {
			_ = c.Publish("t", nil, 1)
		}
	}()
	for _, want := range []uint16{65535, 1, 2} {
		packet, err := packets.ReadPacket(client)
		if err != nil {
			t.Fatal(err)
		}
		if got := packet.Details().MessageID; got != want {
			t.Errorf("packet ID %d, want %d", got, want)
		}
	}
}
