// SPDX-License-Identifier: Apache-2.0

package mqttrpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	paho "github.com/eclipse/paho.mqtt.golang"
)

const (
	connackTimeout = 30 * time.Second       // as long as Azure's clients wait for any answer
	writeTimeout   = 10 * time.Second       // a connection that takes no bytes for so long is dead
	quiesce        = 250 * time.Millisecond // for DISCONNECT to go out, and for the library to say why it stopped
	maxString      = 65535                  // MQTT's limit, which the library does not check
)

var (
	// ErrClosed is the error of a connection that its owner closed.
	ErrClosed = errors.New("the connection was closed")

	// ErrLost is wrapped by the error of a connection that broke.
	ErrLost = errors.New("the connection was lost")
)

// RefusedError is a CONNACK other than "accepted".
type RefusedError struct {
	Code byte // 1 protocol version, 2 client ID, 3 unavailable, 4 user name or password, 5 not authorized
}

// Error gives one line.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("the server refused the connection (CONNACK %d)", e.Code)
}

// Config says where and as whom to connect.
type Config struct {
	Address string      // host:port. Required
	TLS     *tls.Config // with ServerName. Required

	// WebSocket carries MQTT in the frames of a WebSocket, as the services do on port 443 (dps-protocol 7).
	WebSocket bool

	// DialContext makes the TCP connection; nil uses a [net.Dialer].
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	ClientID string
	Username string

	// Password returns the password of this connection. It is asked once, after the TLS handshake, so that an expiring
	// token is as fresh as can be. Nil sends none: the client shows a certificate in the handshake.
	Password func() (string, error)

	// KeepAlive is the time without traffic after which a ping is sent, in whole seconds.
	KeepAlive time.Duration

	// Filters are subscribed to before Connect returns, at QoS 1, one by one.
	Filters []string

	// Push, if set, gets every message that is not an answer. It runs on the reading path and must not block.
	Push func(topic string, params map[string]string, body []byte)
}

// Response is the answer to a call.
type Response struct {
	Status int               // as in HTTP
	Params map[string]string // of the topic, "$rid" included, percent escapes undone
	Body   []byte
}

// Conn is one MQTT connection. Its methods may be called from several goroutines.
type Conn struct {
	client paho.Client
	raw    net.Conn // below TLS: closing it frees whatever is stuck
	stream net.Conn // MQTT's bytes: TLS, or a WebSocket in it
	push   func(topic string, params map[string]string, body []byte)
	prefix string // of this connection's request IDs, so that an answer to an earlier connection fits no call

	mu      sync.Mutex // guards what follows
	calls   uint64
	pending map[string]chan Response // by request ID; each takes one answer without blocking

	end  sync.Once
	done chan struct{}
	err  error // set before done is closed
}

// Connect dials, performs the TLS, WebSocket and MQTT handshakes and subscribes, all within ctx. A CONNACK that refuses
// is a *[RefusedError], an HTTP answer that does not become a WebSocket an *[UpgradeError], an answer that is no MQTT
// [ErrNotMQTT]; a failed dial or handshake is returned as the network or TLS library gave it, wrapped.
func Connect(ctx context.Context, cfg Config) (*Conn, error) {
	for _, text := range append([]string{cfg.ClientID, cfg.Username}, cfg.Filters...) {
		if err := checkString(text); err != nil {
			return nil, err
		}
	}

	dial := cfg.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	raw, err := dial(ctx, "tcp", cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w", cfg.Address, err)
	}
	stream, err := cfg.open(ctx, raw)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	password := ""
	if cfg.Password != nil {
		if password, err = cfg.Password(); err != nil {
			_, _ = raw.Close(), stream.Close()
			return nil, fmt.Errorf("making the password: %w", err)
		}
	}

	c := &Conn{
		raw:     raw,
		stream:  stream,
		push:    cfg.Push,
		prefix:  fmt.Sprintf("%08x", rand.Uint32()),
		pending: make(map[string]chan Response),
		done:    make(chan struct{}),
	}
	c.client = paho.NewClient(c.options(cfg, &guard{Conn: stream, first: connackType}, password))
	if err := c.handshake(ctx, cfg.Filters); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// open makes the stream that MQTT is spoken on, over a connection that is made already. The caller closes raw if it
// fails.
func (cfg Config) open(ctx context.Context, raw net.Conn) (net.Conn, error) {
	secure := tls.Client(raw, cfg.TLS)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake with %s: %w", cfg.Address, err)
	}
	if !cfg.WebSocket {
		return secure, nil
	}
	socket, err := openWebSocket(ctx, raw, secure, authority(cfg.TLS.ServerName, cfg.Address))
	if err != nil {
		return nil, fmt.Errorf("opening a WebSocket at %s: %w", cfg.Address, err)
	}
	return socket, nil
}

// options turns everything off that the library would do by itself.
func (c *Conn) options(cfg Config, conn net.Conn, password string) *paho.ClientOptions {
	return paho.NewClientOptions().
		AddBroker("tls://" + cfg.Address). // only a label: the connection is made already
		SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) { return conn, nil }).
		SetProtocolVersion(4). // otherwise a refused connect is tried again as MQTT 3.1
		SetClientID(cfg.ClientID).
		SetUsername(cfg.Username).
		SetPassword(password).
		SetCleanSession(true).
		SetKeepAlive(cfg.KeepAlive).
		SetConnectTimeout(connackTimeout).
		SetWriteTimeout(writeTimeout).
		SetAutoReconnect(false).
		SetConnectRetry(false).
		SetOrderMatters(true).
		SetDefaultPublishHandler(func(_ paho.Client, message paho.Message) { c.receive(message) }).
		SetConnectionLostHandler(func(_ paho.Client, err error) { c.finish(fmt.Errorf("%w: %w", ErrLost, err)) })
}

