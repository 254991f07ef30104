// SPDX-License-Identifier: Apache-2.0

// Gatewayd is the daemon of a building's gateway: it reads the identities of
// appliances on serial lines, registers each with Azure's Device Provisioning
// Service, hosts the custom allocation webhook, and brings every appliance to
// the settings its hub wants.
//
//	gatewayd --config FILE [--check] [--version]
//
// It exits 0 after an orderly stop, 1 on a failure, 2 on wrong usage and 78
// when only a change of the configuration can help.
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
	"runtime/debug"
	"syscall"

	"github.com/contoso/gatewayd/allocation/directory"
	"github.com/contoso/gatewayd/gateway"
)

const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitConfig = 78 // EX_CONFIG; the unit does not restart on it
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("gatewayd", flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("config", "", "configuration `file`")
	check := flags.Bool("check", false, "check the configuration file and exit")
	version := flags.Bool("version", false, "print the version and exit")
	verbose := flags.Bool("debug", false, "log frames and other details")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return exitOK
	} else if err != nil {
		return exitUsage
	}
	if *version {
		fmt.Fprintln(stdout, "gatewayd", buildVersion())
		return exitOK
	}
	if *path == "" || flags.NArg() > 0 {
		fmt.Fprintln(stderr, "gatewayd: give --config FILE and nothing else; gatewayd --help lists the flags")
		return exitUsage
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	err := serve(*path, *check, gateway.NewLogger(stderr, level), stdout)
	var configuration *gateway.ConfigError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &configuration):
		fmt.Fprintln(stderr, "gatewayd:", err)
		return exitConfig
	default:
		fmt.Fprintln(stderr, "gatewayd:", err)
		return exitFailed
	}
}

func serve(path string, check bool, log *slog.Logger, stdout io.Writer) error {
	cfg, err := gateway.LoadConfig(path)
	if err != nil {
		return err
	}
	if check {
		if err := gateway.CheckFiles(cfg); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%s is good; serial lines: %d\n", path, len(cfg.Buses))
		return nil
	}
	if err := capDescriptors(); err != nil {
		return err
	}
	webhook, err := gateway.ActivatedWebhook()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	reload := make(chan struct{}, 1)
	go handleSignals(cancel, reload)

	g, err := gateway.New(ctx, cfg, gateway.Options{Logger: log, Webhook: webhook, Reload: reload, ConfigFile: path, OpenDirectory: openDirectory})
	if err != nil {
		return err
	}
	return g.Run(ctx)
}

// openDirectory opens the device directory of the webhook's policy.
func openDirectory(file, url string) (gateway.DeviceDirectory, error) {
	return directory.Open(directory.Config{File: file, URL: url})
}

// handleSignals asks for an orderly stop on the first SIGTERM or SIGINT and
// stops catching then, so that the second ends the process at once.
func handleSignals(stop context.CancelFunc, reload chan<- struct{}) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	for s := range signals {
		if s == syscall.SIGHUP {
			select {
			case reload <- struct{}{}:
			default: // one is waiting already
			}
			continue
		}
		signal.Reset()
		stop()
		return
	}
}

// maxDescriptors keeps every descriptor below 1024: the serial library waits
// with select, which knows no more.
const maxDescriptors = 1000

func capDescriptors() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("reading the limit of open files: %w", err)
	}
	if limit.Cur <= maxDescriptors {
		return nil // the unit has set it, and forbids the call
	}
	limit.Cur = maxDescriptors
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("setting the limit of open files: %w", err)
	}
	return nil
}

// buildVersion is what the build recorded: a release's tag, or the commit.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown build)"
	}
	return info.Main.Version + " " + info.GoVersion
}
