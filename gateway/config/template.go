// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"text/template"

	"github.com/contoso/gatewayd/serialbus"
)

// defaultPayload is what a device tells the policy unless the file says
// otherwise (design section 9).
const defaultPayload = `{"MyDeviceFirmwareVersion":{{.Firmware}},"MyDeviceProvisioningVersion":{{.Provisioning}},"model":{{.Model}}}`

// maxPayload keeps a payload well inside the service's 96 KB message limit
// (dps-protocol 2.4).
const maxPayload = 16 << 10

// PayloadTemplate renders the payload that a registration carries.
type PayloadTemplate struct{ template *template.Template }

// payloadFields are the names a payload template may use. Each is a JSON
// string, quoted and escaped, so that no appliance can break out of its value.
type payloadFields struct {
	Firmware, Provisioning, Vendor, Serial string
	// Model is maker and model as policies name them: "contoso-tstrsd-007".
	Model string
}

// ParsePayload compiles a payload template. It must give a JSON object.
func ParsePayload(text string) (PayloadTemplate, error) {
	parsed, err := template.New("payload").Option("missingkey=error").Parse(text)
	if err != nil {
		return PayloadTemplate{}, err
	}
	compiled := PayloadTemplate{parsed}
	sample := serialbus.Identity{Vendor: "Contoso", Model: "TSTRSD-007", Serial: "499", Firmware: "12.0.2.5", Provisioning: "1.0.0.0"}
	_, err = compiled.Render(sample)
	return compiled, err
}

// Render fills the template from what the appliance said. Members that come
// out empty are left out, so a policy sees only what is known.
func (p PayloadTemplate) Render(identity serialbus.Identity) (json.RawMessage, error) {
	fields := payloadFields{
		Firmware: quoted(identity.Firmware), Provisioning: quoted(identity.Provisioning),
		Vendor: quoted(identity.Vendor), Serial: quoted(identity.Serial), Model: quoted(modelName(identity)),
	}
	var text bytes.Buffer
	if err := p.template.Execute(&text, fields); err != nil {
		return nil, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text.Bytes(), &members); err != nil {
		return nil, fmt.Errorf("the payload is not a JSON object: %w", err)
	}
	for name, value := range members {
		if string(value) == `""` || string(value) == "null" {
			delete(members, name)
		}
	}
	payload, err := json.Marshal(members)
	if err != nil {
		return nil, err
	}
	if len(payload) > maxPayload {
		return nil, fmt.Errorf("the payload has %d bytes, more than %d", len(payload), maxPayload)
	}
	return payload, nil
}

// IDTemplate renders registration IDs for appliances that have no name of
// their own.
type IDTemplate struct{ template *template.Template }

// idFields are the names a registration ID template may use, each reduced to
// lower-case letters, digits and hyphens.
type idFields struct {
	Site, Bus, Vendor, Model, Serial string
	Unit                             int
}

// ParseID compiles a registration ID template such as
// "{{.Site}}{{.Unit}}-contoso-hpsd-088".
func ParseID(text string) (IDTemplate, error) {
	parsed, err := template.New("registration_id").Option("missingkey=error").Parse(text)
	if err != nil {
		return IDTemplate{}, err
	}
	compiled := IDTemplate{parsed}
	_, err = compiled.Render("site", "bus", 1, serialbus.Identity{Vendor: "v", Model: "m", Serial: "1"})
	return compiled, err
}

// Set tells whether there is a template.
func (t IDTemplate) Set() bool { return t.template != nil }

// errNoSerial keeps two appliances from sharing a name.
var errNoSerial = errors.New("the registration_id template asks for .Serial, but the appliance has told no serial number")

// Render names the appliance at a unit of a bus. The caller checks the result
// by the rule for emitted IDs.
func (t IDTemplate) Render(site, bus string, unit int, identity serialbus.Identity) (string, error) {
	fields := idFields{Site: slug(site), Bus: slug(bus), Vendor: slug(identity.Vendor), Model: slug(identity.Model), Serial: slug(identity.Serial), Unit: unit}
	var text strings.Builder
	if err := t.template.Execute(&text, fields); err != nil {
		return "", err
	}
	if fields.Serial == "" && strings.Contains(t.template.Root.String(), ".Serial") {
		return "", errNoSerial
	}
	return text.String(), nil
}

// modelName is maker and model the way policies write them: contoso-hpsd-088.
func modelName(identity serialbus.Identity) string {
	return strings.Trim(slug(identity.Vendor)+"-"+slug(identity.Model), "-")
}

var notInID = regexp.MustCompile(`[^a-z0-9]+`)

// slug reduces a text to what a registration ID may hold.
func slug(text string) string {
	return strings.Trim(notInID.ReplaceAllString(strings.ToLower(text), "-"), "-")
}

// quoted is text as a JSON string. Invalid UTF-8 becomes U+FFFD.
func quoted(text string) string {
	out, err := json.Marshal(text)
	if err != nil { // cannot happen: a string always marshals
		return `""`
	}
	return string(out)
}
