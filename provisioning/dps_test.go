// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc/mqttrpctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testScope = "0ne00002193"
	testID    = "breakroom499-contoso-tstrsd-007"
	testHub   = "contoso-toasters-hub-1098.azure-devices.net"
	testOp    = "5.316aac5bdc130deb.b1e02da8-0000-4000-8000-7ea7a6b7f550"
	testHost  = "dps.test"
)

// asked is a request that the scripted service got, the same for both transports.
type asked struct {
	Do             string // "register", "poll", "lookup"
	RegistrationID string
	OperationID    string
	Body           string
	At             time.Duration // since the service was made
	Wire           string        // the whole request, for golden files
}

// said is an answer of the scripted service. Status 0 says nothing and drops the connection.
type said struct {
	Status     int
	RetryAfter string
	Body       string
	Header     http.Header // HTTPS only
	Hang       bool        // never answer, and keep the connection
}

// dps is a provisioning service that follows a script, written from dps-protocol 3 and 6. It shares no code with the
// client but the MQTT packet codec.
type dps struct {
	network *mqttrpctest.Network
	mqtt    *mqttrpctest.Server
	cfg     Config // to reach it

	// script answers request n, from 0, of a device.
	script func(n int, q asked) said

	begun time.Time
	hung  chan struct{}
	mu    sync.Mutex
	log   []asked
	count map[string]int
}

// eachTransport runs a test of a rule over both transports, in a bubble of its own each.
func eachTransport(t *testing.T, test func(t *testing.T, service *dps)) {
	t.Helper()
	for _, transport := range []Transport{TransportHTTPS, TransportMQTT} {
		t.Run(string(transport), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, newDPS(t, transport)) })
		})
	}
}

// newDPS starts a scripted service that assigns at once until told otherwise.
func newDPS(t *testing.T, transport Transport) *dps {
	t.Helper()
	authority := mqttrpctest.NewAuthority(t)
	d := &dps{
		network: mqttrpctest.NewNetwork(),
		script:  func(int, asked) said { return assigned(testOp) },
		begun:   time.Now(),
		hung:    make(chan struct{}),
		count:   make(map[string]int),
	}
	d.cfg = Config{
		Endpoint:           testHost,
		IDScope:            testScope,
		Transport:          transport,
		RootCAs:            authority.Pool,
		DialContext:        d.network.DialContext,
		RegistersPerMinute: 1e6, // out of the way; the tests of the budgets set their own
		PollsPerSecond:     1e6,
	}
	secure := authority.Server(t, testHost)

	web := &http.Server{Handler: http.HandlerFunc(d.serveHTTP), ErrorLog: log.New(io.Discard, "", 0)}
	webListener := d.network.Listen(testHost + ":443")
	var serving sync.WaitGroup
	serving.Go(func() { _ = web.Serve(tls.NewListener(webListener, secure)) })

	d.mqtt = &mqttrpctest.Server{Publish: d.serveMQTT}
	mqttListener := d.network.Listen(testHost + ":8883")
	d.mqtt.Serve(mqttListener, secure)

	t.Cleanup(func() {
		close(d.hung)
		_ = web.Close()
		_ = mqttListener.Close()
		d.mqtt.Close()
		serving.Wait()
	})
	return d
}

// client makes a client of the service that the test's end closes.
func (d *dps) client(t *testing.T) *Client {
	t.Helper()
	client, err := New(d.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// answer notes a request and asks the script.
func (d *dps) answer(q asked) said {
	d.mu.Lock()
	q.At = time.Since(d.begun)
	n := d.count[q.RegistrationID]
	d.count[q.RegistrationID]++
	d.log = append(d.log, q)
	script := d.script
	d.mu.Unlock()
	return script(n, q)
}

// requests are all so far.
func (d *dps) requests() []asked {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]asked(nil), d.log...)
}

// story tells what was asked and when: "register 0s, poll 3s".
func (d *dps) story() string {
	var parts []string
	for _, q := range d.requests() {
		parts = append(parts, fmt.Sprintf("%s %v", q.Do, q.At.Round(time.Millisecond)))
	}
	return strings.Join(parts, ", ")
}

