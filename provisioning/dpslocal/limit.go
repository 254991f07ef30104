// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"net"
	"sync"
)

const (
	// maxConnections of one listener, and of one address to it. A gateway with
	// 247 appliances comes from a single address.
	maxConnections           = 4096
	maxConnectionsPerAddress = 1024
)

// limitedListener closes connections beyond its caps as soon as they are
// accepted, before a TLS handshake costs anything.
type limitedListener struct {
	net.Listener
	gate *gate

	mu        sync.Mutex // guards total and byAddress
	total     int
	byAddress map[string]int
}

// limitListener puts the caps on a listener and leads it through a gate.
func limitListener(l net.Listener, g *gate) net.Listener {
	return &limitedListener{Listener: l, gate: g, byAddress: make(map[string]int)}
}

// Accept implements net.Listener.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		address := hostOf(conn.RemoteAddr())
		if !l.gate.enter(conn) {
			_ = conn.Close()
			continue
		}
		if l.enter(address) {
			return &limitedConn{Conn: withQuickAck(conn), leave: func() { l.gate.leave(conn); l.leave(address) }}, nil
		}
		l.gate.leave(conn)
		_ = conn.Close()
	}
}

// enter counts a connection in, unless a cap is reached.
func (l *limitedListener) enter(address string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= maxConnections || l.byAddress[address] >= maxConnectionsPerAddress {
		return false
	}
	l.total++
	l.byAddress[address]++
	return true
}

// leave counts a connection out.
func (l *limitedListener) leave(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	l.byAddress[address]--
	if l.byAddress[address] == 0 {
		delete(l.byAddress, address)
	}
}

// hostOf is an address without its port.
func hostOf(addr net.Addr) string {
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	return host
}

// limitedConn counts itself out when it is closed, once.
type limitedConn struct {
	net.Conn
	once  sync.Once
	leave func()
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	c.once.Do(c.leave)
	return c.Conn.Close()
}
