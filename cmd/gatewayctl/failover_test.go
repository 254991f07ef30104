// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/provisioning/dpslocal"
)

const (
	siteKey     = "site-key-0123456789"
	cloudKey    = "cloud-key-0123456789"
	failGroup   = "contoso-custom-allocated-devices"
	failToaster = "breakroom499-contoso-tstrsd-007"
	ownToaster  = "lobby1-contoso-tstrsd-007" // has an enrollment of its own
	toastersHub = "contoso-toasters-hub-1098.azure-devices.net"
	heatHub     = "contoso-heatpumps-hub-1098.azure-devices.net"
)

// newWebhook serves the tutorial's policy over TLS behind a key. before may
// answer a request in its place.
func newWebhook(key string, before func(http.ResponseWriter, *http.Request, string) bool) *httptest.Server {
	keys, err := allocation.ParseFunctionKeys(key)
	if err != nil {
		panic(err)
	}
	policy := allocation.NewHandler(allocation.Config{Setup: allocation.Setup{Policy: allocation.Tutorial(), FunctionKeys: keys}})
	return httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		var request struct {
			DeviceRuntimeContext struct{ RegistrationID string }
		}
		_ = json.Unmarshal(body, &request)
		if before != nil && before(w, r, request.DeviceRuntimeContext.RegistrationID) {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		policy.ServeHTTP(w, r)
	}))
}

// failoverWorld is a local service whose group asks the cloud's webhook, and the
// site's, which stands by.
type failoverWorld struct {
	t           *testing.T
	dir         string
	service     *dpslocal.Server
	group       dpslocal.EnrollmentGroup
	site, cloud *httptest.Server

	atSite atomic.Pointer[func(http.ResponseWriter, *http.Request, string) bool]
}

// newFailoverWorld starts it. cloud-url is left for the command to make.
func newFailoverWorld(t *testing.T) *failoverWorld {
	t.Helper()
	w := &failoverWorld{t: t, dir: t.TempDir()}
	w.answerAtSite(func(http.ResponseWriter, *http.Request, string) bool { return false })
	w.site = newWebhook(siteKey, func(out http.ResponseWriter, r *http.Request, id string) bool { return (*w.atSite.Load())(out, r, id) })
	t.Cleanup(w.site.Close)
	w.cloud = newWebhook(cloudKey, nil)
	t.Cleanup(w.cloud.Close)
	w.write("webhook-ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.site.Certificate().Raw})))
	w.write("site-url", w.siteURL()+"\n")
	w.write("connection", "HostName=contoso-provisioning-service-1098.azure-devices-provisioning.net;SharedAccessKeyName=provisioningserviceowner;SharedAccessKey="+policyKey)
	w.write("group-key", groupKey)
	w.group = dpslocal.EnrollmentGroup{
		ID: failGroup, PrimaryKey: groupKey, Hubs: []string{toastersHub, heatHub}, AllocationPolicy: dpslocal.Custom,
		WebhookURL: dpslocal.Secret(w.cloudURL()), WebhookCAFile: w.path("webhook-ca.pem"),
	}
	var err error
	w.service, err = dpslocal.New(dpslocal.Config{
		IDScope: "0ne00ABCDEF", Name: "contoso-provisioning-service-1098",
		PolicyKeys:       []dpslocal.PolicyKey{{Name: "provisioningserviceowner", Key: policyKey}},
		Hubs:             []dpslocal.Hub{{Name: toastersHub}, {Name: heatHub}},
		EnrollmentGroups: []dpslocal.EnrollmentGroup{w.group},
		Enrollments: []dpslocal.IndividualEnrollment{{
			RegistrationID: ownToaster, PrimaryKey: groupKey, Hubs: w.group.Hubs, AllocationPolicy: dpslocal.Custom,
			WebhookURL: w.group.WebhookURL, WebhookCAFile: w.group.WebhookCAFile,
		}},
	}, dpslocal.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.service.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the local service: %v", err)
		}
	})
	return w
}

