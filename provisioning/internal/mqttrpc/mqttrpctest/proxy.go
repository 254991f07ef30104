// SPDX-License-Identifier: Apache-2.0

package mqttrpctest

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
)

// Proxy is an HTTP proxy on a [Network] that knows CONNECT and nothing else. Set its fields before Serve.
type Proxy struct {
	Network *Network // where it connects to

	// Credentials, if not "", is the only Proxy-Authorization that it accepts.
	Credentials string

	// Answer, if set, is asked first; what it returns is said, as it is, and nothing is connected. "" goes on.
	Answer func(target string) string

	mu      sync.Mutex
	closed  bool
	conns   map[net.Conn]struct{}
	targets []string
	running sync.WaitGroup
}

// Serve accepts clients until the listener is closed.
func (p *Proxy) Serve(l net.Listener) {
	p.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() {
				if p.enter(conn) {
					p.serve(conn)
				}
				_ = conn.Close()
			})
		}
	})
}

// Close ends all connections and waits for them. The listener is its owner's to close, before.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	for conn := range p.conns {
		_ = conn.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
}

// Targets are what clients asked to be connected to, in order.
func (p *Proxy) Targets() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.targets...)
}

func (p *Proxy) enter(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		p.conns = make(map[net.Conn]struct{})
	}
	p.conns[conn] = struct{}{}
	return !p.closed
}

func (p *Proxy) serve(conn net.Conn) {
	request, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	say := func(text string) { _, _ = io.WriteString(conn, text) }
	if request.Method != http.MethodConnect {
		say("HTTP/1.1 405 Method Not Allowed\r\n\r\n")
		return
	}
	p.mu.Lock()
	p.targets = append(p.targets, request.Host)
	p.mu.Unlock()
	if p.Answer != nil {
		if answer := p.Answer(request.Host); answer != "" {
			say(answer)
			_, _ = io.Copy(io.Discard, conn) // the client hangs up
			return
		}
	}
	if p.Credentials != "" && request.Header.Get("Proxy-Authorization") != p.Credentials {
		say("HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"site\"\r\n\r\n")
		return
	}
	there, err := p.Network.DialContext(context.Background(), "tcp", request.Host)
	if err != nil {
		say("HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return
	}
	if !p.enter(there) {
		return
	}
	say("HTTP/1.1 200 Connection established\r\n\r\n")
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(conn, there)
		_ = conn.Close()
	})
	_, _ = io.Copy(there, conn)
	_ = there.Close()
	back.Wait()
}
