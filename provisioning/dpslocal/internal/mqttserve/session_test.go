// SPDX-License-Identifier: Apache-2.0

package mqttserve

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// script is a connection whose peer sends what was written down before, listens,
// and leaves.
type script struct {
	io.Reader
	sent   bytes.Buffer // to the peer
	closed bool
}

func (s *script) Write(p []byte) (int, error)      { return s.sent.Write(p) }
func (s *script) Close() error                     { s.closed = true; return nil }
func (s *script) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// play serves a scripted connection to its end and returns what the session was
// called with and what the peer was sent.
func play(t *testing.T, peer io.Reader) (calls, sent string) {
	conn := &script{Reader: peer}
	r := new(recorder)
	var goodbyes int
	New(r, slog.New(slog.DiscardHandler)).ServeConn(t.Context(), conn, func() { goodbyes++ })
	if goodbyes != 1 || !conn.closed {
		t.Errorf("%d goodbyes, closed %t; want one and then the end", goodbyes, conn.closed)
	}
	return r.seen(), conn.sent.String()
}

// FuzzSession feeds a whole connection anything, at once and byte by byte: how a
// stream is cut makes no difference, every session that began ends, and what goes
// to the peer is well formed.
func FuzzSession(f *testing.F) {
	const register = "\x32\x10\x00\x05topic\x00\x07payload"
	for _, seed := range []string{
		"", connectDev, connectDev + register, connectDev + "\x82\x06\x00\x01\x00\x01a\x01" + register + "\xe0\x00",
		connectDev + "\x30\x04\x00\x02no" + register, connectDev + connectDev, register, connectDev + "\xc0\x00\xa2\x05\x00\x01\x00\x01a",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		calls, sent := play(t, bytes.NewReader(data))
		slowCalls, slowSent := play(t, iotest.OneByteReader(bytes.NewReader(data)))
		if calls != slowCalls || sent != slowSent {
			t.Errorf("at once: %q, %q\nbyte by byte: %q, %q", calls, sent, slowCalls, slowSent)
		}
		if strings.Contains(calls, " start") != strings.HasSuffix(calls, "closed") {
			t.Errorf("calls %q: what starts must end", calls)
		}
		for reader := strings.NewReader(sent); reader.Len() > 0; {
			if _, err := packets.ReadPacket(reader); err != nil {
				t.Fatalf("sent %q: %v", sent, err)
			}
		}
	})
}

// TestServeConnAfterTheEnd: a connection that comes too late is closed unserved.
func TestServeConnAfterTheEnd(t *testing.T) {
	r := new(recorder)
	s := New(r, slog.New(slog.DiscardHandler))
	s.closeAll()
	conn := &script{Reader: strings.NewReader(connectDev)}
	s.ServeConn(t.Context(), conn, func() { t.Error("a goodbye to a stranger") })
	if !conn.closed || r.seen() != "" {
		t.Errorf("closed %t, calls %q; want it closed and nothing asked", conn.closed, r.seen())
	}
}
