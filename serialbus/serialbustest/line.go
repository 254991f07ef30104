// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Line is one simulated serial line on a pseudo-terminal. Its methods may be called from any goroutine.
type Line struct {
	tty     *tty
	opts    options
	stop    chan struct{} // closed by Unplug
	once    sync.Once
	workers sync.WaitGroup

	mu     sync.Mutex // guards device and asked
	device device
	asked  int // requests answered or not, for the fault script
}

// device is what hangs on a line. It does no I/O and knows no time.
type device interface {
	// receive takes bytes from the wire and returns the exchanges that they complete.
	receive(data []byte) []exchange
	// pending reports whether half a request waits for its rest.
	pending() bool
	// silence tells that the rest did not come.
	silence()
	// stray turns a reply into one that the master did not ask for.
	stray(reply []byte) []byte
	// appliance returns the appliance at an address, nil if there is none.
	appliance(unit int) appliance
}

// appliance is one unit on a line, as a test sees it.
type appliance interface {
	settings() map[string]string
	writes() int
	power(on bool)
	setFirmware(version string)
}

// exchange is one request that a device understood, and its reply.
type exchange struct {
	unit    int
	request []byte
	reply   []byte
}

// options are what Option changes.
type options struct {
	baud       int
	turnaround time.Duration
	unpaced    bool
	echo       bool
	fault      func(unit, n int) Fault
}

// Option changes how a line behaves.
type Option func(*options)

// WithBaud makes the appliances talk at this speed only: a port set to another one reads garbage. Without it they
// follow the port.
func WithBaud(baud int) Option { return func(o *options) { o.baud = baud } }

// WithTurnaround is how long an appliance thinks before it answers; 2 ms without it.
func WithTurnaround(d time.Duration) Option { return func(o *options) { o.turnaround = d } }

// WithoutPacing sends replies at once and whole, for tests about something else than time.
func WithoutPacing() Option { return func(o *options) { o.unpaced = true } }

// WithEcho repeats every byte to its sender, as some two-wire adapters do.
func WithEcho() Option { return func(o *options) { o.echo = true } }

// WithFault asks script what goes wrong with the reply to each request; n counts the requests on the line from 0.
func WithFault(script func(unit, n int) Fault) Option { return func(o *options) { o.fault = script } }

// Fault is one thing that can go wrong with a reply.
type Fault int

// The faults.
const (
	FaultNone    Fault = iota
	FaultSilence       // the request takes effect, the reply is lost
	FaultCorrupt       // one bit of the reply is wrong
	FaultForeign       // an intact reply that nobody asked for comes first
	FaultCut           // only half of the reply comes
)

// start puts a device on a new pseudo-terminal.
func start(d device, opts []Option) (*Line, error) {
	l := &Line{device: d, stop: make(chan struct{}), opts: options{turnaround: 2 * time.Millisecond}}
	for _, o := range opts {
		o(&l.opts)
	}
	tty, err := openTTY()
	if err != nil {
		return nil, fmt.Errorf("simulating a serial line: %w", err)
	}
	l.tty = tty
	l.workers.Go(l.serve)
	l.workers.Go(l.tty.forgetExclusive)
	return l, nil
}

// Path is the tty that a master opens.
func (l *Line) Path() string { return l.tty.path }

// Settings returns what the simulated appliance at unit (0 on a line with one) is set to now: property to value, text
// without quotes. A toaster also shows "assignedHub", "deviceId" and "payload" once it was given them. It is nil where
// there is no appliance.
func (l *Line) Settings(unit int) map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.device.appliance(unit); a != nil {
		return a.settings()
	}
	return nil
}

// Writes returns how often the appliance's settings were written: commits of a toaster, writes of a heat pump.
func (l *Line) Writes(unit int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.device.appliance(unit); a != nil {
		return a.writes()
	}
	return 0
}

// Power switches the appliance at unit off or on again; off, it is silent and keeps its settings.
func (l *Line) Power(unit int, on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.device.appliance(unit); a != nil {
		a.power(on)
	}
}

// SetFirmware makes the appliance at unit tell another firmware version, as after an update.
func (l *Line) SetFirmware(unit int, version string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.device.appliance(unit); a != nil {
		a.setFirmware(version)
	}
}

