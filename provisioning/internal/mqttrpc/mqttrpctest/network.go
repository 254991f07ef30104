// SPDX-License-Identifier: Apache-2.0

// Package mqttrpctest has what the tests of the provisioning packages stand on: a network in memory, whose time is the
// test's own, a certificate authority, and a scripted MQTT server.
package mqttrpctest

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Network is a network in memory. Unlike sockets, its connections let the clock of a testing/synctest bubble move
// while they wait, and unlike those of [net.Pipe] a write does not wait for the other end to read it.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener
	dials     map[string]int
	open      int
	onDial    func(address string, n int) error
}

// NewNetwork makes a network on which nobody listens.
func NewNetwork() *Network {
	return &Network{listeners: make(map[string]*listener), dials: make(map[string]int)}
}

// Listen makes a listener for an address, such as "dps.test:443".
func (n *Network) Listen(address string) net.Listener {
	l := &listener{network: n, address: address, arrivals: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[address] = l
	return l
}

// OnDial has f asked before each dial, with how many there were to that address, this one included. Its error
// fails the dial.
func (n *Network) OnDial(f func(address string, count int) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.onDial = f
}

// Dials tells how often an address was dialled, failures included.
func (n *Network) Dials(address string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[address]
}

// Open tells how many connections their diallers have not closed.
func (n *Network) Open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.open
}

// DialContext has the form that the configurations want. Where nobody listens it fails like a socket would.
func (n *Network) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dials[address]++
	count, onDial, l := n.dials[address], n.onDial, n.listeners[address]
	n.mu.Unlock()

	fail := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Addr: Addr(address), Err: err} }
	if onDial != nil {
		if err := onDial(address, count); err != nil {
			return nil, fail(err)
		}
	}
	if l == nil {
		return nil, fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	}
	here, there := pipe(address)
	select {
	case l.arrivals <- there:
		n.mu.Lock()
		n.open++
		n.mu.Unlock()
		return &dialled{conn: here, network: n}, nil
	case <-l.closed:
	case <-ctx.Done():
		_, _ = here.Close(), there.Close()
		return nil, fail(ctx.Err())
	}
	_, _ = here.Close(), there.Close()
	return nil, fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
}

// Addr is an address on a [Network].
type Addr string

// Network returns "memory".
func (a Addr) Network() string { return "memory" }

// String returns host:port.
func (a Addr) String() string { return string(a) }

type listener struct {
	network  *Network
	address  string
	arrivals chan net.Conn
	once     sync.Once
	closed   chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.arrivals:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return Addr(l.address) }

// conn is one end of a connection: what it reads and what it writes.
type conn struct {
	in, out *stream
	address Addr
}

// pipe makes two connected ends.
func pipe(address string) (a, b *conn) {
	one, other := newStream(), newStream()
	return &conn{in: one, out: other, address: Addr(address)}, &conn{in: other, out: one, address: Addr(address)}
}

func (c *conn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *conn) Write(p []byte) (int, error) { return c.out.write(p) }

// Close ends reading at once; what was written can still be read by the other end, as with a socket.
func (c *conn) Close() error {
	c.in.close(true)
	c.out.close(false)
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return c.address }
func (c *conn) RemoteAddr() net.Addr { return c.address }

func (c *conn) SetDeadline(t time.Time) error     { return c.SetReadDeadline(t) }
func (c *conn) SetReadDeadline(t time.Time) error { return c.in.setDeadline(t) }

// SetWriteDeadline does nothing, because a write never waits.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// dialled is the end of a connection that its network counts.
type dialled struct {
	*conn
	network *Network
	once    sync.Once
}

func (d *dialled) Close() error {
	d.once.Do(func() {
		d.network.mu.Lock()
		defer d.network.mu.Unlock()
		d.network.open--
	})
	return d.conn.Close()
}

// stream is one direction of a connection.
type stream struct {
	mu       sync.Mutex
	changed  *sync.Cond
	data     []byte
	ended    bool // by the writer
	refused  bool // by the reader
	deadline time.Time
	alarm    *time.Timer
}

func newStream() *stream {
	s := new(stream)
	s.changed = sync.NewCond(&s.mu)
	return s
}

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.refused:
			return 0, net.ErrClosed
		case !s.deadline.IsZero() && !time.Now().Before(s.deadline):
			return 0, os.ErrDeadlineExceeded
		case len(s.data) > 0:
			n := copy(p, s.data)
			s.data = s.data[n:]
			return n, nil
		case s.ended:
			return 0, io.EOF
		}
		s.changed.Wait()
	}
}

func (s *stream) write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return 0, net.ErrClosed
	case s.refused:
		return 0, os.NewSyscallError("write", syscall.EPIPE)
	}
	s.data = append(s.data, p...)
	s.changed.Broadcast()
	return len(p), nil
}

func (s *stream) close(byReader bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if byReader {
		s.refused = true
	} else {
		s.ended = true
	}
	if s.alarm != nil {
		s.alarm.Stop()
	}
	s.changed.Broadcast()
}

func (s *stream) setDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alarm != nil {
		s.alarm.Stop()
		s.alarm = nil
	}
	s.deadline = t
	// No timer for what is over: net/http often sets such a deadline, and in a
	// synctest bubble two timers that fire at once, on two processors, can crash
	// Go 1.26's race detector.
	if left := time.Until(t); !t.IsZero() && left > 0 {
		s.alarm = time.AfterFunc(left, s.changed.Broadcast)
	}
	s.changed.Broadcast()
	return nil
}
