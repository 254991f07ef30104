// SPDX-License-Identifier: Apache-2.0

// Package mqttserve is the server side of MQTT 3.1.1 connections: framing,
// limits, keep-alive and acknowledgements. It is no broker: a message goes to
// the session it came in on and nowhere else, nothing is retained or queued,
// and what topics mean is the session's business.
//
// A peer has five seconds to say who it is. Its packets are measured before
// they are read, its texts checked before they are used; whoever breaks the
// protocol is cut off.
package mqttserve

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	// connectTimeout is for TLS handshake and CONNECT together.
	connectTimeout = 5 * time.Second

	// idleLimit bounds the silence of a peer that asked for no keep-alive; it is
	// the longest that a hub allows (dps-protocol 18.1).
	idleLimit = 1767 * time.Second
)

// ReturnCode is what a CONNACK says.
type ReturnCode byte

// The return codes of MQTT 3.1.1 section 3.2.2.3.
const (
	Accepted      ReturnCode = packets.Accepted
	BadProtocol   ReturnCode = packets.ErrRefusedBadProtocolVersion
	BadClientID   ReturnCode = packets.ErrRefusedIDRejected
	Unavailable   ReturnCode = packets.ErrRefusedServerUnavailable
	BadUserName   ReturnCode = packets.ErrRefusedBadUsernameOrPassword
	NotAuthorized ReturnCode = packets.ErrRefusedNotAuthorised
)

// Refused is the granted QoS of a subscription that was refused.
const Refused byte = 0x80

// ErrRefuse makes the server close a connection as a protocol violation; a
// session wraps it to say what it saw.
var ErrRefuse = errors.New("refused by the service")

// Hello is what a peer says of itself in CONNECT.
type Hello struct {
	ClientID, UserName, Password string

	// Certificates are what the peer presented in the TLS handshake, leaf first.
	// It has the leaf's key; nothing else about them was checked.
	Certificates []*x509.Certificate
}

// Message is a PUBLISH from the peer.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte // 0 or 1
	Retain  bool
}

// Handler decides about connections.
type Handler interface {
	// Connect judges a CONNECT. With Accepted it returns the session that takes
	// over; with any other code the session is ignored and the connection closed
	// after the CONNACK. It may keep c to send through it, but must not before
	// the session's Start is called.
	Connect(c *Conn, hello Hello) (Session, ReturnCode)
}

// Session is the meaning of one connection. Its methods are called by one
// goroutine, one after another; a non-nil error closes the connection.
type Session interface {
	// Start is called when the CONNACK is on the wire.
	Start()

	// Publish is called after the message was acknowledged. While it runs no
	// further packet of this peer is read, which is what holds back a peer that
	// asks faster than it is answered. ctx ends with the server.
	Publish(ctx context.Context, m Message) error

	// Subscribe returns the granted QoS or Refused.
	Subscribe(filter string, qos byte) (granted byte, err error)

	Unsubscribe(filter string)

	// Closed is the last call, however the connection ended.
	Closed()
}

// Server serves connections of any number of listeners.
type Server struct {
	handler Handler
	logger  *slog.Logger

	mu     sync.Mutex // guards conns and closed
	conns  map[*Conn]struct{}
	closed bool

	sessions sync.WaitGroup // nothing is added once closed is set
}

// New returns a server that asks handler about each connection.
func New(handler Handler, logger *slog.Logger) *Server {
	return &Server{handler: handler, logger: logger, conns: make(map[*Conn]struct{})}
}

// Serve accepts connections until ctx ends, then closes listener and
// connections, those of ServeConn too, and returns when their sessions have
// ended. The error is nil
// then, and otherwise why accepting stopped.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	stop := context.AfterFunc(ctx, func() {
		_ = listener.Close()
		s.closeAll()
	})
	defer stop()

	defer s.sessions.Wait()
	defer s.closeAll()
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accepting MQTT connections: %w", err)
		}
		if c, ok := s.add(conn); ok {
			go s.serveConn(ctx, c, func() {})
		}
	}
}

// ServeConn serves a connection that came another way than through a listener,
// and closes it. Before that it calls goodbye, which may take its time: the
// connection is closed meanwhile when the server ends.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn, goodbye func()) {
	if c, ok := s.add(conn); ok {
		s.serveConn(ctx, c, goodbye)
	}
}

// closeAll closes every connection, and no further one is added.
func (s *Server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
}

// add makes a connection one of those that closeAll closes and Serve waits for.
// When the server has ended already, the connection is closed.
func (s *Server) add(conn net.Conn) (_ *Conn, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &Conn{net: conn, limit: maxPacket}
	if s.closed {
		c.Close()
		return nil, false
	}
	s.conns[c] = struct{}{}
	s.sessions.Add(1)
	return c, true
}

// remove forgets a connection that has ended.
func (s *Server) remove(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.sessions.Done()
}