// Unplug takes the adapter away: who has the port open sees it vanish. It cannot be plugged in again; start a new line
// for that.
func (l *Line) Unplug() {
	l.once.Do(func() {
		close(l.stop)
		l.tty.close()
	})
	l.workers.Wait()
}

// Close ends the simulation. It may be called after Unplug, and twice.
func (l *Line) Close() error {
	l.Unplug()
	return nil
}

// serve is the wire: it hands what the master sends to the device and the replies back, until the line is unplugged.
func (l *Line) serve() {
	const giveUp = 30 * time.Millisecond // half a request is forgotten after this silence
	var buf [1024]byte
	for {
		var deadline time.Time
		if l.halfWay() {
			deadline = time.Now().Add(giveUp)
		}
		if err := l.tty.master.SetReadDeadline(deadline); err != nil {
			return
		}
		n, err := l.tty.master.Read(buf[:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			l.mu.Lock()
			l.device.silence()
			l.mu.Unlock()
			continue
		}
		if err != nil {
			return
		}
		if l.opts.echo && l.send(buf[:n], 0) != nil {
			return
		}
		if l.handle(buf[:n]) != nil {
			return
		}
	}
}

// halfWay reports whether the device waits for the rest of a request.
func (l *Line) halfWay() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.device.pending()
}

// handle gives received bytes to the device and sends what it answers.
func (l *Line) handle(received []byte) error {
	if speed := l.tty.baud(); l.opts.baud != 0 && speed != l.opts.baud {
		return l.send(mistimed(received), len(received))
	}
	l.mu.Lock()
	exchanges := l.device.receive(received)
	l.mu.Unlock()
	for _, e := range exchanges {
		for _, reply := range l.faulty(e) {
			if err := l.send(reply, len(e.request)); err != nil {
				return err
			}
		}
	}
	return nil
}

// faulty returns what really goes over the wire for a reply.
func (l *Line) faulty(e exchange) [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.asked
	l.asked++
	if l.opts.fault == nil {
		return [][]byte{e.reply}
	}
	switch l.opts.fault(e.unit, n) {
	case FaultSilence:
		return nil
	case FaultCorrupt:
		bad := append([]byte(nil), e.reply...)
		bad[len(bad)/2] ^= 0x10
		return [][]byte{bad}
	case FaultForeign:
		return [][]byte{l.device.stray(e.reply), e.reply}
	case FaultCut:
		return [][]byte{e.reply[:len(e.reply)/2]}
	default:
		return [][]byte{e.reply}
	}
}

// mistimed is what bytes look like at a wrong speed.
func mistimed(data []byte) []byte {
	out := make([]byte, len(data))
	for i, b := range data {
		out[i] = b<<3 ^ 0xA5 ^ byte(i)
	}
	return out
}

// send puts bytes on the wire at the speed that the port is set to, after the request of that many bytes would have
// come in and the appliance has thought. It ends early with an error when the line is unplugged.
func (l *Line) send(data []byte, requestBytes int) error {
	const grain = time.Millisecond // bytes due within this time go out together; finer timers only cost processor time
	if l.opts.unpaced {
		return l.write(data)
	}
	const bitsPerByte = 11 // start, 8 data, parity or second stop, stop
	char := bitsPerByte * time.Second / time.Duration(max(l.tty.baud(), 50))
	start := time.Now().Add(time.Duration(requestBytes)*char + l.opts.turnaround)
	for sent := 0; sent < len(data); {
		if err := l.sleep(time.Until(start.Add(time.Duration(sent+1)*char)), grain); err != nil {
			return err
		}
		due := min(int(time.Since(start)/char), len(data))
		if due <= sent {
			continue
		}
		if err := l.write(data[sent:due]); err != nil {
			return err
		}
		sent = due
	}
	return nil
}

// write puts bytes on the wire at once.
func (l *Line) write(data []byte) error {
	_, err := l.tty.master.Write(data)
	return err
}

// sleep waits for d, at least for least, unless the line is unplugged.
func (l *Line) sleep(d, least time.Duration) error {
	timer := time.NewTimer(max(d, least))
	defer timer.Stop()
	select {
	case <-l.stop:
		return os.ErrClosed
	case <-timer.C:
		return nil
	}
}