func (d *dps) serveHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	q := asked{Body: string(body), Wire: httpText(r, body)}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case len(parts) == 4 && r.Method == http.MethodPut && parts[3] == "register":
		q.Do, q.RegistrationID = "register", parts[2]
	case len(parts) == 5 && r.Method == http.MethodGet && parts[3] == "operations":
		q.Do, q.RegistrationID, q.OperationID = "poll", parts[2], parts[4]
	case len(parts) == 3 && r.Method == http.MethodPost:
		q.Do, q.RegistrationID = "lookup", parts[2]
	default:
		http.Error(w, "no such route", http.StatusTeapot)
		return
	}
	answer := d.answer(q)
	switch {
	case answer.Hang:
		select {
		case <-d.hung:
		case <-r.Context().Done():
		}
		return
	case answer.Status == 0:
		panic(http.ErrAbortHandler)
	}
	for name, values := range answer.Header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if answer.RetryAfter != "" {
		w.Header().Set("Retry-After", answer.RetryAfter)
	}
	w.WriteHeader(answer.Status)
	_, _ = io.WriteString(w, answer.Body)
}

func (d *dps) serveMQTT(c *mqttrpctest.Client, topic string, body []byte) {
	path, query, _ := strings.Cut(topic, "?")
	params := make(map[string]string)
	for part := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		params[name] = value
	}
	q := asked{RegistrationID: c.ID, Body: string(body), OperationID: params["operationId"]}
	q.Wire = strings.ReplaceAll(topic, params["$rid"], "{rid}") + "\n" + string(body) + "\n"
	switch path {
	case "$dps/registrations/PUT/iotdps-register/":
		q.Do = "register"
	case "$dps/registrations/GET/iotdps-get-operationstatus/":
		q.Do = "poll"
	default:
		c.Drop()
		return
	}
	answer := d.answer(q)
	switch {
	case answer.Hang:
		return
	case answer.Status == 0:
		c.Drop()
		return
	}
	reply := fmt.Sprintf("$dps/registrations/res/%d/?$rid=%s", answer.Status, params["$rid"])
	if answer.RetryAfter != "" {
		reply += "&retry-after=" + strings.ReplaceAll(strings.ReplaceAll(answer.RetryAfter, ",", "%2C"), " ", "%20")
	}
	c.Publish(reply, []byte(answer.Body))
}

// The answers of scripts, written by hand and not by the client's types.

func assigning(retryAfter string) said {
	return said{
		Status: 202, RetryAfter: retryAfter,
		Body: `{"operationId":"` + testOp + `","status":"assigning"}`,
	}
}

func assigned(operationID string) said {
	return said{Status: 200, Body: `{"operationId":"` + operationID + `","status":"assigned","registrationState":{` +
		`"assignedHub":"` + testHub + `","deviceId":"device-1","status":"assigned","substatus":"initialAssignment"}}`}
}

func failed(code int, message string) said {
	return said{Status: 200, Body: fmt.Sprintf(`{"operationId":"%s","status":"failed","registrationState":{"status":"failed","errorCode":%d,"errorMessage":%q}}`,
		testOp, code, message)}
}

func refusal(status, code int, retryAfter string) said {
	return said{
		Status: status, RetryAfter: retryAfter,
		Body: fmt.Sprintf(`{"errorCode":%d,"trackingId":"00000000-0000-4000-8000-000000000000","message":"No.","timestampUtc":"2000-01-01T00:00:00.0000000Z"}`, code),
	}
}

// inOrder answers one after the other, and the last one again and again.
func inOrder(answers ...said) func(int, asked) said {
	return func(n int, _ asked) said { return answers[min(n, len(answers)-1)] }
}

// request is a valid one for testID.
func request() Request {
	return Request{RegistrationID: testID, Keys: []DeviceKey{testKey()}}
}

func testKey() DeviceKey {
	key, err := ParseDeviceKey("JC8F96eayuQwwz+PkE7IzjH2lIAjCUnAa61tDigBnSs=")
	if err != nil {
		panic(err)
	}
	return key
}

// vectors reads the named part of the published vectors into v.
func vectors(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal(readFile(t, "testdata/dps-vectors.json"), v); err != nil {
		t.Fatal(err)
	}
}

// refuseWith answers every CONNECT with a code.
func refuseWith(code int) func(*mqttrpctest.Client) int {
	return func(*mqttrpctest.Client) int { return code }
}

// notePassword takes every CONNECT and passes its password on.
func notePassword(note func(string)) func(*mqttrpctest.Client) int {
	return func(c *mqttrpctest.Client) int {
		note(c.Password)
		return 0
	}
}
