// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	getTopic      = twinGetTopic + "?$rid="
	reportedTopic = twinReportedTopic + "?$rid="
)

// newHub makes a server with one toaster assigned, and returns how to connect.
func newHub(t *testing.T) (s *Server, dial func() *rawClient) {
	t.Helper()
	s = newCore(t, testConfig(), always(200, goodAnswer))
	register(t, s, request(RegisterCall, toaster))
	return s, serveMQTT(t, s)
}

// connected is a client that is connected as the toaster, to its hub.
func connected(t *testing.T, dial func() *rawClient) *rawClient {
	t.Helper()
	c := dial()
	if code := c.connectHub(toasters, toaster, derive(testPrimary, toaster)); code != 0 {
		t.Fatalf("CONNACK %d, want 0", code)
	}
	c.subscribe(twinResultFilter, 0)
	return c
}

func TestTwin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dial := newHub(t)
		c := connected(t, dial)

		topic, body := c.request(getTopic+"1", "")
		if topic != "$iothub/twin/res/200/?$rid=1" {
			t.Errorf("topic %s", topic)
		}
		golden(t, "twin.json", []byte(body))

		topic, body = c.request(reportedTopic+"2", `{"state":"ready","nested":{"a":1,"b":[1, 2]},"gone":null}`)
		if topic != "$iothub/twin/res/204/?$rid=2&$version=2" || body != "" {
			t.Errorf("got %s %q", topic, body)
		}
		c.request(reportedTopic+"3", `{"nested":{"a":null,"c":{"d":true}}}`)
		_, body = c.request(getTopic+"4", "")
		golden(t, "twin-reported.json", []byte(body))

		c.subscribe(twinDesiredFilter, 1)
		changed := make(chan error) // a pipe in memory holds the sender until somebody reads
		go func() {
			changed <- s.SetDesired(toasters, toaster, map[string]json.RawMessage{"darknessSetting": []byte(`"dark"`), "state": []byte("null")})
		}()
		topic, body = c.message()
		if err := <-changed; err != nil {
			t.Fatal(err)
		}
		if topic != "$iothub/twin/PATCH/properties/desired/?$version=2" || body != `{"$version":2,"darknessSetting":"dark","state":null}` {
			t.Errorf("got %s %s", topic, body)
		}
		twin, ok := s.Twin(toasters, toaster)
		if !ok || sectionText(twin.Desired) != `{"darknessSetting":"dark"}` || twin.DesiredVersion != 2 || twin.ReportedVersion != 3 || string(twin.Tags["deviceType"]) != `"toaster"` {
			t.Errorf("got %+v", twin)
		}
	})
}

func TestTwinRefusals(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 11) + "1" + strings.Repeat("}", 11)
	tests := []struct{ name, payload string }{
		{"not JSON", "{"},
		{"not an object", "[]"},
		{"null", "null"},
		{"empty", ""},
		{"reserved name", `{"$version":7}`},
		{"dot in a name", `{"a":{"b.c":1}}`},
		{"too deep", deep},
		{"too large", `{"a":"` + strings.Repeat("x", maxTwinSection) + `"}`},
	}
	synctest.Test(t, func(t *testing.T) {
		s, dial := newHub(t)
		c := connected(t, dial)
		for _, tt := range tests {
			topic, body := c.request(reportedTopic+"1", tt.payload)
			if topic != "$iothub/twin/res/400/?$rid=1" || decodeStatus(t, []byte(body)).ErrorCode != 400004 {
				t.Errorf("%s: got %s %s, want 400", tt.name, topic, body)
			}
		}
		if twin, _ := s.Twin(toasters, toaster); twin.ReportedVersion != 1 {
			t.Errorf("version %d, want none accepted", twin.ReportedVersion)
		}
		if err := s.SetDesired(toasters, toaster, map[string]json.RawMessage{"a": []byte("{")}); err == nil {
			t.Error("a patch that is no JSON was taken")
		}
		if err := s.SetDesired(toasters, "absent", nil); !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
	})
}

func TestHubAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, dial := newHub(t)
		primary := derive(testPrimary, toaster)
		soon := time.Now().Add(time.Hour)
		user := toasters + "/" + toaster + "/?api-version=2021-04-12"
		tests := []struct {
			name             string
			client, userName string
			token            string
			want             byte
		}{
			{"primary", toaster, user, sign(toasters+"/devices/"+toaster, primary, soon), 0},
			{"secondary", toaster, user, sign(toasters+"/devices/"+toaster, derive(testSecondary, toaster), soon), 0},
			{"hub in another case", toaster, strings.ToUpper(toasters) + "/" + toaster + "/?api-version=2021-04-12", sign(toasters+"/devices/"+toaster, primary, soon), 0},
			{"group key", toaster, user, sign(toasters+"/devices/"+toaster, testPrimary, soon), 5},
			{"provisioning token", toaster, user, deviceToken(toaster, primary), 5},
			{"expired", toaster, user, sign(toasters+"/devices/"+toaster, primary, time.Now().Add(-clockSkew-time.Second)), 5},
			{"no token", toaster, user, "", 5},
			{"the other hub", toaster, heatPumps + "/" + toaster + "/?api-version=2021-04-12", sign(heatPumps+"/devices/"+toaster, primary, soon), 5},
			{"device ID in another case", strings.ToUpper(toaster), toasters + "/" + strings.ToUpper(toaster) + "/?api-version=2021-04-12", sign(toasters+"/devices/"+toaster, primary, soon), 5},
			{"another client ID", "other", user, sign(toasters+"/devices/"+toaster, primary, soon), 2},
		}
		for _, tt := range tests {
			c := dial()
			if got := c.connect(tt.client, tt.userName, tt.token); got != tt.want {
				t.Errorf("%s: CONNACK %d, want %d", tt.name, got, tt.want)
			}
			_ = c.conn.Close()
			synctest.Wait()
		}
	})
}

func TestHubTelemetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, dial := newHub(t)
		c := connected(t, dial)
		c.send(publishPacket("devices/"+toaster+"/messages/events/a=b&%24.ct=text", strings.Repeat("x", 200<<10), 1))
		if _, ok := c.receive().(*packets.PubackPacket); !ok {
			t.Error("no PUBACK")
		}
		c.send(publishPacket("$iothub/methods/res/200/?$rid=1", "{}", 0))
		for _, filter := range []string{methodFilter, "devices/" + toaster + "/messages/devicebound/#", twinDesiredFilter} {
			if got := c.trySubscribe(filter, 2); got != 1 {
				t.Errorf("SUBACK %d for %s, want 1", got, filter)
			}
		}
	})
}

func TestHubMisbehaviour(t *testing.T) {
	other := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	other.MessageID, other.Topics, other.Qoss = 1, []string{"devices/other/messages/devicebound/#"}, []byte{1}
	tests := []struct {
		name   string
		packet packets.ControlPacket
	}{
		{"another device's telemetry", publishPacket("devices/other/messages/events/", "", 0)},
		{"another device's messages", other},
		{"unknown topic", publishPacket("$iothub/twin/POST/?$rid=1", "", 0)},
		{"no request ID", publishPacket(twinGetTopic, "", 0)},
		{"QoS 2", publishPacket(getTopic+"1", "", 2)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, dial := newHub(t)
				c := connected(t, dial)
				c.send(tt.packet)
				c.expectClosed(time.Second)
			})
		})
	}
}

// TestHubConnectionEnds: by a newer one, by the token's end, by deletion.
func TestHubConnectionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dial := newHub(t)
		first := connected(t, dial)
		second := connected(t, dial)
		first.expectClosed(time.Second)
		second.request(getTopic+"1", "")

		if err := s.DeleteDevice(toasters, toaster); err != nil {
			t.Fatal(err)
		}
		second.expectClosed(time.Second)
		if code := dial().connectHub(toasters, toaster, derive(testPrimary, toaster)); code != 5 {
			t.Errorf("CONNACK %d for a deleted device, want 5", code)
		}
		if err := s.DeleteDevice(toasters, toaster); !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}

		t.Log("registering again makes the device again")
		if got := register(t, s, request(RegisterCall, toaster)); got.Status != "assigned" || got.RegistrationState.Substatus != "initialAssignment" {
			t.Errorf("got %+v", got)
		}
		third := connected(t, dial)
		begun := time.Now()
		for time.Since(begun) < time.Hour+clockSkew-time.Second {
			time.Sleep(30 * time.Second)
			if time.Since(begun) >= time.Hour+clockSkew {
				break
			}
			third.request(getTopic+"1", "")
		}
		third.expectClosed(time.Second)
		if got := time.Since(begun); got != time.Hour+clockSkew {
			t.Errorf("closed after %s, want when the token is no longer good: 1h5m", got)
		}
	})
}

// Without a subscription nothing is delivered, and nothing is kept for later.
func TestDesiredWithoutSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dial := newHub(t)
		c := connected(t, dial)
		if err := s.SetDesired(toasters, toaster, map[string]json.RawMessage{"a": []byte("1")}); err != nil {
			t.Fatal(err)
		}
		c.subscribe(twinDesiredFilter, 1)
		if topic, _ := c.request(getTopic+"1", ""); topic != "$iothub/twin/res/200/?$rid=1" {
			t.Errorf("got %s, want the answer to GET only", topic)
		}
	})
}

// A device that is moved to another hub is thrown out of the old one.
func TestMoveDisconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hook := &scriptedWebhook{answers: []webhookAnswer{{status: 200, body: goodAnswer}, {status: 200, body: strings.Replace(goodAnswer, toasters, heatPumps, 1)}}}
		s := newCore(t, testConfig(), hook)
		register(t, s, request(RegisterCall, toaster))
		dial := serveMQTT(t, s)
		c := connected(t, dial)
		register(t, s, request(RegisterCall, toaster))
		c.expectClosed(time.Second)
		if code := dial().connectHub(heatPumps, toaster, derive(testPrimary, toaster)); code != 0 {
			t.Errorf("CONNACK %d at the new hub, want 0", code)
		}
	})
}
