// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/serialbus"
)

// Defaults of design section 9.
const (
	defaultEndpoint           = "global.azure-devices-provisioning.net"
	defaultListen             = "127.0.0.1:7071"
	defaultStateDir           = "/var/lib/gatewayd"
	defaultIdentity           = "gateway-identity"
	defaultRegistersPerMinute = 100
	defaultPollsPerSecond     = 20
)

// problems collects all that is wrong, so that a person mends a file once.
type problems struct {
	path string
	all  []error
}

func (p *problems) add(where, format string, args ...any) {
	p.all = append(p.all, fmt.Errorf("%s: %s: %w", p.path, where, fmt.Errorf(format, args...)))
}

// check turns the raw file into the checked one.
func check(file string, raw rawFile) (Config, error) {
	p := &problems{path: file}
	cfg := Config{Path: file, Site: slug(raw.Site), StateDir: stateDir(raw.StateDir)}
	if cfg.Site != raw.Site {
		p.add("site", "%q has something else than lower-case letters, digits and hyphens; it becomes part of registration IDs (%q would do)", raw.Site, cfg.Site)
	}
	if !filepath.IsAbs(cfg.StateDir) {
		p.add("state_dir", "%q is not an absolute path", cfg.StateDir)
	}
	cfg.Hub = checkHub(p, raw.Hub)
	profiles := loadProfiles(p, file, raw.Profiles)
	for i, bus := range raw.Buses {
		cfg.Buses = append(cfg.Buses, checkBus(p, bus, i, profiles))
		if record := &cfg.Buses[i].Record; *record != "" && !filepath.IsAbs(*record) {
			*record = filepath.Join(cfg.StateDir, *record)
		}
	}
	checkDistinct(p, raw.Buses)
	checkPinned(p, cfg.Buses)
	for _, bus := range cfg.Buses {
		if len(bus.Allow) == 0 {
			cfg.Warnings = append(cfg.Warnings, fmt.Sprintf("bus %q has no allow list: any appliance with a valid registration ID is registered", bus.Line.Name))
		}
	}
	switch {
	case raw.DPS != nil:
		cfg.DPS, cfg.Hub.RootCAs = checkDPS(p, *raw.DPS)
	case len(raw.Buses) > 0:
		p.add("[dps]", "missing, but there is a [[bus]] whose appliances want to be registered: add endpoint, id_scope and group_key")
	}
	if raw.Allocation != nil {
		cfg.Allocation = checkAllocation(p, *raw.Allocation)
		for _, policy := range []*string{&cfg.Allocation.Policy, &cfg.Allocation.Shadow} {
			if *policy != "" && !filepath.IsAbs(*policy) {
				*policy = filepath.Join(filepath.Dir(file), *policy)
			}
		}
		cfg.Allocation.DecisionLog = checkDecisionLog(p, *raw.Allocation, cfg.StateDir)
	}
	webhook := ""
	if cfg.Allocation != nil {
		webhook = cfg.Allocation.Listen
	}
	cfg.Metrics = checkMetrics(p, raw.Metrics, webhook)
	if len(raw.Buses) == 0 && raw.Allocation == nil {
		p.add("file", "neither a [[bus]] nor an [allocation] section: there is nothing to do")
	}
	return cfg, errors.Join(p.all...)
}

// stateDir applies the order of design section 9.
func stateDir(configured string) string {
	if configured != "" {
		return configured
	}
	// systemd gives a list when the unit names several; ours names one.
	if fromUnit, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); fromUnit != "" {
		return fromUnit
	}
	return defaultStateDir
}

func checkHub(p *problems, raw rawHub) Hub {
	hub := Hub{Mode: HubMode(raw.Mode), Resolve: raw.Resolve}
	switch hub.Mode {
	case "":
		hub.Mode = HubStay
	case HubStay, HubOff:
	case "visit":
		p.add("[hub] mode", `"visit" is not in this version; use "stay" or "off"`)
	default:
		p.add("[hub] mode", `%q is neither "stay" nor "off"`, raw.Mode)
	}
	for host, address := range raw.Resolve {
		if err := checkAddress(address); err != nil {
			p.add("[hub] resolve", "%q: %w", host, err)
		}
	}
	return hub
}

