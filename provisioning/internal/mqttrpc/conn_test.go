// SPDX-License-Identifier: Apache-2.0

package mqttrpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"go.uber.org/goleak"

	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc/mqttrpctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const address = "service.test:8883"

// bench is a server on a network in memory, and a configuration to reach it.
type bench struct {
	network *mqttrpctest.Network
	server  *mqttrpctest.Server
	cfg     Config
}

// way is what MQTT is carried in.
type way struct {
	name      string
	webSocket bool
	frameSize int // of the server's answers, in bytes; 0 = a packet each
}

// overEach runs a test over every way, each in a bubble of its own.
func overEach(t *testing.T, test func(t *testing.T, over way)) {
	t.Helper()
	for _, over := range []way{{"tls", false, 0}, {"websocket", true, 0}, {"websocket byte by byte", true, 1}} {
		t.Run(over.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, over) })
		})
	}
}

// newBench makes one; it must be called within the synctest bubble that uses it.
func newBench(t *testing.T, over way, server *mqttrpctest.Server) *bench {
	t.Helper()
	authority := mqttrpctest.NewAuthority(t)
	b := &bench{network: mqttrpctest.NewNetwork(), server: server}
	b.cfg = Config{
		Address:     address,
		TLS:         &tls.Config{ServerName: "service.test", RootCAs: authority.Pool},
		DialContext: b.network.DialContext,
		WebSocket:   over.webSocket,
		ClientID:    "toaster-1",
		Username:    "user",
		Password:    func() (string, error) { return "pass", nil },
		KeepAlive:   240 * time.Second,
		Filters:     []string{"$dps/registrations/res/#"},
	}
	listener := b.network.Listen(address)
	if server.FrameSize = over.frameSize; over.webSocket {
		server.ServeWebSocket(listener, authority.Server(t, "service.test"))
	} else {
		server.Serve(listener, authority.Server(t, "service.test"))
	}
	t.Cleanup(func() {
		_ = listener.Close()
		server.Close()
	})
	return b
}

