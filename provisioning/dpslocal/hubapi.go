// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
)

// hubAPI is the service side of the hubs: an operator reads a twin and changes
// what is desired. A hub answers under its own name, /twins/{id}, and under any
// other name of the server with the hub in front, /{hub}/twins/{id}.
type hubAPI struct {
	hubs     *hubs
	policies map[string]policies // lower-cased hub name → its policies
	hosts    []string            // the server's own names
}

const twinsPath = "twins"

// find tells which hub a request is for and what is left of its path.
func (a *hubAPI) find(host string, segments []string) (hub string, rest []string, ok bool) {
	if name, ok := a.hubs.spelling(host); ok {
		return name, segments, true
	}
	if len(segments) == 0 {
		return "", nil, false
	}
	if name, ok := a.hubs.spelling(segments[0]); ok {
		return name, segments[1:], true
	}
	return "", nil, false
}

// spelling returns a hub's name as it is configured.
func (h *hubs) spelling(name string) (string, bool) {
	for _, hub := range h.names {
		if strings.EqualFold(hub, name) {
			return hub, true
		}
	}
	return "", false
}

// serveHTTP answers one request to a hub.
func (a *hubAPI) serveHTTP(w http.ResponseWriter, r *http.Request, hub string, segments []string) {
	if len(segments) != 2 || !strings.EqualFold(segments[0], twinsPath) {
		respond(w, refuseHub(404, "NotFound", "The hub serves twins here, at /twins/{id}, and its devices over MQTT."))
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodPatch, http.MethodPut:
	default:
		w.Header().Set("Allow", "GET, PATCH, PUT")
		respond(w, refuseHub(405, "MethodNotAllowed", "The method is not allowed here."))
		return
	}
	if !apiVersionPattern.MatchString(r.URL.Query().Get("api-version")) {
		respond(w, refuseHub(400, "InvalidProtocolVersion", "The api-version is missing or malformed."))
		return
	}
	// A token may be for the hub, or for the name that the client was given.
	hosts := append([]string{hub}, a.hosts...)
	policy, err := a.policies[strings.ToLower(hub)].authorize(r.Header.Get("Authorization"), hosts, segments, ServiceConnect)
	if err != nil {
		a.hubs.logger.Info("operator not admitted", "hub", hub, "method", r.Method, "path", r.URL.Path, "err", err)
		respond(w, refuseHub(401, "IotHubUnauthorizedAccess", "Unauthorized"))
		return
	}
	deviceID := segments[1]
	if r.Method == http.MethodGet {
		respond(w, a.getTwin(r.Context(), hub, deviceID))
		return
	}
	body, refused := readBody(w, r)
	if refused != nil {
		respond(w, *refused)
		return
	}
	result := a.changeTwin(r.Context(), hub, deviceID, r.Header.Get("If-Match"), body, r.Method == http.MethodPut)
	a.hubs.logger.Info("operator's call", "policy", policy, "hub", hub, "device_id", deviceID, "method", r.Method, "status", result.status)
	respond(w, result)
}

// refuseHub makes an error answer as the hubs word theirs: the name of the error
// stands in the message, where clients look for it.
func refuseHub(status int, name, message string) answer {
	return answer{status: status, header: map[string]string{"iothub-errorcode": name}, body: encodeJSON(struct {
		Message          string
		ExceptionMessage string
	}{"ErrorCode:" + name + ";" + message, "Tracking ID:" + newGUID()})}
}

// failure is the answer to a call that ended with an error.
func (a *hubAPI) failure(hub, deviceID string, err error) answer {
	invalid, isInvalid := errors.AsType[*ConfigError](err)
	switch {
	case isInvalid:
		return refuseHub(400, "ArgumentInvalid", sentence(invalid.Err))
	case errors.Is(err, ErrNotFound):
		return refuseHub(404, "DeviceNotFound", "The hub has no such device.")
	case errors.Is(err, errETag):
		return refuseHub(412, "PreconditionFailed", sentence(errETag))
	}
	a.hubs.logger.Error("answering an operator: see to the store", "hub", hub, "device_id", deviceID, "err", err)
	return refuseHub(500, "ServerError", "Internal error. Please try again later.")
}

// twinDocument is a twin as operators see it, tags and versions included. The
// times of the single properties, $metadata, are not kept.
type twinDocument struct {
	DeviceID        string                     `json:"deviceId"`
	ETag            string                     `json:"etag"`
	Status          string                     `json:"status"`
	ConnectionState string                     `json:"connectionState"`
	Version         int                        `json:"version"`
	Tags            map[string]json.RawMessage `json:"tags"`
	Properties      json.RawMessage            `json:"properties"`
}

// etag changes with the tags and the desired properties, but not with what the
// device reports, so that an operator's change is not refused for that.
func (t Twin) etag() string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, uint64(t.TagsVersion+t.DesiredVersion-1)))
}

// version rises with each change of any part.
func (t Twin) version() int { return t.TagsVersion + t.DesiredVersion + t.ReportedVersion - 2 }

