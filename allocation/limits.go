// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"cmp"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits bound what callers may ask of a [Handler], so that nobody takes the
// machine from the serial lines beside it. What is beyond a limit is answered
// with 503: it is no verdict on a device. A member that is zero takes its default.
//
// A caller is an IPv4 address or an IPv6 network of 64 bits. One on this machine
// has no limit of its own, since behind a proxy it stands for everyone. No
// header is believed about who calls.
type Limits struct {
	// Concurrent is how many requests may be under way at once, and
	// ConcurrentPerCaller how many of them one caller's. Defaults 256 and 64. A
	// server with more connections than that has some left on which to tell others
	// to come again.
	Concurrent          int
	ConcurrentPerCaller int

	// Rate is how many requests a second are let in, and RatePerCaller how many
	// of one caller. A second's worth may come at once. Defaults 100,000 and
	// 1,000; the service itself starts at most 1,000 registrations a minute
	// (dps-protocol 2.4).
	Rate          float64
	RatePerCaller float64
}

const (
	// Wrong function keys are counted apart from good requests, so that whoever
	// guesses keys behind a proxy takes nothing from the service behind the same
	// one. A list of mistyped webhook URLs still learns of its mistake.
	wrongKeyRate      = 5 // a second, of one caller
	wrongKeyBurst     = 20
	allWrongKeysRate  = 50 // a second, of all callers
	allWrongKeysBurst = 200

	// maxCallers bounds the table of callers, about 2 MB.
	maxCallers = 4096

	// smallBody is what every request under way may hold of its body, in bytes;
	// the rest of a larger one needs one of largeBodies places. Together they keep
	// 256 requests of 256 KiB from taking a quarter of the service's memory.
	smallBody   = 16 << 10
	largeBodies = 64
)

// The names of the limits, as a decision and the log tell them.
const (
	limitStop                = "stopping"
	limitConcurrent          = "requests at once"
	limitConcurrentPerCaller = "requests at once of one caller"
	limitRate                = "requests a second"
	limitRatePerCaller       = "requests a second of one caller"
	limitWrongKeys           = "wrong function keys"
	limitLargeBodies         = "large requests at once"
)

func (l Limits) withDefaults() Limits {
	return Limits{
		Concurrent:          cmp.Or(l.Concurrent, 256),
		ConcurrentPerCaller: cmp.Or(l.ConcurrentPerCaller, 64),
		Rate:                cmp.Or(l.Rate, 100_000),
		RatePerCaller:       cmp.Or(l.RatePerCaller, 1_000),
	}
}

// guard lets requests in as far as the limits go, and knows those under way.
type guard struct {
	limits    Limits
	rate      *rate.Limiter
	wrongKeys *rate.Limiter
	large     chan struct{} // one element for each large body in memory

	mu       sync.Mutex // guards all below
	callers  callerTable
	underWay int
	draining bool
	idle     chan struct{} // closed once draining and nothing is under way
}

func newGuard(limits Limits) *guard {
	limits = limits.withDefaults()
	return &guard{
		limits:    limits,
		rate:      newBucket(limits.Rate),
		wrongKeys: rate.NewLimiter(allWrongKeysRate, allWrongKeysBurst),
		large:     make(chan struct{}, largeBodies),
		callers:   newCallerTable(maxCallers),
		idle:      make(chan struct{}),
	}
}

// newBucket holds one second's worth.
func newBucket(perSecond float64) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond)))
}

// visit is one request that was let in.
type visit struct {
	caller *caller
	large  bool // holds a place for a large body
}

// admit lets a request with a valid key in, or names the limit that it is beyond.
// What it lets in must leave. A request that is turned away takes nothing from
// any other one.
func (g *guard) admit(from netip.Addr, now time.Time) (_ *visit, limit string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.draining {
		return nil, limitStop
	}
	c := g.callers.find(from)
	switch {
	case !c.local && c.underWay >= g.limits.ConcurrentPerCaller:
		return nil, limitConcurrentPerCaller
	case g.underWay >= g.limits.Concurrent:
		return nil, limitConcurrent
	case !c.local && !c.bucket(g.limits.RatePerCaller).AllowN(now, 1):
		return nil, limitRatePerCaller
	case !g.rate.AllowN(now, 1):
		return nil, limitRate
	}
	c.underWay++
	g.underWay++
	return &visit{caller: c}, ""
}

// leave ends a visit.
func (g *guard) leave(v *visit) {
	if v.large {
		<-g.large
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	v.caller.underWay--
	g.underWay--
	if g.draining && g.underWay == 0 {
		close(g.idle)
	}
}

// admitLarge lets a visit hold a large body, if there is a place.
func (g *guard) admitLarge(v *visit) bool {
	select {
	case g.large <- struct{}{}:
		v.large = true
		return true
	default:
		return false
	}
}

// mayMiss tells whether a caller with a wrong key is still to be told so.
func (g *guard) mayMiss(from netip.Addr, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.callers.find(from).wrongKeys().AllowN(now, 1) && g.wrongKeys.AllowN(now, 1)
}

// drain lets nobody in any more; the channel closes when the last visit ends.
func (g *guard) drain() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.draining {
		g.draining = true
		if g.underWay == 0 {
			close(g.idle)
		}
	}
	return g.idle
}

// stopping tells whether nobody is let in any more.
func (g *guard) stopping() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.draining
}
