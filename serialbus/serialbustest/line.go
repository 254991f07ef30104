// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Line is one simulated serial line on a pseudo-terminal. Its methods may be called from any goroutine.
type Line struct {
	opts    options
	log     *slog.Logger
	workers sync.WaitGroup

	mu       sync.Mutex // guards the rest
	tty      *tty       // nil while unplugged
	path     string     // of the last tty
	device   device
	wire     wire
	troubles troubles
	stranger *babbler // nil = nobody else talks
	heard    time.Time
	stats    Stats
}

// Stats count what happened on a line since it began.
type Stats struct {
	Requests  int            `json:"requests"`  // that an appliance understood
	Replies   int            `json:"replies"`   // that went out
	BytesIn   int            `json:"bytesIn"`   // from the master
	BytesOut  int            `json:"bytesOut"`  // to the master
	Dropped   int            `json:"dropped"`   // bytes that nobody fetched
	WrongBaud int            `json:"wrongBaud"` // times that the master talked at a wrong speed
	Faults    map[string]int `json:"faults,omitempty"`
}

// options are what Option changes.
type options struct {
	name       string
	link       string
	baud       int
	bits       int
	turnaround time.Duration
	unpaced    bool
	echo       bool
	seed       uint64
	fault      func(unit, n int) Fault
	rules      []Rule
	stranger   *Stranger
	log        *slog.Logger
}

// Option changes how a line behaves.
type Option func(*options)

// WithName is what people call the line.
func WithName(name string) Option { return func(o *options) { o.name = name } }

// WithLink keeps a symbolic link to the tty at a path, as udev does with its stable names: gone while the line is
// unplugged, and pointing to the new tty when it is plugged in again.
func WithLink(path string) Option { return func(o *options) { o.link = path } }

// WithBaud makes the appliances talk at this speed only: a port set to another one reads garbage. Without it they
// follow the port.
func WithBaud(baud int) Option { return func(o *options) { o.baud = baud } }

// WithBits is how many bits a character takes on the wire: 10 for 8N1, 11 for 8E1 and 8N2. Without it a bus has 11 and
// a line with one appliance 10. A pseudo-terminal does not tell what the master has set.
func WithBits(bits int) Option { return func(o *options) { o.bits = bits } }

// WithTurnaround is how long an appliance takes at the least before it answers; 2 ms without it.
func WithTurnaround(d time.Duration) Option { return func(o *options) { o.turnaround = d } }

// WithoutPacing sends replies at once and whole, for tests about something else than time. Only what is late by a
// fault or by the appliance's own nature takes time.
func WithoutPacing() Option { return func(o *options) { o.unpaced = true } }

// WithEcho repeats every byte to its sender, as some two-wire adapters do.
func WithEcho() Option { return func(o *options) { o.echo = true } }

// WithSeed chooses the chance that faults, collisions and noise follow; 0 without it. The same seed and the same
// requests give the same line.
func WithSeed(seed uint64) Option { return func(o *options) { o.seed = seed } }

// WithFault asks script what goes wrong with each request; n counts the requests on the line from 0.
func WithFault(script func(unit, n int) Fault) Option { return func(o *options) { o.fault = script } }

// WithRules lets faults happen by rules, see [Line.AddRule].
func WithRules(rules ...Rule) Option { return func(o *options) { o.rules = append(o.rules, rules...) } }

// WithStranger lets somebody else talk on the line from the start, see [Line.SetStranger].
func WithStranger(s Stranger) Option { return func(o *options) { o.stranger = &s } }