// handshake sends CONNECT and the subscriptions. The library takes no context, so the end of ctx closes the
// connection below it, which makes every one of its waits return.
func (c *Conn) handshake(ctx context.Context, filters []string) error {
	release := context.AfterFunc(ctx, func() { _ = c.raw.Close() })
	defer release()

	token := c.client.Connect()
	<-token.Done()
	if err := token.Error(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("connecting: %w", ctx.Err())
		}
		if code := token.(*paho.ConnectToken).ReturnCode(); code >= 1 && code <= 5 {
			return &RefusedError{Code: code}
		}
		return fmt.Errorf("connecting: %w", err)
	}
	for _, filter := range filters {
		if err := c.subscribe(ctx, filter); err != nil {
			return fmt.Errorf("subscribing to %s: %w", filter, err)
		}
	}
	return ctx.Err() // when it ended just now, the connection is closed
}

func (c *Conn) subscribe(ctx context.Context, filter string) error {
	token := c.client.Subscribe(filter, 1, nil)
	select {
	case <-token.Done():
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := token.Error(); err != nil {
		return c.reason(err)
	}
	// A refusal is no error to the library.
	if code := token.(*paho.SubscribeToken).Result()[filter]; code >= 0x80 {
		return fmt.Errorf("the server refused it (SUBACK 0x%02x)", code)
	}
	return nil
}

// Call publishes body to path + "?$rid=…" (and "&" + params, if there are any) and waits for the answer with that
// request ID, for the end of ctx, or for the end of the connection, whichever is first. An answer that comes after
// ctx has ended is dropped. The error is ctx's, or wraps [ErrLost] or [ErrClosed]. When the connection takes no
// bytes, Call may need the 10 s of the write limit to notice that ctx has ended.
func (c *Conn) Call(ctx context.Context, path, params string, body []byte) (Response, error) {
	id, answer := c.expect()
	defer c.forget(id)

	topic := path + "?" + requestID + "=" + id
	if params != "" {
		topic += "&" + params
	}
	if err := checkString(topic); err != nil {
		return Response{}, err
	}

	if err := ctx.Err(); err != nil {
		return Response{}, err // and nothing was sent
	}
	published := c.client.Publish(topic, 1, false, body)
	acknowledged := published.Done()
	for {
		select {
		case response := <-answer:
			return response, nil
		case <-ctx.Done():
			return Response{}, ctx.Err()
		case <-c.done:
			return c.lastWord(answer)
		case <-acknowledged:
			if err := published.Error(); err != nil {
				return Response{}, c.reason(err)
			}
			acknowledged = nil // the answer may come before or after the PUBACK
		}
	}
}

// reason says why the library gave something up: because the connection ended, and then why that was. The library
// tells the two in this order and not at once.
func (c *Conn) reason(err error) error {
	timer := time.NewTimer(quiesce)
	defer timer.Stop()
	select {
	case <-c.done:
		return c.err
	case <-timer.C:
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
}

// lastWord prefers an answer that came just before the connection ended.
func (c *Conn) lastWord(answer <-chan Response) (Response, error) {
	select {
	case response := <-answer:
		return response, nil
	default:
		return Response{}, c.err
	}
}

// expect makes a request ID and a place for its answer.
func (c *Conn) expect() (id string, answer <-chan Response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	id = c.prefix + "-" + strconv.FormatUint(c.calls, 10)
	place := make(chan Response, 1)
	c.pending[id] = place
	return id, place
}

func (c *Conn) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

// receive hands a message to the call that waits for it. It runs on the reading path and never blocks.
func (c *Conn) receive(message paho.Message) {
	status, params := parseTopic(message.Topic())
	if status == 0 {
		if c.push != nil {
			c.push(message.Topic(), params, message.Payload())
		}
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	place, waiting := c.pending[params[requestID]]
	if !waiting {
		return // late, or not ours
	}
	delete(c.pending, params[requestID]) // a second answer finds nobody
	place <- Response{Status: status, Params: params, Body: message.Payload()}
}

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err returns why the connection ended: it wraps [ErrLost] or is [ErrClosed]. Before that it is nil.
func (c *Conn) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Close sends DISCONNECT, waits a quarter of a second at the most for it to go out, and closes the connection. It
// may be called more than once.
func (c *Conn) Close() {
	c.finish(ErrClosed)
	c.client.Disconnect(uint(quiesce / time.Millisecond))
	// Below TLS first, because a polite end of TLS may wait for a peer that has stopped reading.
	_, _ = c.raw.Close(), c.stream.Close()
}

func (c *Conn) finish(err error) {
	c.end.Do(func() {
		c.err = err
		close(c.done)
	})
}

// checkString holds back what the library would send in a mangled form.
func checkString(text string) error {
	if len(text) > maxString || !utf8.ValidString(text) {
		return errors.New("a text for the wire is not UTF-8 of at most 65535 bytes")
	}
	return nil
}