// show is the answer that shows a twin.
func (a *hubAPI) show(hub, deviceID string, twin Twin) answer {
	state := "Disconnected"
	if _, ok := a.hubs.devices.find(sessionKey(hub, deviceID)); ok {
		state = "Connected"
	}
	tags := twin.Tags
	if tags == nil {
		tags = map[string]json.RawMessage{}
	}
	etag := twin.etag()
	return answer{status: 200, header: map[string]string{"ETag": `"` + etag + `"`}, body: encodeJSON(twinDocument{
		DeviceID:        deviceID,
		ETag:            etag,
		Status:          "enabled",
		ConnectionState: state,
		Version:         twin.version(),
		Tags:            tags,
		Properties:      twin.document(),
	})}
}

// getTwin shows a twin.
func (a *hubAPI) getTwin(ctx context.Context, hub, deviceID string) answer {
	device, err := a.hubs.store.Device(ctx, hub, deviceID)
	if err != nil {
		return a.failure(hub, deviceID, err)
	}
	return a.show(hub, deviceID, device.Twin)
}

// twinChange is what an operator changes: nil sections stay as they are.
type twinChange struct {
	tags, desired map[string]json.RawMessage
	replace       bool // the sections, instead of merging into them
}

// parseTwinChange reads the body of PATCH and PUT. What a twin shows beyond tags
// and desired properties is ignored, so that a document that was read can be
// sent back.
func parseTwinChange(body []byte, replace bool) (twinChange, error) {
	var document struct {
		Tags       map[string]json.RawMessage `json:"tags"`
		Properties struct {
			Desired map[string]json.RawMessage `json:"desired"`
		} `json:"properties"`
	}
	if err := decodeJSON(body, &document); err != nil {
		return twinChange{}, errors.New(`the body is not of the form {"tags":{},"properties":{"desired":{}}}`)
	}
	desired := document.Properties.Desired
	maps.DeleteFunc(desired, func(name string, _ json.RawMessage) bool { return name == "$version" || name == "$metadata" })
	return twinChange{tags: document.Tags, desired: desired, replace: replace}, nil
}

// changeTwin merges or replaces tags and desired properties, if If-Match fits,
// and shows the twin.
func (a *hubAPI) changeTwin(ctx context.Context, hub, deviceID, ifMatch string, body []byte, replace bool) answer {
	change, err := parseTwinChange(body, replace)
	if err != nil {
		return a.failure(hub, deviceID, &ConfigError{err})
	}
	twin, err := a.hubs.changeTwin(ctx, hub, deviceID, change, func(twin Twin) error {
		if ifMatch != "" && !etagMatches(ifMatch, twin.etag()) {
			return errETag
		}
		return nil
	})
	if err != nil {
		return a.failure(hub, deviceID, err)
	}
	return a.show(hub, deviceID, twin)
}

// changeTwin applies an operator's change if allow, which is shown the twin, has
// nothing against it, tells a connected device of it, and returns the new twin.
// A *ConfigError says that the change is at fault.
func (h *hubs) changeTwin(ctx context.Context, hub, deviceID string, change twinChange, allow func(Twin) error) (Twin, error) {
	h.desired.Lock()
	defer h.desired.Unlock()
	var changed Twin
	var told map[string]json.RawMessage // what the device hears
	err := h.store.UpdateTwin(ctx, hub, deviceID, func(twin *Twin) error {
		if err := allow(*twin); err != nil {
			return err
		}
		told = change.desired
		if change.replace {
			told = difference(twin.Desired, change.desired)
		}
		if err := change.apply(twin); err != nil {
			return &ConfigError{err}
		}
		changed = *twin
		return nil
	})
	if err != nil {
		return Twin{}, fmt.Errorf("changing the twin of %q on %s: %w", deviceID, hub, err)
	}
	if session, ok := h.devices.find(sessionKey(hub, deviceID)); ok && change.desired != nil {
		session.notifyDesired(told, changed.DesiredVersion)
	}
	return changed, nil
}

// apply changes the sections that are given, and their versions.
func (c twinChange) apply(twin *Twin) (err error) {
	tags, desired := twin.Tags, twin.Desired
	if c.replace {
		tags, desired = nil, nil
	}
	if c.tags != nil {
		if twin.Tags, err = mergeSection(tags, c.tags, maxTwinTags); err != nil {
			return fmt.Errorf("tags: %w", err)
		}
		twin.TagsVersion++
	}
	if c.desired != nil {
		if twin.Desired, err = mergeSection(desired, c.desired, maxTwinSection); err != nil {
			return fmt.Errorf("desired properties: %w", err)
		}
		twin.DesiredVersion++
	}
	return nil
}

// difference is the merge patch that turns one section into another, so that a
// device that merges ends up with what replaced its desired properties.
func difference(from, to map[string]json.RawMessage) map[string]json.RawMessage {
	patch := make(map[string]json.RawMessage)
	for name := range from {
		if !present(to[name]) {
			patch[name] = json.RawMessage("null")
		}
	}
	for name, value := range to {
		old, known := from[name]
		switch {
		case !present(value) || string(compactJSON(value)) == string(old):
		case known && old[0] == '{' && value[0] == '{':
			patch[name] = encodeJSON(difference(objectOf(old), objectOf(value)))
		default:
			patch[name] = value
		}
	}
	return patch
}
