// SPDX-License-Identifier: Apache-2.0

// Command dpslocal is a local Device Provisioning Service with its IoT hubs:
// flags around dpslocal.Server.
//
// It prints one JSON line on standard output when it serves, and logs to
// standard error. Exit status: 0 after SIGTERM or SIGINT, 1 for a failure, 2 for
// wrong usage, 78 for a configuration that is at fault.
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
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("dpslocal", flag.ContinueOnError)
	flags.SetOutput(stderr)
	config := flags.String("config", "", "configuration `file`, TOML (required)")
	https := flags.String("https", "127.0.0.1:8443", "HTTPS listen `address`; port 0 takes a free one")
	mqtt := flags.String("mqtt", "127.0.0.1:8883", "MQTT listen `address`; port 0 takes a free one")
	dir := flags.String("dir", "", "`directory` of the store and the certificates (required)")
	admin := flags.String("admin", "", "loopback `address` at which faults can be scripted over plain HTTP; none by default")
	logWebhook := flags.Bool("log-webhook", false, "print every exchange with a webhook to standard error")
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
	if flags.NArg() > 0 || *config == "" || *dir == "" {
		fmt.Fprintln(stderr, "usage: dpslocal --config FILE --dir DIR [--https ADDR] [--mqtt ADDR] [--admin ADDR] [--log-webhook]")
		return 2
	}
	opts := dpslocal.Options{
		Dir:    *dir,
		HTTPS:  *https,
		MQTT:   *mqtt,
		Admin:  *admin,
		Logger: slog.New(slog.NewTextHandler(stderr, nil)),
	}
	if *logWebhook {
		opts.LogWebhook = stderr
	}
	if err := serve(*config, opts, stdout); err != nil {
		fmt.Fprintln(stderr, "dpslocal:", err)
		if _, ok := errors.AsType[*dpslocal.ConfigError](err); ok {
			return 78
		}
		return 1
	}
	return 0
}

// serve runs the server until a signal ends it.
func serve(config string, opts dpslocal.Options, stdout io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once

	cfg, err := dpslocal.LoadConfig(config)
	if err != nil {
		return err
	}
	server, err := dpslocal.New(cfg, opts)
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