func (w *failoverWorld) answerAtSite(answer func(http.ResponseWriter, *http.Request, string) bool) {
	w.atSite.Store(&answer)
}

func (w *failoverWorld) siteURL() string { return w.site.URL + "/api/HttpTrigger1?code=" + siteKey }

func (w *failoverWorld) cloudURL() string        { return w.cloud.URL + "/api/HttpTrigger1?code=" + cloudKey }
func (w *failoverWorld) path(name string) string { return filepath.Join(w.dir, name) }

func (w *failoverWorld) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// program is a running gatewayctl whose output can be watched.
type program struct {
	t       *testing.T
	command *exec.Cmd
	ended   chan struct{}

	mu   sync.Mutex
	text strings.Builder // both streams
	more chan struct{}   // closed and replaced at each line
}

// start runs gatewayctl with the service's flags added.
func (w *failoverWorld) start(stdin io.Reader, args ...string) *program {
	w.t.Helper()
	args = append(args, "--connection-string-file", "connection", "--address", w.service.HTTPSAddr(), "--ca-file", w.service.CAFile())
	return startProgram(w.t, w.dir, stdin, args...)
}

func startProgram(t *testing.T, dir string, stdin io.Reader, args ...string) *program {
	t.Helper()
	p := &program{t: t, command: exec.Command("gatewayctl", args...), ended: make(chan struct{}), more: make(chan struct{})}
	p.command.Dir, p.command.Stdin = dir, stdin
	p.command.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.command.Stdout, p.command.Stderr = write, write
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	go func() {
		defer close(p.ended)
		for part := make([]byte, 4096); ; {
			n, err := read.Read(part)
			if err != nil {
				break
			}
			p.mu.Lock()
			p.text.Write(part[:n])
			close(p.more)
			p.more = make(chan struct{})
			p.mu.Unlock()
		}
		read.Close()
		p.command.Wait() //nolint:errcheck // the test reads ProcessState
	}()
	t.Cleanup(func() {
		p.command.Process.Kill() //nolint:errcheck // it has usually ended
		<-p.ended
		p.noSecrets()
	})
	return p
}

func (p *program) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// until waits until the program has said something, a question without an end of
// its line too.
func (p *program) until(text string) {
	p.t.Helper()
	limit := time.After(3 * time.Minute)
	for {
		p.mu.Lock()
		more := p.more
		p.mu.Unlock()
		if strings.Contains(p.output(), text) {
			return
		}
		select {
		case <-more:
		case <-p.ended:
			if !strings.Contains(p.output(), text) {
				p.t.Fatalf("it ended without saying %q:\n%s", text, p.output())
			}
			return
		case <-limit:
			p.command.Process.Signal(syscall.SIGQUIT) //nolint:errcheck // it then says where it stands
			<-p.ended
			p.t.Fatalf("it has not said %q:\n%s", text, p.output())
		}
	}
}

// ends waits for the end, and compares the exit status and parts of the output.
func (p *program) ends(status int, parts ...string) {
	p.t.Helper()
	<-p.ended
	if got := p.command.ProcessState.ExitCode(); got != status {
		p.t.Errorf("exit status %d, want %d:\n%s", got, status, p.output())
	}
	for _, part := range parts {
		if !strings.Contains(p.output(), part) {
			p.t.Errorf("it does not say %q:\n%s", part, p.output())
		}
	}
}

func (p *program) noSecrets() {
	for _, secret := range []string{siteKey, cloudKey, policyKey, groupKey} {
		if strings.Contains(p.output(), secret) {
			p.t.Errorf("the secret %q is shown:\n%s", secret, p.output())
		}
	}
}

// failover starts a failover.
func (w *failoverWorld) failover(to string, more ...string) *program {
	w.t.Helper()
	return w.start(nil, append([]string{
		"enrollment-group", "failover", failGroup, "--to", to,
		"--site-url-file", "site-url", "--cloud-url-file", "cloud-url", "--webhook-ca-file", "webhook-ca.pem", "--yes",
	}, more...)...)
}

