// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/contoso/gatewayd/provisioning/dpslocal/internal/mqttserve"
)

const (
	twinGetTopic      = "$iothub/twin/GET/"
	twinReportedTopic = "$iothub/twin/PATCH/properties/reported/"
	twinDesiredTopic  = "$iothub/twin/PATCH/properties/desired/"
	twinResultTopic   = "$iothub/twin/res/"
	methodResultTopic = "$iothub/methods/res/"

	twinResultFilter  = twinResultTopic + "#"
	twinDesiredFilter = twinDesiredTopic + "#"
	methodFilter      = "$iothub/methods/POST/#"

	// maxSubscriptions of one connection (dps-protocol 18.3).
	maxSubscriptions = 5
)

// hubs are the IoT hubs, all of them: which one is meant is part of every name.
type hubs struct {
	names  []string
	store  DeviceStore
	logger *slog.Logger

	devices *table[*hubSession]

	// desired keeps a patch and its notification together, so that a device sees
	// the versions rise by one.
	desired sync.Mutex
}

// connect judges the CONNECT of a hub's device by dps-protocol 18.1.
func (h *hubs) connect(c *mqttserve.Conn, hello mqttserve.Hello, user userName) (mqttserve.Session, mqttserve.ReturnCode) {
	if hello.ClientID != user.deviceID {
		return nil, mqttserve.BadClientID
	}
	goodUntil, err := h.authenticate(user, hello)
	if err != nil {
		h.logger.Info("device refused by its hub", "hub", user.hub, "device_id", user.deviceID, "err", err)
		return nil, mqttserve.NotAuthorized
	}
	return &hubSession{
		hubs:      h,
		conn:      c,
		hub:       user.hub,
		deviceID:  user.deviceID,
		goodUntil: goodUntil,
		granted:   make(map[string]byte),
	}, mqttserve.Accepted
}

// authenticate checks the token of a device, or its certificate when it has no
// token, and returns how long that is good.
func (h *hubs) authenticate(user userName, hello mqttserve.Hello) (goodUntil time.Time, err error) {
	if hello.Password == "" && len(hello.Certificates) > 0 {
		return h.authenticateX509(user, hello.Certificates[0])
	}
	sas, err := parseSASToken(hello.Password)
	if err != nil {
		return time.Time{}, err
	}
	if err := sas.check(user.hub+"/devices/"+user.deviceID, time.Now()); err != nil {
		return time.Time{}, err
	}
	device, err := h.device(user)
	if err != nil {
		return time.Time{}, err
	}
	if !sas.signedWith(device.PrimaryKey, device.SecondaryKey) {
		return time.Time{}, errors.New("the signature does not match the device's keys")
	}
	return sas.goodUntil(), nil
}

// authenticateX509 checks the certificate of a device: it must be one of those
// that the service gave to the hub, and valid. Who issued it was asked when the
// device registered.
func (h *hubs) authenticateX509(user userName, leaf *x509.Certificate) (goodUntil time.Time, err error) {
	if !validAt(leaf, time.Now()) {
		return time.Time{}, errCertValidity
	}
	device, err := h.device(user)
	if err != nil {
		return time.Time{}, err
	}
	if print := thumbprint(leaf); print != device.PrimaryThumbprint && print != device.SecondaryThumbprint {
		return time.Time{}, errors.New("the certificate is not that of the device")
	}
	return leaf.NotAfter, nil
}

// device reads the device that wants in.
func (h *hubs) device(user userName) (Device, error) {
	device, err := h.store.Device(context.Background(), user.hub, user.deviceID)
	if errors.Is(err, ErrNotFound) {
		return Device{}, errors.New("the hub has no such device")
	}
	if err != nil {
		return Device{}, fmt.Errorf("reading the device: %w", err)
	}
	return device, nil
}

// disconnect closes the connection of a device that is no longer on a hub.
func (h *hubs) disconnect(hub, deviceID string) {
	if session, ok := h.devices.find(sessionKey(hub, deviceID)); ok {
		session.close()
	}
}

// sessionKey tells connections apart: host names have no case, device IDs do
// (dps-protocol 2.2).
func sessionKey(hub, deviceID string) string { return strings.ToLower(hub) + "/" + deviceID }

// setDesired merges a patch into the desired properties and tells a connected
// device of it.
func (h *hubs) setDesired(ctx context.Context, hub, deviceID string, patch map[string]json.RawMessage) error {
	_, err := h.changeTwin(ctx, hub, deviceID, twinChange{desired: patch}, func(Twin) error { return nil })
	return err
}

// deleteDevice removes a device identity and whoever is connected with it.
func (h *hubs) deleteDevice(ctx context.Context, hub, deviceID string) error {
	if err := h.store.DeleteDevice(ctx, hub, deviceID); err != nil {
		return fmt.Errorf("deleting device %q on %s: %w", deviceID, hub, err)
	}
	h.disconnect(hub, deviceID)
	return nil
}

// hubSession is one device's connection to its hub.
type hubSession struct {
	hubs          *hubs
	conn          *mqttserve.Conn
	hub, deviceID string
	goodUntil     time.Time
	expiry        *time.Timer

	mu      sync.Mutex      // guards granted: notifications come from elsewhere
	granted map[string]byte // filter → QoS
}

func (d *hubSession) close() { d.conn.Close() }

func (d *hubSession) key() string { return sessionKey(d.hub, d.deviceID) }

