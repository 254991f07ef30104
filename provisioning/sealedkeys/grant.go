// SPDX-License-Identifier: Apache-2.0

package sealedkeys

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/contoso/gatewayd/provisioning"
)

// ErrGrant is wrapped by every complaint about a sealed file.
var ErrGrant = errors.New("not a usable grant of keys")

// ErrOtherGateway is wrapped by the error for a grant that is sealed to another identity.
var ErrOtherGateway = errors.New("it is sealed to another gateway, or to an earlier identity of this one")

// Device is what was granted for one device.
type Device struct {
	RegistrationID string
	Keys           []provisioning.DeviceKey // primary first, then the secondary if there is one

	// GroupKeys are the fingerprints of the group keys that Keys were derived from, one for each.
	GroupKeys []string
}

// Grant is the keys of a site's devices. Its keys print as "[redacted]".
type Grant struct {
	Site    string
	Created time.Time
	IDScope string // of the service that the keys are for; "" if headquarters did not say
	Devices []Device
}

// Derive makes the keys that a request asks for from the group's, primary first.
func Derive(r Request, group provisioning.GroupKeys, idScope string, now time.Time) (Grant, error) {
	g := Grant{Site: r.Site, IDScope: idScope, Created: now.UTC().Truncate(time.Second)}
	for _, id := range r.RegistrationIDs {
		keys, err := group.DeviceKeys(id)
		if err != nil {
			return Grant{}, err
		}
		device := Device{RegistrationID: id, Keys: keys}
		for _, key := range group {
			device.GroupKeys = append(device.GroupKeys, key.Fingerprint())
		}
		g.Devices = append(g.Devices, device)
	}
	return g, g.check()
}

// Keys is the grant in the form that gives them out.
func (g Grant) Keys() provisioning.DerivedKeys {
	keys := make(provisioning.DerivedKeys, len(g.Devices))
	for _, device := range g.Devices {
		keys[device.RegistrationID] = device.Keys
	}
	return keys
}

// Merge adds a newer grant: its keys take the place of those for the same devices, whatever their spelling, and all
// other devices keep theirs. Grants for two services do not merge.
func (g Grant) Merge(newer Grant) (Grant, error) {
	if g.IDScope != "" && newer.IDScope != "" && !strings.EqualFold(g.IDScope, newer.IDScope) {
		return Grant{}, fmt.Errorf("%w: it is for ID scope %s and what is installed for %s", ErrGrant, newer.IDScope, g.IDScope)
	}
	merged := newer
	if merged.IDScope == "" {
		merged.IDScope = g.IDScope
	}
	merged.Devices = slices.Clone(newer.Devices)
	for _, device := range g.Devices {
		if !newer.holds(device.RegistrationID) {
			merged.Devices = append(merged.Devices, device)
		}
	}
	return merged, merged.check()
}

func (g Grant) holds(registrationID string) bool {
	return slices.ContainsFunc(g.Devices, func(d Device) bool { return strings.EqualFold(d.RegistrationID, registrationID) })
}

// The JSON inside a sealed file.
type (
	wireGrant struct {
		Version int          `json:"version"`
		Site    string       `json:"site"`
		Created time.Time    `json:"created"`
		IDScope string       `json:"idScope,omitempty"`
		Devices []wireDevice `json:"devices"`
	}
	wireDevice struct {
		RegistrationID string   `json:"registrationId"`
		PrimaryKey     string   `json:"primaryKey"`
		SecondaryKey   string   `json:"secondaryKey,omitempty"`
		GroupKeys      []string `json:"groupKeys"`
	}
)

// Seal encrypts the grant to a gateway's recipient, as text that can be mailed.
func (g Grant) Seal(recipient string) ([]byte, error) {
	to, err := parseRecipient(recipient)
	if err != nil {
		return nil, err
	}
	if err := g.check(); err != nil {
		return nil, err
	}
	plain, err := g.encode()
	if err != nil {
		return nil, err
	}
	var sealed bytes.Buffer
	text := armor.NewWriter(&sealed)
	encrypted, err := age.Encrypt(text, to)
	if err != nil {
		return nil, fmt.Errorf("sealing the keys: %w", err)
	}
	if _, err := encrypted.Write(plain); err != nil {
		return nil, fmt.Errorf("sealing the keys: %w", err)
	}
	if err := errors.Join(encrypted.Close(), text.Close()); err != nil {
		return nil, fmt.Errorf("sealing the keys: %w", err)
	}
	return sealed.Bytes(), nil
}

