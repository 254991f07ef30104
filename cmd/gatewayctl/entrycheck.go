// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/allocation/policy"
	"github.com/contoso/gatewayd/provisioning/enrollment"
)

const (
	// payloadAPIVersion is the first version of the requests that hands a device's
	// payload to the webhook (dps-protocol 12.3). Versions compare as texts.
	payloadAPIVersion = "2019-03-31"

	// checkedRegistrations bounds how many records a check looks at: enough to
	// see a fault that many devices meet.
	checkedRegistrations = 1000

	resolveTimeout = 5 * time.Second
)

// newCheckCommand builds check.
func newCheckCommand[E enrollment.Kind](kind entryKind[E]) *cobra.Command {
	c := &entryCommand[E]{kind: kind}
	webhookCAFile, policyFile, noProbe := "", "", false
	cmd := c.command("check "+kind.argument, "Look for the usual mistakes in the custom allocation of one "+kind.noun,
		"Check reads one "+kind.noun+" and what became of its devices, asks its webhook a dry\nquestion for a device that does not exist, and says of each point whether it is\nok, worth a note, or wrong, with what to do. It changes nothing, and exits 1 when\nsomething is wrong.\n\nThe question comes from this machine, which is not in the network of DPS: a\nwebhook that answers here may be out of reach there, and the other way round.",
		"  gatewayctl "+kind.command+" check "+kind.example+"\n  gatewayctl "+kind.command+" check "+kind.example+" --policy policy.toml", oneID(kind.noun),
		func(cmd *cobra.Command, client *enrollment.Client, id string) error {
			roots, err := loadRoots(webhookCAFile)
			if err != nil {
				return err
			}
			var rules *policy.Policy
			if policyFile != "" {
				if rules, err = policy.Load(policyFile); err != nil {
					return err
				}
			}
			e, err := kind.all(client).Get(cmd.Context(), id)
			if err != nil {
				return err
			}
			findings := checkEntry(*kind.entry(&e), c.service.local())
			if rules != nil {
				findings = append(findings, checkRules(rules, *kind.entry(&e))...)
			}
			if u := callable(*kind.entry(&e)); u != nil {
				findings = append(findings, checkAddress(cmd.Context(), u.Hostname(), c.service.local()))
				if !noProbe {
					body, hubs, err := dryRequest(kind, e)
					if err != nil {
						return err
					}
					findings = append(findings, newProber(roots).ask(cmd.Context(), kind.entry(&e).CustomAllocation.WebhookURL, body, hubs))
				}
			}
			findings = append(findings, checkRegistrations(cmd.Context(), kind, client, id))
			return c.showFindings(cmd, id, findings)
		})
	cmd.Flags().StringVar(&webhookCAFile, "webhook-ca-file", "", "`file` with certificates to trust for the webhook beside the system's, for a local service that does too")
	cmd.Flags().StringVar(&policyFile, "policy", "", "`file` with the webhook's policy, to see whether each of its rules finds a hub in the enrollment")
	cmd.Flags().BoolVar(&noProbe, "no-probe", false, "do not ask the webhook")
	return cmd
}

// showFindings prints them, and fails if one is wrong.
func (c *entryCommand[E]) showFindings(cmd *cobra.Command, id string, findings []finding) error {
	wrongs, notes := tallyFindings(findings)
	if c.output == "json" {
		for _, f := range findings {
			if err := printJSON(cmd.OutOrStdout(), f); err != nil {
				return err
			}
		}
	} else {
		if err := printFindings(cmd.OutOrStdout(), findings); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s: %d wrong, %d to note, %d ok.\n", c.kind.title, cell(id), wrongs, notes, len(findings)-wrongs-notes); err != nil {
			return err
		}
	}
	if wrongs > 0 {
		return errReported
	}
	return nil
}

// checkEntry looks for what is wrong in an entry by itself. local is for a
// service on site, to which other addresses are near.
func checkEntry(e enrollment.Entry, local bool) []finding {
	findings := []finding{checkStatus(e.ProvisioningStatus), checkPolicy(e)}
	if e.CustomAllocation != nil && e.AllocationPolicy == enrollment.Custom {
		address := e.CustomAllocation.WebhookURL
		if u, err := url.Parse(address.Reveal()); err != nil || u.Host == "" || u.User != nil {
			findings = append(findings, wrong("URL", "Write it as https://host/api/name?code=key.", "the webhook's URL is not one that can be called"))
		} else {
			findings = append(findings, checkScheme(u, address, local), checkKey(u, local))
		}
		findings = append(findings, checkAPIVersion(e.CustomAllocation.APIVersion))
	}
	return append(findings, checkHubs(e), checkReprovisioning(e.ReprovisionPolicy))
}

// callable gives the webhook's URL if there is one that can be asked.
func callable(e enrollment.Entry) *url.URL {
	if e.AllocationPolicy != enrollment.Custom || e.CustomAllocation == nil {
		return nil
	}
	u, err := url.Parse(e.CustomAllocation.WebhookURL.Reveal())
	if err != nil || u.Hostname() == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
		return nil
	}
	return u
}

