// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"sync"
	"time"
)

// Connection is one TLS connection to a [Service], with all that the client said on it.
type Connection struct {
	*tls.Conn

	Number  int    // from 1, in the order of acceptance
	Address string // of the listener

	mu    sync.Mutex // guards what follows
	heard []Heard
	ended bool
}

// Heard is a run of bytes that a client sent, decrypted.
type Heard struct {
	At   time.Time
	Data []byte
}

// Read reads and notes what was read.
func (c *Connection) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.mu.Lock()
		c.heard = append(c.heard, Heard{At: time.Now(), Data: slices.Clone(p[:n])})
		c.mu.Unlock()
	}
	if err != nil {
		c.over()
	}
	return n, err
}

// Close is the server's, after a DISCONNECT for one.
func (c *Connection) Close() error {
	c.over()
	return c.Conn.Close()
}

func (c *Connection) over() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
}

// Ended tells whether either side has closed it, or it broke.
func (c *Connection) Ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// Certificate is the common name of the certificate that the client showed; "" if none.
func (c *Connection) Certificate() string {
	shown := c.ConnectionState().PeerCertificates
	if len(shown) == 0 {
		return ""
	}
	return shown[0].Subject.CommonName
}

// Heard returns everything that the client has sent so far.
func (c *Connection) Heard() []Heard {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.heard)
}

// Connections are all so far, in the order of acceptance.
func (s *Service) Connections() []*Connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.connections)
}

// tap makes every accepted connection a [Connection].
type tap struct {
	net.Listener
	service *Service
	secure  *tls.Config
}

func (t *tap) Accept() (net.Conn, error) {
	raw, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	t.service.mu.Lock()
	defer t.service.mu.Unlock()
	c := &Connection{Conn: tls.Server(raw, t.secure), Number: len(t.service.connections) + 1, Address: t.Addr().String()}
	t.service.connections = append(t.service.connections, c)
	return c, nil
}

// connectionKey finds a request's connection in its context.
type connectionKey struct{}

func withConnection(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, conn)
}

func connectionOf(ctx context.Context) *Connection { return ctx.Value(connectionKey{}).(*Connection) }
