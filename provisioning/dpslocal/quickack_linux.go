// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"net"
	"syscall"
)

// ackConn acknowledges at once what it has read. Clients that send a packet in
// two pieces wait for the acknowledgement of the first, which the kernel would
// otherwise hold back for 40 ms, twice in each exchange.
type ackConn struct {
	net.Conn
	raw syscall.RawConn
}

// withQuickAck wraps a TCP connection; any other is returned as it is.
func withQuickAck(conn net.Conn) net.Conn {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return conn
	}
	return &ackConn{Conn: conn, raw: raw}
}

// Read implements net.Conn. The kernel forgets the option now and then, so it is
// set after each read; that it could not be set makes nothing wrong, only slow.
func (c *ackConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil {
		_ = c.raw.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
		})
	}
	return n, err
}
