// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/contoso/gatewayd/provisioning/dpslocal"
)

// Exit statuses that shells use for a command that did not run, and the base for
// one that a signal ended.
const (
	exitCannotRun = 126
	exitNotFound  = 127
	exitSignal    = 128
)

// runExec runs a command beside a server and returns the command's exit status.
func runExec(args []string, stderr io.Writer) int {
	flags := flag.NewFlagSet("dpslocal exec", flag.ContinueOnError)
	flags.SetOutput(stderr)
	set := settingsOf(flags, "127.0.0.1:0", "127.0.0.1:0", "(a temporary one by default)")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() == 0 {
		fmt.Fprintln(stderr, usage)
		return 2
	}
	set.admin = cmp.Or(set.admin, "127.0.0.1:0")
	status, err := set.exec(flags.Args(), stderr)
	if err != nil {
		return fail(err, stderr)
	}
	return status
}

// exec serves while a command runs. Without a directory it makes one and removes
// it at the end.
func (s *settings) exec(command []string, stderr io.Writer) (status int, err error) {
	cfg := sampleConfig()
	if s.config != "" {
		if cfg, err = dpslocal.LoadConfig(s.config); err != nil {
			return 0, err
		}
	}
	if s.dir == "" {
		if s.dir, err = os.MkdirTemp("", "dpslocal-"); err != nil {
			return 0, fmt.Errorf("making a temporary directory: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	}
	server, err := s.open(context.Background(), cfg, s.options(stderr, slog.LevelWarn))
	if err != nil {
		return 0, err
	}
	env, err := environment(cfg, server, s.dir)
	if err != nil {
		return 0, errors.Join(err, server.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- server.Run(ctx)
		cancel() // a command without its service is of no use
	}()
	status = runCommand(ctx, command, env, stderr)
	cancel()
	return status, <-ended
}

// sampleConfig is a service with one hub and one group, for those who bring no
// configuration.
func sampleConfig() dpslocal.Config {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return dpslocal.Config{
		IDScope:          "0ne00D95C0A",
		Name:             "dpslocal",
		Hubs:             []dpslocal.Hub{{Name: "dpslocal-hub.azure-devices.net"}},
		EnrollmentGroups: []dpslocal.EnrollmentGroup{{ID: "devices"}},
		PolicyKeys: []dpslocal.PolicyKey{{
			Name: "provisioningserviceowner",
			Key:  dpslocal.Secret(base64.StdEncoding.EncodeToString(key)),
		}},
	}
}

// environment is what the command finds: where the service is, how to trust it,
// and the key of the first enrollment group if there is one with keys.
func environment(cfg dpslocal.Config, server *dpslocal.Server, dir string) ([]string, error) {
	ca, err := filepath.Abs(server.CAFile())
	if err != nil {
		return nil, err
	}
	env := append(
		os.Environ(),
		"DPS_ID_SCOPE="+server.IDScope(),
		"DPS_ENDPOINT=https://"+server.HTTPSAddr(),
		"DPS_ADDRESS="+server.HTTPSAddr(),
		"DPS_MQTT_ADDRESS="+server.MQTTAddr(),
		"DPS_ADMIN=http://"+server.AdminAddr(),
		"DPS_CA_FILE="+ca,
		"SSL_CERT_FILE="+ca,       // Go, OpenSSL and with it Python's ssl
		"NODE_EXTRA_CA_CERTS="+ca, // Node, beside its own
		"REQUESTS_CA_BUNDLE="+ca,  // Python's requests
		"CURL_CA_BUNDLE="+ca,
	)
	if len(cfg.EnrollmentGroups) > 0 {
		id := cfg.EnrollmentGroups[0].ID
		if key, _, err := server.GroupKeys(id); err == nil && key != "" {
			file, err := filepath.Abs(filepath.Join(dir, "group.key"))
			if err != nil {
				return nil, err
			}
			if err := os.WriteFile(file, []byte(key+"\n"), 0o600); err != nil {
				return nil, fmt.Errorf("writing the group key: %w", err)
			}
			env = append(env, "DPS_GROUP_ID="+id, "DPS_GROUP_KEY="+key, "DPS_GROUP_KEY_FILE="+file)
		}
	}
	if len(cfg.PolicyKeys) > 0 {
		policy := cfg.PolicyKeys[0]
		env = append(env, "DPS_CONNECTION_STRING=HostName="+cfg.Name+".azure-devices-provisioning.net;SharedAccessKeyName="+
			policy.Name+";SharedAccessKey="+string(policy.Key))
	}
	return env, nil
}

// runCommand runs a command with our standard streams and returns its exit
// status. SIGTERM and SIGINT go on to it, and it is what decides what they mean.
// When ctx ends it is asked to stop.
func runCommand(ctx context.Context, command, env []string, stderr io.Writer) int {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)

	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(stderr, "dpslocal exec:", err)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return exitNotFound
		}
		return exitCannotRun
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the state says it all
		close(exited)
	}()
	stop := ctx.Done()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s)
		case <-stop:
			_ = cmd.Process.Signal(syscall.SIGTERM)
			stop = nil
		case <-exited:
			if state, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && state.Signaled() {
				return exitSignal + int(state.Signal())
			}
			return cmd.ProcessState.ExitCode()
		}
	}
}
