// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/contoso/gatewayd/provisioning/internal/conformancetest"
	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc/mqttrpctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testScope = conformancetest.IDScope
	testID    = "breakroom499-contoso-tstrsd-007"
	testHub   = conformancetest.Hub
	testOp    = conformancetest.Operation
	testHost  = conformancetest.Host
)

// asked and said are a request that the scripted service got, and its answer.
type (
	asked = conformancetest.Asked
	said  = conformancetest.Answer
)

// dps is the scripted service of the conformance suite, with the configuration that leads to it.
type dps struct {
	*conformancetest.Service

	network *mqttrpctest.Network
	mqtt    *mqttrpctest.Server
	cfg     Config
	begun   time.Time

	// script answers request n, from 0, of a device.
	script func(n int, q asked) said
}

// eachTransport runs a test of a rule over each transport, in a bubble of its own each.
func eachTransport(t *testing.T, test func(t *testing.T, service *dps)) {
	t.Helper()
	for _, transport := range []Transport{TransportHTTPS, TransportMQTT, TransportMQTTWS} {
		t.Run(string(transport), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, newDPS(t, transport)) })
		})
	}
}

// newDPS starts a scripted service that assigns at once until told otherwise.
func newDPS(t *testing.T, transport Transport) *dps {
	t.Helper()
	service := conformancetest.NewService(t)
	d := &dps{
		Service: service,
		network: service.Network,
		mqtt:    service.MQTT,
		begun:   service.Begun,
		script:  service.Script,
	}
	service.Script = func(n int, q asked) said { return d.script(n, q) }
	d.cfg = Config{
		Endpoint:           testHost,
		IDScope:            testScope,
		Transport:          transport,
		RootCAs:            service.Roots,
		DialContext:        service.Network.DialContext,
		RegistersPerMinute: 1e6, // out of the way; the tests of the budgets set their own
		PollsPerSecond:     1e6,
	}
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

func (d *dps) requests() []asked { return d.Requests() }

func (d *dps) story() string { return d.Story() }

// The suite's scripts, under short names.
var (
	assigning = conformancetest.Assigning
	assigned  = conformancetest.Assigned
	failed    = conformancetest.Failed
	refusal   = conformancetest.Refusal
	inOrder   = conformancetest.InOrder
)

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

// synctestOverMQTT runs a test of a rule that only MQTT has.
func synctestOverMQTT(t *testing.T, test func(t *testing.T, service *dps)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newDPS(t, TransportMQTT)) })
}