func checkStatus(status enrollment.ProvisioningStatus) finding {
	if status == enrollment.Disabled {
		return wrong("status", "Enable it: update --provisioning-status enabled.", "disabled: its devices cannot register, and the webhook is never asked")
	}
	return ok("status", "enabled")
}

func checkPolicy(e enrollment.Entry) finding {
	const check = "allocation policy"
	switch {
	case e.AllocationPolicy != enrollment.Custom:
		return wrong(check, "Set it with the webhook: update --webhook-url-file FILE.", "%s, not custom: the service chooses the hub and asks no webhook", cell(string(e.AllocationPolicy)))
	case e.CustomAllocation == nil || e.CustomAllocation.WebhookURL.Reveal() == "":
		return wrong(check, "Set the URL: update --webhook-url-file FILE.", "custom, but without the URL of a webhook")
	default:
		return ok(check, "custom")
	}
}

func checkScheme(u *url.URL, address enrollment.WebhookURL, local bool) finding {
	switch {
	case u.Scheme == "https":
		return ok("URL", "%s", address)
	case u.Scheme == "http" && local && isLoopback(u.Hostname()):
		return ok("URL", "%s, on the service's own machine", address)
	case u.Scheme == "http":
		return wrong("URL", "Serve HTTPS, by [allocation] tls_cert or a proxy in front, and write https.", "%s is not encrypted: its key can be read on the way", address)
	default:
		return wrong("URL", "Write it as https://host/api/name?code=key.", "%s is neither https nor http", address)
	}
}

// checkKey looks at the function key, and shows none of it.
func checkKey(u *url.URL, local bool) finding {
	const check = "function key"
	codes := u.Query()["code"]
	switch {
	case strings.Contains(u.RawQuery, "****"):
		return wrong(check, "Set the URL with the key itself: update --webhook-url-file FILE.", "asterisks stand in the place of the key: the URL was copied from where it is hidden")
	case len(codes) > 1:
		return wrong(check, "Leave one ?code= in it.", "the URL has %d keys", len(codes))
	case len(codes) == 1 && codes[0] != "" && strings.Contains(u.RawQuery, "+"):
		return note(check, "Write %2B for each plus sign: most servers read one as a space. gatewayd reads both.", "?code= is in the URL, with a plus sign as it is")
	case len(codes) == 1 && codes[0] != "":
		return ok(check, "?code= is in the URL")
	case local && isLoopback(u.Hostname()):
		return note(check, "Nothing, if only this machine's users may ask the webhook.", "none in the URL: whoever is on the service's machine may ask the webhook")
	default:
		return wrong(check, "Put ?code= and the key behind the URL; the portal does so, callers of the API must do it themselves.", "none in the URL: either the webhook refuses DPS, or it answers everybody")
	}
}

func checkAPIVersion(version string) finding {
	const check = "API version"
	switch {
	case version == "":
		return wrong(check, "Set it: update --webhook-api-version "+webhookAPIVersion+".", "none")
	case version < payloadAPIVersion:
		return note(check, "If the policy reads payloads, set a later one: update --webhook-api-version "+webhookAPIVersion+".", "%s, which hands no payload of a device to the webhook", cell(version))
	default:
		return ok(check, "%s", cell(version))
	}
}

func checkHubs(e enrollment.Entry) finding {
	switch {
	case len(e.IoTHubs) > 0:
		return ok("hubs", "%s", strings.Join(e.IoTHubs, ", "))
	case e.IoTHubHostName != "":
		return note("hubs", "Write it as a list: update --hub "+e.IoTHubHostName+".", "%s, in the form of old enrollments", e.IoTHubHostName)
	default:
		return note("hubs", "Nothing, if the policy may choose among all; else name them: update --hub NAME.", "none is named: the webhook is offered all linked hubs, also those that are linked later")
	}
}

// checkRules looks for rules of the policy that find no hub in the enrollment.
func checkRules(rules *policy.Policy, e enrollment.Entry) []finding {
	const check = "rules"
	hubs := e.IoTHubs
	if len(hubs) == 0 && e.IoTHubHostName != "" {
		hubs = []string{e.IoTHubHostName}
	}
	if len(hubs) == 0 {
		return []finding{note(check, "Name the enrollment's hubs, or compare with the list of the service's linked hubs.", "not compared: the enrollment is offered all linked hubs, which its API does not tell")}
	}
	gaps, err := rules.HubGaps(hubs)
	if err != nil {
		return []finding{wrong(check, "Mend the policy.", "%v", err)}
	}
	if len(gaps) == 0 {
		return []finding{ok(check, "each finds a hub in the enrollment, as far as it names one")}
	}
	findings := make([]finding, 0, len(gaps))
	for _, gap := range gaps {
		what := fmt.Sprintf("rule %s finds no hub (%s)", cell(gap.Rule), gap.Want)
		switch gap.Then {
		case "next":
			findings = append(findings, note(check, "Nothing, if a later rule is meant to take its devices.", "%s, and leaves its devices to the rules below", what))
		case "retry":
			findings = append(findings, wrong(check, "Link the hub to the service and add it to the enrollment: update --hub NAME, once for each.", "%s, and its devices wait until they fail with 400207", what))
		default:
			findings = append(findings, wrong(check, "Link the hub to the service and add it to the enrollment: update --hub NAME, once for each.", "%s, and refuses its devices", what))
		}
	}
	return findings
}

