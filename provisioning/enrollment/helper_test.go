// SPDX-License-Identifier: Apache-2.0

package enrollment

import (
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// update rewrites the golden files: go test ./provisioning/enrollment -update, then read the diff.
var update = flag.Bool("update", false, "rewrite the golden files")

// policyKey is 32 bytes of 0x07, a published vector's key.
const policyKey = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="

// reply is a scripted answer.
type reply struct {
	status int
	header map[string]string
	body   string
}

// service answers with a script, in order, and writes down what it was asked. It
// knows nothing of the client's types.
type service struct {
	*httptest.Server
	t        *testing.T
	script   []reply
	requests []string
}

// serve starts a service and a client of it.
func serve(t *testing.T, script ...reply) (*service, *Client) {
	t.Helper()
	s := &service{t: t, script: script}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are meant to fail
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	// The test server's certificate is good for this name.
	policy, err := ParseConnectionString("HostName=example.com;SharedAccessKeyName=provisioningserviceowner;SharedAccessKey=" + policyKey)
	if err != nil {
		t.Fatal(err)
	}
	client, err := New(Config{ConnectionString: policy, Address: s.Listener.Addr().String(), RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return s, client
}

// tokenShape is an Authorization header with what changes cut out.
var tokenShape = regexp.MustCompile(`^SharedAccessSignature sr=example\.com&sig=[A-Za-z0-9%]+&se=[0-9]{10}&skn=provisioningserviceowner$`)

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Error(err)
	}
	if !tokenShape.MatchString(r.Header.Get("Authorization")) {
		s.t.Errorf("Authorization: %q", r.Header.Get("Authorization"))
	}
	r.Header.Del("Authorization")
	r.Header.Del("Content-Length")
	s.requests = append(s.requests, requestText(r, body))
	if len(s.requests) > len(s.script) {
		s.t.Errorf("request %d is one too many:\n%s", len(s.requests), s.requests[len(s.requests)-1])
		w.WriteHeader(http.StatusTeapot)
		return
	}
	answer := s.script[len(s.requests)-1]
	for name, value := range answer.header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(answer.status)
	_, _ = io.WriteString(w, answer.body)
}

// requestText writes a request down, headers in order.
func requestText(r *http.Request, body []byte) string {
	var names []string
	for name := range r.Header {
		names = append(names, name)
	}
	sort.Strings(names)
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s\nHost: %s\nContent-Length: %d\n", r.Method, r.RequestURI, r.Host, r.ContentLength)
	for _, name := range names {
		fmt.Fprintf(&text, "%s: %s\n", name, strings.Join(r.Header[name], ", "))
	}
	if len(body) > 0 {
		fmt.Fprintf(&text, "\n%s\n", body)
	}
	return text.String()
}

// golden compares all requests with a file under testdata.
func (s *service) golden(name string) {
	s.t.Helper()
	got, path := strings.Join(s.requests, "\n---\n"), "testdata/"+name
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		s.t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}
