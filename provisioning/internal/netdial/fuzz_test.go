// SPDX-License-Identifier: Apache-2.0

package netdial

import (
	"bytes"
	"net"
	"net/url"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// scripted is a connection that says what it was given, whatever it is told.
type scripted struct {
	net.Conn
	says  *bytes.Reader
	heard bytes.Buffer
}

func (s *scripted) Read(p []byte) (int, error)  { return s.says.Read(p) }
func (s *scripted) Write(p []byte) (int, error) { return s.heard.Write(p) }

// FuzzAnswer: whatever a proxy answers, only a 2xx with nothing behind it opens a tunnel, the answer is read within its
// bound, and none of its words reach an error.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 Connection established\r\n\r\n"), true)
	f.Add([]byte("HTTP/1.0 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n"), false)
	f.Add([]byte("SSH-2.0-OpenSSH_9.2\r\n"), false)
	f.Fuzz(func(t *testing.T, answer []byte, credentials bool) {
		proxy := &url.URL{Scheme: "http", Host: "proxy.test:3128"}
		if credentials {
			proxy.User = url.UserPassword("building", "SECRET")
		}
		conn := &scripted{says: bytes.NewReader(answer)}
		status, err := ask(conn, proxy, "dps.test:443")
		if status < 0 || status > 999 {
			t.Errorf("status %d", status)
		}
		if read := len(answer) - conn.says.Len(); read > maxAnswer {
			t.Errorf("%d bytes of an answer were read", read)
		}
		if requests := strings.Count(conn.heard.String(), "\r\n\r\n"); requests != 1 {
			t.Errorf("%d requests were sent", requests)
		}
		if err == nil {
			if status < 200 || status > 299 {
				t.Errorf("a tunnel after status %d", status)
			}
			blank := bytes.HasSuffix(answer, []byte("\n\r\n")) || bytes.HasSuffix(answer, []byte("\n\n"))
			if len(answer) <= 4096 && !blank { // a longer one is not read at once
				t.Errorf("a tunnel after %q, whose end the proxy said itself", answer)
			}
			return
		}
		text := err.Error()
		hidden := func(r rune) bool { return !unicode.IsPrint(r) }
		if !utf8.ValidString(text) || strings.ContainsFunc(text, hidden) || len(text) > 200 || strings.Contains(text, "SECRET") {
			t.Errorf("the error %q", text)
		}
	})
}
