// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/contoso/gatewayd/provisioning/dpslocal"
	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// scriptWait bounds every wait for a daemon. It only ends a test that hangs: a
// machine with much to do stalls a process for many seconds now and then.
const scriptWait = 5 * time.Minute

// scriptWorld is what a script's commands share, by the script's work directory.
type scriptWorld struct {
	service *dpslocal.Server
	webhook string
	daemon  *daemon

	instances map[string]*instance // by name; of webhooks that stand alone
}

type worldKey struct{}

func worldOf(ts *testscript.TestScript) *scriptWorld {
	if w, ok := ts.Value(worldKey{}).(*scriptWorld); ok && w.service != nil {
		return w
	}
	ts.Fatalf("call site first")
	return nil
}

// scriptSite starts a local DPS and simulated lines and writes gatewayd.toml:
//
//	site [transport=mqtt] [strict] [wrongkey] [noise] [nowebhook] [toaster=ID]... [heatpump=ID]...
func scriptSite(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("unsupported: ! site")
	}
	dir := ts.Getenv("WORK")
	w := ts.Value(worldKey{}).(*scriptWorld)
	var err error
	w.webhook, err = freeAddress()
	ts.Check(err)
	service, stop, err := startDPS(dir+"/dpslocal", w.webhook, slices.Contains(args, "strict"), dpslocal.Options{})
	ts.Check(err)
	w.service = service
	ts.Defer(stop)

	s := setup{dir: dir, service: service, webhook: w.webhook, transport: "https"}
	attach := func(line *serialbustest.Line, err error) *serialbustest.Line {
		ts.Check(err)
		ts.Defer(func() { line.Close() })
		return line
	}
	for i, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		switch name {
		case "transport":
			s.transport = value
		case "wrongkey":
			s.groupKey = "d3Jvbmcga2V5IHdyb25nIGtleSB3cm9uZyBrZXkhISE="
		case "noise":
			line := attach(serialbustest.NewNoiseLine())
			s.buses += modbusBus(fmt.Sprint("noisy ", i), line.Path(), "1-2")
		case "toaster":
			line := attach(newToaster(value))
			s.buses += lineBus(fmt.Sprint("kitchen ", i), line.Path())
		case "heatpump":
			line := attach(newHeatPump(value))
			s.buses += modbusBus(fmt.Sprint("boiler ", i), line.Path(), "1")
		case "strict":
		default:
			ts.Fatalf("site: %q is unknown", arg)
		}
	}
	_, err = s.write()
	ts.Check(err)
	ts.Setenv("WEBHOOK", w.webhook)
}

// scriptDaemon starts gatewayd in the background with the site's file.
func scriptDaemon(ts *testscript.TestScript, _ bool, _ []string) {
	w := worldOf(ts)
	d, err := startDaemon(ts.MkAbs("gatewayd.toml"))
	ts.Check(err)
	w.daemon = d
	ts.Defer(d.kill)
}

// scriptWaitLog waits until the daemon has said a text.
func scriptWaitLog(ts *testscript.TestScript, neg bool, args []string) {
	d := worldOf(ts).daemon
	if neg { // must not have been said so far
		if strings.Contains(d.log(), args[0]) {
			ts.Fatalf("the daemon said %q:\n%s", args[0], d.log())
		}
		return
	}
	if !d.waitUntil(scriptWait, func() bool { return strings.Contains(d.log(), args[0]) }) {
		ts.Fatalf("the daemon has not said %q:\n%s", args[0], d.log())
	}
}

// scriptWaitTwin waits until a device has reported a property:
//
//	waittwin toasters|heatpumps ID PROPERTY JSON
func scriptWaitTwin(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	hub := map[string]string{"toasters": toasterHub, "heatpumps": heatPumpHub}[args[0]]
	for deadline := time.Now().Add(scriptWait); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if twin, ok := w.service.Twin(hub, args[1]); ok && string(twin.Reported[args[2]]) == args[3] {
			return
		}
	}
	twin, _ := w.service.Twin(hub, args[1])
	ts.Fatalf("%s has not reported %s = %s but %v; the daemon said:\n%s", args[1], args[2], args[3], twin.Reported, w.daemon.log())
}

// scriptTerminate sends SIGTERM, waits for the end and checks the status. It is
// not called stop: that word of testscript ends the script as passed.
func scriptTerminate(ts *testscript.TestScript, _ bool, args []string) {
	d := worldOf(ts).daemon
	ts.Check(d.command.Process.Signal(syscall.SIGTERM))
	select {
	case <-d.ended:
	case <-time.After(scriptWait):
		ts.Fatalf("not stopped:\n%s", d.log())
	}
	if got := strconv.Itoa(d.command.ProcessState.ExitCode()); got != args[0] {
		ts.Fatalf("exit status %s, want %s:\n%s", got, args[0], d.log())
	}
}

// scriptWebhook posts a file, or so many megabytes of it, and compares status
// and body:
//
//	webhook FILE|10MB STATUS [BODYFILE]
func scriptWebhook(ts *testscript.TestScript, _ bool, args []string) {
	var body string
	if megabytes, ok := strings.CutSuffix(args[0], "MB"); ok {
		count, err := strconv.Atoi(megabytes)
		ts.Check(err)
		body = strings.Repeat("x", count<<20)
	} else {
		body = strings.TrimSuffix(ts.ReadFile(args[0]), "\n")
	}
	url := "http://" + worldOf(ts).webhook + "/api/HttpTrigger1?code=" + functionKey
	transport := &http.Transport{ExpectContinueTimeout: scriptWait}
	defer transport.CloseIdleConnections()
	response, err := post(&http.Client{Transport: transport}, url, body)
	ts.Check(err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	ts.Check(err)
	if got := strconv.Itoa(response.StatusCode); got != args[1] {
		ts.Fatalf("status %s, want %s: %s", got, args[1], answer)
	}
	if len(args) > 2 {
		if want := strings.TrimSuffix(ts.ReadFile(args[2]), "\n"); string(answer) != want {
			ts.Fatalf("body:\n%s\nwant:\n%s", answer, want)
		}
	}
}

// post asks a webhook. The daemon gives a caller five seconds for a handshake or
// its headers; a call that a stalled machine has made nearly as long is made again.
func post(client *http.Client, url, body string) (*http.Response, error) {
	for {
		begun := time.Now()
		request, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		request.Header.Set("Content-Type", "application/json")
		if len(body) > 1<<20 { // refused half way, it could cut off its own answer
			request.Header.Set("Expect", "100-continue")
		}
		response, err := client.Do(request)
		if err == nil && response.StatusCode != http.StatusServiceUnavailable || time.Since(begun) < 4*time.Second {
			return response, err
		}
		if err == nil {
			response.Body.Close()
		}
	}
}

// scriptTakePort binds the webhook's address before the daemon can.
func scriptTakePort(ts *testscript.TestScript, _ bool, _ []string) {
	listener, err := net.Listen("tcp", worldOf(ts).webhook)
	ts.Check(err)
	ts.Defer(func() { listener.Close() })
}
