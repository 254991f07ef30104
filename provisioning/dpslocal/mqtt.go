// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/contoso/gatewayd/provisioning/dpslocal/internal/mqttserve"
)

// mqttFront tells devices of the provisioning service from those of the hubs,
// by their user names.
type mqttFront struct {
	service *service
	hubs    *hubs
	devices *table[*dpsSession] // the provisioning service's connections
}

// newMQTTFront makes the handler of all MQTT connections.
func newMQTTFront(s *service) *mqttFront {
	return &mqttFront{service: s, hubs: s.hubs, devices: new(table[*dpsSession])}
}

// Connect implements mqttserve.Handler.
func (f *mqttFront) Connect(c *mqttserve.Conn, hello mqttserve.Hello) (mqttserve.Session, mqttserve.ReturnCode) {
	user, err := parseUserName(hello.UserName)
	if err != nil {
		return nil, mqttserve.BadUserName
	}
	if user.hub != "" {
		return f.hubs.connect(c, hello, user)
	}
	if !strings.EqualFold(hello.ClientID, user.registrationID) {
		return nil, mqttserve.BadClientID
	}
	// A bad token is not refused here: the register call says so (dps-protocol 6.2).
	return &dpsSession{front: f, conn: c, user: user, token: hello.Password, chain: hello.Certificates}, mqttserve.Accepted
}

// userName is an MQTT user name of either kind: with hub and deviceID, or with
// idScope and registrationID.
type userName struct {
	hub, deviceID           string
	idScope, registrationID string
	apiVersion              string
}

// errUserName is answered with return code 4, bad user name or password.
var errUserName = errors.New("not a user name of the provisioning service or of a hub")

// parseUserName reads "{idScope}/registrations/{registrationId}/api-version=V..."
// and "{hub}/{deviceId}/?api-version=V...", where some clients leave out the
// question mark (dps-protocol 6.1 and 18.1).
func parseUserName(text string) (userName, error) {
	if len(text) > 1024 {
		return userName{}, errUserName
	}
	first, rest, _ := strings.Cut(text, "/")
	second, rest, ok := strings.Cut(rest, "/")
	if !ok || first == "" || second == "" {
		return userName{}, errUserName
	}
	if second != "registrations" || strings.Contains(first, ".") {
		params := parseParams(strings.TrimPrefix(rest, "?"))
		return userName{hub: first, deviceID: second, apiVersion: params["api-version"]}, nil
	}
	third, rest, ok := strings.Cut(rest, "/")
	if !ok || third == "" {
		return userName{}, errUserName
	}
	return userName{idScope: first, registrationID: third, apiVersion: parseParams(rest)["api-version"]}, nil
}

// parseParams reads name=value pairs. The first of a name counts; a value that
// is not well escaped is taken as it stands.
func parseParams(text string) map[string]string {
	params := make(map[string]string)
	for part := range strings.SplitSeq(text, "&") {
		name, value, _ := strings.Cut(part, "=")
		if _, twice := params[name]; twice {
			continue
		}
		if plain, err := url.PathUnescape(value); err == nil {
			value = plain
		}
		params[name] = value
	}
	return params
}

const (
	dpsFilter        = "$dps/registrations/res/#"
	dpsRegisterTopic = "$dps/registrations/PUT/iotdps-register/"
	dpsPollTopic     = "$dps/registrations/GET/iotdps-get-operationstatus/"

	// dpsIdle is how long a connection may go without any call (dps-protocol 6.7).
	dpsIdle = 60 * time.Second

	// dpsPacket is the largest packet of a device: a body and its topic.
	// dpsStrangerPacket is that of a peer whose credentials are not good, since
	// such a one gets a CONNACK as well and is told with its first call.
	dpsPacket         = maxBody + 32<<10
	dpsStrangerPacket = 16 << 10
)

// dpsTopic is what a topic asks of the provisioning service.
type dpsTopic struct {
	kind        CallKind
	rid         string // as sent; the answer repeats it byte for byte
	operationID string // decoded
}

// errTopic ends a connection: without a request ID there is no topic to answer on,
// and a foreign topic means a client that is lost (dps-protocol 6.7).
var errTopic = errors.New("a topic that means nothing here")

// parseDPSTopic reads the topic of a register or operation status call.
func parseDPSTopic(topic string) (dpsTopic, error) {
	path, query, ok := strings.Cut(topic, "?")
	rid, found := ridOf(query)
	if !ok || !found {
		return dpsTopic{}, errTopic
	}
	switch path {
	case dpsRegisterTopic:
		return dpsTopic{kind: RegisterCall, rid: rid}, nil
	case dpsPollTopic:
		return dpsTopic{kind: PollCall, rid: rid, operationID: parseParams(query)["operationId"]}, nil
	default:
		return dpsTopic{}, errTopic
	}
}

