// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/contoso/gatewayd/allocation/decisionlog"
	"github.com/contoso/gatewayd/gateway/config"
	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/provisioning/hub"
	"github.com/contoso/gatewayd/serialbus"
)

// stopTime bounds an orderly stop, below the unit's TimeoutStopSec. It is as long
// as it is for a webhook whose cloud function is slow; others stop within a second.
const stopTime = 15 * time.Second

// Options are what a gateway gets besides its configuration.
type Options struct {
	Logger *slog.Logger
	// Webhook takes the place of [allocation] listen: a socket-activated
	// descriptor, or a test's listener. Nil binds the configured address.
	Webhook net.Listener
	// Reload makes the gateway read its keys again: those of its devices, and the function keys; and the webhook's setup.
	Reload <-chan struct{}
	// ConfigFile is read again at a reload, for the webhook's section. Empty keeps to the one that New was given.
	ConfigFile string
	// OpenDirectory opens a device directory, for the policies that read one. It is
	// handed in because a program without need of one, such as the demo, should not
	// link its databases. Nil: such policies are refused.
	OpenDirectory OpenDeviceDirectory
}

// Gateway is the daemon: lines, appliances and webhook, wired. [New] makes it
// and binds what it listens on, [Gateway.Run] runs it.
type Gateway struct {
	log        *slog.Logger
	store      *store
	client     *provisioning.Client // nil without [dps]
	clock      *provisioning.Clock  // nil without [dps]
	supervisor *supervisor
	webhook    *webhook            // nil without [allocation]
	decisions  *decisionlog.Writer // nil without a decision log
	metrics    *metrics
	watcher    *watchServer // nil without [metrics]
	health     health
	tally      tally
	keys       *keyring // nil without [dps]
	tasks      []task
	records    []io.Closer // recordings of lines
	notify     notifier
	reload     <-chan struct{}
	reread     func() (config.Config, error)

	mu      sync.Mutex
	changes chan struct{} // closed and replaced at each change; guarded by mu
}

// ConfigError is an error that only a change of the configuration or of its
// secrets mends; the daemon ends with status 78 and is not restarted.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

// New wires a gateway. It opens the store, reads the secrets and binds the
// webhook's listener; it opens no port yet and asks nothing of the network.
func New(ctx context.Context, cfg config.Config, opts Options) (_ *Gateway, err error) {
	g := &Gateway{log: opts.Logger, notify: notifier{opts.Logger}, reload: opts.Reload, changes: make(chan struct{}), metrics: newMetrics(), tally: newTally()}
	g.reread = func() (config.Config, error) {
		if opts.ConfigFile == "" {
			return cfg, nil
		}
		return LoadConfig(opts.ConfigFile)
	}
	for _, warning := range cfg.Warnings {
		g.log.Warn(warning)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	if cfg.Allocation == nil && opts.Webhook != nil {
		return nil, &ConfigError{errors.Join(errors.New("systemd passed a socket for the webhook, but the file has no [allocation] section; add one, or disable the socket unit"), opts.Webhook.Close())}
	}
	if cfg.Allocation != nil {
		if g.webhook, err = newWebhook(*cfg.Allocation, opts.OpenDirectory, opts.Webhook, g.log); err != nil {
			if passing(err) {
				return nil, err
			}
			return nil, &ConfigError{err}
		}
		g.tasks = append(g.tasks, g.webhook)
		g.keepDecisions(cfg.Allocation.DecisionLog, cfg.StateDir)
	}
	if cfg.Metrics != nil {
		if g.watcher, err = newWatchServer(*cfg.Metrics, g); err != nil {
			if passing(err) {
				return nil, err
			}
			return nil, &ConfigError{err}
		}
	}
	if cfg.DPS != nil {
		if err := g.addAppliances(ctx, cfg); err != nil {
			return nil, err
		}
	}
	g.metrics.watch(g)
	return g, nil
}

// addAppliances opens the store and takes up the appliances and their lines.
func (g *Gateway) addAppliances(ctx context.Context, cfg config.Config) (err error) {
	if g.store, err = openStore(ctx, cfg.StateDir); err != nil {
		return err
	}
	known, err := g.store.load(ctx)
	if err != nil {
		return err
	}
	w, err := g.newWorld(ctx, cfg, len(known))
	if err != nil {
		return err
	}
	g.supervisor = newSupervisor(w, cfg.Site, known)
	g.tasks = append(g.tasks, g.supervisor)
	ports := serialbus.NewPorts(len(cfg.Buses), g.log)
	if len(cfg.Buses) > 0 {
		g.tasks = append(g.tasks, ports)
	}
	for _, bus := range cfg.Buses {
		bus.Line.Journal = w.journal
		if err := g.addLine(ports, bus, known); err != nil {
			return &ConfigError{err}
		}
	}
	return nil
}

// passing tells whether listening may work a moment later: the address is in use
// by a program that is about to end, or is not up yet while the machine starts.
func passing(err error) bool {
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EADDRNOTAVAIL)
}