// connect opens a connection that the test's end closes.
func (b *bench) connect(t *testing.T) *Conn {
	t.Helper()
	conn, err := Connect(t.Context(), b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// rid cuts the request ID out of a topic.
func rid(topic string) string {
	_, params := parseTopic(topic)
	return params[requestID]
}

func TestConnectSendsWhatItWasTold(t *testing.T) {
	overEach(t, func(t *testing.T, over way) {
		var hello mqttrpctest.Client
		var filters []string
		b := newBench(t, over, &mqttrpctest.Server{
			Connect: func(c *mqttrpctest.Client) int {
				hello.ID, hello.Username, hello.Password = c.ID, c.Username, c.Password
				hello.KeepAlive, hello.CleanSession, hello.ProtocolVersion = c.KeepAlive, c.CleanSession, c.ProtocolVersion
				return 0
			},
			Subscribe: func(_ *mqttrpctest.Client, filter string) byte {
				filters = append(filters, filter)
				return 1
			},
		})
		b.cfg.Filters = []string{"a/#", "b/#"}
		asked := 0
		b.cfg.Password = func() (string, error) {
			asked++
			return fmt.Sprintf("token %d", asked), nil
		}
		conn := b.connect(t)
		conn.Close()
		b.connect(t)

		got := fmt.Sprintf("%s %s %q %d %t %d %v", hello.ID, hello.Username, hello.Password, hello.KeepAlive, hello.CleanSession, hello.ProtocolVersion, filters)
		want := `toaster-1 user "token 2" 240 true 4 [a/# b/# a/# b/#]`
		if got != want {
			t.Errorf("the server saw\n got: %s\nwant: %s", got, want)
		}
	})
}

func TestCall(t *testing.T) {
	tests := []struct {
		name   string
		answer string // topic, with RID for the request's
		status int
		params string
	}{
		{"provisioning service", "$dps/registrations/res/202/?$rid=RID&retry-after=3", 202, "3"},
		{"hub", "$iothub/twin/res/200/?$rid=RID", 200, ""},
		{"request ID last", "$dps/registrations/res/429/?retry-after=10&$rid=RID", 429, "10"},
		{"escaped parameter", "$dps/registrations/res/429/?$rid=RID&retry-after=Sat%2C%2001%20Jan%202000%2000%3A00%3A10%20GMT", 429, "Sat, 01 Jan 2000 00:00:10 GMT"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			overEach(t, func(t *testing.T, over way) {
				var topic, body string
				b := newBench(t, over, &mqttrpctest.Server{Publish: func(c *mqttrpctest.Client, to string, text []byte) {
					topic, body = to, string(text)
					c.Publish(strings.ReplaceAll(test.answer, "RID", rid(to)), []byte("answer"))
				}})
				conn := b.connect(t)

				got, err := conn.Call(t.Context(), "$dps/path/", "operationId=7", []byte("question"))
				if err != nil {
					t.Fatal(err)
				}
				if got.Status != test.status || got.Params["retry-after"] != test.params || string(got.Body) != "answer" {
					t.Errorf("got %d %v %q, want %d, retry-after %q, answer", got.Status, got.Params, got.Body, test.status, test.params)
				}
				if want := "$dps/path/?$rid=" + rid(topic) + "&operationId=7"; topic != want || body != "question" {
					t.Errorf("the server got %s %q, want %s question", topic, body, want)
				}
			})
		})
	}
}

func TestCallIgnoresLateUnknownAndRepeatedAnswers(t *testing.T) {
	overEach(t, func(t *testing.T, over way) {
		var late []string
		b := newBench(t, over, &mqttrpctest.Server{Publish: func(c *mqttrpctest.Client, topic string, body []byte) {
			if string(body) == "slow" {
				late = append(late, rid(topic))
				return
			}
			for _, id := range late {
				c.Publish("x/res/200/?$rid="+id, []byte("late"))
			}
			c.Publish("x/res/200/?$rid=nobody", []byte("unknown"))
			c.Publish("x/res/200/", []byte("without a request ID"))
			c.Publish("x/res/200/?$rid="+rid(topic), []byte("right"))
			c.Publish("x/res/200/?$rid="+rid(topic), []byte("again"))
		}})
		conn := b.connect(t)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := conn.Call(ctx, "slow/", "", []byte("slow")); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a call without an answer: %v, want its deadline", err)
		}
		if waiting := len(conn.pending); waiting != 0 {
			t.Errorf("%d calls are waited for after the only one gave up", waiting)
		}
		for range 3 {
			got, err := conn.Call(t.Context(), "quick/", "", []byte("quick"))
			if err != nil || string(got.Body) != "right" {
				t.Fatalf("got %q, %v, want the answer to this very call", got.Body, err)
			}
		}
		if waiting := len(conn.pending); waiting != 0 {
			t.Errorf("%d calls are still waited for, want none", waiting)
		}
	})
}

// TestASecondAnswerDoesNotBlockTheReader has both come before their call looks at the first.
func TestASecondAnswerDoesNotBlockTheReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &Conn{prefix: "p", pending: make(map[string]chan Response)}
		id, answer := conn.expect()
		conn.receive(message{topic: "x/res/200/?$rid=" + id, body: "first"})
		conn.receive(message{topic: "x/res/200/?$rid=" + id, body: "second"})
		if got := <-answer; string(got.Body) != "first" {
			t.Errorf("got %q, want the first", got.Body)
		}
	})
}

// message is a received one.
type message struct {
	paho.Message
	topic, body string
}

func (m message) Topic() string   { return m.topic }
func (m message) Payload() []byte { return []byte(m.body) }

func TestCallsAtOnceGetTheirOwnAnswers(t *testing.T) {
	overEach(t, func(t *testing.T, over way) {
		b := newBench(t, over, &mqttrpctest.Server{Publish: func(c *mqttrpctest.Client, topic string, body []byte) {
			c.Publish("x/res/200/?$rid="+rid(topic), body)
		}})
		conn := b.connect(t)
		var group sync.WaitGroup
		for i := range 50 {
			group.Go(func() {
				question := fmt.Sprint(i)
				got, err := conn.Call(t.Context(), "echo/", "", []byte(question))
				if err != nil || string(got.Body) != question {
					t.Errorf("call %s got %q, %v", question, got.Body, err)
				}
			})
		}
		group.Wait()
	})
}

