// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc/mqttrpctest"
)

// What a [Service] is called and what it says.
const (
	Host      = "dps.test"
	HTTPSAddr = Host + ":443" // MQTT over WebSocket too
	MQTTAddr  = Host + ":8883"
	IDScope   = "0ne00002193"
	Hub       = "contoso-toasters-hub-1098.azure-devices.net"
	Operation = "5.316aac5bdc130deb.b1e02da8-0000-4000-8000-7ea7a6b7f550"
)

// Asked is a request that the service got, the same for all transports.
type Asked struct {
	Do             string // "register", "poll", "lookup"
	RegistrationID string
	OperationID    string
	Body           string
	Token          string        // the Authorization header, or the password of the connection
	Connection     int           // its number, from 1
	At             time.Duration // since the service was made
	Wire           string        // the whole request, for golden files
}

// Answer is what the service says. Status 0 says nothing and drops the connection.
type Answer struct {
	Status     int
	RetryAfter string
	Body       string
	Header     http.Header // HTTPS only
	Hang       bool        // never answer, and keep the connection
}

// Service is a provisioning service that follows a script, written from dps-protocol 3, 6 and 7. It speaks every
// transport, on a network of its own.
type Service struct {
	Network *mqttrpctest.Network
	MQTT    *mqttrpctest.Server // behind port 8883 and behind the WebSocket
	Roots   *x509.CertPool      // what its certificate leads to
	Begun   time.Time

	// Script answers request n, from 0, of a device. Until it is set the service assigns at once.
	Script func(n int, q Asked) Answer

	hung    chan struct{}
	tooMany func() // called when somebody asks without end; nil does nothing

	mu          sync.Mutex // guards what follows
	log         []Asked
	count       map[string]int
	connections []*Connection
}

// NewService starts a scripted service that ends with the test.
func NewService(t testing.TB) *Service {
	t.Helper()
	authority := mqttrpctest.NewAuthority(t)
	s := &Service{
		Network: mqttrpctest.NewNetwork(),
		Roots:   authority.Pool,
		Begun:   time.Now(),
		Script:  func(int, Asked) Answer { return Assigned(Operation) },
		hung:    make(chan struct{}),
		count:   make(map[string]int),
	}
	s.MQTT = &mqttrpctest.Server{Publish: s.serveMQTT}
	secure := authority.Server(t, Host)
	secure.ClientAuth = tls.RequestClientCert // and no more, as the service does: tokens come over the same port

	var serving sync.WaitGroup
	web := &http.Server{
		Handler:     http.HandlerFunc(s.serveHTTP),
		ErrorLog:    log.New(io.Discard, "", 0),
		ConnContext: withConnection,
	}
	webListener := &tap{Listener: s.Network.Listen(HTTPSAddr), service: s, secure: secure}
	serving.Go(func() { _ = web.Serve(webListener) })

	mqttListener := &tap{Listener: s.Network.Listen(MQTTAddr), service: s, secure: secure}
	serving.Go(func() {
		for {
			conn, err := mqttListener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { s.MQTT.ServeConn(conn) })
		}
	})

	t.Cleanup(func() {
		close(s.hung)
		_ = web.Close()
		_ = mqttListener.Close()
		s.MQTT.Close()
		serving.Wait()
	})
	return s
}

// answer notes a request and asks the script.
func (s *Service) answer(q Asked) Answer {
	s.mu.Lock()
	q.At = time.Since(s.Begun)
	n := s.count[q.RegistrationID]
	s.count[q.RegistrationID]++
	s.log = append(s.log, q)
	if len(s.log) == mostRequests && s.tooMany != nil {
		s.tooMany()
	}
	script := s.Script
	s.mu.Unlock()
	return script(n, q)
}

// Requests are all so far.
func (s *Service) Requests() []Asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Asked(nil), s.log...)
}

// Story tells what was asked and when: "register 0s, poll 3s".
func (s *Service) Story() string {
	var parts []string
	for _, q := range s.Requests() {
		parts = append(parts, fmt.Sprintf("%s %v", q.Do, q.At.Round(time.Millisecond)))
	}
	return strings.Join(parts, ", ")
}

func (s *Service) serveHTTP(w http.ResponseWriter, r *http.Request) {
	connection := connectionOf(r.Context())
	if r.Header.Get("Upgrade") != "" {
		s.serveWebSocket(w, r, connection)
		return
	}
	body, _ := io.ReadAll(r.Body)
	q := Asked{
		Body:       string(body),
		Token:      r.Header.Get("Authorization"),
		Connection: connection.Number,
		Wire:       httpText(r, body),
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case len(parts) == 4 && r.Method == http.MethodPut && parts[3] == "register":
		q.Do, q.RegistrationID = "register", parts[2]
	case len(parts) == 5 && r.Method == http.MethodGet && parts[3] == "operations":
		q.Do, q.RegistrationID, q.OperationID = "poll", parts[2], parts[4]
	case len(parts) == 3 && r.Method == http.MethodPost:
		q.Do, q.RegistrationID = "lookup", parts[2]
	default:
		http.Error(w, "no such route", http.StatusTeapot)
		return
	}
	answer := s.answer(q)
	switch {
	case answer.Hang:
		select {
		case <-s.hung:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler) // to return would be to answer
	case answer.Status == 0:
		panic(http.ErrAbortHandler)
	}
	for name, values := range answer.Header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if answer.RetryAfter != "" {
		w.Header().Set("Retry-After", answer.RetryAfter)
	}
	w.WriteHeader(answer.Status)
	_, _ = io.WriteString(w, answer.Body)
}

func (s *Service) serveMQTT(c *mqttrpctest.Client, topic string, body []byte) {
	path, query, _ := strings.Cut(topic, "?")
	params := make(map[string]string)
	for part := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		params[name] = value
	}
	q := Asked{
		RegistrationID: c.ID,
		OperationID:    params["operationId"],
		Body:           string(body),
		Token:          c.Password,
		Connection:     connectionBelow(c.Conn()).Number,
		Wire:           strings.ReplaceAll(topic, params["$rid"], "{rid}") + "\n" + string(body) + "\n",
	}
	switch path {
	case "$dps/registrations/PUT/iotdps-register/":
		q.Do = "register"
	case "$dps/registrations/GET/iotdps-get-operationstatus/":
		q.Do = "poll"
	default:
		c.Drop()
		return
	}
	answer := s.answer(q)
	switch {
	case answer.Hang:
		return
	case answer.Status == 0:
		c.Drop()
		return
	}
	reply := fmt.Sprintf("$dps/registrations/res/%d/?$rid=%s", answer.Status, params["$rid"])
	if answer.RetryAfter != "" {
		reply += "&retry-after=" + strings.NewReplacer(",", "%2C", " ", "%20").Replace(answer.RetryAfter)
	}
	c.Publish(reply, []byte(answer.Body))
}

// httpText writes a request down as it came, headers in order.
func httpText(r *http.Request, body []byte) string {
	var names []string
	for name := range r.Header {
		names = append(names, name)
	}
	sort.Strings(names)
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s %s\nHost: %s\n", r.Method, r.RequestURI, r.Proto, r.Host)
	for _, name := range names {
		fmt.Fprintf(&text, "%s: %s\n", name, strings.Join(r.Header[name], ", "))
	}
	fmt.Fprintf(&text, "\n%s\n", body)
	return text.String()
}

// connectionBelow finds the connection that a WebSocket rides on.
func connectionBelow(conn net.Conn) *Connection {
	if socket, ok := conn.(*webSocket); ok {
		return socket.below
	}
	return conn.(*Connection)
}