// registers registers the toaster, and wants a status.
func (w *failoverWorld) registers(status int, parts ...string) {
	w.t.Helper()
	p := startProgram(w.t, w.dir, nil, "register", "--endpoint", w.service.HTTPSAddr(), "--ca-file", w.service.CAFile(),
		"--id-scope", "0ne00ABCDEF", "--group-key-file", "group-key", "--registration-id", failToaster)
	p.ends(status, parts...)
}

// webhookIs compares the webhook that the group has now.
func (w *failoverWorld) webhookIs(want string) {
	w.t.Helper()
	var out, errOut bytes.Buffer
	code := run([]string{
		"enrollment-group", "show", failGroup, "--show-secrets", "--connection-string-file", w.path("connection"),
		"--address", w.service.HTTPSAddr(), "--ca-file", w.service.CAFile(),
	}, strings.NewReader(""), &out, &errOut)
	if code != 0 || !strings.Contains(out.String(), want+"\n") {
		w.t.Errorf("the webhook is not %s:\n%s%s", want, out.String(), errOut.String())
	}
}

// TestFailoverAndBack moves a group to the site and back again, with a device on
// each side. The file of the cloud's URL is made on the way.
func TestFailoverAndBack(t *testing.T) {
	t.Parallel()
	w := newFailoverWorld(t)
	w.registers(0, "received from service: "+toastersHub)

	p := w.failover("site", "--rollback")
	p.until("Watch ")
	w.registers(0, "received from service: "+toastersHub)
	p.until("Device ")
	p.command.Process.Signal(os.Interrupt) //nolint:errcheck // the exit status tells
	p.ends(
		1, "Read      enrollment group "+failGroup+" of contoso-provisioning-service-1098.azure-devices-provisioning.net: its webhook is the cloud's, "+w.cloud.URL+"/api/HttpTrigger1?****\n",
		"Probe     the site's, "+w.site.URL+"/api/HttpTrigger1?****, from this machine: it answers, and refuses a device that it does not know: Unrecognized device registration. (",
		"Save      the cloud's URL, with its key, in cloud-url\n",
		"Swap      the webhook is the site's now; to undo: gatewayctl enrollment-group failover "+failGroup+" --to cloud ",
		"Device    "+failToaster+": assigned to "+toastersHub+", as before\n",
		"End       Interrupted while watching: the webhook is the site's, and stays so. To undo: gatewayctl ",
	)
	w.webhookIs(w.siteURL())
	kept, err := os.Stat(w.path("cloud-url"))
	if err != nil || kept.Mode().Perm() != 0o600 {
		t.Errorf("cloud-url: %v, %v; want a file for its user alone", kept, err)
	}

	again := w.failover("site")
	again.ends(0, "End       The webhook is the site's already.")
	back := w.failover("cloud", "--watch", "1ns")
	back.ends(0, "its webhook is the site's, ", "Swap      the webhook is the cloud's now", "No device was assigned meanwhile", "is not proven yet")
	w.webhookIs(w.cloudURL())
	w.registers(0, "received from service: "+toastersHub)
}

// TestFailoverRollsBack sees a device fail by the new webhook, which only knows
// how to please the dry question.
func TestFailoverRollsBack(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		status int // of the site's webhook for devices
		code   string
	}{
		{"wrong key", 401, "400209"},
		{"policy that refuses all", 400, "400207"},
		{"no hub in the answer", 200, "400208"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newFailoverWorld(t)
			w.answerAtSite(func(out http.ResponseWriter, _ *http.Request, id string) bool {
				if id == probeID {
					return false
				}
				out.WriteHeader(test.status)
				fmt.Fprint(out, `{"iotHubHostName":""}`)
				return true
			})
			p := w.failover("site", "--rollback")
			p.until("Watch ")
			w.registers(1, test.code)
			p.ends(1, "Device    "+failToaster+": failed ("+test.code+")", "Rollback  the webhook is the cloud's again\n", "End       Rolled back: ")
			w.webhookIs(w.cloudURL())
			w.registers(0, "received from service: "+toastersHub)
		})
	}
}