// Open decrypts a sealed file, armored or not, and checks what is in it. The error wraps [ErrGrant], and
// [ErrOtherGateway] if another identity is needed.
func Open(sealed []byte, identity Identity) (Grant, error) {
	if identity.IsZero() {
		return Grant{}, fmt.Errorf("%w: none given", ErrIdentity)
	}
	if len(sealed) > MaxSealed {
		return Grant{}, fmt.Errorf("%w: larger than %d MiB", ErrGrant, MaxSealed>>20)
	}
	var source io.Reader = bytes.NewReader(sealed)
	if bytes.HasPrefix(bytes.TrimSpace(sealed), []byte(armor.Header)) {
		source = armor.NewReader(source)
	}
	opened, err := age.Decrypt(source, identity.secret())
	var nobody *age.NoIdentityMatchError
	if errors.As(err, &nobody) {
		return Grant{}, fmt.Errorf("%w: %w", ErrGrant, ErrOtherGateway)
	}
	if err != nil {
		return Grant{}, fmt.Errorf("%w: it is not an age file, or it is damaged", ErrGrant)
	}
	plain, err := io.ReadAll(io.LimitReader(opened, maxOpened+1))
	if err != nil {
		return Grant{}, fmt.Errorf("%w: it was changed or cut off after it was sealed", ErrGrant)
	}
	return parseGrant(plain)
}

func parseGrant(plain []byte) (Grant, error) {
	if len(plain) > maxOpened {
		return Grant{}, fmt.Errorf("%w: more than %d MiB are sealed in it", ErrGrant, maxOpened>>20)
	}
	var wire wireGrant
	if err := decode(plain, &wire); err != nil {
		return Grant{}, fmt.Errorf("%w: %w", ErrGrant, err)
	}
	g := Grant{Site: wire.Site, Created: wire.Created, IDScope: wire.IDScope}
	for i, entry := range wire.Devices {
		device := Device{RegistrationID: entry.RegistrationID, GroupKeys: entry.GroupKeys}
		for _, text := range []string{entry.PrimaryKey, entry.SecondaryKey} {
			if text == "" && len(device.Keys) > 0 {
				continue // there is no secondary
			}
			key, err := provisioning.ParseDeviceKey(text)
			if err != nil {
				return Grant{}, fmt.Errorf("%w: device %d: %w", ErrGrant, i+1, err)
			}
			device.Keys = append(device.Keys, key)
		}
		g.Devices = append(g.Devices, device)
	}
	return g, g.check()
}

func (g Grant) encode() ([]byte, error) {
	wire := wireGrant{Version: version, Site: g.Site, Created: g.Created, IDScope: g.IDScope}
	for _, device := range g.Devices {
		entry := wireDevice{RegistrationID: device.RegistrationID, PrimaryKey: device.Keys[0].Reveal(), GroupKeys: device.GroupKeys}
		if len(device.Keys) > 1 {
			entry.SecondaryKey = device.Keys[1].Reveal()
		}
		wire.Devices = append(wire.Devices, entry)
	}
	plain, err := json.Marshal(wire)
	if err != nil {
		return nil, fmt.Errorf("writing the keys: %w", err)
	}
	return plain, nil
}

var (
	isFingerprint = regexp.MustCompile(`^[0-9a-f]{8}$`).MatchString
	isIDScope     = regexp.MustCompile(`^[0-9A-Za-z]{0,64}$`).MatchString
)

// check refuses what no grant of ours holds; what passes is safe to show.
func (g Grant) check() error {
	ids := make([]string, 0, len(g.Devices))
	for i, device := range g.Devices {
		ids = append(ids, device.RegistrationID)
		if len(device.Keys) < 1 || len(device.Keys) > 2 || len(device.GroupKeys) != len(device.Keys) {
			return fmt.Errorf("%w: device %d has %d keys of %d group keys, not one or two each", ErrGrant, i+1, len(device.Keys), len(device.GroupKeys))
		}
		if slices.ContainsFunc(device.Keys, provisioning.DeviceKey.IsZero) {
			return fmt.Errorf("%w: device %d has an empty key", ErrGrant, i+1)
		}
		if slices.ContainsFunc(device.GroupKeys, func(text string) bool { return !isFingerprint(text) }) {
			return fmt.Errorf("%w: device %d names a group key by something other than its fingerprint", ErrGrant, i+1)
		}
	}
	switch {
	case checkSite(g.Site) != nil:
		return fmt.Errorf("%w: %w", ErrGrant, checkSite(g.Site))
	case checkDevices(ids) != nil:
		return fmt.Errorf("%w: %w", ErrGrant, checkDevices(ids))
	case !isIDScope(g.IDScope):
		return fmt.Errorf("%w: its ID scope is malformed", ErrGrant)
	case g.Created.IsZero():
		return fmt.Errorf("%w: it does not say when it was made", ErrGrant)
	}
	return nil
}
