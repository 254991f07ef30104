// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	registerTopic = dpsRegisterTopic + "?$rid="
	pollTopic     = dpsPollTopic + "?$rid="
)

// TestMQTTRegistration goes through the whole exchange of dps-protocol 6.6 over
// TLS, with the answer after the PUBACK each time.
func TestMQTTRegistration(t *testing.T) {
	cfg := testConfig()
	cfg.RetryAfter = 0
	s := start(t, cfg, Options{WebhookTransport: always(200, goodAnswer)})
	c := dialMQTT(t, s)
	c.connectDPS(toaster, deviceToken(toaster, derive(testPrimary, toaster)))

	topic, body := c.request(registerTopic+"AbC%2F-1", `{"payload": null, "registrationId": "`+toaster+`"}`)
	if want := "$dps/registrations/res/202/?$rid=AbC%2F-1&retry-after=0"; topic != want {
		t.Errorf("topic %s, want %s", topic, want)
	}
	operation := decodeStatus(t, []byte(body)).OperationID

	topic, body = c.request(pollTopic+"2&operationId="+url.QueryEscape(operation), " ")
	if want := "$dps/registrations/res/200/?$rid=2"; topic != want {
		t.Errorf("topic %s, want %s", topic, want)
	}
	if got := decodeStatus(t, []byte(body)); got.Status != "assigned" || got.RegistrationState.AssignedHub != toasters {
		t.Errorf("got %s, want assigned to %s", body, toasters)
	}
	c.send(packets.NewControlPacket(packets.Disconnect))
	c.expectClosed(stuck)
}

// TestMQTTVariants holds what the real clients do differently from each other.
func TestMQTTVariants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCore(t, testConfig(), always(200, goodAnswer))
		dial := serveMQTT(t, s)
		token := deviceToken(toaster, derive(testPrimary, toaster))

		t.Log("C: QoS 0, small request IDs that repeat, the body again with the poll")
		c := dial()
		c.connectDPS(toaster, token)
		c.send(publishPacket(registerTopic+"1", `{"registrationId":"`+toaster+`"}`, 0))
		topic, body := c.message()
		if topic != "$dps/registrations/res/202/?$rid=1&retry-after=3" {
			t.Errorf("topic %s", topic)
		}
		synctest.Wait()
		c.send(publishPacket(pollTopic+"1&operationId="+decodeStatus(t, []byte(body)).OperationID, `{"registrationId":"`+toaster+`"}`, 0))
		if topic, _ = c.message(); topic != "$dps/registrations/res/200/?$rid=1" {
			t.Errorf("topic %s", topic)
		}

		t.Log("C#: an empty body; the embedded client: no parameter order, QoS 0 subscription")
		c = dial()
		c.connect(toaster, testScope+"/registrations/"+toaster+"/api-version=2019-03-31", token)
		if got := c.trySubscribe(dpsFilter, 0); got != 0 {
			t.Errorf("SUBACK %d, want 0", got)
		}
		c.send(publishPacket(registerTopic+"2", "", 0))
		p, ok := c.receive().(*packets.PublishPacket)
		if !ok || p.Qos != 0 || !strings.HasPrefix(p.TopicName, "$dps/registrations/res/202/?$rid=2&") {
			t.Errorf("got %v, want a QoS 0 answer", p)
		}

		t.Log("QoS 2 subscriptions are granted 1; other filters are refused")
		if got := c.trySubscribe(dpsFilter, 2); got != 1 {
			t.Errorf("SUBACK %d, want 1", got)
		}
		for _, filter := range []string{"#", "$dps/#", "$dps/registrations/+/#", twinResultFilter} {
			if got := c.trySubscribe(filter, 1); got != 0x80 {
				t.Errorf("SUBACK %#x for %s, want 0x80", got, filter)
			}
		}

		t.Log("without a subscription the answer is dropped")
		u := packets.NewControlPacket(packets.Unsubscribe).(*packets.UnsubscribePacket)
		u.MessageID, u.Topics = 9, []string{dpsFilter}
		c.send(u)
		if ack, ok := c.receive().(*packets.UnsubackPacket); !ok || ack.MessageID != 9 {
			t.Errorf("got %v, want an UNSUBACK", ack)
		}
		c.send(publishPacket(registerTopic+"3", "", 0))
		c.send(packets.NewControlPacket(packets.Pingreq))
		if _, ok := c.receive().(*packets.PingrespPacket); !ok {
			t.Error("no PINGRESP")
		}
	})
}

func TestMQTTErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCore(t, testConfig(), always(200, goodAnswer))
		dial := serveMQTT(t, s)
		good := deviceToken(toaster, derive(testPrimary, toaster))
		tests := []struct {
			name           string
			token          string
			topic, payload string
			want           string // answer topic
			code           int
		}{
			{"bad token", deviceToken(toaster, testPrimary), registerTopic + "1", "{}", "$dps/registrations/res/401/?$rid=1", 401002},
			{"no password", "", registerTopic + "1", "{}", "$dps/registrations/res/401/?$rid=1", 401002},
			{"malformed body", good, registerTopic + "1", "{", "$dps/registrations/res/400/?$rid=1", 400004},
			{"unknown operation", good, pollTopic + "1&operationId=5.0.0", "", "$dps/registrations/res/404/?$rid=1", 404201},
			{"no operation", good, pollTopic + "1", "", "$dps/registrations/res/404/?$rid=1", 404201},
			{"body too large", good, registerTopic + "1", strings.Repeat(" ", maxBody+1), "$dps/registrations/res/413/?$rid=1", 413001},
		}
		for _, tt := range tests {
			c := dial()
			c.connectDPS(toaster, tt.token)
			topic, body := c.request(tt.topic, tt.payload)
			if got := decodeStatus(t, []byte(body)); topic != tt.want || got.ErrorCode != tt.code {
				t.Errorf("%s: got %s %s, want %s with %d", tt.name, topic, body, tt.want, tt.code)
			}
		}
	})
}

func TestMQTTThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCore(t, testConfig(), always(200, goodAnswer))
		fault := Fault{Status: 429, RetryAfter: "10"}
		s.service.fault = func(FaultPoint) Fault { return fault }
		c := serveMQTT(t, s)()
		c.connectDPS(toaster, deviceToken(toaster, derive(testPrimary, toaster)))
		topic, body := c.request(registerTopic+"1", "")
		if topic != "$dps/registrations/res/429/?$rid=1&retry-after=10" || decodeStatus(t, []byte(body)).ErrorCode != 429001 {
			t.Errorf("got %s %s", topic, body)
		}
		fault = Fault{Drop: true}
		c.send(publishPacket(registerTopic+"2", "", 0))
		c.expectClosed(time.Second)
		if n := len(s.Operations(toaster)); n != 1 {
			t.Errorf("%d operations, want the one whose answer was dropped", n)
		}
	})
}

// TestMQTTMisbehaviour plays dps-protocol 6.7.
func TestMQTTMisbehaviour(t *testing.T) {
	retained := publishPacket(registerTopic+"1", "", 0)
	retained.Retain = true
	tests := []struct {
		name   string
		packet packets.ControlPacket
	}{
		{"another topic", publishPacket("devices/x/messages/events/", "", 0)},
		{"no request ID", publishPacket(dpsRegisterTopic, "", 0)},
		{"empty request ID", publishPacket(registerTopic, "", 0)},
		{"retain", retained},
		{"QoS 2", publishPacket(registerTopic+"1", "", 2)},
		{"second CONNECT", connectPacket(toaster, "x", "", 0)},
		{"a server's packet", packets.NewControlPacket(packets.Pingresp)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newCore(t, testConfig(), always(200, goodAnswer))
				c := serveMQTT(t, s)()
				c.connectDPS(toaster, deviceToken(toaster, derive(testPrimary, toaster)))
				c.send(tt.packet)
				c.expectClosed(time.Second)
			})
		})
	}
}

func TestMQTTConnectCodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCore(t, testConfig(), always(200, goodAnswer))
		dial := serveMQTT(t, s)
		user := testScope + "/registrations/" + toaster + "/api-version=2019-03-31"
		tests := []struct {
			name             string
			client, userName string
			want             byte
		}{
			{"client ID in another case", strings.ToUpper(toaster), user, 0},
			{"unknown scope", toaster, "0ne00009999/registrations/" + toaster + "/api-version=2019-03-31", 0},
			{"another client ID", "other", user, packets.ErrRefusedIDRejected},
			{"no user name to speak of", toaster, "toaster", packets.ErrRefusedBadUsernameOrPassword},
			{"no registration ID", toaster, testScope + "/registrations//api-version=2019-03-31", packets.ErrRefusedBadUsernameOrPassword},
			{"unknown hub", toaster, "other.azure-devices.net/" + toaster + "/?api-version=2021-04-12", packets.ErrRefusedNotAuthorised},
		}
		for _, tt := range tests {
			c := dial()
			if got := c.connect(tt.client, tt.userName, "x"); got != tt.want {
				t.Errorf("%s: CONNACK %d, want %d", tt.name, got, tt.want)
			}
			if tt.want != 0 {
				c.expectClosed(time.Second)
			}
		}
	})
}