// TestFailoverLeavesOldFailures: what fails on both sides is the policy's
// doing, and no reason to go back.
func TestFailoverLeavesOldFailures(t *testing.T) {
	t.Parallel()
	w := newFailoverWorld(t)
	kettle := func() {
		t.Helper()
		p := startProgram(t, w.dir, nil, "register", "--endpoint", w.service.HTTPSAddr(), "--ca-file", w.service.CAFile(),
			"--id-scope", "0ne00ABCDEF", "--group-key-file", "group-key", "--registration-id", "lobby1-contoso-kettle-001")
		p.ends(1, "400207")
	}
	kettle()
	p := w.failover("site", "--rollback")
	p.until("Watch ")
	kettle()
	p.until(", as before\n")
	p.command.Process.Signal(os.Interrupt) //nolint:errcheck // the exit status tells
	p.ends(1, "the webhook is the site's, and stays so")
	w.webhookIs(w.siteURL())
}

// TestFailoverAsks: at a terminal a person says yes to the swap and to the way
// back; where nobody is, nothing is rolled back, and the printed command does it.
func TestFailoverAsks(t *testing.T) {
	t.Parallel()
	refuse := func(out http.ResponseWriter, _ *http.Request, id string) bool {
		if id != probeID {
			out.WriteHeader(http.StatusUnauthorized)
		}
		return id != probeID
	}
	t.Run("terminal", func(t *testing.T) {
		t.Parallel()
		keyboard, terminal := openTerminal(t)
		w := newFailoverWorld(t)
		w.answerAtSite(refuse)
		p := w.start(terminal, "enrollment-group", "failover", failGroup, "--to", "site",
			"--site-url-file", "site-url", "--cloud-url-file", "cloud-url", "--webhook-ca-file", "webhook-ca.pem")
		answer := func(question string) {
			p.until(question)
			if _, err := fmt.Fprintln(keyboard, "y"); err != nil {
				t.Fatal(err)
			}
		}
		answer(" from the cloud to the site? [y/N] ")
		p.until("Watch ")
		w.registers(1, "400209")
		answer("Go back to the cloud? [y/N] ")
		p.ends(1, "Move the webhook of enrollment group "+failGroup+" of ", "Rolled back")
		w.webhookIs(w.cloudURL())
	})
	t.Run("nobody", func(t *testing.T) {
		t.Parallel()
		w := newFailoverWorld(t)
		w.answerAtSite(refuse)
		p := w.failover("site")
		p.until("Watch ")
		w.registers(1, "400209")
		p.ends(1, "End       The webhook is the site's, and a device failed by it. To undo: ")
		w.webhookIs(w.siteURL())
		_, undo, _ := strings.Cut(p.output(), "a device failed by it. To undo: gatewayctl ")
		undo, _, _ = strings.Cut(undo, "\n")
		startProgram(t, w.dir, nil, append(strings.Fields(undo), "--yes", "--watch", "0")...).ends(0, "the webhook is the cloud's now")
		w.webhookIs(w.cloudURL())
	})
}

