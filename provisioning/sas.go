// SPDX-License-Identifier: Apache-2.0

package provisioning

import (
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// registrationPolicy is the key name that device tokens for the provisioning service carry (dps-protocol 5.1).
const registrationPolicy = "registration"

// tokenLifetime is how long a token for the provisioning service is good for (dps-protocol 5.4). Tokens are made
// fresh for each request or connection, so the lifetime only has to outlast one attempt.
const tokenLifetime = time.Hour

// SASToken is a signed, expiring credential made with a device key. It prints as "[redacted]"; only
// [SASToken.Reveal] gives out its text, for the wire.
type SASToken struct{ text func() string }

// Reveal returns the token's text: the whole value of an Authorization header, or an MQTT password.
func (t SASToken) Reveal() string {
	if t.text == nil {
		return ""
	}
	return t.text()
}

// Format prints "[redacted]" for every verb and flag.
func (t SASToken) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue keeps the token out of structured logs.
func (t SASToken) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText keeps the token out of JSON and of every other text encoding.
func (t SASToken) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// SASToken signs a token for a resource such as [RegistrationResource] or [HubResource] gives, good until expiry.
// Policy names the key for the service; "" leaves it out, as hubs want it for devices. The text has upper-case
// percent escapes and the order sr, sig, se, skn (dps-protocol 5.4): the one of all accepted shapes that most
// clients send.
func (k DeviceKey) SASToken(resource, policy string, expiry time.Time) SASToken {
	escaped := escapeComponent(resource)
	ends := strconv.FormatInt(expiry.Unix(), 10)
	// The signature covers sr exactly as it stands in the token (dps-protocol 5.3, rule 3).
	signature := base64.StdEncoding.EncodeToString(k.secret.sign(escaped + "\n" + ends))

	text := "SharedAccessSignature sr=" + escaped + "&sig=" + escapeComponent(signature) + "&se=" + ends
	if policy != "" {
		text += "&skn=" + policy
	}
	return SASToken{text: func() string { return text }}
}

// RegistrationResource is what a device's token for the provisioning service is signed for.
func RegistrationResource(idScope, registrationID string) string {
	return idScope + "/registrations/" + registrationID
}

// HubResource is what a device's token for its hub is signed for. The device ID keeps its case: hubs compare it.
func HubResource(hub, deviceID string) string {
	return hub + "/devices/" + deviceID
}

// escapeComponent percent-encodes everything but letters, digits and "-_.~", with upper-case digits.
func escapeComponent(text string) string {
	return strings.ReplaceAll(url.QueryEscape(text), "+", "%20")
}
