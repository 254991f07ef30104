// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// stuck ends what hangs. It says nothing about how long anything may take.
const stuck = 5 * time.Minute

// stalled says that the machine has held up a client for nearly as long as the
// server waits for its handshake, its CONNECT or its headers. To be cut off then
// is in order, and the client tries again.
func stalled(begun time.Time) bool { return time.Since(begun) > 4*time.Second }

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Keys of the published vectors: bytes 0x00 to 0x3f, and 0xff down to 0xc0.
const (
	testPrimary   = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
	testSecondary = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eDf3t3c29rZ2NfW1dTT0tHQz87NzMvKycjHxsXEw8LBwA=="

	testScope = "0ne00002193"
	testGroup = "contoso-custom-allocated-devices"
	toaster   = "breakroom499-contoso-tstrsd-007"
	toasters  = "contoso-toasters-hub-1098.azure-devices.net"
	heatPumps = "contoso-heatpumps-hub-1098.azure-devices.net"
	testHook  = "https://contoso-function-app-1098.azurewebsites.net/api/HttpTrigger1?code=SECRET"

	goodAnswer = `{"iotHubHostName":"` + toasters + `","initialTwin":{"properties":{"desired":{"state":"ready","darknessSetting":"medium"}},"tags":{"deviceType":"toaster"}}}`
)

// testConfig is the tutorial's service: two hubs, one group with a webhook.
func testConfig() Config {
	return Config{
		IDScope:    testScope,
		RetryAfter: 3 * time.Second,
		Hubs:       []Hub{{Name: toasters}, {Name: heatPumps}},
		EnrollmentGroups: []EnrollmentGroup{{
			ID:               testGroup,
			PrimaryKey:       testPrimary,
			SecondaryKey:     testSecondary,
			AllocationPolicy: Custom,
			WebhookURL:       testHook,
			Hubs:             []string{toasters, heatPumps},
		}},
	}
}

// scriptedWebhook answers calls in turn, the last answer again and again, and
// remembers what it was asked and when.
type scriptedWebhook struct {
	mu      sync.Mutex
	answers []webhookAnswer
	bodies  []string
	times   []time.Time
	headers []http.Header
}

type webhookAnswer struct {
	status int
	body   string
	err    error
	delay  time.Duration
}

func (h *scriptedWebhook) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.bodies = append(h.bodies, string(body))
	h.times = append(h.times, time.Now())
	h.headers = append(h.headers, r.Header)
	answer := h.answers[min(len(h.bodies), len(h.answers))-1]
	h.mu.Unlock()
	if answer.delay > 0 {
		select {
		case <-time.After(answer.delay):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if answer.err != nil {
		return nil, answer.err
	}
	return &http.Response{
		StatusCode: answer.status,
		Header:     http.Header{"Location": {"/elsewhere"}}, // counts with a redirect only
		Body:       io.NopCloser(strings.NewReader(answer.body)),
		Request:    r,
	}, nil
}

func (h *scriptedWebhook) calls() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.bodies)
}

func (h *scriptedWebhook) body(i int) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bodies[i]
}

func always(status int, body string) *scriptedWebhook {
	return &scriptedWebhook{answers: []webhookAnswer{{status: status, body: body}}}
}

// newCore makes a server that is not run, for tests that call the service
// without a transport. It works inside a bubble.
func newCore(t *testing.T, cfg Config, hook http.RoundTripper) *Server {
	t.Helper()
	store, err := OpenMemoryStore()
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(cfg, Options{
		Dir:              t.TempDir(),
		Store:            store,
		HTTPSListener:    newPipeListener(),
		MQTTListener:     newPipeListener(),
		WebhookTransport: hook,
		Logger:           testLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing the server: %v", err)
		}
	})
	return s
}

