// SPDX-License-Identifier: Apache-2.0

// Demo does gatewayd's main job on an embedded default, in one process and with
// Go alone: simulated toasters and heat pumps on real pseudo-terminals, a local
// Device Provisioning Service with two hubs, and the real gateway with its
// allocation webhook. Every byte goes through the serial library, every request
// through TLS, every decision through the webhook.
//
//	go run ./cmd/demo [--once] [--json] [--toasters N] [--heatpumps N]
//	                  [--transport https|mqtt] [--dir DIR] [--timeout 60s]
//
// Logs go to standard error, the result to standard output.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/contoso/gatewayd/gateway"
)

// maxToasters is how many ports of their own the demo opens; maxHeatPumps how
// many units it spreads over lines of 32.
const (
	maxToasters  = 64
	maxHeatPumps = 256
)

// settings are the command line's.
type settings struct {
	toasters, heatPumps int
	transport           string
	dir                 string
	once, json          bool
	timeout             time.Duration
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	var s settings
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&s.toasters, "toasters", 1, fmt.Sprintf("simulated toasters, each on a port of its own, 0 to %d", maxToasters))
	flags.IntVar(&s.heatPumps, "heatpumps", 1, fmt.Sprintf("simulated heat pumps, up to 32 on a line, 0 to %d", maxHeatPumps))
	flags.StringVar(&s.transport, "transport", "https", "how the gateway speaks to DPS: https or mqtt")
	flags.StringVar(&s.dir, "dir", "", "keep the state in this `directory`; a second run with it uses the stored assignments")
	flags.BoolVar(&s.once, "once", false, "exit 0 as soon as every appliance is configured")
	flags.BoolVar(&s.json, "json", false, "print one JSON document instead of the table")
	flags.DurationVar(&s.timeout, "timeout", time.Minute, "how long the appliances may take")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if err := s.check(flags.NArg()); err != nil {
		fmt.Fprintln(stderr, "demo:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := demonstrate(ctx, s, gateway.NewLogger(stderr, slog.LevelInfo), stdout, stderr); err != nil {
		fmt.Fprintln(stderr, "demo:", err)
		return 1
	}
	return 0
}

func (s settings) check(extra int) error {
	switch {
	case extra > 0:
		return errors.New("there are only flags, no arguments; --help lists them")
	case s.toasters < 0 || s.toasters > maxToasters:
		return fmt.Errorf("--toasters %d is not between 0 and %d", s.toasters, maxToasters)
	case s.heatPumps < 0 || s.heatPumps > maxHeatPumps:
		return fmt.Errorf("--heatpumps %d is not between 0 and %d", s.heatPumps, maxHeatPumps)
	case s.toasters+s.heatPumps == 0:
		return errors.New("no appliance at all: give --toasters or --heatpumps")
	case s.transport != "https" && s.transport != "mqtt":
		return fmt.Errorf(`--transport %q is neither "https" nor "mqtt"`, s.transport)
	case s.timeout <= 0:
		return fmt.Errorf("--timeout %s leaves no time", s.timeout)
	}
	return nil
}

// demonstrate builds the site, runs the gateway in it and shows what came of it.
func demonstrate(ctx context.Context, s settings, log *slog.Logger, stdout, stderr io.Writer) (err error) {
	began := time.Now()
	dir, cleanUp, err := stateDir(s.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cleanUp()) }()

	interrupted := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	place, err := buildSite(ctx, dir, s, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, place.close()) }()

	cfg, err := gateway.LoadConfig(place.configFile)
	if err != nil {
		return err
	}
	g, err := gateway.New(ctx, cfg, gateway.Options{Logger: log, Webhook: place.webhook})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()

	done := waitConfigured(ctx, g, place.expected, s.timeout, ended)
	appliances := g.Snapshot()
	if err := show(stdout, s.json, appliances, time.Since(began)); err != nil {
		return err
	}
	missing := reasons(appliances, place.expected)
	for _, reason := range missing {
		fmt.Fprintln(stderr, reason)
	}
	if !s.once && ctx.Err() == nil {
		fmt.Fprintf(stderr, "\nThe gateway goes on; its configuration is %s. Ctrl-C ends the demo.\n", place.configFile)
		select {
		case <-ctx.Done():
		case err := <-ended:
			return err
		}
	}
	cancel()
	if err := <-ended; err != nil {
		return err
	}
	switch {
	case interrupted.Err() != nil && !done:
		return errors.New("interrupted before every appliance was configured")
	case s.once && !done:
		return fmt.Errorf("%d of %d appliances not configured within %s", len(missing), len(place.expected), s.timeout)
	}
	return nil
}

// stateDir is the given directory, or one that cleanUp removes.
func stateDir(given string) (dir string, cleanUp func() error, err error) {
	if given == "" {
		dir, err = os.MkdirTemp("", "gatewayd-demo-")
		return dir, func() error { return os.RemoveAll(dir) }, err
	}
	if dir, err = filepath.Abs(given); err != nil {
		return "", nil, err
	}
	return dir, func() error { return nil }, os.MkdirAll(dir, 0o700)
}

// waitConfigured waits until every expected appliance is configured, until the
// time is over, or until the gateway ends, whose error stays in ended.
func waitConfigured(ctx context.Context, g *gateway.Gateway, expected []string, timeout time.Duration, ended chan error) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		changed := g.Changed()
		if len(reasons(g.Snapshot(), expected)) == 0 {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case err := <-ended:
			ended <- err
			return false
		case <-changed:
		}
	}
}
