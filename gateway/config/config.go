// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/x509"
	"slices"
	"time"

	"github.com/contoso/gatewayd/provisioning"
	"github.com/contoso/gatewayd/serialbus"
)

// Config is a checked file: every value is in range and every template
// compiles. Secrets are still names; [ReadSecret] finds them.
type Config struct {
	// Path is the file it came from, for messages.
	Path string
	// Site is the building's part of registration IDs, lower case.
	Site string
	// StateDir holds the gateway's database: state_dir, else
	// $STATE_DIRECTORY, else /var/lib/gatewayd.
	StateDir string
	// DPS is nil in a gateway without a serial line (webhook only).
	DPS *DPS
	Hub Hub
	// Buses are the serial lines; none is a valid gateway.
	Buses []Bus
	// Allocation is nil when this gateway hosts no webhook.
	Allocation *Allocation
	// Metrics is nil when this gateway serves none.
	Metrics *Metrics
	// Warnings are things worth saying once at start; none stops it.
	Warnings []string
}

// DPS is the provisioning service and how it is spoken to.
type DPS struct {
	// Client holds what the provisioning client needs; RootCAs are the
	// system's and those of ca_file, for hubs too.
	Client provisioning.Config
	// GroupKey names the secret with the enrollment group's primary key
	// and, on a second line, the secondary.
	GroupKey string
	// DerivedKeys names, in place of GroupKey, the file with the keys of this
	// gateway's devices, sealed to the secret that Identity names.
	DerivedKeys, Identity string
	// Payload renders what a device tells the policy about itself.
	Payload PayloadTemplate
}

// HubMode says what becomes of an appliance once it is assigned.
type HubMode string

const (
	// HubStay keeps a session with the assigned hub open.
	HubStay HubMode = "stay"
	// HubOff ends at assigned: something else talks to the hub.
	HubOff HubMode = "off"
)

// Hub is how assigned hubs are reached.
type Hub struct {
	Mode HubMode
	// Resolve maps a hub's host name to the address:port dialled in its
	// place, for hubs on site. TLS still asks for the host name.
	Resolve map[string]string
	// RootCAs is nil for the system's roots alone.
	RootCAs *x509.CertPool
}

// Bus is one serial line and who may live on it.
type Bus struct {
	Line serialbus.Config
	// Place is where it hangs, in a person's words.
	Place string
	// RegistrationID renders the ID of an appliance that cannot name
	// itself; its zero value means that such an appliance is not registered.
	RegistrationID IDTemplate
	// Pins name appliances by their place; each goes before everything that the
	// appliance tells and before RegistrationID.
	Pins []Pin
	// Allow holds patterns (path.Match) of registration IDs accepted on
	// this line; empty accepts any valid ID.
	Allow []string
	// Record is the file that everything on the line is recorded in, with
	// a directory; empty records nothing.
	Record string
}

// Pin gives the appliance at one place its registration ID, as long as the
// appliance there tells the expected vendor and product.
type Pin struct {
	Unit           int // Modbus address; 0 on a line with one appliance
	RegistrationID string
	// Vendor and Product are compared without regard to case; empty means that
	// the appliance tells none.
	Vendor, Product string
}

// Pin returns the pin of a unit, and whether there is one.
func (b Bus) Pin(unit int) (Pin, bool) {
	i := slices.IndexFunc(b.Pins, func(p Pin) bool { return p.Unit == unit })
	if i < 0 {
		return Pin{}, false
	}
	return b.Pins[i], true
}

// Allocation is the webhook this gateway hosts.
type Allocation struct {
	// Listen is host:port; a socket-activated descriptor takes its place.
	Listen string
	// FunctionKeys names the secret with one function key a line; empty
	// means that only loopback is served.
	FunctionKeys string
	// Policy is the file of the site's policy, with a directory; empty stands for
	// the built-in one.
	Policy string
	// Shadow is the file of a policy that is asked too and never acted on; empty is
	// none.
	Shadow string
	// TLSCert and TLSKey are PEM files; both or neither.
	TLSCert, TLSKey string
	// Directory is the SQLite file of the device directory, or DirectoryURL names
	// the secret with the URL of its PostgreSQL database; both are empty without
	// one.
	Directory, DirectoryURL string
	// Upstream is the cloud function that is asked first; nil without one.
	Upstream *Upstream
	// MaxConnections is how many connections may be open at once; 0 = 512.
	MaxConnections int
	// RequestsPerSecond bounds all callers together, and
	// RequestsPerSecondPerCaller each one that is not on this machine; 0 stands
	// for the defaults of [allocation.Limits].
	RequestsPerSecond, RequestsPerSecondPerCaller float64
	// DecisionLog is where decisions are kept for replaying.
	DecisionLog DecisionLog
}

// DecisionLog is the file that the webhook's decisions are kept in.
type DecisionLog struct {
	// Path is absolute; empty keeps none.
	Path string
	// Limit bounds the file and the older ones beside it together, in bytes.
	Limit int64
}

// Metrics is what those who watch the gateway ask: metrics, and whether it is alive
// and ready.
type Metrics struct {
	// Listen is host:port; not loopback only where the file says public.
	Listen string
}

// Upstream is a cloud function that answers before the site's policy.
type Upstream struct {
	// URL is the function's address, without a key.
	URL string
	// Key names the secret with the function key; empty shows none.
	Key string
	// Timeout bounds one question with all its tries.
	Timeout time.Duration
	// RootCAs are the system's and those of upstream_ca_file; nil for the
	// system's alone.
	RootCAs *x509.CertPool
}
