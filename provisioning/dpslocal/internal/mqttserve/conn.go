// SPDX-License-Identifier: Apache-2.0

package mqttserve

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"sync"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// writeTimeout ends a connection whose peer does not take what is sent.
const writeTimeout = 10 * time.Second

// Conn is one connection as a Session sees it. Its methods are safe for
// concurrent use.
type Conn struct {
	net net.Conn

	limit int // of a packet, in bytes; of the reading goroutine alone

	mu       sync.Mutex // one packet at a time on the wire; guards packetID
	packetID uint16
}

// LimitPackets bounds the packets that the peer may send from now on, below what
// the server takes at the most. A [Session] calls it from its own methods, for a
// peer that has not proven itself though its CONNECT was accepted.
func (c *Conn) LimitPackets(bytes int) { c.limit = min(bytes, maxPacket) }

// RemoteAddr is the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.net.RemoteAddr() }

// certificates are those of the peer, if it came over TLS with any.
func (c *Conn) certificates() []*x509.Certificate {
	secured, ok := c.net.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return nil
	}
	return secured.ConnectionState().PeerCertificates
}

// Publish sends a message at QoS 0 or 1. A QoS 1 message is sent once: the
// services that use this package keep no sessions (dps-protocol 6.1).
func (c *Conn) Publish(topic string, payload []byte, qos byte) error {
	packet := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	packet.TopicName, packet.Payload, packet.Qos = topic, payload, min(qos, 1)

	c.mu.Lock()
	defer c.mu.Unlock()
	if packet.Qos > 0 {
		c.packetID = max(c.packetID+1, 1) // 0 is no packet ID
		packet.MessageID = c.packetID
	}
	return c.write(packet)
}

// Close ends the connection; the session's Closed follows.
func (c *Conn) Close() { _ = c.net.Close() }

// send sends any packet but a PUBLISH, which needs a packet ID.
func (c *Conn) send(packet packets.ControlPacket) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.write(packet)
}

// write needs c.mu. A failed write leaves half a packet on the wire, so the
// connection ends with it.
func (c *Conn) write(packet packets.ControlPacket) error {
	err := c.net.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err == nil {
		err = packet.Write(c.net)
	}
	if err != nil {
		_ = c.net.Close()
	}
	return err
}
