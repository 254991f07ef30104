// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// profileFiles holds the built-in profiles, one file each, named after the profile.
//
//go:embed profiles/*.toml
var profileFiles embed.FS

// Profile is what is known of one product, see [ParseProfile]. Its exported fields are the keys of a profile's file.
type Profile = profile

// profile is what is known of one product: how to talk to it and what it can be set to.
type profile struct {
	Name       string          `toml:"name"`
	Driver     Driver          `toml:"driver"`
	Protocol   string          `toml:"protocol"` // driver line: the dialect, "alp", "text" or "usb"
	Serial     serialSettings  `toml:"serial"`
	Identity   identityObjects `toml:"identity"`
	Text       *textDialect    `toml:"text"`        // protocol text: the conversation
	USB        *usbDialect     `toml:"usb"`         // protocol usb: the device that the appliance is
	AnySetting bool            `toml:"any_setting"` // driver line: pass on properties that the profile does not list
	SettleText string          `toml:"settle"`      // pause between a write and its reading back, e.g. "50ms"
	Properties []property      `toml:"property"`

	// ReplyTimeoutText is how long the product may think, for a bus that says nothing of it, e.g. "2200ms".
	ReplyTimeoutText string `toml:"reply_timeout"`

	// The rest is about registers, how they are written.
	FirmwareRegister *uint16 `toml:"firmware_register"` // nothing is written unless it holds the firmware that the unit tells
	WriteRanges      bool    `toml:"write_ranges"`
	WritesPerDay     int     `toml:"writes_per_day"`
	Unlock           *unlock `toml:"unlock"`

	settle       time.Duration
	replyTimeout time.Duration // 0 = the usual one
}

// serialSettings is the speed and shape of a character; there are always 8 data bits.
type serialSettings struct {
	Baud     int    `toml:"baud"`
	Parity   Parity `toml:"parity"`
	StopBits int    `toml:"stop_bits"`
}

// identityObjects says which extended Modbus objects (0x80 to 0xFF) hold what, 0 = none does, and which registers.
type identityObjects struct {
	RegistrationID byte `toml:"registration_id_object"`
	Serial         byte `toml:"serial_object"`
	Provisioning   byte `toml:"provisioning_object"`

	Registers []identityRegister `toml:"register"`
}

// Profiles returns the names of the built-in profiles, sorted.
func Profiles() []string {
	files, err := profileFiles.ReadDir("profiles")
	if err != nil {
		return nil // cannot happen: the folder is part of the binary
	}
	names := make([]string, 0, len(files))
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), ".toml"))
	}
	slices.Sort(names)
	return names
}

// profile returns the profile that the configuration names: one of the site's own, or a built-in one.
func (c Config) profile() (profile, error) {
	for _, p := range c.Profiles {
		if p.Name == c.Profile && c.Profile != "" {
			return p, p.check()
		}
	}
	p, err := loadProfile(c.Profile)
	if err != nil && len(c.Profiles) > 0 {
		var own []string
		for _, p := range c.Profiles {
			own = append(own, p.Name)
		}
		return p, fmt.Errorf("%w, and of the site's own %s", err, strings.Join(own, ", "))
	}
	return p, err
}

// loadProfile returns the built-in profile of that name. The empty name is Modbus without a profile: identity by the
// standard objects, object 0x80 for the registration ID (serial 2.3), no settings.
func loadProfile(name string) (profile, error) {
	if name == "" {
		return profile{
			Driver:   DriverModbusRTU,
			Serial:   serialSettings{Baud: 19200, Parity: ParityEven, StopBits: 1},
			Identity: identityObjects{RegistrationID: 0x80},
		}, nil
	}
	if !slices.Contains(Profiles(), name) {
		return profile{}, fmt.Errorf("profile %q: unknown; known are %s", name, strings.Join(Profiles(), ", "))
	}
	text, err := profileFiles.ReadFile(path.Join("profiles", name+".toml"))
	if err != nil {
		return profile{}, fmt.Errorf("reading profile %q: %w", name, err)
	}
	p, err := parseProfile(text)
	if err != nil {
		return profile{}, fmt.Errorf("profile %q: %w", name, err)
	}
	if p.Name != name {
		return profile{}, fmt.Errorf("profile %q: the file calls itself %q", name, p.Name)
	}
	return p, nil
}

// profileName is what a profile may be called.
var profileName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// ParseProfile reads a profile of a site's own, for [Config].Profiles, in the format of the files in profiles/. Unknown
// keys are refused with the decoder's error, a *toml.StrictMissingError of go-toml v2 that names keys and lines.
func ParseProfile(text []byte) (Profile, error) {
	p, err := parseProfile(text)
	if err != nil {
		return Profile{}, err
	}
	if !profileName.MatchString(p.Name) {
		return Profile{}, fmt.Errorf("name %q: allowed are up to 63 lower-case letters, digits and hyphens", p.Name)
	}
	if slices.Contains(Profiles(), p.Name) {
		return Profile{}, fmt.Errorf("name %q: there is a built-in profile of this name; choose another", p.Name)
	}
	return p, nil
}