func checkBus(p *problems, raw rawBus, index int, profiles []serialbus.Profile) Bus {
	where := fmt.Sprintf("[[bus]] %d", index+1)
	if raw.Name == "" {
		p.add(where, "has no name")
	} else {
		where = fmt.Sprintf("[[bus]] %q", raw.Name)
	}
	bus := Bus{Place: raw.Place, Allow: raw.Allow, Record: raw.Record, Line: serialbus.Config{
		Name: raw.Name, Port: raw.Port, Driver: serialbus.Driver(raw.Driver), Profile: raw.Profile, Profiles: profiles,
		Parity: serialbus.Parity(raw.Parity), RS485: raw.RS485,
	}}
	switch baud := raw.Baud.(type) {
	case nil:
	case int64:
		bus.Line.Baud = int(baud)
	default:
		if bus.Line.AutoBaud = baud == "auto"; !bus.Line.AutoBaud {
			p.add(where+" baud", `%v is neither a number nor "auto"`, baud)
		}
	}
	if raw.Units != "" {
		units, err := serialbus.ParseUnits(raw.Units)
		if err != nil {
			p.add(where+" units", "%w", err)
		}
		bus.Line.Units = units
	}
	checkLine(p, where, bus.Line)
	if raw.RegistrationID != "" {
		template, err := ParseID(raw.RegistrationID)
		if err != nil {
			p.add(where+" registration_id", "%w", err)
		}
		bus.RegistrationID = template
	}
	bus.Pins = checkPins(p, where, raw.Pins, bus.Line)
	for _, pattern := range raw.Allow {
		if _, err := path.Match(pattern, ""); err != nil {
			p.add(where+" allow", "%q is not a pattern: %w", pattern, err)
		}
	}
	return bus
}

// checkPins checks the pins of one line.
func checkPins(p *problems, where string, raw []rawPin, line serialbus.Config) []Pin {
	var pins []Pin
	taken := map[int]bool{}
	for _, pin := range raw {
		at := fmt.Sprintf("%s pin of unit %d", where, pin.Unit)
		switch {
		case taken[pin.Unit]:
			p.add(at, "this unit is pinned twice")
		case line.Driver == serialbus.DriverModbusRTU && (pin.Unit < 1 || pin.Unit > 255 || !slices.Contains(line.Units, byte(pin.Unit))):
			p.add(at, "the unit is not among the bus's units, so it would never be looked at")
		case line.Driver != serialbus.DriverModbusRTU && pin.Unit != 0:
			p.add(at, "a line with one appliance has no units; leave unit out")
		}
		taken[pin.Unit] = true
		if err := provisioning.CheckEmittedRegistrationID(pin.RegistrationID); err != nil {
			p.add(at+" registration_id", "%w", err)
		}
		pins = append(pins, Pin(pin))
	}
	return pins
}

// checkPinned refuses one registration ID at two places.
func checkPinned(p *problems, buses []Bus) {
	at := map[string]string{}
	for _, bus := range buses {
		for _, pin := range bus.Pins {
			here := fmt.Sprintf("unit %d of bus %q", pin.Unit, bus.Line.Name)
			if other, taken := at[pin.RegistrationID]; taken {
				p.add(fmt.Sprintf("[[bus]] %q pin of unit %d", bus.Line.Name, pin.Unit), "%q is pinned to %s already", pin.RegistrationID, other)
			}
			at[pin.RegistrationID] = here
		}
	}
}

// checkDistinct refuses two buses on one port or of one name: they would fight
// over bytes, and messages could not tell them apart.
func checkDistinct(p *problems, buses []rawBus) {
	ports, names, records := map[string]string{}, map[string]bool{}, map[string]string{}
	for _, bus := range buses {
		if other, taken := ports[bus.Port]; taken && bus.Port != "" {
			p.add(fmt.Sprintf("[[bus]] %q port", bus.Name), "%s belongs to bus %q already", bus.Port, other)
		}
		if names[bus.Name] && bus.Name != "" {
			p.add(fmt.Sprintf("[[bus]] %q", bus.Name), "another bus has this name")
		}
		if other, taken := records[bus.Record]; taken && bus.Record != "" {
			p.add(fmt.Sprintf("[[bus]] %q record", bus.Name), "%s belongs to bus %q already", bus.Record, other)
		}
		ports[bus.Port], names[bus.Name], records[bus.Record] = bus.Name, true, bus.Name
	}
}

