// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/contoso/gatewayd/gateway/config"
)

// fakeListener hands out one end of a pipe for each dial.
type fakeListener struct{ dialled chan net.Conn }

func (l *fakeListener) Accept() (net.Conn, error) {
	conn, open := <-l.dialled
	if !open {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (l *fakeListener) Close() error   { return nil }
func (l *fakeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4zero} }

// fakeConn is a connection that comes from an address.
type fakeConn struct {
	net.Conn
	from string
}

func (c fakeConn) RemoteAddr() net.Addr {
	host, _, _ := net.SplitHostPort(c.from)
	return &net.TCPAddr{IP: net.ParseIP(host), Port: 1}
}

// TestConnections fills the room for connections and looks who has to go.
func TestConnections(t *testing.T) {
	const here, elsewhere, nearby = "127.0.0.1:1", "203.0.113.7:1", "203.0.113.8:1"
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/wait" {
				<-release
			}
			_, _ = io.WriteString(w, "ok")
		})
		listener := &fakeListener{dialled: make(chan net.Conn)}
		c := newConnections(4, slog.New(slog.DiscardHandler))
		server := &http.Server{Handler: handler, ConnState: c.changed, ReadHeaderTimeout: time.Minute}
		go server.Serve(c.listen(listener)) //nolint:errcheck // it ends with the listener
		dial := func(from string) net.Conn {
			ours, theirs := net.Pipe()
			listener.dialled <- fakeConn{theirs, from}
			synctest.Wait()
			return ours
		}
		ask := func(conn net.Conn, path string) {
			t.Helper()
			if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Errorf("asking: %v", err)
			}
			synctest.Wait()
		}
		answered := func(conn net.Conn) bool {
			buffer := make([]byte, 4096)
			n, err := conn.Read(buffer)
			synctest.Wait()
			return err == nil && strings.Contains(string(buffer[:n]), "200 OK")
		}
		closed := func(conn net.Conn) bool {
			if err := conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
				return true
			}
			_, err := conn.Read(make([]byte, 1))
			return err == io.EOF || err == io.ErrClosedPipe
		}

		busy := dial(here)
		ask(busy, "/wait")
		idle := dial(elsewhere)
		ask(idle, "/")
		if !answered(idle) {
			t.Error("no answer")
		}
		silent, halfway := dial(elsewhere), dial(nearby)
		if _, err := io.WriteString(halfway, "GET / HTTP/1.1\r\nHo"); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		for i, next := range []struct {
			goes net.Conn
			name string
		}{{idle, "idle for longest"}, {silent, "silent"}, {halfway, "half way in its headers"}} {
			conn := dial(here)
			ask(conn, "/wait")
			if !closed(next.goes) {
				t.Errorf("connection %d: the one that is %s is still open", i+5, next.name)
			}
		}
		if late := dial(here); !closed(late) {
			t.Error("a connection was let in although all others are busy")
		}
		close(release)
		if !answered(busy) {
			t.Error("a busy connection was closed")
		}
		late := dial(nearby)
		ask(late, "/")
		if !answered(late) {
			t.Error("no answer after there was room again")
		}
		close(listener.dialled)
		server.Close()
		synctest.Wait()
		if c.open != 0 || len(c.byCaller) != 0 || c.waiting.Len() != 0 {
			t.Errorf("after all have left: %d open, %d callers, %d waiting", c.open, len(c.byCaller), c.waiting.Len())
		}
	})
}

// TestConnectionsOfOneCaller: one that takes too many closes its own ones.
func TestConnectionsOfOneCaller(t *testing.T) {
	c := newConnections(0, slog.New(slog.DiscardHandler))
	admit := func(from string) *connection {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close() })
		return c.admit(fakeConn{theirs, from})
	}
	other := admit("203.0.113.8:1")
	var own []*connection
	for range connectionsPerCaller + 5 {
		own = append(own, admit("203.0.113.7:1"))
	}
	for i, conn := range own {
		if want := i < 5; conn.left != want {
			t.Errorf("connection %d: closed %v, want %v", i, conn.left, want)
		}
	}
	for _, conn := range own {
		c.changed(conn, http.StateActive)
	}
	if admit("203.0.113.7:1") != nil {
		t.Error("one more was let in although all are busy")
	}
	if other.left {
		t.Error("another caller's connection was closed")
	}
	for range 2 * connectionsPerCaller {
		if conn := admit("127.0.0.1:1"); conn == nil || conn.left {
			t.Fatal("a connection from this machine was turned away")
		}
	}
}

// TestWebhookStopsWithRequestsUnderWay: what is under way when the gateway stops
// gets its answer, and what comes meanwhile is told to come again.
func TestWebhookStopsWithRequestsUnderWay(t *testing.T) {
	w, err := newWebhook(config.Allocation{Listen: "127.0.0.1:0"}, nil, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	stop := serveWebhook(t, w)
	slow, err := net.Dial("tcp", w.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	const head = "POST /api/f HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
	if _, err := io.WriteString(slow, head); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 4096)
	if n, err := slow.Read(buffer); err != nil || !strings.Contains(string(buffer[:n]), "100 Continue") {
		t.Fatalf("got %q, %v; want to be asked for the body", buffer[:n], err)
	}
	// From here on the request is under way.
	var stopping sync.WaitGroup
	stopping.Go(stop)
	url := "http://" + w.listener.Addr().String() + "/api/f"
	for {
		response, err := http.Post(url, "application/json", strings.NewReader(kettle))
		if err != nil {
			t.Fatalf("while one is under way: %v", err)
		}
		response.Body.Close()
		if response.StatusCode == http.StatusServiceUnavailable {
			if response.Header.Get("Retry-After") == "" || !response.Close {
				t.Errorf("got Retry-After %q, close %v", response.Header.Get("Retry-After"), response.Close)
			}
			break
		}
		if response.StatusCode != http.StatusBadRequest {
			t.Fatalf("got %s", response.Status)
		}
	}
	if _, err := io.WriteString(slow, "{}"); err != nil {
		t.Fatal(err)
	}
	if n, err := slow.Read(buffer); err != nil || !strings.HasPrefix(string(buffer[:n]), "HTTP/1.1 400 ") {
		t.Errorf("the request under way got %q, %v; want its answer", buffer[:n], err)
	}
	stopping.Wait()
}
