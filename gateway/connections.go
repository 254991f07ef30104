// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"container/list"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/contoso/gatewayd/allocation"
)

// maxConnections is the cap unless the configuration has another.
const maxConnections = 512

// connectionsPerCaller bounds the connections of one caller from another machine;
// the service has a handful.
const connectionsPerCaller = 64

// connections caps the webhook's connections, because the process has a thousand
// descriptors for all it does (design section 13). When there is no room for
// another one, the connection that has been without a request for longest makes
// it: an idle one, or one that has not managed to send its headers. One whose
// request is being answered is left alone.
type connections struct {
	most int
	log  *slog.Logger
	tell rate.Sometimes

	mu       sync.Mutex // guards all below
	open     int
	byCaller map[netip.Addr]int
	waiting  *list.List // of *connection, without a request; the longest in front
}

func newConnections(most int, log *slog.Logger) *connections {
	return &connections{most: cmp.Or(most, maxConnections), log: log, tell: rate.Sometimes{Interval: turnedAwayInterval}, byCaller: make(map[netip.Addr]int), waiting: list.New()}
}

// turnedAwayInterval keeps a flood of connections out of the log.
const turnedAwayInterval = time.Second

// listen puts the caps on a listener. The HTTP server that it serves must call
// changed as its ConnState.
func (c *connections) listen(inner net.Listener) net.Listener {
	return &cappedListener{inner, c}
}

type cappedListener struct {
	net.Listener
	connections *connections
}

// Accept gives the next connection that there is room for.
func (l *cappedListener) Accept() (net.Conn, error) {
	for {
		inner, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if conn := l.connections.admit(inner); conn != nil {
			return conn, nil
		}
		inner.Close()
	}
}

// connection counts itself out when it is closed.
type connection struct {
	net.Conn
	of     *connections
	caller netip.Addr
	place  *list.Element // in waiting, or nil; guarded by of.mu
	left   bool          // guarded by of.mu
	once   sync.Once
}

// Close closes the connection, and makes room for another one.
func (c *connection) Close() error {
	c.once.Do(func() { c.of.leave(c) })
	return c.Conn.Close()
}

// admit counts a connection in, or gives nil when there is no room.
func (c *connections) admit(inner net.Conn) *connection {
	caller := allocation.CallerOf(inner.RemoteAddr().String())
	local := !caller.IsValid() || caller.IsLoopback() // perhaps a proxy for many
	c.mu.Lock()
	var victim *connection
	room := true
	if !local && c.byCaller[caller] >= connectionsPerCaller {
		victim = c.longest(func(w *connection) bool { return w.caller == caller })
		room = victim != nil
	} else if c.open >= c.most {
		victim = c.longest(func(*connection) bool { return true })
		room = victim != nil
	}
	var admitted *connection
	if room {
		admitted = &connection{Conn: inner, of: c, caller: caller}
		c.open++
		c.byCaller[caller]++
		admitted.place = c.waiting.PushBack(admitted)
	}
	c.mu.Unlock()
	if victim != nil {
		victim.Close()
	}
	if victim != nil || !room {
		c.tell.Do(func() {
			c.log.Warn("the webhook has as many connections as it may have; one was closed", "caller", caller.String(), "new", !room)
		})
	}
	return admitted
}

// longest gives the connection that has been without a request for longest.
func (c *connections) longest(fits func(*connection) bool) *connection {
	for element := c.waiting.Front(); element != nil; element = element.Next() {
		if w := element.Value.(*connection); fits(w) {
			return w
		}
	}
	return nil
}

// leave counts a connection out.
func (c *connections) leave(w *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.left = true
	c.open--
	if c.byCaller[w.caller]--; c.byCaller[w.caller] == 0 {
		delete(c.byCaller, w.caller)
	}
	c.settle(w, false)
}

// changed is the ConnState of the server: it tells which connections are without
// a request.
func (c *connections) changed(conn net.Conn, state http.ConnState) {
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	w, ours := conn.(*connection)
	if !ours || state != http.StateActive && state != http.StateIdle {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !w.left {
		c.settle(w, state == http.StateIdle)
	}
}

// settle puts a connection at the end of those that wait, or takes it out.
func (c *connections) settle(w *connection, waits bool) {
	if w.place != nil {
		c.waiting.Remove(w.place)
		w.place = nil
	}
	if waits {
		w.place = c.waiting.PushBack(w)
	}
}
