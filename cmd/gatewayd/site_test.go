// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// asDaemon in the environment turns the test binary into gatewayd.
const asDaemon = "GATEWAYD_TEST_DAEMON"

const (
	toasterHub  = "contoso-toasters-hub-1098.azure-devices.net"
	heatPumpHub = "contoso-heatpumps-hub-1098.azure-devices.net"
	groupID     = "contoso-custom-allocated-devices"
	idScope     = "0ne00ABCDEF"
	functionKey = "site-test-function-key"
)

// startDPS runs a local DPS whose enrollment group asks the webhook at the
// given address. It stops when stop is called. options add to what it needs.
func startDPS(dir, webhook string, strict bool, options dpslocal.Options) (service *dpslocal.Server, stop func(), err error) {
	options.Dir, options.HTTPS, options.MQTT = dir, "127.0.0.1:0", "127.0.0.1:0"
	options.Logger = slog.New(slog.DiscardHandler)
	service, err = dpslocal.New(dpslocal.Config{
		IDScope: idScope, Name: "contoso-provisioning-service-1098", Strict: strict,
		Hubs:             []dpslocal.Hub{{Name: toasterHub}, {Name: heatPumpHub}},
		EnrollmentGroups: []dpslocal.EnrollmentGroup{enrollmentGroup(webhook)},
	}, options)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		service.Run(ctx) //nolint:errcheck // a test that needs the service notices
	}()
	return service, func() { cancel(); <-ended }, nil
}

// enrollmentGroup is the tutorial's, with the webhook at an address.
func enrollmentGroup(webhook string) dpslocal.EnrollmentGroup {
	return dpslocal.EnrollmentGroup{
		ID: groupID, AllocationPolicy: "custom", Hubs: []string{toasterHub, heatPumpHub},
		WebhookURL: dpslocal.Secret("http://" + webhook + "/api/HttpTrigger1?code=" + functionKey),
	}
}

// freeAddress is a loopback address that a daemon can bind again and again. It is
// below the ports that systems give to outgoing connections, of which the tests
// make many: while no daemon listens, one of them could take it.
func freeAddress() (string, error) {
	var err error
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000))
		var listener net.Listener
		if listener, err = net.Listen("tcp", address); err == nil {
			return address, listener.Close()
		}
	}
	return "", err
}

// setup is what a configuration file is made of.
type setup struct {
	dir       string // files and state
	service   *dpslocal.Server
	webhook   string
	transport string
	groupKey  string // instead of the service's
	buses     string // [[bus]] sections
}

// write writes gatewayd.toml and the secrets beside it, and returns its path.
func (s setup) write() (string, error) {
	endpoint := s.service.HTTPSAddr()
	if s.transport == "mqtt" {
		endpoint = s.service.MQTTAddr()
	}
	key := s.groupKey
	if key == "" {
		var err error
		if key, _, err = s.service.GroupKeys(groupID); err != nil {
			return "", err
		}
	}
	files := map[string]string{
		"group-key":     key + "\n",
		"function-keys": functionKey + "\n",
		"gatewayd.toml": fmt.Sprintf(`site = "mainbuilding"
state_dir = %[1]q

[dps]
endpoint = %[2]q
id_scope = %[3]q
transport = %[4]q
group_key = %[5]q
ca_file = %[6]q
registers_per_minute = 6000

[hub]
resolve = { %[7]q = %[9]q, %[8]q = %[9]q }

[allocation]
listen = %[10]q
function_keys = %[11]q
%[12]s`, filepath.Join(s.dir, "state"), endpoint, idScope, s.transport, filepath.Join(s.dir, "group-key"), s.service.CAFile(),
			toasterHub, heatPumpHub, s.service.MQTTAddr(), s.webhook, filepath.Join(s.dir, "function-keys"), s.buses),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	return filepath.Join(s.dir, "gatewayd.toml"), nil
}

func lineBus(name, port string) string {
	return fmt.Sprintf("\n[[bus]]\nname = %q\nport = %q\ndriver = \"line\"\nprofile = \"contoso-tstrsd-007\"\nallow = [\"*-contoso-tstrsd-007\"]\n", name, port)
}

func modbusBus(name, port, units string) string {
	return fmt.Sprintf("\n[[bus]]\nname = %q\nport = %q\ndriver = \"modbus-rtu\"\nprofile = \"contoso-hpsd-088\"\nunits = %q\nallow = [\"*-contoso-hpsd-088\"]\n", name, port, units)
}

func newToaster(id string, opts ...serialbustest.Option) (*serialbustest.Line, error) {
	return serialbustest.NewToasterLine(serialbustest.Toaster{
		RegistrationID: id, Vendor: "Contoso", Model: "TSTRSD-007", Serial: "499", Firmware: "12.0.2.5", Provisioning: "1.0.0.0",
	}, opts...)
}

func newHeatPump(id string) (*serialbustest.Line, error) {
	return serialbustest.NewModbusLine([]serialbustest.HeatPump{{
		Unit: 1, RegistrationID: id, Vendor: "Contoso", Model: "HPSD-088", Serial: "167", Firmware: "12.0.2.5", Provisioning: "1.0.0.0",
	}})
}

// daemon is a running gatewayd whose log can be watched.
type daemon struct {
	command *exec.Cmd
	ended   chan struct{}

	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed and replaced at each line
}

// startDaemon runs this binary as gatewayd.
func startDaemon(config string, environment ...string) (*daemon, error) {
	command := exec.Command(os.Args[0], "--config", config, "--debug")
	command.Env = append(os.Environ(), append(environment, asDaemon+"=1")...)
	return watch(command)
}

// watch starts a command and collects what it says on standard error.
func watch(command *exec.Cmd) (*daemon, error) {
	stderr, err := command.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	d := &daemon{command: command, ended: make(chan struct{}), more: make(chan struct{})}
	go func() {
		defer close(d.ended)
		for scanner := bufio.NewScanner(stderr); scanner.Scan(); {
			d.mu.Lock()
			d.lines = append(d.lines, scanner.Text())
			close(d.more)
			d.more = make(chan struct{})
			d.mu.Unlock()
		}
		command.Wait() //nolint:errcheck // the test reads ProcessState
	}()
	return d, nil
}

// log is all that the daemon has said.
func (d *daemon) log() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.lines, "\n")
}

// count is how many lines the daemon has said.
func (d *daemon) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.lines)
}

// waitUntil waits for a condition over the log; false when the daemon ended or
// the limit passed first.
func (d *daemon) waitUntil(limit time.Duration, condition func() bool) bool {
	deadline := time.After(limit)
	for {
		d.mu.Lock()
		more := d.more
		d.mu.Unlock()
		if condition() {
			return true
		}
		select {
		case <-more:
		case <-d.ended:
			return condition()
		case <-deadline:
			return false
		}
	}
}

// kill ends the daemon as a power cut would, as far as a process can tell.
func (d *daemon) kill() {
	d.command.Process.Kill() //nolint:errcheck // it may have ended
	<-d.ended
}