// newWorld makes what the appliances share; fleet is how many there are.
func (g *Gateway) newWorld(ctx context.Context, cfg config.Config, fleet int) (*world, error) {
	keys := &keyring{cfg: *cfg.DPS, log: g.log}
	err := keys.reload()
	if err != nil {
		return nil, &ConfigError{err}
	}
	g.keys = keys
	settings := cfg.DPS.Client
	g.clock = newClock(ctx, g.store, g.log)
	settings.Clock = g.clock
	if settings.Budget, err = newBudget(ctx, g.store, settings, g.log); err != nil {
		return nil, &ConfigError{err}
	}
	settings.Logger, settings.Fleet = g.log, fleet
	client, err := newClimber(ctx, settings, g.store, g.log)
	if err != nil {
		return nil, &ConfigError{fmt.Errorf("preparing the DPS client: %w", err)}
	}
	g.client = client.Client
	return &world{
		store: g.store, journal: newWriteJournal(g.store, g.clock.Now), registrar: client, keys: keys, payload: cfg.DPS.Payload, hubMode: cfg.Hub.Mode,
		log: g.log, changed: g.change, clock: g.clock, budget: settings.Budget, reach: newReach(g.log),
		openHub: func(ctx context.Context, a *assignment, key provisioning.DeviceKey) (hubSession, error) {
			webSocket := client.Worked() == provisioning.TransportMQTTWS
			return openHub(ctx, cfg.Hub, webSocket, a, key, g.clock, g.log)
		},
	}, nil
}

// tokenLife is how long a hub's token is valid (design section 5, rule 10).
const tokenLife = time.Hour

// openHub opens a session with a token of its own. Where the service is reached over WebSocket, port 8883 is closed, and
// the hubs are reached in the same way.
func openHub(ctx context.Context, cfg config.Hub, webSocket bool, a *assignment, key provisioning.DeviceKey, clock *provisioning.Clock, log *slog.Logger) (hubSession, error) {
	resource := provisioning.HubResource(a.AssignedHub, a.DeviceID)
	session, err := hub.Connect(ctx, hub.Config{
		Host: a.AssignedHub, Address: cfg.Resolve[a.AssignedHub], DeviceID: a.DeviceID, RootCAs: cfg.RootCAs, Logger: log,
		Now:       clock.Now,
		WebSocket: webSocket,
		Token: func(now time.Time) (string, error) {
			return key.SASToken(resource, "", now.Add(tokenLife)).Reveal(), nil
		},
	})
	if err != nil {
		return nil, err // a nil *hub.Session would not be a nil interface
	}
	return session, nil
}

// lineTask runs a bus and hands its events to the supervisor.
type lineTask struct {
	*serialbus.Bus
	heard func(context.Context, serialbus.Event)
}

func (t lineTask) Run(ctx context.Context) error {
	return t.Bus.Run(ctx, func(e serialbus.Event) { t.heard(ctx, e) })
}

// addLine adds a line; what the store knows of it is looked for first.
func (g *Gateway) addLine(ports *serialbus.Ports, cfg config.Bus, known []record) error {
	for _, r := range known {
		if r.Place.Bus == cfg.Line.Name && slices.Contains(cfg.Line.Units, byte(r.Place.Unit)) {
			cfg.Line.Known = append(cfg.Line.Known, byte(r.Place.Unit))
		}
	}
	if cfg.Record != "" {
		cfg.Line.Record = g.recordLine(cfg)
	}
	serial, err := ports.New(cfg.Line, g.log.With("bus", cfg.Line.Name))
	if err != nil {
		return fmt.Errorf("preparing bus %q: %w", cfg.Line.Name, err)
	}
	l := &line{Bus: cfg, bus: serial}
	g.tasks = append(g.tasks, lineTask{serial, func(ctx context.Context, e serialbus.Event) {
		g.supervisor.heard(ctx, l, e)
	}})
	return nil
}

// recordSize is what the recording of one line may take on the disk.
const recordSize = 64 << 20

// recordLine opens the recording of a line. One that cannot be made is no reason
// to leave the line alone: it is told, and nothing is recorded.
func (g *Gateway) recordLine(cfg config.Bus) io.Writer {
	file, err := serialbus.CreateRecordFile(cfg.Record, recordSize)
	if err != nil {
		g.log.Error("the line is not recorded", "bus", cfg.Line.Name, "err", err)
		return nil
	}
	g.log.Info("recording the line", "bus", cfg.Line.Name, "file", cfg.Record)
	g.records = append(g.records, file)
	return file
}