// checkReprovisioning tells what the webhook will be offered for a device that
// registers again (dps-protocol 19.1).
func checkReprovisioning(p *enrollment.ReprovisionPolicy) finding {
	const check = "reprovisioning"
	switch {
	case p == nil:
		return note(check, "Set one: update --reprovision-policy migrate.", "not told: what is done depends on the age of the enrollment")
	case *p == enrollment.ReprovisionPolicy{}:
		return note(check, "Have the policy keep the current hub if no other is linked.", "never: a device that registers again stays, and the webhook is offered its current hub alone")
	case !p.UpdateHubAssignment:
		return note(check, "Set a documented one: update --reprovision-policy never, or migrate.", "data would be moved without a move, which is not documented")
	default:
		return ok(check, "%s", reprovisionText(p))
	}
}

// isLoopback tells whether a host is this machine by its very name.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// checkAddress looks whether the service can reach the webhook at all: by an
// address of the public internet, or for a local service by any.
func checkAddress(ctx context.Context, host string, local bool) finding {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(addresses) == 0 {
		return wrong("address", "Check its spelling, and that it is in the public DNS.", "%s has no address that this machine knows of", cell(host))
	}
	return judgeAddresses(host, addresses, local)
}

func judgeAddresses(host string, addresses []netip.Addr, local bool) finding {
	var private []string
	for _, address := range addresses {
		if !isPublic(address.Unmap()) {
			private = append(private, address.Unmap().String())
		}
	}
	shown := cell(host)
	if _, err := netip.ParseAddr(host); err != nil {
		shown += " (" + addresses[0].Unmap().String() + ")"
	}
	switch {
	case len(private) == 0:
		return ok("address", "%s, as far as this machine's name server tells", shown)
	case local:
		return ok("address", "%s, within the site like the service", shown)
	case len(private) < len(addresses):
		return note("address", "Take the addresses that DPS cannot reach out of the public DNS.", "%s has addresses of this site too: %s", shown, strings.Join(private, ", "))
	default:
		return wrong("address", "Give the site a public address or a relay; see docs/webhook.md. If the name leads elsewhere outside the site, nothing.", "%s is an address within a site, which DPS cannot reach", shown)
	}
}

// sharedAddresses are those behind a provider's address translation (RFC 6598).
var sharedAddresses = netip.MustParsePrefix("100.64.0.0/10")

func isPublic(ip netip.Addr) bool {
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && !ip.IsLoopback() && !sharedAddresses.Contains(ip)
}

// checkRegistrations looks at what became of the devices, for codes that only a
// webhook's answer brings (dps-protocol 4).
func checkRegistrations[E enrollment.Kind](ctx context.Context, kind entryKind[E], client *enrollment.Client, id string) finding {
	const check = "registrations"
	counts := make(map[int]int) // by code, 0 for assigned
	total := 0
	var last enrollment.Registration // of those that failed by the webhook
	for record, err := range kind.records(ctx, client, id) {
		if err != nil {
			if refused, isRefused := errors.AsType[*enrollment.ServiceError](err); isRefused && refused.HTTPStatus < http.StatusTooManyRequests {
				return note(check, "Give the policy of the connection string the permission RegistrationStatusRead.", "the service does not let this policy see them (%d)", refused.HTTPStatus)
			}
			return note(check, "Run the command again.", "not read to the end: %s", quoteAnswer([]byte(err.Error())))
		}
		if total++; total > checkedRegistrations {
			break
		}
		counts[record.ErrorCode]++
		if slices.Contains(webhookCodes, record.ErrorCode) && record.LastUpdatedDateTimeUTC.After(last.LastUpdatedDateTimeUTC.Time) {
			last = record
		}
	}
	if last.ErrorCode == 0 {
		return ok(check, "%d, none failed by the webhook", min(total, checkedRegistrations))
	}
	var failed []string
	for _, code := range webhookCodes {
		if counts[code] > 0 {
			failed = append(failed, fmt.Sprintf("%d with %d", counts[code], code))
		}
	}
	return note(check, "Compare the time with the last change; "+webhookCodeMeanings[last.ErrorCode]+".",
		"%d, of which failed by the webhook's answer: %s; the last was %s at %s", min(total, checkedRegistrations), strings.Join(failed, ", "), cell(last.RegistrationID), timeText(last.LastUpdatedDateTimeUTC))
}

// webhookCodes are those with which a registration ends because of the webhook
// (dps-protocol 12.4).
var webhookCodes = []int{400207, 400208, 400209}

// webhookCodeMeanings are what to look for.
var webhookCodeMeanings = map[int]string{
	400207: "400207 is a refusal of the policy, or a webhook that could not be reached for seven minutes",
	400208: "400208 is an answer without a hub",
	400209: "400209 is a wrong function key",
}
