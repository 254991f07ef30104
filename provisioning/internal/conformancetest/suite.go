// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Case is one thing that a rule of the design (section 5) asks of a client.
type Case struct {
	Rule int
	Name string // the rule in plain words
	Peer string // who gets it wrong and how; "" if nobody is known to

	only  []Transport // nil is all
	check func(*Trial)
}

// String is the name of the case in a test's output.
func (c Case) String() string { return fmt.Sprintf("rule %d %s", c.Rule, c.Name) }

// Concerns tells whether a case applies to a transport.
func (c Case) Concerns(transport Transport) bool {
	return c.only == nil || slices.Contains(c.only, transport)
}

// Cases is the whole suite. Rules 7 and 8 are missing because they are the gateway's and not a client's: whether a boot
// registers, and how soon a site comes back.
func Cases() []Case {
	return slices.Concat(rule1, rule2, rule3, rule4, rule5, rule6, rule9, rule10, rule11, rule12)
}

// Run tries a case on a client, in a bubble of simulated time, and returns what is wrong; nothing is fine.
func (c Case) Run(t *testing.T, transport Transport, factory Factory) (findings []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		trial := newTrial(t, transport, factory)
		c.check(trial)
		trial.end()
		findings = trial.findings
	})
	return findings
}

// Limits of one trial, so that a client that goes on for ever comes to an end.
const (
	longestTrial = 6 * time.Hour
	mostRequests = 700
)

// Trial is one client at one scripted service.
type Trial struct {
	Service *Service
	Env     Environment // may be changed before the first client is made

	t        testing.TB
	factory  Factory
	log      *bytes.Buffer // of the client
	ctx      context.Context
	cancel   context.CancelFunc
	clients  []Client
	mu       sync.Mutex
	findings []string
}

func newTrial(t testing.TB, transport Transport, factory Factory) *Trial {
	t.Helper()
	// Dates have whole seconds, and the part before may have left the clock between two.
	time.Sleep(time.Until(time.Now().Add(time.Second - time.Nanosecond).Truncate(time.Second)))
	service := NewService(t)
	trial := &Trial{Service: service, t: t, factory: factory, log: new(bytes.Buffer)}
	trial.ctx, trial.cancel = context.WithTimeout(t.Context(), longestTrial)
	service.tooMany = trial.cancel
	trial.Env = Environment{
		Endpoint:           Host,
		IDScope:            IDScope,
		Transport:          transport,
		RootCAs:            service.Roots,
		DialContext:        service.Network.DialContext,
		Logger:             slog.New(slog.NewTextHandler(trial.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		RegistersPerMinute: 1e6, // out of the way; the cases of rule 4 set their own
		PollsPerSecond:     1e6,
		Fleet:              1,
	}
	return trial
}

// part tries something on a service and a client of its own, because a case has several.
func (tr *Trial) part(name string, check func(*Trial)) {
	part := newTrial(tr.t, tr.Env.Transport, tr.factory)
	check(part)
	part.end()
	for _, finding := range part.findings {
		tr.findings = append(tr.findings, name+": "+finding)
	}
}

// end closes what was opened.
func (tr *Trial) end() {
	for _, client := range tr.clients {
		client.Close()
	}
	tr.cancel()
}

// find notes something that is wrong.
func (tr *Trial) find(format string, args ...any) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.findings = append(tr.findings, fmt.Sprintf(format, args...))
}

// client makes a client of the environment.
func (tr *Trial) client() Client {
	client, err := tr.factory(tr.Env)
	if err != nil {
		tr.t.Fatalf("making the client: %v", err)
	}
	tr.clients = append(tr.clients, client)
	return client
}

// register runs a registration with a new client, and expects an ending.
func (tr *Trial) register(device Device, want Ending) (Outcome, error) {
	return tr.registerWith(tr.client(), device, want)
}

// registerWith runs a registration, and expects an ending.
func (tr *Trial) registerWith(client Client, device Device, want Ending) (Outcome, error) {
	outcome, err := client.Register(tr.ctx, device)
	switch {
	case tr.ctx.Err() != nil && len(tr.Service.Requests()) >= mostRequests:
		tr.find("it went on for %d requests", mostRequests)
	case tr.ctx.Err() != nil:
		tr.find("it went on for %v", longestTrial)
	case outcome.Ending != want:
		tr.find("%s ended as %q, want %q (%v)", device.RegistrationID, outcome.Ending, want, err)
	}
	if (err == nil) != (outcome.Ending == EndAssigned) {
		tr.find("%s ended as %q with the error %v", device.RegistrationID, outcome.Ending, err)
	}
	return outcome, err
}

// at lists when requests of one kind came; "" is every kind.
func (tr *Trial) at(kind string) (times []time.Duration) {
	for _, q := range tr.Service.Requests() {
		if kind == "" || q.Do == kind {
			times = append(times, q.At)
		}
	}
	return times
}

// story expects what was asked and when, to the millisecond.
func (tr *Trial) story(want string) {
	if got := tr.Service.Story(); got != want {
		tr.find("it did %q, want %q", abbreviated(got), want)
	}
}

// sequence expects what was asked, whenever that was.
func (tr *Trial) sequence(want string) {
	var kinds []string
	for _, q := range tr.Service.Requests() {
		kinds = append(kinds, q.Do)
	}
	if got := strings.Join(kinds, " "); got != want {
		tr.find("it did %q, want %q", abbreviated(got), want)
	}
}

// between expects a time within bounds.
func (tr *Trial) between(what string, got, least, most time.Duration) {
	if got < least || got > most {
		tr.find("%s: %v, want %v to %v", what, got, least, most)
	}
}

// device is a valid one with the vectors' key.
func device(registrationID string) Device {
	return Device{RegistrationID: registrationID, Keys: []string{deviceKey}}
}

// toaster is the device that most cases register, and its key (dps-protocol 13.3).
const (
	toaster   = "breakroom499-contoso-tstrsd-007"
	deviceKey = "JC8F96eayuQwwz+PkE7IzjH2lIAjCUnAa61tDigBnSs="
)

func abbreviated(text string) string {
	if len(text) > 300 {
		return text[:300] + " …"
	}
	return text
}

// tenthMore is a wait and the tenth more that rule 2 allows.
func tenthMore(d time.Duration) time.Duration { return d + d/10 }