// Start implements mqttserve.Session. A hub keeps one connection per device,
// the newest, and no longer than its token is good.
func (d *hubSession) Start() {
	d.expiry = time.AfterFunc(time.Until(d.goodUntil), d.conn.Close)
	d.hubs.devices.enter(d.key(), d)
	d.hubs.logger.Info("device connected", "hub", d.hub, "device_id", d.deviceID)
}

// Closed implements mqttserve.Session.
func (d *hubSession) Closed() {
	if d.expiry != nil {
		d.expiry.Stop()
	}
	d.hubs.devices.leave(d.key(), d)
	d.hubs.logger.Info("device disconnected", "hub", d.hub, "device_id", d.deviceID)
}

// Subscribe implements mqttserve.Session. Filters that mean nothing here end
// the connection, as does a sixth one.
func (d *hubSession) Subscribe(filter string, qos byte) (byte, error) {
	switch filter {
	case twinResultFilter, twinDesiredFilter, methodFilter, "devices/" + d.deviceID + "/messages/devicebound/#":
	default:
		return 0, fmt.Errorf("%w: subscription to %q", mqttserve.ErrRefuse, filter)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.granted[filter] = qos
	if len(d.granted) > maxSubscriptions {
		return 0, fmt.Errorf("%w: more than %d subscriptions", mqttserve.ErrRefuse, maxSubscriptions)
	}
	return qos, nil
}

// Unsubscribe implements mqttserve.Session.
func (d *hubSession) Unsubscribe(filter string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.granted, filter)
}

// publish sends to the device if it has subscribed; what it has not subscribed
// to is lost, as with the real hub.
func (d *hubSession) publish(filter, topic string, payload []byte) error {
	d.mu.Lock()
	qos, ok := d.granted[filter]
	d.mu.Unlock()
	if !ok {
		return nil
	}
	return d.conn.Publish(topic, payload, qos)
}

// notifyDesired tells the device what changed, nulls included, with the version
// that the change made. A device that misses it finds out by the gap in the
// versions and reads the whole twin.
func (d *hubSession) notifyDesired(patch map[string]json.RawMessage, version int) {
	topic := fmt.Sprintf("%s?$version=%d", twinDesiredTopic, version)
	if err := d.publish(twinDesiredFilter, topic, encodeJSON(withVersion(patch, version))); err != nil {
		d.hubs.logger.Debug("desired properties not delivered", "hub", d.hub, "device_id", d.deviceID, "err", err)
	}
}

// Publish implements mqttserve.Session by dps-protocol 18.2. Telemetry and the
// answers to methods are taken and dropped.
func (d *hubSession) Publish(ctx context.Context, m mqttserve.Message) error {
	path, query, _ := strings.Cut(m.Topic, "?")
	switch {
	case strings.HasPrefix(m.Topic, "devices/"+d.deviceID+"/messages/events/"):
		return nil
	case strings.HasPrefix(path, methodResultTopic):
		return nil
	case path == twinGetTopic, path == twinReportedTopic:
	default:
		return fmt.Errorf("%w: topic %q", mqttserve.ErrRefuse, path)
	}
	rid, ok := ridOf(query)
	if !ok {
		return fmt.Errorf("%w: topic %q without a request ID", mqttserve.ErrRefuse, path)
	}
	if path == twinGetTopic {
		return d.getTwin(ctx, rid)
	}
	return d.patchReported(ctx, rid, m.Payload)
}

// getTwin answers a read. Only a store in trouble, or a device that was deleted
// this instant, has none to give; the connection ends then.
func (d *hubSession) getTwin(ctx context.Context, rid string) error {
	device, err := d.hubs.store.Device(ctx, d.hub, d.deviceID)
	if err != nil {
		return fmt.Errorf("reading the twin: %w", err)
	}
	return d.respond(200, rid, "", device.Twin.document())
}

// patchReported merges what the device reports. A patch that is refused is
// answered 400 and changes nothing, not even the version.
func (d *hubSession) patchReported(ctx context.Context, rid string, payload []byte) error {
	var patch map[string]json.RawMessage
	if err := decodeJSON(payload, &patch); err != nil || patch == nil {
		return d.refuse(rid, errors.New("the reported properties are not a JSON object"))
	}
	var version int
	var refused error
	err := d.hubs.store.UpdateTwin(ctx, d.hub, d.deviceID, func(twin *Twin) error {
		merged, err := mergeSection(twin.Reported, patch, maxTwinSection)
		if err != nil {
			refused = fmt.Errorf("reported properties: %w", err)
			return refused
		}
		twin.Reported = merged
		twin.ReportedVersion++
		version = twin.ReportedVersion
		return nil
	})
	if refused != nil {
		return d.refuse(rid, refused)
	}
	if err != nil {
		return fmt.Errorf("writing the twin: %w", err)
	}
	return d.respond(204, rid, fmt.Sprintf("&$version=%d", version), nil)
}

// refuse answers 400 with the reason in an error body.
func (d *hubSession) refuse(rid string, why error) error {
	return d.respond(400, rid, "", refuse(400, codeInvalid, sentence(why)).body)
}

// respond sends the answer to a twin request; extra are further topic parameters.
func (d *hubSession) respond(status int, rid, extra string, payload []byte) error {
	return d.publish(twinResultFilter, fmt.Sprintf("%s%d/?$rid=%s%s", twinResultTopic, status, rid, extra), payload)
}
