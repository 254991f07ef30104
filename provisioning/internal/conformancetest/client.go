// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// Transport is a way to the service, by the names that package provisioning uses.
type Transport string

// The transports.
const (
	HTTPS         Transport = "https"
	MQTT          Transport = "mqtt"
	MQTTWebSocket Transport = "mqtt-ws"
)

// Client is a client under test.
type Client interface {
	// Register runs one registration to its end. The error is nil if, and only if, the device was assigned. It may be
	// called from several goroutines at once.
	Register(ctx context.Context, device Device) (Outcome, error)

	// Close ends what is running and closes every connection.
	Close()
}

// Factory makes a client for an environment.
type Factory func(Environment) (Client, error)

// Environment is what a client is made for.
type Environment struct {
	Endpoint    string // host; the transport's own port
	IDScope     string
	Transport   Transport
	RootCAs     *x509.CertPool
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	Logger      *slog.Logger

	RegistersPerMinute, PollsPerSecond float64       // the client's budgets (rule 4)
	Fleet                              int           // devices that share them (rule 2)
	AttemptLimit                       time.Duration // of one registration; 0 is the client's own (rule 6)

	// Memory is what outlives a client, as a file would; nil keeps nothing (rule 4).
	Memory *Memory
}

// Memory is a text that is kept.
type Memory struct {
	mu   sync.Mutex
	text []byte
}

// Load returns what was saved last.
func (m *Memory) Load() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.text)
}

// Save takes the place of what was saved before.
func (m *Memory) Save(text []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.text = slices.Clone(text)
}

// Device is what registers.
type Device struct {
	RegistrationID string
	Keys           []string // base64, primary first; none with a certificate
	Certificate    []byte   // PEM, with its key; nil with keys
	Payload        json.RawMessage
	OperationID    string // to be resumed, if not ""
	Interrupted    bool   // an earlier attempt may have registered: look first, over HTTPS
}

// Ending is how a registration ended, in words that every client can be asked for.
type Ending string

// The endings.
const (
	EndAssigned    Ending = "assigned"
	EndFailed      Ending = "failed"      // by the service, disabled included
	EndRefused     Ending = "refused"     // the service's answer, 400 to 428
	EndThrottled   Ending = "throttled"   // come back later, at NextAttempt
	EndUnreachable Ending = "unreachable" // no answer, or none that makes sense
	EndInvalid     Ending = "invalid"     // nothing was sent, because the request itself is wrong
	EndAbandoned   Ending = "abandoned"   // the context ended
)

// Outcome is what a client says of a registration.
type Outcome struct {
	Ending      Ending
	AssignedHub string
	DeviceID    string
	Payload     string    // the policy's, as it came
	OperationID string    // of the assignment
	NextAttempt time.Time // with EndThrottled
}
