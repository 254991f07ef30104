// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"container/list"
	"net/netip"

	"golang.org/x/time/rate"
)

// caller is what is known of one address that sends requests.
type caller struct {
	from     netip.Addr
	local    bool // this machine, so perhaps a proxy for many
	underWay int
	requests *rate.Limiter // nil until it is asked for
	misses   *rate.Limiter // likewise
}

// bucket holds the caller's requests.
func (c *caller) bucket(perSecond float64) *rate.Limiter {
	if c.requests == nil {
		c.requests = newBucket(perSecond)
	}
	return c.requests
}

// wrongKeys holds the caller's requests without a valid key.
func (c *caller) wrongKeys() *rate.Limiter {
	if c.misses == nil {
		c.misses = rate.NewLimiter(wrongKeyRate, wrongKeyBurst)
	}
	return c.misses
}

// callerTable remembers the callers that came last. It holds a bounded number,
// so that addresses, of which an attacker may have many, cost no memory; what a
// forgotten caller has used up is forgotten too, and the limits for all callers
// together remain.
type callerTable struct {
	size   int
	byAddr map[netip.Addr]*list.Element
	recent *list.List // of *caller, the one that came last in front
}

func newCallerTable(size int) callerTable {
	return callerTable{size: size, byAddr: make(map[netip.Addr]*list.Element), recent: list.New()}
}

// find gives the caller at an address, which becomes the one that came last.
func (t *callerTable) find(from netip.Addr) *caller {
	if element, known := t.byAddr[from]; known {
		t.recent.MoveToFront(element)
		return element.Value.(*caller)
	}
	if len(t.byAddr) >= t.size {
		t.forget()
	}
	c := &caller{from: from, local: !from.IsValid() || from.IsLoopback()}
	t.byAddr[from] = t.recent.PushFront(c)
	return c
}

// forget drops the caller that has been away for longest. One with a request
// under way stays: it would be counted twice when it comes back.
func (t *callerTable) forget() {
	for element := t.recent.Back(); element != nil; element = element.Prev() {
		if c := element.Value.(*caller); c.underWay == 0 {
			t.recent.Remove(element)
			delete(t.byAddr, c.from)
			return
		}
	}
}

// CallerOf gives the address that a connection is counted under: that of a host
// for IPv4, that of its network for IPv6, where a host has 2^64 of them. What is
// not an IP address, as that of a Unix socket, gives the zero value.
func CallerOf(remoteAddr string) netip.Addr {
	parsed, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	from := parsed.Addr().Unmap()
	if from.Is4() || from.IsLoopback() {
		return from
	}
	network, err := from.Prefix(64)
	if err != nil {
		return netip.Addr{}
	}
	return network.Addr()
}
