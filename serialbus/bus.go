// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Bus is one serial line and the appliances on it.
type Bus struct {
	cfg     Config
	profile profile
	log     *slog.Logger
	open    func() (port, error) // opens the port; a seam for tests

	reserve *reserve      // where the port's descriptors come from; nil = anywhere
	nudge   chan struct{} // an adapter came or went somewhere; room for one

	requests  chan *request // Apply's way to the goroutine that runs Run
	ready     chan struct{} // closed after the first attempt to open
	readyOnce sync.Once
	done      chan struct{} // closed when Run has returned
	doneOnce  sync.Once

	// The rest belongs to the goroutine that runs Run.
	events func(Event)
	places []*place
	speed  speed
	search search
	scan   scan
	habits habits     // what was learned of a Modbus line
	up     time.Time  // since when the port is open; zero = it is not
	port   port       // the open port; nil = none
	errors LineErrors // what its driver had counted when it was opened
	down   string     // why the line is down, as last told; "" = it is up or was never tried

	diagnoser diagnoser

	recorder *recorder // of cfg.Record; nil before the first opening
}

// watchEvery is how often the port's name is looked at: whether another device stands behind it now, or one again. It
// is enough alone; the news of hotplug only make it quicker (serial 3.4).
const watchEvery = 2 * time.Second

// driver is one protocol on an open port. Its methods run on the goroutine that owns the port. An error that isLost
// ends the port, the context's ends the call, any other is about the appliance.
type driver interface {
	// present asks cheaply whether a unit answers that ought to be there.
	present(ctx context.Context, unit byte) error
	// identify reads once who answers.
	identify(ctx context.Context, unit byte) (Identity, error)
	// apply brings the unit to the settings, see [Bus.Apply].
	apply(ctx context.Context, unit byte, s Settings) (Applied, error)
	// holds reads whether the unit holds the settings, see [Bus.Holds]. It writes nothing.
	holds(ctx context.Context, unit byte, s Settings) (bool, error)
}

var (
	_ driver = (*modbusDriver)(nil)
	_ driver = (*alpDriver)(nil)
)

// New checks the configuration, see [Config.Validate]; it opens nothing. A nil log discards.
func New(cfg Config, log *slog.Logger) (*Bus, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configuring serial line %q: %w", cfg.Port, err)
	}
	p, err := cfg.profile()
	if err != nil {
		return nil, fmt.Errorf("configuring serial line %q: %w", cfg.Port, err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	cfg = cfg.withDefaults(p)
	b := &Bus{
		cfg:      cfg,
		profile:  p,
		log:      log.With("port", cfg.Port),
		speed:    speed{cfg.Baud, cfg.Parity, p.Serial.StopBits},
		search:   search{sure: true},
		nudge:    make(chan struct{}, 1),
		requests: make(chan *request),
		ready:    make(chan struct{}),
		done:     make(chan struct{}),
	}
	if cfg.AutoBaud {
		b.speed, b.search.sure = usualSpeeds()[0], false
	}
	b.open = func() (port, error) { return openTTY(cfg.Port, b.speed, opening{b.reserve, cfg.RS485}) }
	b.habits.waits = newWaits(cfg.ReplyTimeout, shortestWait)
	b.scan = scan{gap: slowGap, step: progressStep}
	for _, unit := range cfg.Units {
		b.places = append(b.places, &place{unit: unit, known: slices.Contains(cfg.Known, unit)})
	}
	if cfg.Driver == DriverLine {
		b.places = []*place{{unit: 0}}
	}
	return b, nil
}

// String returns what the bus is called in logs: serial line "/dev/…".
func (b *Bus) String() string { return fmt.Sprintf("serial line %q", b.cfg.Port) }

// Ready returns a channel that closes after the first attempt to open the port, whatever came of it.
func (b *Bus) Ready() <-chan struct{} { return b.ready }

// Run owns the port until ctx ends: it opens it, finds the appliances, watches them, and opens it again whenever it
// is lost, for ever, with a growing delay. It returns nil when cancelled; trouble on the line is an Event, never an
// error. events is called from this goroutine and must not block for long, since the line stands still meanwhile; it
// must not call Apply. A Bus runs once.
func (b *Bus) Run(ctx context.Context, events func(Event)) error {
	defer b.doneOnce.Do(func() { close(b.done) })
	defer b.markReady() // nobody shall wait for a bus that was cancelled before it began
	b.events = events
	var delay backoff
	for ctx.Err() == nil {
		was := locate(b.cfg.Port)
		free, err := b.session(ctx)
		if ctx.Err() != nil {
			b.leave(free)
			break
		}
		if !b.up.IsZero() && time.Since(b.up) > longestReopen {
			delay.reset() // it worked for a while: this is a new trouble
		}
		b.up = time.Time{}
		b.lineDown(err)
		if free != nil && !b.untilFree(ctx, free, err) {
			break
		}
		wait := delay.next()
		b.log.Debug("opening the port again", "retry_in", wait)
		if !b.untilRetry(ctx, wait, was, err) {
			break
		}
		if locate(b.cfg.Port) != was {
			delay.reset() // something was plugged in or pulled
		}
	}
	return nil
}

// damage tells in words what the port's driver has counted since it was opened: characters of the wrong shape are a
// wrong speed or parity, or noise, and say which end of the line to look at.
func (b *Bus) damage() string {
	now, err := b.port.Errors()
	if err != nil {
		return "not counted by this adapter's driver"
	}
	return now.since(b.errors).String()
}

// leave waits until the port is given back, so that whoever comes after Run finds it free. A write that hangs in the
// kernel may never come back, and shall not hold up the daemon's stop.
func (b *Bus) leave(free <-chan struct{}) {
	const patience = time.Second
	if free == nil {
		return
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-free:
	case <-timer.C:
		b.log.Warn("leaving the port while a write hangs; it is free when the adapter is unplugged")
	}
}

// markReady closes Ready's channel; further calls do nothing.
func (b *Bus) markReady() { b.readyOnce.Do(func() { close(b.ready) }) }

// session opens the port and works on it until it is lost or ctx ends. free closes when the port may be opened again,
// nil if it was not opened.
func (b *Bus) session(ctx context.Context) (free <-chan struct{}, err error) {
	p, err := b.open()
	b.markReady()
	if err != nil {
		return nil, err
	}
	if b.cfg.Record != nil {
		if b.recorder == nil {
			b.recorder = newRecorder(b.cfg.Record, b.cfg.Port, b.speed, "master", b.log)
		}
		p = recordPort(p, b.recorder)
	}
	b.down = ""
	b.up, b.port = time.Now(), p
	defer func() { b.port = nil }()
	b.errors, _ = p.Errors() // a driver that counts nothing leaves them zero
	b.diagnoser.counted = b.errors
	b.log.Info("the line is up")
	b.events(Event{Kind: LineUp})
	err = b.work(ctx, p)
	b.countErrors() // while the port can be asked
	return p.Close(), err
}

// lineDown tells why the line is down: once for each reason, after the loss of what was on it.
func (b *Bus) lineDown(err error) {
	for _, p := range b.places {
		if p.found {
			b.lose(p, err)
			p.known, p.due = true, time.Time{} // the first to be looked for when the line is back
		}
	}
	b.scan.interrupt()
	if b.down == err.Error() {
		return
	}
	b.down = err.Error()
	b.log.Warn("the line is down, trying again", "err", err)
	b.events(Event{Kind: LineDown, Err: err})
}

// untilFree waits until a lost port is given back, and refuses what it is asked meanwhile: a second descriptor of a
// port whose write hangs would hang too. It reports false if ctx ended.
func (b *Bus) untilFree(ctx context.Context, free <-chan struct{}, why error) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-free:
			return true
		case r := <-b.requests:
			r.answer(why)
		}
	}
}