// WithLogger logs every exchange at the debug level and what changes at the info level; without it nothing is logged.
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// start puts a device on a new pseudo-terminal. shared: both directions have one pair of wires.
func start(d device, shared bool, opts []Option) (*Line, error) {
	l := &Line{device: d, opts: options{turnaround: 2 * time.Millisecond, bits: 10}}
	if shared {
		l.opts.bits = 11
	}
	for _, o := range opts {
		o(&l.opts)
	}
	if l.opts.bits < 7 || l.opts.bits > 13 {
		return nil, fmt.Errorf("simulating a serial line: a character of %d bits: allowed are 7 to 13", l.opts.bits)
	}
	l.log = l.opts.log
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.opts.name != "" {
		l.log = l.log.With("line", l.opts.name)
	}
	l.wire = wire{half: shared, echo: l.opts.echo, random: rand.New(rand.NewPCG(l.opts.seed, 0))}
	l.troubles = troubles{seed: l.opts.seed, script: l.opts.fault}
	for _, r := range l.opts.rules {
		if err := l.AddRule(r); err != nil {
			return nil, fmt.Errorf("simulating a serial line: %w", err)
		}
	}
	l.SetStranger(l.opts.stranger)
	if err := l.Plug(); err != nil {
		return nil, fmt.Errorf("simulating a serial line: %w", err)
	}
	return l, nil
}

// Name is what people call the line; empty without [WithName].
func (l *Line) Name() string { return l.opts.name }

// Path is the tty that a master opens. Plugging the line in again makes it another one, see [WithLink].
func (l *Line) Path() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.path
}

// Link is the path of [WithLink], else that of the tty.
func (l *Line) Link() string {
	if l.opts.link != "" {
		return l.opts.link
	}
	return l.Path()
}

// Units returns the addresses of the appliances on the line, in order; 0 is the one on a line without addresses.
func (l *Line) Units() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.device.units()
}

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

// RegisterWrites returns how often a register of a Modbus unit was written: its wear, if it is a cell of an EEPROM.
func (l *Line) RegisterWrites(unit int, register uint16) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m, is := l.device.appliance(unit).(*machine); is {
		return m.wears[register]
	}
	return 0
}

// Wear returns how often each register of a Modbus unit was written, see [Line.RegisterWrites].
func (l *Line) Wear(unit int) map[uint16]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m, is := l.device.appliance(unit).(*machine); is {
		return maps.Clone(m.wears)
	}
	return nil
}

// Set changes a setting at the appliance itself, as a person does who stands before it: one of its settings by name,
// or a register of a Modbus unit by number. It counts as no write.
func (l *Line) Set(unit int, name, value string) error {
	return l.at(unit, func(a appliance) error { return a.set(name, value) })
}

// Get shows a setting or a register, see [Line.Set].
func (l *Line) Get(unit int, name string) (value string, err error) {
	err = l.at(unit, func(a appliance) (err error) {
		value, err = a.get(name)
		return err
	})
	return value, err
}

// at does something with the appliance at an address.
func (l *Line) at(unit int, do func(appliance) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.device.appliance(unit)
	if a == nil {
		return fmt.Errorf("there is no unit %d on this line; there are %v", unit, l.device.units())
	}
	if err := do(a); err != nil {
		return fmt.Errorf("unit %d: %w", unit, err)
	}
	return nil
}

// Power switches the appliance at unit off or on again; off, it is silent and keeps what a power cut leaves it: its
// settings, but not what was only staged.
func (l *Line) Power(unit int, on bool) {
	_ = l.at(unit, func(a appliance) error { // where no appliance is there is nothing to switch
		if on {
			a.supply()
		} else {
			a.cut(time.Time{})
		}
		l.log.Info("power", "unit", unit, "on", on)
		return nil
	})
}

// SetFirmware makes the appliance at unit tell another firmware version, as after an update.
func (l *Line) SetFirmware(unit int, version string) {
	_ = l.at(unit, func(a appliance) error {
		a.setFirmware(version)
		return nil
	})
}

// AddRule lets a fault happen from now on. Of several rules that fit a request the first one counts.
func (l *Line) AddRule(r Rule) error {
	if err := r.check(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.troubles.arm(r)
	return nil
}

// ClearRules ends the faults for one unit, or with 0 all faults, and returns how many rules that were.
func (l *Line) ClearRules(unit int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.troubles.clear(unit)
}

// Rules returns the rules in force, in order.
func (l *Line) Rules() []Rule {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []Rule
	for _, a := range l.troubles.rules {
		all = append(all, a.Rule)
	}
	return all
}

// SetEcho switches the echo of a two-wire adapter on or off.
func (l *Line) SetEcho(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wire.echo = on
}

// SetStranger lets somebody else talk on the line from now on; nil ends it.
func (l *Line) SetStranger(s *Stranger) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stranger = nil
	if s != nil {
		l.stranger = newBabbler(*s, l.opts.seed, time.Now())
	}
	l.kick()
}

