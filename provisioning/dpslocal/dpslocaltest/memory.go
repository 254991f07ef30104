// SPDX-License-Identifier: Apache-2.0

package dpslocaltest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// memoryListener accepts connections that are made by its dial.
type memoryListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newMemoryListener() *memoryListener {
	return &memoryListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *memoryListener) Addr() net.Addr { return memoryAddr{} }

// dial returns the other end of a connection that was accepted.
func (l *memoryListener) dial(ctx context.Context) (net.Conn, error) {
	there, back := newStream(), newStream()
	select {
	case l.conns <- &memoryConn{in: there, out: back}:
		return &memoryConn{in: back, out: there}, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "memory" }

// memoryConn is one end of a connection. Unlike net.Pipe it has room for what is
// sent before the other end reads, which a TLS server counts on.
type memoryConn struct {
	in, out *stream
}

// Read implements net.Conn.
func (c *memoryConn) Read(p []byte) (int, error) { return c.in.read(p) }

// Write implements net.Conn. It never waits.
func (c *memoryConn) Write(p []byte) (int, error) { return c.out.write(p) }

// Close implements net.Conn. The other end can still read what was sent.
func (c *memoryConn) Close() error {
	c.in.close(net.ErrClosed)
	c.out.close(io.EOF)
	return nil
}

func (c *memoryConn) LocalAddr() net.Addr  { return memoryAddr{} }
func (c *memoryConn) RemoteAddr() net.Addr { return memoryAddr{} }

// SetDeadline implements net.Conn.
func (c *memoryConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *memoryConn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(t)
	return nil
}

// SetWriteDeadline implements net.Conn. There is nothing that it could end.
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }

// stream is one direction of a connection.
type stream struct {
	mu      sync.Mutex
	changed *sync.Cond // of everything below

	data     []byte
	end      error // what a reader gets after the data, or nil
	deadline time.Time
	timer    *time.Timer // wakes the reader at the deadline, or nil
}

func newStream() *stream {
	s := new(stream)
	s.changed = sync.NewCond(&s.mu)
	return s
}

// read waits for data, the end, or the deadline.
func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case errors.Is(s.end, net.ErrClosed):
			return 0, net.ErrClosed
		case !s.deadline.IsZero() && !time.Now().Before(s.deadline):
			return 0, os.ErrDeadlineExceeded
		case len(s.data) > 0:
			n := copy(p, s.data)
			s.data = s.data[n:]
			return n, nil
		case s.end != nil:
			return 0, s.end
		}
		s.changed.Wait()
	}
}

// write appends data.
func (s *stream) write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end != nil {
		return 0, io.ErrClosedPipe
	}
	s.data = append(s.data, p...)
	s.changed.Broadcast()
	return len(p), nil
}

// close ends the stream, with what its reader is to be told. The reader's own
// closing outdoes the writer's.
func (s *stream) close(end error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end == nil || errors.Is(end, net.ErrClosed) {
		s.end = end
	}
	if s.timer != nil {
		s.timer.Stop()
	}
	s.changed.Broadcast()
}

// setDeadline sets when reading gives up; the zero time is never.
func (s *stream) setDeadline(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
	}
	s.deadline = t
	// No timer for what is over: net/http often sets such a deadline, and in a
	// synctest bubble two timers that fire at once, on two processors, can crash
	// Go 1.26's race detector.
	if left := time.Until(t); !t.IsZero() && left > 0 && s.end == nil {
		s.timer = time.AfterFunc(left, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.changed.Broadcast()
		})
	}
	s.changed.Broadcast()
}
