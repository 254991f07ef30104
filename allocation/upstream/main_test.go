// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a listener whose connections are pipes, so that time can be simulated.
type memory struct {
	connections chan net.Conn
	closed      chan struct{}
	once        sync.Once
}

func listenInMemory() *memory {
	return &memory{connections: make(chan net.Conn), closed: make(chan struct{})}
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.connections:
		return c, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

func (m *memory) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7071} }

func (m *memory) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case m.connections <- theirs:
		return ours, nil
	case <-m.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// functionURL is where the functions of tests are; they are reached in memory.
const functionURL = "http://127.0.0.1:7071/api/HttpTrigger1"

// askInMemory makes a client of a function that lives as long as the test's bubble.
func askInMemory(t *testing.T, cfg Config, function http.Handler) *Client {
	t.Helper()
	listener := listenInMemory()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A server notices that its client has gone only behind the body.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		function.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(listener) }()
	cfg.URL, cfg.Proxy = functionURL, noProxy
	if cfg.DialContext == nil {
		cfg.DialContext = listener.dial
	}
	client, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		server.Close()
		// Requests whose caller was let go end a little later.
		time.Sleep(time.Hour)
	})
	return client
}

func noProxy(*http.Request) (*url.URL, error) { return nil, nil }

func parseKey(t testing.TB, text string) Key {
	t.Helper()
	key, err := ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