// unknownKeysError names the keys that no profile has, in one line. The decoder's own text draws a picture of several.
type unknownKeysError struct{ cause *toml.StrictMissingError }

// Error implements error.
func (e *unknownKeysError) Error() string {
	var all []string
	for _, one := range e.cause.Errors {
		row, _ := one.Position()
		all = append(all, fmt.Sprintf("line %d: unknown key %q", row, strings.Join(one.Key(), ".")))
	}
	return strings.Join(all, "; ")
}

// Unwrap returns the decoder's error.
func (e *unknownKeysError) Unwrap() error { return e.cause }

// parseProfile reads a profile file; unknown keys are refused.
func parseProfile(text []byte) (profile, error) {
	var p profile
	decoder := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		var unknown *toml.StrictMissingError
		if errors.As(err, &unknown) {
			return profile{}, &unknownKeysError{unknown}
		}
		return profile{}, err
	}
	if p.SettleText != "" {
		settle, err := time.ParseDuration(p.SettleText)
		if err != nil || settle < 0 || settle > time.Minute {
			return profile{}, fmt.Errorf("settle %q: allowed are durations up to 1m, e.g. 50ms", p.SettleText)
		}
		p.settle = settle
	}
	if p.ReplyTimeoutText != "" {
		timeout, err := time.ParseDuration(p.ReplyTimeoutText)
		if err != nil || timeout <= 0 || timeout > time.Minute {
			return profile{}, fmt.Errorf("reply_timeout %q: allowed are durations up to 1m, e.g. 2200ms", p.ReplyTimeoutText)
		}
		p.replyTimeout = timeout
	}
	if err := p.check(); err != nil {
		return profile{}, err
	}
	if p.Text != nil {
		if err := p.Text.compile(); err != nil {
			return profile{}, fmt.Errorf("text: %w", err)
		}
	}
	return p, nil
}

// check refuses a profile that the drivers could not follow.
func (p profile) check() error {
	switch {
	case p.Driver != DriverLine && p.Driver != DriverModbusRTU:
		return fmt.Errorf("driver %q: allowed are %s and %s", p.Driver, DriverLine, DriverModbusRTU)
	case p.Driver == DriverLine && !slices.Contains([]string{protocolALP, protocolText, protocolUSB}, p.Protocol):
		return fmt.Errorf("protocol %q: the driver line knows %s, %s and %s", p.Protocol, protocolALP, protocolText, protocolUSB)
	case (p.Protocol == protocolUSB) != (p.USB != nil):
		return fmt.Errorf("usb: the protocol %s needs it, no other has it", protocolUSB)
	case (p.Protocol == protocolText) != (p.Text != nil):
		return fmt.Errorf("text: the protocol %s needs it, no other has it", protocolText)
	case p.Driver == DriverLine && p.Protocol != protocolALP && (p.AnySetting || len(p.Properties) > 0):
		return fmt.Errorf("property, any_setting: the protocol %s reads who an appliance is and sets nothing", p.Protocol)
	case p.Driver == DriverModbusRTU && p.Protocol != "":
		return fmt.Errorf("protocol %q: only the driver line has one", p.Protocol)
	case p.Driver == DriverModbusRTU && p.AnySetting:
		return errors.New("any_setting: a register must be named for each property, only the driver line can pass on others")
	case p.Serial.Baud < minBaud || p.Serial.Baud > maxBaud:
		return fmt.Errorf("serial.baud %d: allowed are %d to %d", p.Serial.Baud, minBaud, maxBaud)
	case p.Serial.StopBits != 1 && p.Serial.StopBits != 2:
		return fmt.Errorf("serial.stop_bits %d: allowed are 1 and 2", p.Serial.StopBits)
	case !slices.Contains([]Parity{ParityNone, ParityEven, ParityOdd}, p.Serial.Parity):
		return fmt.Errorf("serial.parity %q: allowed are none, even and odd", p.Serial.Parity)
	}
	for _, object := range []byte{p.Identity.RegistrationID, p.Identity.Serial, p.Identity.Provisioning} {
		if object != 0 && object < firstExtendedObject {
			return fmt.Errorf("identity: object %#x: extended objects are 0x80 to 0xff", object)
		}
	}
	if err := p.checkWrites(); err != nil {
		return err
	}
	if p.USB != nil {
		if err := p.USB.check(); err != nil {
			return fmt.Errorf("usb: %w", err)
		}
	}
	if err := p.checkIdentityRegisters(); err != nil {
		return fmt.Errorf("identity.register: %w", err)
	}
	names := make(map[string]bool, len(p.Properties))
	for _, prop := range p.Properties {
		if err := prop.check(p.Driver); err != nil {
			return fmt.Errorf("property %q: %w", prop.Name, err)
		}
		if names[prop.Name] {
			return fmt.Errorf("property %q: named twice", prop.Name)
		}
		names[prop.Name] = true
	}
	return nil
}

// property returns the description of a property and whether the profile has one.
func (p profile) property(name string) (property, bool) {
	i := slices.IndexFunc(p.Properties, func(prop property) bool { return prop.Name == name })
	if i < 0 {
		return property{}, false
	}
	return p.Properties[i], true
}