// ridOf finds the request ID among the parameters of a topic, undecoded.
func ridOf(query string) (rid string, ok bool) {
	for part := range strings.SplitSeq(query, "&") {
		if value, found := strings.CutPrefix(part, "$rid="); found {
			return value, value != ""
		}
	}
	return "", false
}

// dpsSession is one device's connection to the provisioning service.
type dpsSession struct {
	front *mqttFront
	conn  *mqttserve.Conn
	user  userName
	token string
	chain []*x509.Certificate
	idle  *time.Timer

	// subscribed and qos are of the reading goroutine alone, as all calls are.
	subscribed bool
	qos        byte
}

func (d *dpsSession) close() { d.conn.Close() }

// key names the device among the live ones; registration IDs have no case.
func (d *dpsSession) key() string { return strings.ToLower(d.user.registrationID) }

// Start implements mqttserve.Session. Only a device that has proven itself
// drops an older connection of its name.
func (d *dpsSession) Start() {
	d.idle = time.AfterFunc(dpsIdle, d.conn.Close)
	d.conn.LimitPackets(dpsStrangerPacket)
	if _, err := d.front.service.authenticate(d.user.idScope, d.user.registrationID, d.token, d.chain); err == nil {
		d.conn.LimitPackets(dpsPacket)
		d.front.devices.enter(d.key(), d)
	}
}

// Closed implements mqttserve.Session.
func (d *dpsSession) Closed() {
	if d.idle != nil {
		d.idle.Stop()
	}
	d.front.devices.leave(d.key(), d)
}

// Subscribe implements mqttserve.Session: there is one filter.
func (d *dpsSession) Subscribe(filter string, qos byte) (byte, error) {
	if filter != dpsFilter {
		return mqttserve.Refused, nil
	}
	d.subscribed, d.qos = true, qos
	return qos, nil
}

// Unsubscribe implements mqttserve.Session.
func (d *dpsSession) Unsubscribe(filter string) {
	if filter == dpsFilter {
		d.subscribed = false
	}
}

// Publish implements mqttserve.Session. The credentials are judged with each
// call, so a token that has expired meanwhile counts no more.
func (d *dpsSession) Publish(ctx context.Context, m mqttserve.Message) error {
	topic, err := parseDPSTopic(m.Topic)
	if err != nil || m.Retain {
		return fmt.Errorf("%w: %w", mqttserve.ErrRefuse, errTopic)
	}
	d.idle.Stop()
	c := call{
		transport:      "mqtt",
		kind:           topic.kind,
		idScope:        d.user.idScope,
		registrationID: d.user.registrationID,
		operationID:    topic.operationID,
		apiVersion:     d.user.apiVersion,
		token:          d.token,
		chain:          d.chain,
	}
	if topic.kind == RegisterCall {
		c.body = m.Payload // of a poll it means nothing: clients send what they like
	}
	var a answer
	if len(c.body) > maxBody {
		a = refuse(413, codeTooLarge, "The message is too large.")
	} else {
		a = d.front.service.serve(ctx, c)
	}
	if a.status == http.StatusUnauthorized {
		d.idle.Reset(dpsIdle) // everybody gets this far; only a device may stay
	}
	if !d.front.service.holdBack(ctx, a.delay) || a.drop {
		return fmt.Errorf("%w: the answer is dropped as a fault", mqttserve.ErrRefuse)
	}
	if !d.subscribed {
		return nil
	}
	return d.conn.Publish(responseTopic(a, topic.rid), a.body, d.qos)
}

// responseTopic puts $rid first and spells retry-after in lower case, which
// several clients insist on (dps-protocol 6.5).
func responseTopic(a answer, rid string) string {
	topic := "$dps/registrations/res/" + strconv.Itoa(a.status) + "/?$rid=" + rid
	if a.retryAfter != "" {
		topic += "&retry-after=" + a.retryAfter
	}
	return topic
}

// table holds the one live connection of each device.
type table[S interface {
	comparable
	close()
}] struct {
	mu   sync.Mutex
	live map[string]S
}

// enter makes s the connection of key and closes the one before.
func (t *table[S]) enter(key string, s S) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if older, ok := t.live[key]; ok {
		older.close()
	}
	if t.live == nil {
		t.live = make(map[string]S)
	}
	t.live[key] = s
}

// leave removes s, unless another has taken its place.
func (t *table[S]) leave(key string, s S) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.live[key] == s {
		delete(t.live, key)
	}
}

// find returns the live connection of a key.
func (t *table[S]) find(key string) (S, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.live[key]
	return s, ok
}