// Run serves until ctx ends or a part fails, and then stops within stopTime:
// the webhook finishes what it has begun, lines and registrations are left
// (their operation IDs are on disk), sessions close, the store closes last.
func (g *Gateway) Run(ctx context.Context) error {
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	var side sync.WaitGroup
	side.Go(func() { g.notify.watchdog(work, g.alive) })
	side.Go(func() { g.watchStatus(work) })
	side.Go(func() { g.watchReload(work) })
	if g.clock != nil {
		side.Go(func() { g.keepTime(work) })
	}

	// Those who watch are answered until everything else has stopped.
	watched, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	defer unwatch()
	if g.watcher != nil {
		side.Go(func() { g.watcher.run(watched) })
	}

	ended := make(chan error, 1)
	go func() {
		ended <- runTasks(work, g.tasks, func() {
			g.health.begun()
			g.notify.ready(g.summary())
		})
	}()

	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		g.health.stop()
		g.notify.stopping()
		g.log.Info("stopping")
		select {
		case err = <-ended:
		case <-time.After(stopTime):
			return fmt.Errorf("a part of the gateway did not stop within %v; the state on disk is whole", stopTime)
		}
	}
	cancel()
	unwatch()
	side.Wait()
	return errors.Join(err, g.close())
}

// close releases what New has taken; it may be called on a half-made gateway.
func (g *Gateway) close() error {
	var all []error
	if g.webhook != nil {
		g.webhook.close()
		if err := g.webhook.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			all = append(all, err)
		}
	}
	if g.watcher != nil {
		all = append(all, g.watcher.close())
	}
	if g.decisions != nil {
		_ = g.decisions.Close() // its trouble was told, and the log is best effort
	}
	if g.client != nil {
		g.client.Close()
	}
	for _, record := range g.records {
		all = append(all, record.Close())
	}
	if g.store != nil {
		all = append(all, g.store.close())
	}
	return errors.Join(all...)
}

// WebhookAddr is where the webhook listens; "" when this gateway hosts none.
func (g *Gateway) WebhookAddr() string {
	if g.webhook == nil {
		return ""
	}
	return g.webhook.listener.Addr().String()
}

// MetricsAddr is where metrics are served; "" when they are not.
func (g *Gateway) MetricsAddr() string {
	if g.watcher == nil {
		return ""
	}
	return g.watcher.listener.Addr().String()
}

// Snapshot lists every known appliance as it is now.
func (g *Gateway) Snapshot() []Status {
	if g.supervisor == nil {
		return nil
	}
	return g.supervisor.snapshot()
}

// Changed returns a channel that closes at the next change of the snapshot.
// Take it before the snapshot, so that no change is missed.
func (g *Gateway) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changes
}

func (g *Gateway) change() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.changes)
	g.changes = make(chan struct{})
}

// alive proves that the supervisor can be looked at and that the disk answers.
func (g *Gateway) alive(ctx context.Context) error {
	g.Snapshot()
	if g.store == nil {
		return nil
	}
	return g.store.ping(ctx)
}

// summary is the STATUS line.
func (g *Gateway) summary() string {
	if g.supervisor == nil {
		return fmt.Sprintf("%s, %s: %s", g.webhook, g.webhook.policy.Load(), g.tally)
	}
	return Summary(g.Snapshot())
}

// statusInterval keeps a busy start from flooding systemd.
const statusInterval = time.Second

// watchStatus keeps systemctl's STATUS line in step with the appliances.
func (g *Gateway) watchStatus(ctx context.Context) {
	said := ""
	for {
		changed := g.Changed()
		if now := g.summary(); now != said {
			g.notify.status(now)
			said = now
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-g.tally.given:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(statusInterval):
		}
	}
}

// reloadInterval spaces reloads. Each leaves the connections to its directory and
// its cloud function open for a while, for the requests under way; a script that
// sends a thousand signals must not use up the descriptors.
const reloadInterval = time.Second

// watchReload reads all keys again when told to, and what the webhook is made of.
func (g *Gateway) watchReload(ctx context.Context) {
	for range spaced(ctx, g.reload, reloadInterval) {
		if g.webhook != nil {
			err := g.reloadWebhook()
			g.reloaded("webhook", err)
			if err != nil {
				g.log.Error("webhook not reloaded", "err", err)
			}
		}
		if g.keys != nil {
			err := g.keys.reload()
			g.reloaded("keys of devices", err)
			if err != nil {
				g.log.Error("keys of devices not reloaded", "err", err)
			} else {
				g.log.Info("keys of devices reloaded; other changes of the configuration need a restart")
			}
			g.supervisor.wakeAll() // one that was without a key may have one now
		}
	}
}

// spaced gives a turn for each signal until ctx ends, the first at once and no other
// sooner than an interval after the one before.
func spaced(ctx context.Context, signals <-chan struct{}, interval time.Duration) iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		for {
			select {
			case <-ctx.Done():
				return
			case signal := <-signals:
				if !yield(signal) {
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(interval):
			}
		}
	}
}

// reloaded counts a reload and remembers how it ended.
func (g *Gateway) reloaded(part string, err error) {
	g.metrics.reloaded(part, err)
	g.health.reloaded(part, err, time.Now())
	g.change() // the STATUS line names the policy
}

// reloadWebhook reads the configuration and all that its webhook's section names.
func (g *Gateway) reloadWebhook() error {
	cfg, err := g.reread()
	if err != nil {
		return fmt.Errorf("reading the configuration again: %w", err)
	}
	if cfg.Allocation == nil {
		return errors.New("the configuration has no [allocation] section any more; the webhook goes on until a restart")
	}
	return g.webhook.reload(*cfg.Allocation)
}