// Stats returns the counters.
func (l *Line) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	for fault, n := range l.troubles.counts {
		if s.Faults == nil {
			s.Faults = make(map[string]int)
		}
		s.Faults[fault.String()] = n
	}
	return s
}

// Stop makes the port take no more bytes from the master, as flow control or a hanging adapter does; Stop(false) lets
// them flow again.
func (l *Line) Stop(stopped bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tty == nil {
		return errUnplugged
	}
	return l.tty.flow(!stopped)
}

// errUnplugged is about a line that has no tty.
var errUnplugged = errors.New("the line is unplugged")

// Unplug takes the adapter away: who has the port open sees it vanish, and the link is gone.
func (l *Line) Unplug() {
	l.mu.Lock()
	if l.tty != nil {
		if l.opts.link != "" {
			_ = os.Remove(l.opts.link) // nothing depends on it
		}
		l.tty.close()
		l.tty = nil
		l.wire.reset()
		l.device.silence()
		l.log.Info("unplugged", "port", l.path)
	}
	l.mu.Unlock()
	l.workers.Wait()
}

// Plug makes a new tty after [Line.Unplug], with the same appliances on it; they have kept their power. It does
// nothing while the line is plugged in.
func (l *Line) Plug() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tty != nil {
		return nil
	}
	t, err := openTTY()
	if err != nil {
		return err
	}
	if l.opts.link != "" {
		if err := point(l.opts.link, t.path); err != nil {
			t.close()
			return fmt.Errorf("linking the tty: %w", err)
		}
	}
	l.tty, l.path = t, t.path
	l.workers.Go(func() { l.serve(t) })
	l.workers.Go(t.forgetExclusive)
	l.log.Info("plugged in", "port", t.path)
	return nil
}

// point makes a symbolic link, or turns the one that is there, in one step.
func point(link, target string) error {
	scratch := filepath.Join(filepath.Dir(link), "."+filepath.Base(link)+".new")
	_ = os.Remove(scratch) // one that a killed program has left
	if err := os.Symlink(target, scratch); err != nil {
		return err
	}
	return os.Rename(scratch, link)
}

// Close ends the simulation. It may be called after Unplug, and twice.
func (l *Line) Close() error {
	l.Unplug()
	return nil
}

// kick lets serve look at the clock again, after something was put on the wire from outside.
func (l *Line) kick() {
	if l.tty != nil {
		l.tty.interrupt()
	}
}

// serve is the wire at work: it hands what the master sends to the appliances, and their replies back when they are
// due, until the line is unplugged.
func (l *Line) serve(t *tty) {
	var buf [1024]byte
	for {
		l.mu.Lock()
		until := l.next()
		t.arm(until)
		l.mu.Unlock()
		n, err := t.read(buf[:], until)
		if err != nil {
			return
		}
		l.mu.Lock()
		if l.tty != t {
			l.mu.Unlock()
			return
		}
		out := l.turn(buf[:n], time.Now())
		l.mu.Unlock()
		if len(out) == 0 {
			continue
		}
		taken, err := t.write(out)
		if err != nil {
			return
		}
		l.mu.Lock()
		l.stats.BytesOut += taken
		l.stats.Dropped += len(out) - taken
		l.mu.Unlock()
	}
}

// next returns when something is due, the zero time if nothing is.
func (l *Line) next() time.Time {
	due, some := l.wire.wake()
	if l.stranger != nil && (!some || l.stranger.next.Before(due)) {
		return l.stranger.next
	}
	return due
}