// TestFailoverKilled kills the command in the middle: before the swap nothing is
// changed, and after it the way back is on the disk.
func TestFailoverKilled(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		signal os.Signal
		word   string
	}{
		{"interrupted", os.Interrupt, "End       Interrupted: nothing was changed.\n"},
		{"terminated", syscall.SIGTERM, "End       Interrupted: nothing was changed.\n"},
		{"killed", os.Kill, ""},
	} {
		t.Run(test.name+" while it asks", func(t *testing.T) {
			t.Parallel()
			w := newFailoverWorld(t)
			var p *program
			asked, goOn := make(chan struct{}), make(chan struct{})
			w.answerAtSite(func(http.ResponseWriter, *http.Request, string) bool {
				close(asked)
				<-goOn
				return false
			})
			p = w.failover("site")
			<-asked
			p.command.Process.Signal(test.signal) //nolint:errcheck // the exit status tells
			<-p.ended
			close(goOn)
			if p.command.ProcessState.Success() || !strings.Contains(p.output(), test.word) {
				t.Errorf("got %s, %q", p.command.ProcessState, p.output())
			}
			w.webhookIs(w.cloudURL())
			if _, err := os.Stat(w.path("cloud-url")); err == nil {
				t.Error("cloud-url was written before it was needed")
			}
		})
	}
	t.Run("killed while it watches", func(t *testing.T) {
		t.Parallel()
		w := newFailoverWorld(t)
		p := w.failover("site")
		p.until("Watch ")
		p.command.Process.Kill() //nolint:errcheck // the exit status tells
		<-p.ended
		w.webhookIs(w.siteURL())
		w.failover("cloud", "--watch", "0").ends(0, "the webhook is the cloud's now", "End       Swapped, and not watched.\n")
		w.webhookIs(w.cloudURL())
	})
}

// TestFailoverIndividual moves one device's own enrollment, and reads the steps
// as a program does.
func TestFailoverIndividual(t *testing.T) {
	t.Parallel()
	w := newFailoverWorld(t)
	p := w.start(nil, "enrollment", "failover", ownToaster, "--to", "site", "--site-url-file", "site-url", "--cloud-url-file", "cloud-url",
		"--webhook-ca-file", "webhook-ca.pem", "--yes", "-o", "json")
	p.until(`{"step":"watch",`)
	startProgram(t, w.dir, nil, "register", "--endpoint", w.service.HTTPSAddr(), "--ca-file", w.service.CAFile(),
		"--id-scope", "0ne00ABCDEF", "--device-key-file", "group-key", "--registration-id", ownToaster).ends(0, "received from service: "+toastersHub)
	p.until(`{"step":"device",`)
	p.command.Process.Signal(os.Interrupt) //nolint:errcheck // the exit status tells
	p.ends(1, `{"step":"save","side":"cloud","webhookUrl":"`+w.cloud.URL+`/api/HttpTrigger1?****",`, `{"step":"swap","side":"site","webhookUrl":"`+w.site.URL+`/api/HttpTrigger1?****","etag":"`,
		`{"step":"device","registrationId":"`+ownToaster+`","status":"assigned","assignedHub":"`+toastersHub+`","text":"assigned to `+toastersHub+`"}`,
		`{"step":"end","side":"site","result":"swapped","undo":"gatewayctl enrollment failover `)
	for line := range strings.Lines(p.output()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
	w.webhookIs(w.cloudURL()) // the group's
	check := w.start(nil, "enrollment", "check", ownToaster, "--webhook-ca-file", "webhook-ca.pem")
	check.ends(0, w.site.URL+"/api/HttpTrigger1?****\n", "registrations      ok       1, none failed by the webhook\n")
}

// TestFailoverRace: whoever changes the group between the question and the swap
// is not overwritten.
func TestFailoverRace(t *testing.T) {
	t.Parallel()
	w := newFailoverWorld(t)
	w.answerAtSite(func(http.ResponseWriter, *http.Request, string) bool {
		changed := w.group
		changed.ReprovisionPolicy = dpslocal.ReprovisionNever
		if err := w.service.SetGroup(changed); err != nil {
			t.Error(err)
		}
		return false
	})
	w.failover("site").ends(1, "Somebody else has changed the enrollment group meanwhile, and this command left it alone. It is enabled, its webhook "+w.cloud.URL,
		"was changed between the question and the swap\n  Next: look at it with show")
	w.webhookIs(w.cloudURL())
	w.webhookIs("never (a device stays at its first hub)")
}