// serveConn sees a connection that was added from its first byte to its end.
func (s *Server) serveConn(ctx context.Context, c *Conn, goodbye func()) {
	defer s.remove(c)
	defer c.Close()
	defer goodbye()

	reader := bufio.NewReader(c.net)
	session, keepAlive, err := s.welcome(c, reader)
	if err != nil {
		s.logger.Debug("MQTT connection refused", "remote", c.RemoteAddr().String(), "err", err)
		return
	}
	defer session.Closed()
	session.Start()
	if err := serveSession(ctx, c, reader, session, keepAlive); err != nil {
		s.logger.Debug("MQTT connection ended", "remote", c.RemoteAddr().String(), "err", err)
	}
}

// welcome reads CONNECT and answers it. Its error says why nothing follows.
func (s *Server) welcome(c *Conn, reader *bufio.Reader) (Session, time.Duration, error) {
	if err := c.net.SetReadDeadline(time.Now().Add(connectTimeout)); err != nil {
		return nil, 0, err
	}
	packet, err := readPacket(reader, maxConnectPacket)
	if err != nil {
		return nil, 0, err
	}
	connect, ok := packet.(*packets.ConnectPacket)
	if !ok {
		return nil, 0, fmt.Errorf("%w: the first packet is no CONNECT", errMalformed)
	}
	code := ReturnCode(connect.Validate())
	if connect.ProtocolName != "MQTT" && code == Accepted {
		code = BadProtocol // MQTT 3.1, which the services do not speak
	}
	if code == packets.ErrProtocolViolation {
		return nil, 0, fmt.Errorf("%w: CONNECT", errMalformed)
	}
	var session Session
	if code == Accepted {
		session, code = s.handler.Connect(c, Hello{
			ClientID: connect.ClientIdentifier,
			UserName: connect.Username,
			Password: string(connect.Password),

			Certificates: c.certificates(),
		})
	}
	connack := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
	connack.ReturnCode = byte(code) // and never a session present: C# fails on it
	err = c.send(connack)
	if code != Accepted {
		return nil, 0, fmt.Errorf("CONNECT refused with return code %d", code)
	}
	if err != nil {
		session.Closed()
		return nil, 0, err
	}
	return session, time.Duration(connect.Keepalive) * time.Second, nil
}

// serveSession reads packets until the peer says goodbye, falls silent, breaks
// a rule, or is cut off.
func serveSession(ctx context.Context, c *Conn, reader *bufio.Reader, session Session, keepAlive time.Duration) error {
	silence := keepAlive + keepAlive/2
	if silence == 0 || silence > idleLimit {
		silence = idleLimit
	}
	for {
		if err := c.net.SetReadDeadline(time.Now().Add(silence)); err != nil {
			return err
		}
		packet, err := readPacket(reader, c.limit)
		if err != nil {
			return err
		}
		if _, ok := packet.(*packets.DisconnectPacket); ok {
			return nil
		}
		if err := handle(ctx, c, session, packet); err != nil {
			return err
		}
	}
}

// handle deals with one packet of a session.
func handle(ctx context.Context, c *Conn, session Session, packet packets.ControlPacket) error {
	switch p := packet.(type) {
	case *packets.PublishPacket:
		return publish(ctx, c, session, p)
	case *packets.SubscribePacket:
		suback := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
		suback.MessageID = p.MessageID
		for i, filter := range p.Topics {
			granted, err := session.Subscribe(filter, min(p.Qoss[i], 1))
			if err != nil {
				return err
			}
			suback.ReturnCodes = append(suback.ReturnCodes, granted)
		}
		return c.send(suback)
	case *packets.UnsubscribePacket:
		for _, filter := range p.Topics {
			session.Unsubscribe(filter)
		}
		unsuback := packets.NewControlPacket(packets.Unsuback).(*packets.UnsubackPacket)
		unsuback.MessageID = p.MessageID
		return c.send(unsuback)
	case *packets.PingreqPacket:
		return c.send(packets.NewControlPacket(packets.Pingresp))
	case *packets.PubackPacket:
		return nil // nothing is sent again, so nothing waits for it
	default:
		return fmt.Errorf("%w: unexpected %T", errMalformed, packet)
	}
}

// publish acknowledges first and then lets the session answer: C# expects the
// PUBACK before the response (dps-protocol 6.5).
func publish(ctx context.Context, c *Conn, session Session, p *packets.PublishPacket) error {
	if p.Qos > 1 {
		return fmt.Errorf("%w: QoS 2 is not offered", ErrRefuse)
	}
	if p.Qos == 1 {
		puback := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
		puback.MessageID = p.MessageID
		if err := c.send(puback); err != nil {
			return err
		}
	}
	return session.Publish(ctx, Message{Topic: p.TopicName, Payload: p.Payload, QoS: p.Qos, Retain: p.Retain})
}