func testLogger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// start runs a server on loopback and stops it at the end of the test.
func start(t *testing.T, cfg Config, opts Options) *Server {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	if opts.Logger == nil {
		opts.Logger = testLogger(t)
	}
	s, err := New(cfg, opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

// sign makes a token the way the Python client does: sr and sig escaped.
func sign(resource, key string, expiry time.Time) string {
	return signText(url.QueryEscape(resource), key, fmt.Sprint(expiry.Unix()))
}

// signText signs sr and se as they stand.
func signText(sr, key, se string) string {
	decoded, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		panic(err)
	}
	mac := hmac.New(sha256.New, decoded)
	mac.Write([]byte(sr + "\n" + se))
	sig := base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return "SharedAccessSignature sr=" + sr + "&sig=" + url.QueryEscape(sig) + "&se=" + se
}

// derive is what every client does with a group key.
func derive(groupKey, registrationID string) string {
	key, err := base64.StdEncoding.DecodeString(groupKey)
	if err != nil {
		panic(err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(registrationID))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func deviceToken(registrationID, key string) string {
	return sign(testScope+"/registrations/"+registrationID, key, time.Now().Add(time.Hour))
}

// request is a device's call without a transport, credentials in order.
func request(kind CallKind, registrationID string) call {
	return call{
		transport:      "https",
		kind:           kind,
		idScope:        testScope,
		registrationID: registrationID,
		apiVersion:     "2021-06-01",
		token:          deviceToken(registrationID, derive(testPrimary, registrationID)),
	}
}

// statusBody is an answer's body as a client reads it.
type statusBody struct {
	OperationID       string `json:"operationId"`
	Status            string `json:"status"`
	RegistrationState struct {
		RegistrationID string          `json:"registrationId"`
		AssignedHub    string          `json:"assignedHub"`
		DeviceID       string          `json:"deviceId"`
		Status         string          `json:"status"`
		Substatus      string          `json:"substatus"`
		ErrorCode      int             `json:"errorCode"`
		ErrorMessage   string          `json:"errorMessage"`
		Payload        json.RawMessage `json:"payload"`
		SymmetricKey   *struct {
			EnrollmentGroupID string `json:"enrollmentGroupId"`
		} `json:"symmetricKey"`
		X509 *struct {
			EnrollmentGroupID string `json:"enrollmentGroupId"`
		} `json:"x509"`
	} `json:"registrationState"`
	ErrorCode int    `json:"errorCode"`
	Message   string `json:"message"`
}

func decodeStatus(t *testing.T, body []byte) statusBody {
	t.Helper()
	var b statusBody
	if err := json.Unmarshal(body, &b); err != nil {
		t.Fatalf("body %q: %v", body, err)
	}
	return b
}

// register sends a register call to the service and waits for the end of its
// operation, which in a bubble takes no time.
func register(t *testing.T, s *Server, c call) statusBody {
	t.Helper()
	c.kind = RegisterCall
	a := s.service.serve(t.Context(), c)
	if a.status != 202 {
		t.Fatalf("register: status %d, body %s; want 202", a.status, a.body)
	}
	c.kind, c.operationID = PollCall, decodeStatus(t, a.body).OperationID
	for {
		a = s.service.serve(t.Context(), c)
		if a.status != 202 {
			return decodeStatus(t, a.body)
		}
		time.Sleep(time.Second)
	}
}

// caller returns an HTTPS client that trusts the server.
func caller(t *testing.T, s *Server) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(s.CAPEM()) {
		t.Fatal("the CA is not PEM")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: stuck}
}

// do sends one request and returns the answer with its body read.
func do(t *testing.T, client *http.Client, method, target, token, body string, headers ...string) (*http.Response, []byte) {
	t.Helper()
	begun := time.Now()
	req, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	response, err := client.Do(req)
	if err != nil && stalled(begun) {
		return do(t, client, method, target, token, body, headers...)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, answer
}

// golden compares with a file under testdata. Run with UPDATE_GOLDEN=1 to write it.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\n got %s\nwant %s", file, got, want)
	}
}

// pipeListener is a listener whose connections are in memory, for bubbles.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

// dial returns the client's end of a new connection.
func (l *pipeListener) dial() (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }
