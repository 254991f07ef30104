// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/provisioning/enrollment"
)

// webhookAPIVersion is the form of AllocationRequest that a webhook gets unless
// told otherwise: the documented one.
const webhookAPIVersion = "2019-03-31"

// reprovisionPolicies are the three documented policies, by short names.
var reprovisionPolicies = []struct {
	name, meaning string
	policy        enrollment.ReprovisionPolicy
}{
	{"migrate", "a device may move, and its data with it", enrollment.ReprovisionPolicy{UpdateHubAssignment: true, MigrateDeviceData: true}},
	{"reset", "a device may move, and begins anew", enrollment.ReprovisionPolicy{UpdateHubAssignment: true}},
	{"never", "a device stays at its first hub", enrollment.ReprovisionPolicy{}},
}

// changingFlags are the names of the flags that set something in an entry.
var changingFlags = []string{
	"key-file", "certificate", "secondary-certificate", "ca", "allocation-policy", "hub", "webhook-url",
	"webhook-url-file", "webhook-api-version", "reprovision-policy", "provisioning-status", "initial-twin",
	"edge", "regenerate-key", "device-id",
}

// entryFlags are what create and update set in an entry.
type entryFlags struct {
	keyFile              string
	certificate          string
	secondaryCertificate string
	caName               string
	allocationPolicy     string
	hubs                 []string
	webhookURL           string
	webhookURLFile       string
	webhookAPIVersion    string
	reprovisionPolicy    string
	provisioningStatus   string
	initialTwin          string
	edge                 bool
	regenerateKey        string // update only
	deviceID             string // individual enrollments only
}

// add declares the flags that both kinds and both commands have.
func (f *entryFlags) add(cmd *cobra.Command) {
	set := cmd.Flags()
	set.StringVar(&f.keyFile, "key-file", "", "`file` with the primary key in base64, and the secondary on a second line")
	set.StringVar(&f.certificate, "certificate", "", "`file` with a certificate in PEM: the device's own, or the one that signs those of a group's devices")
	set.StringVar(&f.secondaryCertificate, "secondary-certificate", "", "`file` with a second certificate that is good too")
	set.StringVar(&f.allocationPolicy, "allocation-policy", "", "hashed, geoLatency, static or custom")
	set.StringArrayVar(&f.hubs, "hub", nil, "host `name` of a linked hub; once for each, and \"\" for all linked hubs")
	set.StringVar(&f.webhookURL, "webhook-url", "", "`URL` of the allocation webhook; other users of this machine can see it, so prefer a file if it carries a key")
	set.StringVar(&f.webhookURLFile, "webhook-url-file", "", "`file` with the URL of the allocation webhook")
	set.StringVar(&f.webhookAPIVersion, "webhook-api-version", webhookAPIVersion, "`version` of the requests to the webhook; an update that does not name it leaves it alone")
	set.StringVar(&f.reprovisionPolicy, "reprovision-policy", "", "migrate, reset or never")
	set.StringVar(&f.provisioningStatus, "provisioning-status", "", "enabled or disabled")
	set.StringVar(&f.initialTwin, "initial-twin", "", "`JSON` object with the tags and desired properties of a new device")
	set.BoolVar(&f.edge, "edge", false, "devices are IoT Edge devices")
}

// change is a checked set of changes: what the flags say, with files read.
type change struct {
	cmd           *cobra.Command
	flags         *entryFlags
	group         bool // of an enrollment group
	keys          []enrollment.Key
	certificates  *enrollment.Certificates
	webhook       enrollment.WebhookURL
	regeneratedBy enrollment.Key
}

// read checks the flags and reads their files, before anything is sent.
func (f *entryFlags) read(cmd *cobra.Command, group bool) (change, error) {
	c := change{cmd: cmd, flags: f, group: group}
	if err := f.check(cmd); err != nil {
		return c, err
	}
	var err error
	if f.keyFile != "" {
		if c.keys, err = readKeys(f.keyFile, enrollment.ParseKey); err != nil {
			return c, err
		}
	}
	if f.certificate != "" {
		c.certificates = new(enrollment.Certificates)
		if c.certificates.Primary, err = readCertificate(f.certificate); err != nil {
			return c, err
		}
		if c.certificates.Secondary, err = readCertificate(f.secondaryCertificate); err != nil {
			return c, err
		}
	}
	c.webhook = enrollment.NewWebhookURL(f.webhookURL)
	if f.webhookURLFile != "" {
		content, err := readFile(f.webhookURLFile)
		if err != nil {
			return c, err
		}
		address := strings.TrimSpace(string(content))
		if address == "" || strings.ContainsAny(address, "\r\n") {
			return c, fmt.Errorf("%s holds no URL on a line of its own", f.webhookURLFile)
		}
		c.webhook = enrollment.NewWebhookURL(address)
	}
	c.regeneratedBy = enrollment.GenerateKey()
	return c, nil
}

// check refuses what cannot work whatever the files hold.
func (f *entryFlags) check(cmd *cobra.Command) error {
	attestations := 0
	for _, flag := range []string{f.keyFile, f.certificate, f.caName, f.regenerateKey} {
		if flag != "" {
			attestations++
		}
	}
	knownReprovision := func(name string) bool {
		for _, policy := range reprovisionPolicies {
			if policy.name == name {
				return true
			}
		}
		return name == ""
	}
	switch {
	case attestations > 1:
		return wrongUsage(cmd, "keys, certificates and a CA exclude each other: devices prove themselves in one way")
	case f.secondaryCertificate != "" && f.certificate == "":
		return wrongUsage(cmd, "--secondary-certificate needs a --certificate beside it")
	case !slices.Contains([]string{"", "hashed", "geoLatency", "static", "custom"}, f.allocationPolicy):
		return wrongUsage(cmd, "--allocation-policy %q is none of hashed, geoLatency, static, custom", f.allocationPolicy)
	case f.webhookURL != "" && f.webhookURLFile != "":
		return wrongUsage(cmd, "--webhook-url and --webhook-url-file exclude each other")
	case f.hasWebhook() && f.allocationPolicy != "" && f.allocationPolicy != "custom":
		return wrongUsage(cmd, "a webhook goes with --allocation-policy custom")
	case !knownReprovision(f.reprovisionPolicy):
		return wrongUsage(cmd, "--reprovision-policy %q is none of migrate, reset, never", f.reprovisionPolicy)
	case !slices.Contains([]string{"", "enabled", "disabled"}, f.provisioningStatus):
		return wrongUsage(cmd, "--provisioning-status %q is neither enabled nor disabled", f.provisioningStatus)
	case !slices.Contains([]string{"", "primary", "secondary"}, f.regenerateKey):
		return wrongUsage(cmd, "--regenerate-key %q is neither primary nor secondary", f.regenerateKey)
	}
	var twin map[string]json.RawMessage
	if f.initialTwin != "" && (json.Unmarshal([]byte(f.initialTwin), &twin) != nil || twin == nil) {
		return wrongUsage(cmd, `--initial-twin is not a JSON object such as '{"tags":{},"properties":{"desired":{"darknessSetting":"medium"}}}'`)
	}
	return nil
}

func (f *entryFlags) hasWebhook() bool { return f.webhookURL != "" || f.webhookURLFile != "" }

// apply changes an entry as the flags say, and leaves alone what they do not name.
func (c change) apply(e *enrollment.Entry) error {
	f, given := c.flags, c.cmd.Flags().Changed
	if err := c.applyAttestation(&e.Attestation); err != nil {
		return err
	}
	if f.hasWebhook() {
		version := f.webhookAPIVersion
		if before := e.CustomAllocation; before != nil && before.APIVersion != "" {
			version = before.APIVersion // a new key in the URL changes nothing else
		}
		e.AllocationPolicy = enrollment.Custom
		e.CustomAllocation = &enrollment.CustomAllocation{WebhookURL: c.webhook, APIVersion: version}
	}
	if given("webhook-api-version") && e.CustomAllocation != nil {
		e.CustomAllocation.APIVersion = f.webhookAPIVersion
	}
	if f.allocationPolicy != "" {
		e.AllocationPolicy = enrollment.AllocationPolicy(f.allocationPolicy)
		if e.AllocationPolicy == enrollment.Custom && e.CustomAllocation == nil {
			return wrongUsage(c.cmd, "--allocation-policy custom needs the URL of a webhook: --webhook-url-file")
		}
		if e.AllocationPolicy != enrollment.Custom {
			e.CustomAllocation = nil // with its key, which nobody needs any more
		}
	}
	if given("hub") {
		e.IoTHubHostName = "" // the old form, which this replaces
		e.IoTHubs = slices.DeleteFunc(slices.Clone(f.hubs), func(name string) bool { return name == "" })
	}
	for _, policy := range reprovisionPolicies {
		if policy.name == f.reprovisionPolicy {
			e.ReprovisionPolicy = &policy.policy
		}
	}
	if f.provisioningStatus != "" {
		e.ProvisioningStatus = enrollment.ProvisioningStatus(f.provisioningStatus)
	}
	if f.initialTwin != "" {
		e.InitialTwin = json.RawMessage(f.initialTwin)
	}
	if given("edge") {
		e.Capabilities = &enrollment.Capabilities{IoTEdge: f.edge}
	}
	return nil
}

// applyAttestation sets how devices prove themselves. A pair is never left with
// one key: the missing one stays, or is made.
func (c change) applyAttestation(a *enrollment.Attestation) error {
	before := a.SymmetricKey
	if before == nil {
		before = &enrollment.SymmetricKey{SecondaryKey: c.regeneratedBy}
	}
	keys := *before
	switch f := c.flags; {
	case f.regenerateKey != "" && a.SymmetricKey == nil:
		return fmt.Errorf("there is no key to regenerate: devices prove themselves by %s", cell(attestationText(*a)))
	case f.regenerateKey == "primary":
		keys.PrimaryKey = c.regeneratedBy
	case f.regenerateKey == "secondary":
		keys.SecondaryKey = c.regeneratedBy
	case len(c.keys) == 2:
		keys = enrollment.SymmetricKey{PrimaryKey: c.keys[0], SecondaryKey: c.keys[1]}
	case len(c.keys) == 1:
		keys.PrimaryKey = c.keys[0]
	case c.certificates != nil && c.group:
		*a = enrollment.Attestation{Type: enrollment.AttestationX509, X509: &enrollment.X509{SigningCertificates: c.certificates}}
		return nil
	case c.certificates != nil:
		*a = enrollment.Attestation{Type: enrollment.AttestationX509, X509: &enrollment.X509{ClientCertificates: c.certificates}}
		return nil
	case f.caName != "":
		*a = enrollment.Attestation{Type: enrollment.AttestationX509, X509: &enrollment.X509{CAReferences: &enrollment.CAReferences{Primary: f.caName}}}
		return nil
	default:
		return nil
	}
	*a = enrollment.Attestation{Type: enrollment.AttestationSymmetricKey, SymmetricKey: &keys}
	return nil
}

// readCertificate reads the one certificate of a file, nil for no file. A file
// with a private key is refused: that must not leave this machine.
func readCertificate(path string) (*enrollment.Certificate, error) {
	if path == "" {
		return nil, nil
	}
	content, err := readFile(path)
	if err != nil {
		return nil, err
	}
	var found []byte
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case strings.Contains(block.Type, "PRIVATE KEY"):
			return nil, fmt.Errorf("%s holds a private key too; give a file with the certificate alone", path)
		case block.Type == "CERTIFICATE" && found != nil:
			return nil, fmt.Errorf("%s holds more than one certificate; give a file with the one that counts", path)
		case block.Type == "CERTIFICATE":
			found = pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})
		}
	}
	if found == nil {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", path)
	}
	return &enrollment.Certificate{Certificate: string(found)}, nil
}
