// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// hostileLimit is what all that clients can do from one address may cost the
// server in memory. Their own ends are in the same process and counted too.
const hostileLimit = 160 << 20

// memory is what the process holds in heap and stacks.
func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// hostileDialer connects from an address of loopback that is not the good
// client's, so that the caps of one address do not meet the other.
func hostileDialer() *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
}

// TestHostileClients attacks a server in four ways, and each time a good device
// registers in the middle of it.
func TestHostileClients(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has more than one loopback address from the start")
	}
	cfg := testConfig()
	cfg.RetryAfter = 0
	store, err := OpenMemoryStore()
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, cfg, Options{Store: store, WebhookTransport: always(200, goodAnswer)})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CAPEM())
	hostile := func(t *testing.T, address string) *tls.Conn {
		t.Helper()
		for {
			begun := time.Now()
			conn, err := tls.DialWithDialer(hostileDialer(), "tcp", address, &tls.Config{RootCAs: roots, ServerName: globalEndpoint})
			if err != nil && stalled(begun) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			_ = conn.SetDeadline(time.Now().Add(stuck))
			return conn
		}
	}
	undisturbed := func(t *testing.T, before int64) {
		t.Helper()
		begun := time.Now()
		registerOverHTTPS(t, s, "good-"+strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")))
		took, used := time.Since(begun), memory()-before
		if used > hostileLimit {
			t.Errorf("%d MiB in use, want less than %d", used>>20, hostileLimit>>20)
		}
		t.Logf("a good device registered in %s; %.1f MiB more in use", took.Round(time.Millisecond), float64(used)/(1<<20))
	}

	t.Run("256 MiB header", func(t *testing.T) {
		before := memory()
		conn := hostile(t, s.HTTPSAddr())
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nX-Long: ")
		sent, chunk := 0, bytes.Repeat([]byte{'x'}, 64<<10)
		for err == nil && sent < 256<<20 {
			var n int
			n, err = conn.Write(chunk)
			sent += n
		}
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d bytes of header were taken, %v; want the connection closed", sent, err)
		}
		undisturbed(t, before)
		t.Logf("%d KiB were sent before it was cut off", sent>>10)
	})

	t.Run("256 MiB packet", func(t *testing.T) {
		before := memory()
		conn := hostile(t, s.MQTTAddr())
		if _, err := conn.Write([]byte{0x10, 0xff, 0xff, 0xff, 0x7f}); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v, want the connection closed", err)
		}
		undisturbed(t, before)
	})

	t.Run("slow readers", func(t *testing.T) {
		before := memory()
		sent := make([]int, 8)
		ctx, cancel := context.WithCancel(t.Context())
		var readers sync.WaitGroup
		for i := range sent {
			conn := hostile(t, s.HTTPSAddr())
			readers.Go(func() { sent[i] = askWithoutReading(ctx, conn) })
		}
		undisturbed(t, before)
		cancel()
		readers.Wait()
		for _, n := range sent {
			if n >= 64<<20 {
				t.Errorf("%d MiB of requests were taken though no answer was read", n>>20)
			}
		}
		t.Logf("%d slow readers, the first of which had sent %d KiB", len(sent), sent[0]>>10)
	})

	t.Run("10000 connections", func(t *testing.T) {
		before := memory()
		held := 0
		for range 4 { // each time more than one address may have, so that it does not matter how soon they are given up
			held += connectSilently(t, s.MQTTAddr(), 1250)
			held += connectSilently(t, s.HTTPSAddr(), 1250)
		}
		if held < maxConnectionsPerAddress || held == 10000 {
			t.Errorf("%d connections were held, want at least the %d of one address and not all", held, maxConnectionsPerAddress)
		}
		undisturbed(t, before)
		t.Logf("%d of 10000 connections were held for a time", held)
	})
}

// registerOverHTTPS registers a device of the test's group on a connection of
// its own.
func registerOverHTTPS(t *testing.T, s *Server, id string) {
	t.Helper()
	client := caller(t, s)
	defer client.CloseIdleConnections()
	token := deviceToken(id, derive(testPrimary, id))
	target := "https://" + s.HTTPSAddr() + "/" + testScope + "/registrations/" + id
	_, body := do(t, client, "PUT", target+"/register?api-version=2021-06-01", token, "{}")
	operation := decodeStatus(t, body).OperationID
	for decodeStatus(t, body).Status == "assigning" {
		_, body = do(t, client, "GET", target+"/operations/"+operation+"?api-version=2021-06-01", token, "")
	}
	if decodeStatus(t, body).Status != "assigned" {
		t.Errorf("%s: %s, want assigned", id, body)
	}
}

// askWithoutReading sends requests until no more are taken, and returns their length.
func askWithoutReading(ctx context.Context, conn net.Conn) (sent int) {
	request := bytes.Repeat([]byte("GET /x HTTP/1.1\r\nHost: x\r\n\r\n"), 1000)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	for {
		n, err := conn.Write(request)
		sent += n
		if err != nil || sent >= 64<<20 {
			return sent
		}
	}
}

// connectSilently makes n connections and says nothing on them. It returns how
// many the server holds; the others it has closed.
func connectSilently(t *testing.T, address string, n int) (held int) {
	t.Helper()
	closed := make(chan bool, n)
	for range n {
		conn, err := hostileDialer().DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		go func() {
			// What is refused is closed as soon as it is accepted.
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			_, err := conn.Read(make([]byte, 1))
			refused := !errors.Is(err, os.ErrDeadlineExceeded)
			if refused {
				_ = conn.Close()
			}
			closed <- refused
		}()
	}
	for range n {
		if !<-closed {
			held++
		}
	}
	return held
}