// turn does what there is to do at a time: takes what the master sent, lets the stranger talk, and returns the bytes
// that reach the master now.
func (l *Line) turn(received []byte, now time.Time) []byte {
	if len(received) > 0 {
		l.receive(received, now)
	}
	if l.stranger != nil && !now.Before(l.stranger.next) {
		said := l.stranger.talk(now)
		if l.stranger.Kind != ownWords || l.device.appliance(0).on(now) {
			l.wire.put(stranger, now, l.char(), said)
		}
	}
	var out []byte
	for {
		// Only the appliances' answers can follow from what they hear, and those are due later, unless the line is
		// unpaced: then this turn sends them as well.
		done := l.wire.take(now)
		if len(done) == 0 {
			return out
		}
		var heard []byte
		for _, c := range done {
			if c.toMaster {
				out = append(out, c.value)
			}
			if c.toUnits {
				heard = append(heard, c.value)
			}
		}
		if len(heard) > 0 {
			l.hear(heard, done[len(done)-1].due)
		}
	}
}

// char is the time of one character at the speed that the port is set to.
func (l *Line) char() time.Duration {
	if l.opts.unpaced {
		return 0
	}
	return time.Duration(l.opts.bits) * time.Second / time.Duration(max(l.tty.baud(), 50))
}

// receive takes what the master has just begun to send: the terminal hands over at once what takes its time on a wire.
func (l *Line) receive(data []byte, now time.Time) {
	l.stats.BytesIn += len(data)
	if speed := l.tty.baud(); l.opts.baud != 0 && speed != l.opts.baud {
		l.stats.WrongBaud++
		l.log.Debug("wrong speed", "baud", speed, "bytes", len(data))
		end := l.wire.put(master, now, l.char(), data)
		l.wire.deafen()
		l.wire.put(unit, end.Add(l.turnaround()), l.char(), mistimed(data))
		return
	}
	undisturbed := !l.wire.echo && l.stranger == nil && (l.wire.quiet() || !l.wire.half)
	if !undisturbed {
		l.wire.put(master, now, l.char(), data)
		return
	}
	// Nobody else can talk before these bytes are complete, so that the appliances may hear them now and answer by the
	// clock. It saves waking up for it.
	end := now
	if now.Before(l.wire.free[master]) {
		end = l.wire.free[master]
	}
	end = end.Add(time.Duration(len(data)) * l.char())
	l.wire.free[master] = end
	l.hear(data, end)
}

// turnaround is how long an appliance takes before it answers.
func (l *Line) turnaround() time.Duration {
	if l.opts.unpaced {
		return 0
	}
	return l.opts.turnaround
}

// hear hands bytes to the appliances, the last of which is complete at a time, and puts their answers on the wire.
func (l *Line) hear(data []byte, at time.Time) {
	const giveUp = 30 * time.Millisecond // half a request is forgotten after this silence
	char := l.char()
	if at.Sub(l.heard)-time.Duration(len(data))*char > max(giveUp, 4*char) {
		l.device.silence()
	}
	l.heard = at
	for _, e := range l.device.hear(data, at, l.troubles.next) {
		l.stats.Requests++
		l.log.Debug("asked", "unit", e.unit, "kind", e.kind, "request", hexOf(e.request), "reply", hexOf(e.reply), "fault", e.fate.fault)
		begin := at.Add(l.turnaround() + e.think)
		if e.fate.fault == FaultLate {
			begin = begin.Add(e.fate.delay)
		}
		for _, reply := range l.spoilt(e) {
			begin = l.wire.put(unit, begin, char, reply).Add(l.turnaround())
			l.stats.Replies++
		}
	}
}

// spoilt returns what really goes over the wire for a reply.
func (l *Line) spoilt(e exchange) [][]byte {
	switch e.fate.fault {
	case FaultSilence:
		return nil
	case FaultCorrupt:
		bad := slices.Clone(e.reply)
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

// hexOf formats a frame for the log when it is written, not before.
type hexOf []byte

// LogValue implements slog.LogValuer.
func (h hexOf) LogValue() slog.Value { return slog.StringValue(fmt.Sprintf("% X", []byte(h))) }
