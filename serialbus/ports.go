// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// Ports is what the serial lines of one process share: file descriptors that are kept for their ports, and the news of
// adapters that come and go. A line needs neither: without them it opens a port with any descriptor and notices by
// looking every two seconds.
type Ports struct {
	log     *slog.Logger
	reserve *reserve
	buses   []*Bus // complete before Run
	ready   chan struct{}
	once    sync.Once // closes ready
}

// NewPorts is for as many lines, which [Ports.New] makes; it keeps nothing before Run. A nil log discards.
func NewPorts(lines int, log *slog.Logger) *Ports {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Ports{log: log, reserve: newReserve(lines), ready: make(chan struct{})}
}

// New is the function [New] for a line of this process. It must not be called after Run.
func (p *Ports) New(cfg Config, log *slog.Logger) (*Bus, error) {
	b, err := New(cfg, log)
	if err != nil {
		return nil, err
	}
	b.reserve = p.reserve
	p.buses = append(p.buses, b)
	return b, nil
}

// String returns what the news are called in logs.
func (p *Ports) String() string { return "news of serial adapters" }

// Ready returns a channel that closes when Run listens for news, or found that there are none to be had.
func (p *Ports) Ready() <-chan struct{} { return p.ready }

// Run keeps descriptors for the lines and tells them of adapters that come and go, until ctx ends; it returns nil then. Where udev cannot be listened
// to, as in most containers, it says so once and the lines look for themselves.
func (p *Ports) Run(ctx context.Context) error {
	p.reserve.keep()
	defer p.reserve.release()
	defer p.once.Do(func() { close(p.ready) })
	news, err := listenUevents()
	if err != nil {
		p.log.Info("udev tells nothing of adapters here; looking for them every two seconds instead", "err", err)
		p.once.Do(func() { close(p.ready) })
		<-ctx.Done()
		return nil
	}
	defer context.AfterFunc(ctx, news.close)()
	p.once.Do(func() { close(p.ready) })
	for {
		event, err := news.next()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errMissed):
			p.nudge()
		case err != nil:
			p.log.Warn("udev tells no more of adapters; looking for them every two seconds instead", "err", err)
			news.close()
			<-ctx.Done()
			return nil
		case event.subsystem == "tty":
			p.log.Debug("news of a serial adapter", "action", event.action, "device", event.name)
			p.nudge()
		}
	}
}

// nudge makes every line look at its port at once. One that is busy looks when it comes to it.
func (p *Ports) nudge() {
	for _, b := range p.buses {
		select {
		case b.nudge <- struct{}{}:
		default:
		}
	}
}

// errMissed says that news got lost, because they came faster than they were read.
var errMissed = errors.New("missed news of adapters")

// uevent is what udev tells of one device.
type uevent struct {
	action    string // add, remove, change, …
	subsystem string // tty, usb, …
	name      string // of the device node, e.g. /dev/ttyUSB0
}

// String returns the event for tests and logs.
func (e uevent) String() string { return fmt.Sprintf("%s %s %s", e.action, e.subsystem, e.name) }
