// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/gateway/config"
)

// TestOnTheWire writes bytes that no client of good will sends, and reads the
// statuses of all answers until the connection ends. Behind a proxy that reads
// such bytes in another way, a second request could hide in the first one
// (smuggling): where a length is doubtful there is no second answer.
func TestOnTheWire(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "keys")
	replaceFile(t, keys, "first-key-1234567890")
	w, err := newWebhook(config.Allocation{Listen: "127.0.0.1:0", FunctionKeys: keys}, nil, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	serveWebhook(t, w)
	const line = "POST /api/f?code=first-key-1234567890 HTTP/1.1\r\n"
	const post = line + "Host: x\r\n"
	const last = post + "Connection: close\r\nContent-Length: 2\r\n\r\n{}"
	tests := []struct{ name, text, want string }{
		{"two requests at once", post + "Content-Length: 2\r\n\r\n{}" + last, "400 400"},
		{"chunks", post + "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", "400"},
		{"chunks of a bad length", post + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n" + last, "503"},
		{"chunks without an end", post + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", "503"},
		{"a chunk of 16 exabytes without an end", post + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}\r\n" + last, "503"},
		{"two lengths", post + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}" + last, "400"},
		{"a length with a sign", post + "Content-Length: +2\r\n\r\n{}" + last, "400"},
		{"a length below zero", post + "Content-Length: -2\r\n\r\n{}" + last, "400"},
		{"an encoding of another kind", post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + last, "501"},
		{"two encodings", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + last, "501"},
		{"a space before the colon", post + "Content-Length : 2\r\n\r\n{}" + last, "400"},
		{"a line that goes on", post + "X: a\r\n b\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", "400"},
		{"a NUL in a header", post + "X: a\x00b\r\nContent-Length: 2\r\n\r\n{}" + last, "400"},
		{"no host", line + "Content-Length: 2\r\n\r\n{}" + last, "400"},
		{"two hosts", post + "Host: y\r\nContent-Length: 2\r\n\r\n{}" + last, "400"},
		{"headers of 32 KiB", post + "X: " + strings.Repeat("x", 32<<10) + "\r\n\r\n", "431"},
		{"HTTP/2 without being asked", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "404"},
		{"HTTP/0.9", "GET /\r\n\r\n", "400"},
		{"TLS to a plain port", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00", 100) + "\r\n\r\n", "400"},
		{"no key, and a body to wait for", "POST /api/f HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", "401"},
		{"a body to wait for that is too large", post + "Expect: 100-continue\r\nContent-Length: 300000\r\n\r\n", "413"},
		{"an expectation of another kind", post + "Expect: tea\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", "417"},
		{"an upgrade", post + "Connection: upgrade, close\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n{}", "400"},
		{"a proxy's CONNECT", "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\nConnection: close\r\n\r\n", "404"},
		{"an address of another host", "POST http://evil.example/api/f HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", "401"},
	}
	status := regexp.MustCompile(`HTTP/1\.[01] (\d{3}) `)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", w.listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, test.text); err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(test.name, "without an end") {
				if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
			answers, _ := io.ReadAll(conn) // a reset at the end takes nothing back
			var statuses []string
			for _, match := range status.FindAllStringSubmatch(string(answers), -1) {
				statuses = append(statuses, match[1])
			}
			if diff := cmp.Diff(test.want, strings.Join(statuses, " ")); diff != "" {
				t.Errorf("statuses (-want +got):\n%s\n%s", diff, answers)
			}
		})
	}
}