func checkDPS(p *problems, raw rawDPS) (*DPS, *x509.CertPool) {
	dps := &DPS{GroupKey: raw.GroupKey, DerivedKeys: raw.DerivedKeys, Identity: raw.Identity, Client: provisioning.Config{Endpoint: raw.Endpoint, IDScope: raw.IDScope}}
	if raw.Endpoint == "" {
		dps.Client.Endpoint = defaultEndpoint
	}
	if strings.Contains(raw.Endpoint, "/") {
		p.add("[dps] endpoint", "%q is a URL; give only the host, or host:port", raw.Endpoint)
	}
	if raw.IDScope == "" {
		p.add("[dps] id_scope", "missing; it stands on the overview page of the provisioning service and looks like 0ne00002193")
	} else if slug(raw.IDScope) != strings.ToLower(raw.IDScope) {
		p.add("[dps] id_scope", "%q is not an ID scope; one looks like 0ne00002193", raw.IDScope)
	}
	switch raw.Transport {
	case "":
		dps.Client.Transport = provisioning.TransportAuto
	case "auto", "https", "mqtt", "mqtt-ws":
		dps.Client.Transport = provisioning.Transport(raw.Transport)
	default:
		p.add("[dps] transport", `%q is none of "auto", "https", "mqtt", "mqtt-ws"`, raw.Transport)
	}
	switch {
	case raw.GroupKey == "" && raw.DerivedKeys == "":
		p.add("[dps] group_key", "missing; name the systemd credential or give the absolute path of the file that holds the enrollment group's key (never the key itself), or give derived_keys in its place")
	case raw.GroupKey != "" && raw.DerivedKeys != "":
		p.add("[dps] derived_keys", "group_key is given too; a gateway with the keys of its devices must not have the group's: remove group_key, and its file")
	case raw.DerivedKeys == "" && raw.Identity != "":
		p.add("[dps] derived_keys_identity", "of no use without derived_keys; remove it, or give derived_keys in place of group_key")
	case raw.DerivedKeys != "" && raw.Identity == "":
		dps.Identity = defaultIdentity
	}
	dps.Client.RegistersPerMinute = rate(p, "[dps] registers_per_minute", raw.RegistersPerMinute, defaultRegistersPerMinute, 1e5)
	dps.Client.PollsPerSecond = rate(p, "[dps] polls_per_second", raw.PollsPerSecond, defaultPollsPerSecond, 1e4)
	text := defaultPayload
	if raw.Payload != nil {
		text = *raw.Payload
	}
	payload, err := ParsePayload(text)
	if err != nil {
		p.add("[dps] payload", "%w", err)
	}
	dps.Payload = payload
	roots, err := rootCAs(raw.CAFile)
	if err != nil {
		p.add("[dps] ca_file", "%w", err)
	}
	dps.Client.RootCAs = roots
	return dps, roots
}

// rate checks a calls-per-time value; absent means the default.
func rate(p *problems, where string, value *float64, standard, most float64) float64 {
	if value == nil {
		return standard
	}
	if !(*value > 0 && *value <= most) { // also refuses NaN
		p.add(where, "%v is not between 0 (excluded) and %v", *value, most)
	}
	return *value
}

// rootCAs is the system's pool with the certificates of file added; nil, which
// means the system's alone, without a file.
func rootCAs(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := readBounded(file, 1<<20)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("reading the system's roots: %w", err)
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no PEM certificate", file)
	}
	return pool, nil
}

// mostConnections of the webhook leave descriptors for everything else; the
// process has a thousand.
const mostConnections = 700

func checkAllocation(p *problems, raw rawAllocation) *Allocation {
	allocation := &Allocation{Listen: raw.Listen, Policy: raw.Policy, Shadow: raw.Shadow, FunctionKeys: raw.FunctionKeys, TLSCert: raw.TLSCert, TLSKey: raw.TLSKey}
	if raw.Listen == "" {
		allocation.Listen = defaultListen
	}
	if err := checkAddress(allocation.Listen); err != nil {
		p.add("[allocation] listen", "%w", err)
	} else if raw.FunctionKeys == "" && !Loopback(allocation.Listen) {
		p.add("[allocation] function_keys", "missing, but listen = %q can be reached from other machines: name a credential with one function key a line, or listen on 127.0.0.1", allocation.Listen)
	}
	if (raw.TLSCert == "") != (raw.TLSKey == "") {
		p.add("[allocation] tls_cert", "tls_cert and tls_key go together; one of them is missing")
	}
	allocation.Directory, allocation.DirectoryURL = checkDirectory(p, raw)
	allocation.Upstream = checkUpstream(p, raw, allocation.Listen)
	if raw.MaxConnections != nil {
		allocation.MaxConnections = *raw.MaxConnections
		if n := allocation.MaxConnections; n < 1 || n > mostConnections {
			p.add("[allocation] max_connections", "%d is not between 1 and %d", n, mostConnections)
		}
	}
	allocation.RequestsPerSecond = rate(p, "[allocation] requests_per_second", raw.RequestsPerSecond, 0, 1e6)
	allocation.RequestsPerSecondPerCaller = rate(p, "[allocation] requests_per_second_per_caller", raw.RequestsPerSecondPerCaller, 0, 1e6)
	return allocation
}

// Loopback tells whether an address can be reached from this machine only.
func Loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func checkAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not host:port", address)
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number > 65535 {
		return fmt.Errorf("%q has no port between 0 and 65535", address)
	}
	return nil
}