// untilRetry waits while the line is down until it is time to open the port again, and refuses what it is asked
// meanwhile. A device that was plugged in ends the wait: one that was not behind the port's name before. It reports
// false if ctx ended.
func (b *Bus) untilRetry(ctx context.Context, wait time.Duration, was device, why error) bool {
	timer, watch := time.NewTimer(wait), time.NewTicker(watchEvery)
	defer timer.Stop()
	defer watch.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case r := <-b.requests:
			r.answer(why)
			continue
		case <-watch.C:
		case <-b.nudge:
		}
		if now := locate(b.cfg.Port); now != was && now != (device{}) {
			return true
		}
	}
}

// newDriver returns the driver for an open port.
func (b *Bus) newDriver(p port) driver {
	t := b.speed.timing()
	if b.cfg.Driver == DriverModbusRTU {
		b.habits.waits.setFloor(shortestWaitOf("/sys/class/tty", b.cfg.Port))
		return &modbusDriver{master: newRTU(p, t, &b.habits, b.log), profile: b.profile, journal: b.cfg.Journal}
	}
	if b.profile.Text != nil {
		return &textDriver{port: p, timing: t, wait: b.cfg.ReplyTimeout, dialect: b.profile.Text, log: b.log}
	}
	if b.profile.USB != nil {
		return &usbDriver{port: p, path: b.cfg.Port, dialect: *b.profile.USB}
	}
	return &alpDriver{port: p, timing: t, wait: b.cfg.ReplyTimeout, profile: b.profile, journal: b.cfg.Journal, log: b.log}
}

// work is the owner's loop on an open port: serve requests, and in between look at the places when they are due. It
// returns when the port is lost or ctx ends.
func (b *Bus) work(ctx context.Context, p port) error {
	if err := pause(ctx, b.cfg.Settle); err != nil {
		return err
	}
	if err := p.Flush(); err != nil {
		return err
	}
	d := b.newDriver(p)
	watch := time.NewTicker(watchEvery)
	defer watch.Stop()
	for {
		if err := b.giveWay(ctx, p); err != nil {
			return err
		}
		b.diagnoseInTime()
		if !b.search.sure || b.doubtful() {
			if err := b.findSpeed(ctx, p); err != nil {
				return err
			}
			d = b.newDriver(p)
		}
		next := b.nextLook(d, time.Now())
		timer := time.NewTimer(time.Until(next.at))
		var err error
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case r := <-b.requests:
			err = b.serve(ctx, d, r)
		case <-timer.C:
			err = b.look(ctx, d, next)
		case <-watch.C:
			err = p.Check()
		case <-b.nudge:
			err = p.Check()
		}
		timer.Stop()
		if err != nil {
			return err
		}
	}
}