func TestPushedMessagesAreNoAnswers(t *testing.T) {
	overEach(t, func(t *testing.T, over way) {
		b := newBench(t, over, &mqttrpctest.Server{Publish: func(c *mqttrpctest.Client, topic string, _ []byte) {
			c.Publish("$iothub/twin/PATCH/properties/desired/?$version=2", []byte("pushed"))
			c.Publish("$iothub/twin/res/200/?$rid="+rid(topic), []byte("answer"))
		}})
		var pushed []string
		b.cfg.Push = func(topic string, params map[string]string, body []byte) {
			pushed = append(pushed, fmt.Sprint(topic, " ", params["$version"], " ", string(body)))
		}
		conn := b.connect(t)
		got, err := conn.Call(t.Context(), "$iothub/twin/GET/", "", nil)
		if err != nil || string(got.Body) != "answer" {
			t.Fatalf("got %q, %v", got.Body, err)
		}
		if want := "[$iothub/twin/PATCH/properties/desired/?$version=2 2 pushed]"; fmt.Sprint(pushed) != want {
			t.Errorf("pushed %v, want %s", pushed, want)
		}
	})
}

func TestConnectRefused(t *testing.T) {
	for code := 1; code <= 5; code++ {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			overEach(t, func(t *testing.T, over way) {
				b := newBench(t, over, &mqttrpctest.Server{Connect: func(*mqttrpctest.Client) int { return code }})
				_, err := Connect(t.Context(), b.cfg)
				var refused *RefusedError
				if !errors.As(err, &refused) || int(refused.Code) != code {
					t.Errorf("got %v, want a RefusedError with code %d", err, code)
				}
				if dials := b.network.Dials(address); dials != 1 {
					t.Errorf("%d connections for one refusal, want 1", dials)
				}
			})
		})
	}
}

func TestConnectFailures(t *testing.T) {
	tests := []struct {
		name   string
		server *mqttrpctest.Server
		change func(*bench)
		want   string
	}{
		{
			name:   "no CONNACK but the end",
			server: &mqttrpctest.Server{Connect: func(*mqttrpctest.Client) int { return -1 }},
			want:   "connecting: ",
		},
		{
			name: "HTTP in place of the CONNACK",
			server: &mqttrpctest.Server{Connect: func(c *mqttrpctest.Client) int {
				c.Raw([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
				return -1
			}},
			want: ErrNotMQTT.Error(),
		},
		{
			name:   "code that does not exist",
			server: &mqttrpctest.Server{Connect: func(*mqttrpctest.Client) int { return 77 }},
			want:   "subscribing to $dps/registrations/res/#: ",
		},
		{
			name:   "subscription refused",
			server: &mqttrpctest.Server{Subscribe: func(*mqttrpctest.Client, string) byte { return 0x80 }},
			want:   "subscribing to $dps/registrations/res/#: the server refused it (SUBACK 0x80)",
		},
		{
			name:   "SUBACK with more codes than filters",
			server: &mqttrpctest.Server{Subscribe: nil},
			change: func(b *bench) {
				b.server.Subscribe = func(c *mqttrpctest.Client, _ string) byte {
					c.Raw([]byte{0x90, 4, 0, 1, 1, 1})
					return 1
				}
			},
			want: "the server sent a malformed MQTT packet",
		},
		{
			name:   "no password",
			server: &mqttrpctest.Server{},
			change: func(b *bench) { b.cfg.Password = func() (string, error) { return "", errors.New("no key") } },
			want:   "making the password: no key",
		},
		{
			name:   "nobody listens",
			server: &mqttrpctest.Server{},
			change: func(b *bench) { b.cfg.Address = "elsewhere.test:8883" },
			want:   "dialling elsewhere.test:8883: dial tcp elsewhere.test:8883: connect: connection refused",
		},
		{
			name:   "another name on the certificate",
			server: &mqttrpctest.Server{},
			change: func(b *bench) { b.cfg.TLS.ServerName = "other.test" },
			want:   "TLS handshake with service.test:8883: tls: failed to verify certificate: x509: certificate is valid for service.test, not other.test",
		},
		{
			name:   "text that is not UTF-8",
			server: &mqttrpctest.Server{},
			change: func(b *bench) { b.cfg.ClientID = "\xff" },
			want:   "a text for the wire is not UTF-8",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			overEach(t, func(t *testing.T, over way) {
				b := newBench(t, over, &mqttrpctest.Server{Connect: test.server.Connect, Subscribe: test.server.Subscribe})
				if test.change != nil {
					test.change(b)
				}
				open := make(map[net.Conn]bool)
				b.cfg.DialContext = track(b.cfg.DialContext, open)
				conn, err := Connect(t.Context(), b.cfg)
				if err == nil {
					conn.Close()
				}
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got  %v\nwant %s", err, test.want)
				}
				synctest.Wait()
				if len(open) != 0 {
					t.Errorf("%d connections are left open", len(open))
				}
			})
		})
	}
}

