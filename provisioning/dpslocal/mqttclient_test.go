// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/contoso/gatewayd/provisioning/dpslocal/internal/mqttserve"
)

// rawClient speaks MQTT packet by packet, so that a test sees their order.
type rawClient struct {
	t      *testing.T
	conn   net.Conn
	reader *bufio.Reader
}

// dialMQTT connects over TLS to a server on loopback.
func dialMQTT(t *testing.T, s *Server, certificates ...tls.Certificate) *rawClient {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CAPEM())
	begun := time.Now()
	conn, err := tls.Dial("tcp", s.MQTTAddr(), &tls.Config{RootCAs: roots, ServerName: globalEndpoint, Certificates: certificates})
	if err != nil && stalled(begun) {
		return dialMQTT(t, s, certificates...)
	}
	if err != nil {
		t.Fatal(err)
	}
	return newRawClient(t, conn)
}

func newRawClient(t *testing.T, conn net.Conn) *rawClient {
	t.Cleanup(func() { _ = conn.Close() })
	return &rawClient{t: t, conn: conn, reader: bufio.NewReader(conn)}
}

// serveMQTT serves the MQTT side of a server without TLS and returns a
// function that connects to it, for bubbles: a TLS server sends on its own
// accord, for which a pipe in memory has no room.
func serveMQTT(t *testing.T, s *Server) (dial func() *rawClient) {
	t.Helper()
	listener := newPipeListener()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- mqttserve.New(newMQTTFront(s.service), s.logger).Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return func() *rawClient {
		conn, err := listener.dial()
		if err != nil {
			t.Fatal(err)
		}
		return newRawClient(t, conn)
	}
}

func (c *rawClient) send(packet packets.ControlPacket) {
	c.t.Helper()
	if err := packet.Write(c.conn); err != nil {
		c.t.Fatalf("sending %s: %v", packets.PacketNames[packet.Details().Qos], err)
	}
}

// receive returns the next packet; the deadline is only for a server that is stuck.
func (c *rawClient) receive() packets.ControlPacket {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(stuck))
	packet, err := packets.ReadPacket(c.reader)
	if err != nil {
		c.t.Fatalf("receiving: %v", err)
	}
	return packet
}

// expectClosed waits until the server closes, at the latest after wait.
func (c *rawClient) expectClosed(wait time.Duration) {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(wait))
	packet, err := packets.ReadPacket(c.reader)
	switch {
	case err == nil:
		c.t.Fatalf("received %v, want the connection closed", packet)
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.t.Fatalf("the connection is still open after %s", wait)
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe):
		c.t.Logf("closed: %v", err) // a reset, over TCP
	}
}

func connectPacket(clientID, userName, password string, keepAlive uint16) *packets.ConnectPacket {
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion = "MQTT", 4
	p.ClientIdentifier, p.CleanSession, p.Keepalive = clientID, true, keepAlive
	p.Username, p.UsernameFlag = userName, true
	p.Password, p.PasswordFlag = []byte(password), password != ""
	return p
}

// connect sends CONNECT and returns the code of the CONNACK.
func (c *rawClient) connect(clientID, userName, password string) byte {
	c.t.Helper()
	c.send(connectPacket(clientID, userName, password, 60))
	ack, ok := c.receive().(*packets.ConnackPacket)
	if !ok {
		c.t.Fatal("the first packet is no CONNACK")
	}
	if ack.SessionPresent {
		c.t.Error("session present, want never")
	}
	return ack.ReturnCode
}

// connectDPS connects as a device does with the provisioning service.
func (c *rawClient) connectDPS(registrationID, token string) {
	c.t.Helper()
	user := testScope + "/registrations/" + registrationID + "/api-version=2019-03-31&ClientVersion=test%2F1"
	if code := c.connect(registrationID, user, token); code != 0 {
		c.t.Fatalf("CONNACK %d, want 0", code)
	}
	c.subscribe(dpsFilter, 1)
}

// connectHub connects as a device does with its hub.
func (c *rawClient) connectHub(hub, deviceID, key string) byte {
	c.t.Helper()
	token := sign(hub+"/devices/"+deviceID, key, time.Now().Add(time.Hour))
	return c.connect(deviceID, hub+"/"+deviceID+"/?api-version=2021-04-12", token)
}

func (c *rawClient) subscribe(filter string, qos byte) {
	c.t.Helper()
	if got := c.trySubscribe(filter, qos); got > 1 {
		c.t.Fatalf("SUBACK %#x for %s", got, filter)
	}
}

func (c *rawClient) trySubscribe(filter string, qos byte) byte {
	c.t.Helper()
	p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	p.MessageID, p.Topics, p.Qoss = 7, []string{filter}, []byte{qos}
	c.send(p)
	ack, ok := c.receive().(*packets.SubackPacket)
	if !ok || ack.MessageID != 7 || len(ack.ReturnCodes) != 1 {
		c.t.Fatalf("got %v, want a SUBACK", ack)
	}
	return ack.ReturnCodes[0]
}

func publishPacket(topic, payload string, qos byte) *packets.PublishPacket {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.Qos, p.MessageID = topic, []byte(payload), qos, 42
	return p
}

// request publishes at QoS 1 and returns the answer, which must come after the PUBACK.
func (c *rawClient) request(topic, payload string) (answerTopic, answerPayload string) {
	c.t.Helper()
	c.send(publishPacket(topic, payload, 1))
	ack, ok := c.receive().(*packets.PubackPacket)
	if !ok || ack.MessageID != 42 {
		c.t.Fatalf("got %v, want the PUBACK before anything else", ack)
	}
	return c.message()
}

// message receives a PUBLISH and acknowledges it.
func (c *rawClient) message() (topic, payload string) {
	c.t.Helper()
	p, ok := c.receive().(*packets.PublishPacket)
	if !ok {
		c.t.Fatal("no PUBLISH")
	}
	if p.Retain || p.Dup {
		c.t.Errorf("retain %v, dup %v; want neither", p.Retain, p.Dup)
	}
	if p.Qos == 1 {
		ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
		ack.MessageID = p.MessageID
		c.send(ack)
	}
	return p.TopicName, string(p.Payload)
}