// TestMQTTClocks holds the time limits of a connection.
func TestMQTTClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCore(t, testConfig(), always(200, goodAnswer))
		dial := serveMQTT(t, s)
		token := deviceToken(toaster, derive(testPrimary, toaster))
		user := testScope + "/registrations/" + toaster + "/api-version=2019-03-31"

		closedAfter := func(name string, want time.Duration, prepare func(c *rawClient)) {
			c := dial()
			begun := time.Now()
			prepare(c)
			_, err := c.conn.Read(make([]byte, 1)) // nothing else is sent
			if got := time.Since(begun); err == nil || got != want {
				t.Errorf("%s: closed after %s (%v), want %s", name, got, err, want)
			}
		}
		closedAfter("silence before CONNECT", 5*time.Second, func(*rawClient) {})
		closedAfter("no call", dpsIdle, func(c *rawClient) {
			c.send(connectPacket(toaster, user, token, 0))
			c.receive()
			_ = c.conn.SetReadDeadline(time.Time{})
		})
		closedAfter("a call with a bad token and then pings", dpsIdle, func(c *rawClient) {
			c.send(connectPacket(toaster, user, deviceToken(toaster, testPrimary), 0))
			c.receive()
			c.send(publishPacket(registerTopic+"1", "", 0))
			_ = c.conn.SetReadDeadline(time.Time{})
		})
		closedAfter("a large packet of a stranger", 0, func(c *rawClient) {
			c.send(connectPacket(toaster, user, deviceToken(toaster, testPrimary), 0))
			c.receive()
			_ = c.conn.SetWriteDeadline(time.Now().Add(time.Second))
			// Only the beginning: what its length says is refused before it comes.
			_, _ = c.conn.Write([]byte{0x30, 0x81, 0x80, 0x01})
			_ = c.conn.SetReadDeadline(time.Time{})
		})
		closedAfter("keep-alive of 20 s", 30*time.Second, func(c *rawClient) {
			c.send(connectPacket(toaster, user, token, 20))
			c.receive()
			_ = c.conn.SetReadDeadline(time.Time{})
		})
		closedAfter("no keep-alive, after a call", 1767*time.Second, func(c *rawClient) {
			c.send(connectPacket(toaster, user, token, 0))
			c.receive()
			c.send(publishPacket(registerTopic+"1", "", 0))
			_ = c.conn.SetReadDeadline(time.Time{})
		})
	})
}

// TestMQTTTakeOver: the newer connection of a device wins, but only once it
// has shown that it is the device.
func TestMQTTTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCore(t, testConfig(), always(200, goodAnswer))
		dial := serveMQTT(t, s)
		token := deviceToken(toaster, derive(testPrimary, toaster))
		first := dial()
		first.connectDPS(toaster, token)
		dial().connectDPS(toaster, deviceToken(toaster, testPrimary)) // a stranger
		first.request(registerTopic+"1", "")
		dial().connectDPS(toaster, token)
		first.expectClosed(time.Second)
	})
}

// A token that expires while its connection is open counts no more.
func TestMQTTTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCore(t, testConfig(), always(200, goodAnswer))
		c := serveMQTT(t, s)()
		c.connectDPS(toaster, deviceToken(toaster, derive(testPrimary, toaster)))
		c.request(registerTopic+"1", "")
		for range 70 {
			time.Sleep(time.Minute)
			c.send(packets.NewControlPacket(packets.Pingreq))
			c.receive()
		}
		topic, body := c.request(registerTopic+"2", "")
		if topic != "$dps/registrations/res/401/?$rid=2" || !json.Valid([]byte(body)) {
			t.Errorf("got %s %s, want 401", topic, body)
		}
	})
}

func TestParseUserName(t *testing.T) {
	tests := []struct {
		text string
		want userName
		ok   bool
	}{
		{"0ne1/registrations/dev/api-version=2019-03-31&ClientVersion=azure-iot-device-provisioning-py%2F2.14.0%283%29", userName{idScope: "0ne1", registrationID: "dev", apiVersion: "2019-03-31"}, true},
		{"h.azure-devices.net/dev/?api-version=2021-04-12&DeviceClientType=x", userName{hub: "h.azure-devices.net", deviceID: "dev", apiVersion: "2021-04-12"}, true},
		{"h.azure-devices.net/dev/api-version=2021-04-12", userName{hub: "h.azure-devices.net", deviceID: "dev", apiVersion: "2021-04-12"}, true},
		{"h.azure-devices.net/registrations/?api-version=2021-04-12", userName{hub: "h.azure-devices.net", deviceID: "registrations", apiVersion: "2021-04-12"}, true},
		{"", userName{}, false},
		{"0ne1", userName{}, false},
		{"0ne1/registrations", userName{}, false},
		{"/registrations/dev/api-version=x", userName{}, false},
		{strings.Repeat("x", 1025) + "/registrations/dev/api-version=x", userName{}, false},
	}
	for _, tt := range tests {
		got, err := parseUserName(tt.text)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("%.80q: got %+v, %v; want %+v, %v", tt.text, got, err, tt.want, tt.ok)
		}
	}
}
