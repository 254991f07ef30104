// SPDX-License-Identifier: Apache-2.0

package mqttrpctest

import (
	"crypto/tls"
	"net"
	"sync"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Server is an MQTT server that does what its functions say. Set them before Serve; nil ones take everything. They
// run in the goroutine of their client.
type Server struct {
	// Connect decides the CONNACK's return code. A negative one closes the connection without an answer.
	Connect func(c *Client) int

	// Subscribe decides the SUBACK's return code for a filter.
	Subscribe func(c *Client, filter string) byte

	// Publish gets a message, after its PUBACK has gone out.
	Publish func(c *Client, topic string, body []byte)

	// FrameSize is how many bytes go into one frame to a client that came over a WebSocket; 0 sends each packet in one.
	FrameSize int

	mu      sync.Mutex
	closed  bool
	end     chan struct{} // closed by Close; made when it is wanted
	clients map[*Client]struct{}
	running sync.WaitGroup
}

// Client is one connected client.
type Client struct {
	ID, Username, Password string
	HasPassword            bool // an empty one is not the same as none
	KeepAlive              uint16
	CleanSession           bool
	ProtocolVersion        byte

	conn    net.Conn
	mu      sync.Mutex // one packet at a time
	packets uint16
}

// Serve accepts clients over TLS until the listener is closed.
func (s *Server) Serve(l net.Listener, config *tls.Config) {
	s.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.running.Go(func() { s.client(tls.Server(conn, config)) })
		}
	})
}

// ServeConn serves one client over a connection that carries MQTT packets as they are, until it ends.
func (s *Server) ServeConn(conn net.Conn) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		_ = conn.Close()
		return
	}
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()
	s.client(conn)
}

// Close ends all connections and waits for them. The listener is its owner's to close, before.
func (s *Server) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.endLocked())
	}
	for c := range s.clients {
		_ = c.conn.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// ending is closed by Close.
func (s *Server) ending() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endLocked()
}

func (s *Server) endLocked() chan struct{} {
	if s.end == nil {
		s.end = make(chan struct{})
	}
	return s.end
}

// Clients tells how many clients are connected.
func (s *Server) Clients() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.clients)
}

func (s *Server) client(conn net.Conn) {
	c := &Client{conn: conn}
	defer func() { _ = conn.Close() }()
	if !s.enter(c) {
		return
	}
	defer s.leave(c)

	first, err := packets.ReadPacket(conn)
	if err != nil {
		return
	}
	hello, ok := first.(*packets.ConnectPacket)
	if !ok {
		return
	}
	c.ID, c.Username, c.Password = hello.ClientIdentifier, hello.Username, string(hello.Password)
	c.HasPassword = hello.PasswordFlag
	c.KeepAlive, c.CleanSession, c.ProtocolVersion = hello.Keepalive, hello.CleanSession, hello.ProtocolVersion

	code := 0
	if s.Connect != nil {
		code = s.Connect(c)
	}
	if code < 0 {
		return
	}
	welcome := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
	welcome.ReturnCode = byte(code)
	if c.write(welcome) != nil || code != 0 {
		return
	}
	for {
		packet, err := packets.ReadPacket(conn)
		if err != nil || !s.handle(c, packet) {
			return
		}
	}
}

// handle tells whether the connection goes on.
func (s *Server) handle(c *Client, packet packets.ControlPacket) bool {
	switch p := packet.(type) {
	case *packets.SubscribePacket:
		granted := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
		granted.MessageID = p.MessageID
		for i, filter := range p.Topics {
			code := p.Qoss[i]
			if s.Subscribe != nil {
				code = s.Subscribe(c, filter)
			}
			granted.ReturnCodes = append(granted.ReturnCodes, code)
		}
		return c.write(granted) == nil
	case *packets.PublishPacket:
		if p.Qos > 0 {
			ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
			ack.MessageID = p.MessageID
			if c.write(ack) != nil {
				return false
			}
		}
		if s.Publish != nil {
			s.Publish(c, p.TopicName, p.Payload)
		}
	case *packets.PingreqPacket:
		return c.write(packets.NewControlPacket(packets.Pingresp)) == nil
	case *packets.DisconnectPacket:
		return false
	}
	return true
}

// Publish sends a message to the client at QoS 1.
func (c *Client) Publish(topic string, body []byte) {
	message := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	message.Qos, message.TopicName, message.Payload = 1, topic, body
	c.mu.Lock()
	c.packets++
	message.MessageID = c.packets
	c.mu.Unlock()
	_ = c.write(message) // a client that is gone is its own business
}

// Raw sends bytes as they are.
func (c *Client) Raw(data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.conn.Write(data)
}

// Conn is the connection: below it is what Serve or ServeConn was given.
func (c *Client) Conn() net.Conn { return c.conn }

// Drop breaks the connection.
func (c *Client) Drop() { _ = c.conn.Close() }

func (c *Client) write(packet packets.ControlPacket) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return packet.Write(c.conn)
}

func (s *Server) enter(c *Client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients == nil {
		s.clients = make(map[*Client]struct{})
	}
	if s.closed {
		return false
	}
	s.clients[c] = struct{}{}
	return true
}

func (s *Server) leave(c *Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients, c)
}