// track keeps the connections in open that were made and not closed. It is for one goroutine at a time.
func track(dial func(context.Context, string, string) (net.Conn, error), open map[net.Conn]bool) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		open[conn] = true
		return &tracked{Conn: conn, closed: sync.OnceFunc(func() { delete(open, conn) })}, nil
	}
}

type tracked struct {
	net.Conn
	closed func()
}

func (c *tracked) Close() error {
	c.closed()
	return c.Conn.Close()
}

// TestConnectEndsWithItsContext cancels at every point of the handshakes. The bubble fails if anything is left over.
func TestConnectEndsWithItsContext(t *testing.T) {
	tests := []struct {
		name  string
		setUp func(b *bench, release <-chan struct{})
	}{
		{"during the dial", func(b *bench, _ <-chan struct{}) {
			b.cfg.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}},
		{"during the TLS handshake", func(b *bench, _ <-chan struct{}) {
			b.cfg.DialContext = func(context.Context, string, string) (net.Conn, error) {
				end, _ := net.Pipe()
				return end, nil
			}
		}},
		{"before the CONNACK", func(b *bench, release <-chan struct{}) {
			b.server.Connect = func(*mqttrpctest.Client) int { <-release; return -1 }
		}},
		{"before the SUBACK", func(b *bench, release <-chan struct{}) {
			b.server.Subscribe = func(*mqttrpctest.Client, string) byte { <-release; return 1 }
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			overEach(t, func(t *testing.T, over way) {
				release := make(chan struct{})
				b := newBench(t, over, &mqttrpctest.Server{})
				test.setUp(b, release)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()

				begun := time.Now()
				conn, err := Connect(ctx, b.cfg)
				if err == nil {
					conn.Close()
				}
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v, want the context's error", err)
				}
				if took := time.Since(begun); took > time.Second+quiesce {
					t.Errorf("it took %v to notice the end of the context", took)
				}
				close(release)
			})
		})
	}
}

func TestTheServerNeverAnswersConnect(t *testing.T) {
	overEach(t, func(t *testing.T, over way) {
		release := make(chan struct{})
		b := newBench(t, over, &mqttrpctest.Server{Connect: func(*mqttrpctest.Client) int { <-release; return -1 }})
		defer close(release)
		begun := time.Now()
		_, err := Connect(t.Context(), b.cfg)
		if took := time.Since(begun); err == nil || took < connackTimeout || took > connackTimeout+time.Second {
			t.Errorf("ended after %v with %v, want an error after %v", took, err, connackTimeout)
		}
	})
}

func TestALostConnectionEndsItsCalls(t *testing.T) {
	overEach(t, func(t *testing.T, over way) {
		b := newBench(t, over, &mqttrpctest.Server{Publish: func(c *mqttrpctest.Client, _ string, _ []byte) { c.Drop() }})
		conn := b.connect(t)
		if err := conn.Err(); err != nil {
			t.Errorf("while it lives, Err is %v", err)
		}
		if _, err := conn.Call(t.Context(), "x/", "", nil); !errors.Is(err, ErrLost) {
			t.Errorf("the call ended with %v, want ErrLost", err)
		}
		<-conn.Done()
		if err := conn.Err(); !errors.Is(err, ErrLost) {
			t.Errorf("Err is %v, want ErrLost", err)
		}
		if _, err := conn.Call(t.Context(), "x/", "", nil); !errors.Is(err, ErrLost) {
			t.Errorf("a call afterwards ended with %v, want ErrLost", err)
		}
	})
}

