// SPDX-License-Identifier: Apache-2.0

// Command dpslocal is a local Device Provisioning Service with its IoT hubs:
// flags around dpslocal.Server.
//
// It prints one JSON line on standard output when it serves, and logs to
// standard error. Exit status: 0 after SIGTERM or SIGINT, 1 for a failure, 2 for
// wrong usage, 78 for a configuration that is at fault.
//
// "dpslocal exec -- COMMAND" serves for as long as a command runs, which finds
// the service in its environment, and ends with the command's exit status.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/provisioning/dpslocal/pgstore"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

const usage = `usage: dpslocal --config FILE --dir DIR [--https ADDR] [--mqtt ADDR] [--store STORE] [--admin ADDR] [--log-webhook]
       dpslocal exec [the same] -- COMMAND...`

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "exec" {
		return runExec(args[1:], stderr)
	}
	flags := flag.NewFlagSet("dpslocal", flag.ContinueOnError)
	flags.SetOutput(stderr)
	set := settingsOf(flags, "127.0.0.1:8443", "127.0.0.1:8883", "(required)")
	version := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		return 2 // a call for help too: it is not the line that a script waits for
	}
	if *version {
		if info, ok := debug.ReadBuildInfo(); ok {
			fmt.Fprintln(stdout, "dpslocal", info.Main.Version)
		}
		return 0
	}
	if flags.NArg() > 0 || set.config == "" || set.dir == "" {
		fmt.Fprintln(stderr, usage)
		return 2
	}
	if err := set.serve(stderr, stdout); err != nil {
		return fail(err, stderr)
	}
	return 0
}

// settings are the flags that serving and exec share.
type settings struct {
	config, https, mqtt, dir, store, admin string
	logWebhook                             bool
}

// settingsOf adds the shared flags to a set. need says of --config and --dir what
// happens without them.
func settingsOf(flags *flag.FlagSet, https, mqtt, need string) *settings {
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), usage)
		flags.PrintDefaults()
	}
	s := new(settings)
	flags.StringVar(&s.config, "config", "", "configuration `file`, TOML "+need)
	flags.StringVar(&s.https, "https", https, "HTTPS listen `address`; port 0 takes a free one")
	flags.StringVar(&s.mqtt, "mqtt", mqtt, "MQTT listen `address`; port 0 takes a free one")
	flags.StringVar(&s.dir, "dir", "", "`directory` of the store and the certificates "+need)
	flags.StringVar(&s.store, "store", "", "`store` in place of the configuration's: a file in the directory, or postgres://… for several instances")
	flags.StringVar(&s.admin, "admin", "", "loopback `address` at which faults can be scripted over plain HTTP")
	flags.BoolVar(&s.logWebhook, "log-webhook", false, "print every exchange with a webhook to standard error")
	return s
}

// options are the settings as the server takes them. It logs from level on.
func (s *settings) options(stderr io.Writer, level slog.Level) dpslocal.Options {
	opts := dpslocal.Options{
		Dir:    s.dir,
		HTTPS:  s.https,
		MQTT:   s.mqtt,
		Admin:  s.admin,
		Logger: slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})),
	}
	if s.logWebhook {
		opts.LogWebhook = stderr
	}
	return opts
}

// fail prints an error and returns the exit status that goes with it.
func fail(err error, stderr io.Writer) int {
	fmt.Fprintln(stderr, "dpslocal:", err)
	if _, ok := errors.AsType[*dpslocal.ConfigError](err); ok {
		return 78
	}
	return 1
}

// open makes the server that the settings describe, with its store.
func (s *settings) open(ctx context.Context, cfg dpslocal.Config, opts dpslocal.Options) (_ *dpslocal.Server, err error) {
	if s.store != "" {
		cfg.SetStore(s.store)
	}
	if cfg.StoreURL != "" {
		if opts.Store, err = pgstore.Open(ctx, cfg.StoreURL); err != nil {
			return nil, err
		}
	}
	return dpslocal.New(cfg, opts)
}

// serve runs the server until a signal ends it.
func (s *settings) serve(stderr, stdout io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once

	cfg, err := dpslocal.LoadConfig(s.config)
	if err != nil {
		return err
	}
	server, err := s.open(ctx, cfg, s.options(stderr, slog.LevelInfo))
	if err != nil {
		return err
	}
	if err := announce(server, stdout); err != nil {
		return errors.Join(err, server.Close())
	}
	return server.Run(ctx)
}

// announce prints the line by which a script learns ports and CA.
func announce(server *dpslocal.Server, stdout io.Writer) error {
	return json.NewEncoder(stdout).Encode(struct {
		HTTPS   string `json:"https"`
		MQTT    string `json:"mqtt"`
		CA      string `json:"ca"`
		IDScope string `json:"idScope"`
		Admin   string `json:"admin,omitempty"`
	}{server.HTTPSAddr(), server.MQTTAddr(), server.CAFile(), server.IDScope(), server.AdminAddr()})
}
