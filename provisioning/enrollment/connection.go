// SPDX-License-Identifier: Apache-2.0

package enrollment

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// ErrConnectionString is wrapped by every complaint about a connection string,
// which is never quoted: it holds a key.
var ErrConnectionString = errors.New("not a connection string of a provisioning service")

// maxConnectionString bounds what is looked at; a real one has some 200 bytes.
const maxConnectionString = 4096

// ConnectionString says which service to talk to, and by which of its shared
// access policies (dps-protocol 17.3). It may be printed: its key redacts itself.
type ConnectionString struct {
	HostName string // NAME.azure-devices-provisioning.net, without a port
	Policy   string // such as provisioningserviceowner
	Key      Key    // of the policy
}

// ParseConnectionString reads the form in which the portal shows a policy:
//
//	HostName={host};SharedAccessKeyName={policy};SharedAccessKey={base64}
//
// Parts may stand in any order and their names in any case; a part that is not
// known is left out of account, one that is there twice or without a value is
// refused, and so is one of another kind, such as a hub's for a device. The
// error wraps [ErrConnectionString].
func ParseConnectionString(text string) (ConnectionString, error) {
	parts, err := splitConnectionString(strings.TrimSpace(text))
	if err != nil {
		return ConnectionString{}, err
	}
	for _, name := range []string{"HostName", "SharedAccessKeyName", "SharedAccessKey"} {
		if parts[strings.ToLower(name)] == "" {
			return ConnectionString{}, fmt.Errorf("%w: it has no %s", ErrConnectionString, name)
		}
	}
	host := parts["hostname"]
	if !isHostName(host) {
		return ConnectionString{}, fmt.Errorf("%w: its HostName is not the name of a host, which has no scheme and no port", ErrConnectionString)
	}
	key, err := decodeKey(parts["sharedaccesskey"])
	if err != nil {
		return ConnectionString{}, fmt.Errorf("%w: its SharedAccessKey is %v", ErrConnectionString, err)
	}
	return ConnectionString{
		HostName: host,
		Policy:   parts["sharedaccesskeyname"],
		Key:      keep(base64.StdEncoding.EncodeToString(key)),
	}, nil
}

// splitConnectionString gives the parts by their names in lower case.
func splitConnectionString(text string) (map[string]string, error) {
	switch {
	case text == "":
		return nil, fmt.Errorf("%w: it is empty", ErrConnectionString)
	case len(text) > maxConnectionString:
		return nil, fmt.Errorf("%w: it is longer than %d bytes", ErrConnectionString, maxConnectionString)
	case strings.ContainsAny(text, "\r\n"):
		return nil, fmt.Errorf("%w: it spans several lines", ErrConnectionString)
	}
	parts := make(map[string]string)
	for part := range strings.SplitSeq(strings.TrimSuffix(text, ";"), ";") {
		// Base64 ends in "=", so only the first one separates.
		name, value, _ := strings.Cut(part, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if _, twice := parts[name]; twice {
			return nil, fmt.Errorf("%w: one of its parts is there twice", ErrConnectionString)
		}
		parts[name] = strings.TrimSpace(value)
	}
	return parts, nil
}

// tokenLifetime is how long a token is good for. Each request has its own, so it
// only has to outlast one request and some difference between two clocks.
const tokenLifetime = time.Hour

// token signs the value of an Authorization header, good until expiry. The
// resource is the whole service; a host name has nothing to escape, and the
// order of the parts is the documented one (dps-protocol 5.1).
func (c ConnectionString) token(expiry time.Time) string {
	resource := url.QueryEscape(c.HostName)
	ends := strconv.FormatInt(expiry.Unix(), 10)
	return "SharedAccessSignature sr=" + resource + "&sig=" + url.QueryEscape(c.sign(resource+"\n"+ends)) +
		"&se=" + ends + "&skn=" + url.QueryEscape(c.Policy)
}

// sign is HMAC-SHA256 in base64. A key that is no base64 does not come out of
// ParseConnectionString, and New refuses the zero value.
func (c ConnectionString) sign(text string) string {
	material, _ := base64.StdEncoding.DecodeString(c.Key.Reveal())
	mac := hmac.New(sha256.New, material)
	_, _ = io.WriteString(mac, text) // a hash never fails to write
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