func TestCloseEndsCalls(t *testing.T) {
	overEach(t, func(t *testing.T, over way) {
		b := newBench(t, over, &mqttrpctest.Server{})
		conn := b.connect(t)
		time.AfterFunc(time.Second, conn.Close)
		if _, err := conn.Call(t.Context(), "x/", "", nil); !errors.Is(err, ErrClosed) {
			t.Errorf("the call ended with %v, want ErrClosed", err)
		}
		if err := conn.Err(); !errors.Is(err, ErrClosed) {
			t.Errorf("Err is %v, want ErrClosed", err)
		}
		conn.Close() // twice does no harm
		synctest.Wait()
		if left := b.server.Clients(); left != 0 {
			t.Errorf("the server still has %d clients", left)
		}
	})
}

// TestACallThatEndedIsNotSent: a register that nobody waits for any more must not begin a registration.
func TestACallThatEndedIsNotSent(t *testing.T) {
	overEach(t, func(t *testing.T, over way) {
		sent := 0
		b := newBench(t, over, &mqttrpctest.Server{Publish: func(*mqttrpctest.Client, string, []byte) { sent++ }})
		conn := b.connect(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := conn.Call(ctx, "x/", "", nil); !errors.Is(err, context.Canceled) {
			t.Errorf("the call ended with %v, want Canceled", err)
		}
		synctest.Wait()
		if sent != 0 {
			t.Errorf("%d messages were sent", sent)
		}
	})
}

func TestASilentServerIsNoticed(t *testing.T) {
	overEach(t, func(t *testing.T, over way) {
		release := make(chan struct{})
		b := newBench(t, over, &mqttrpctest.Server{Publish: func(*mqttrpctest.Client, string, []byte) { <-release }})
		defer close(release)
		b.cfg.KeepAlive = 30 * time.Second
		conn := b.connect(t)
		begun := time.Now()
		_, err := conn.Call(t.Context(), "x/", "", nil)
		if took := time.Since(begun); !errors.Is(err, ErrLost) || took > time.Minute {
			t.Errorf("ended after %v with %v, want ErrLost within a minute", took, err)
		}
	})
}

func TestAPacketTooLongEndsTheConnection(t *testing.T) {
	overEach(t, func(t *testing.T, over way) {
		b := newBench(t, over, &mqttrpctest.Server{Publish: func(c *mqttrpctest.Client, _ string, _ []byte) {
			c.Raw([]byte{0x30, 0xff, 0xff, 0xff, 0x7f}) // a PUBLISH of 256 MiB
		}})
		conn := b.connect(t)
		_, err := conn.Call(t.Context(), "x/", "", nil)
		if !errors.Is(err, ErrLost) || !errors.Is(err, errPacketTooLong) {
			t.Errorf("got %v, want a lost connection because of the packet's length", err)
		}
	})
}

// TestCloseWhileTheOtherEndTakesNoBytes has a peer that stops reading: a write blocks, and closing must not.
func TestCloseWhileTheOtherEndTakesNoBytes(t *testing.T) {
	overEach(t, func(t *testing.T, over way) {
		b := newBench(t, over, &mqttrpctest.Server{})
		b.cfg.DialContext = stallAfter(b.network.DialContext, time.Minute)
		conn := b.connect(t)
		time.Sleep(2 * time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		var calls sync.WaitGroup
		for range 3 { // the first gets stuck in the write, the others behind it
			calls.Go(func() {
				if _, err := conn.Call(ctx, "x/", "", nil); err == nil {
					t.Error("a call over a dead connection was answered")
				}
			})
		}
		calls.Wait()
		conn.Close()
		if took := time.Since(begun); took > writeTimeout+time.Second {
			t.Errorf("the call and the close took %v, want at most the write limit", took)
		}
	})
}

// stallAfter makes connections whose writes block from some time on, until they are closed.
func stallAfter(dial func(context.Context, string, string) (net.Conn, error), healthy time.Duration) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &stalling{Conn: conn, from: time.Now().Add(healthy), closed: make(chan struct{})}, nil
	}
}

type stalling struct {
	net.Conn
	from   time.Time
	once   sync.Once
	closed chan struct{}
}

func (s *stalling) Write(p []byte) (int, error) {
	if time.Now().Before(s.from) {
		return s.Conn.Write(p)
	}
	<-s.closed
	return 0, net.ErrClosed
}

func (s *stalling) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.Conn.Close()
}
