// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc"
)

// The service's topics (dps-protocol 6.3, 6.4).
const (
	answerFilter  = "$dps/registrations/res/#"
	registerTopic = "$dps/registrations/PUT/iotdps-register/"
	pollTopic     = "$dps/registrations/GET/iotdps-get-operationstatus/"
)

const (
	mqttPort      = "8883"
	httpsPort     = "443"            // and MQTT over WebSocket
	mqttKeepAlive = 60 * time.Second // a wait of rule 2 may be longer; a connection that died meanwhile is made anew
)

// mqttTransport is what all MQTT sessions share: how to connect.
type mqttTransport struct {
	address   string
	webSocket bool
	idScope   string
	agent     string
	secure    *tls.Config
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
}

func newMQTTTransport(cfg Config, address string, webSocket bool, secure *tls.Config, agent string) *mqttTransport {
	return &mqttTransport{
		address:   address,
		webSocket: webSocket,
		idScope:   cfg.IDScope,
		agent:     agent,
		secure:    secure,
		dial:      cfg.DialContext,
	}
}

func (t *mqttTransport) session(registrationID string, shown *credential) session {
	return &mqttSession{transport: t, registrationID: registrationID, credential: shown}
}

// mqttSession speaks for one device over a connection of its own.
type mqttSession struct {
	transport      *mqttTransport
	registrationID string
	credential     *credential
	conn           *mqttrpc.Conn // nil until connected
}

// connect retries hiccups as go-retryablehttp does for HTTPS. A CONNACK is an answer and not a hiccup, and so is what
// HTTP says to a WebSocket, and what is no MQTT.
func (s *mqttSession) connect(ctx context.Context) (fresh bool, err error) {
	if s.conn != nil && s.conn.Err() == nil {
		return false, nil
	}
	s.close() // what is left of a connection that broke
	for try := 0; ; try++ {
		s.conn, err = s.dial(ctx)
		if err == nil {
			return true, nil
		}
		s.conn = nil
		var refused *mqttrpc.RefusedError
		if errors.As(err, &refused) {
			return false, refusedConnection(refused)
		}
		var upgrade *mqttrpc.UpgradeError
		if errors.As(err, &upgrade) {
			return false, refusedUpgrade(upgrade)
		}
		if errors.Is(err, mqttrpc.ErrNotMQTT) {
			return false, fmt.Errorf("%w: %w", ErrNotService, err)
		}
		if ctx.Err() != nil || try == hiccupTries || !isHiccup(err) {
			return false, err
		}
		if err := sleep(ctx, hiccupDelay()); err != nil {
			return false, err
		}
	}
}

// dial makes one connection, with a token of its own (rule 10).
func (s *mqttSession) dial(ctx context.Context) (*mqttrpc.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return mqttrpc.Connect(ctx, mqttrpc.Config{
		Address:     s.transport.address,
		TLS:         s.credential.secure(s.transport.secure),
		DialContext: s.transport.dial,
		WebSocket:   s.transport.webSocket,
		ClientID:    s.registrationID,
		Username:    s.username(),
		Password:    s.password(),
		KeepAlive:   mqttKeepAlive,
		Filters:     []string{answerFilter},
	})
}

// password makes the connection's token. A certificate goes without (dps-protocol 6.1).
func (s *mqttSession) password() func() (string, error) {
	if s.credential.certificate != nil {
		return nil
	}
	return func() (string, error) { return s.credential.token().Reveal(), nil }
}

// username has no "?" before its parameters (dps-protocol 6.1).
func (s *mqttSession) username() string {
	return RegistrationResource(s.transport.idScope, s.registrationID) +
		"/api-version=" + apiVersion + "&ClientVersion=" + escapeComponent(s.transport.agent)
}

// register is sent once: a PUBLISH that got no answer may have begun a registration all the same (rule 12).
func (s *mqttSession) register(ctx context.Context, body []byte) (reply, error) {
	return s.call(ctx, registerTopic, "", body)
}

// poll goes on over a new connection when the old one broke: asking twice does no harm, and the operation ID is good
// on any connection.
func (s *mqttSession) poll(ctx context.Context, operationID string) (reply, error) {
	params := "operationId=" + escapeComponent(operationID)
	answer, err := s.call(ctx, pollTopic, params, nil)
	if !errors.Is(err, mqttrpc.ErrLost) {
		return answer, err
	}
	if _, err := s.connect(ctx); err != nil {
		return reply{}, err
	}
	return s.call(ctx, pollTopic, params, nil)
}

// call makes one exchange, in the time that Azure's own clients allow for it.
func (s *mqttSession) call(ctx context.Context, topic, params string, body []byte) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	response, err := s.conn.Call(ctx, topic, params, body)
	if err != nil {
		return reply{}, err
	}
	return reply{
		status:     response.Status,
		retryAfter: response.Params["retry-after"],
		at:         time.Now(),
		body:       response.Body,
		marked:     true, // the topic's form is the service's own
	}, nil
}

// reset drops the connection, because it carries the token that it was made with.
func (s *mqttSession) reset() { s.close() }

func (s *mqttSession) close() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// refusedConnection puts a CONNACK's refusal in the words of the other answers (dps-protocol 6.2), so that the rules
// need not know of it.
func refusedConnection(refused *mqttrpc.RefusedError) *ServiceError {
	status := http.StatusBadRequest // 1: protocol version; 2: client ID
	switch refused.Code {
	case 3:
		status = http.StatusServiceUnavailable
	case 4, 5:
		status = http.StatusUnauthorized
	}
	return &ServiceError{HTTPStatus: status, Message: refused.Error()}
}

// refusedUpgrade does the same for an HTTP answer that opened no WebSocket. Of such an answer only "later" can be meant
// by the service; whatever else does not know its path is somebody else.
func refusedUpgrade(refused *mqttrpc.UpgradeError) error {
	if refused.Status < statusLater {
		return fmt.Errorf("%w: %w", ErrNotService, refused)
	}
	answer := reply{status: refused.Status, retryAfter: refused.RetryAfter, at: time.Now()}
	return answer.serviceError()
}

// isLost tells whether an MQTT connection broke.
func isLost(err error) bool { return errors.Is(err, mqttrpc.ErrLost) }
