// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"net"
	"sync"
	"time"
)

// gate is what every connection of a device passes. It can be shut for a while,
// which looks from outside like a service that is gone.
type gate struct {
	mu    sync.Mutex
	until time.Time // shut until then
	conns map[net.Conn]struct{}
}

// newGate makes a gate that is open.
func newGate() *gate { return &gate{conns: make(map[net.Conn]struct{})} }

// enter lets a connection pass, unless the gate is shut.
func (g *gate) enter(conn net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Now().Before(g.until) {
		return false
	}
	g.conns[conn] = struct{}{}
	return true
}

// leave forgets a connection that was closed.
func (g *gate) leave(conn net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, conn)
}

// shut closes the connections that have passed and keeps new ones out for d.
func (g *gate) shut(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.until = time.Now().Add(d)
	for conn := range g.conns {
		_ = conn.Close()
	}
}
