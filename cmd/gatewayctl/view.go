// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"

	"github.com/contoso/gatewayd/provisioning/enrollment"
)

// rowsPerTable is after how many rows a table is printed and begun anew, so that
// a million entries need the memory of a thousand.
const rowsPerTable = 1000

// table prints rows in columns.
type table struct {
	writer *tabwriter.Writer
	rows   int
}

// newTable begins a table with its head.
func newTable(out io.Writer, head ...string) *table {
	t := &table{writer: tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	t.row(head...)
	return t
}

// row adds a row; an empty cell shows as a dash.
func (t *table) row(cells ...string) {
	for i, text := range cells {
		if i > 0 {
			fmt.Fprint(t.writer, "\t")
		}
		fmt.Fprint(t.writer, cell(text))
	}
	fmt.Fprintln(t.writer)
	if t.rows++; t.rows%rowsPerTable == 0 {
		t.writer.Flush()
	}
}

// end prints what is left.
func (t *table) end() error { return t.writer.Flush() }

// cell makes a text of the service safe to print: what could steer a terminal is
// shown in quotes.
func cell(text string) string {
	switch {
	case text == "":
		return "-"
	case !utf8.ValidString(text), strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
		return strconv.Quote(text)
	default:
		return text
	}
}

// facts prints one thing as lines of a name and a value each; what is empty is
// left out.
type facts struct{ writer *tabwriter.Writer }

func newFacts(out io.Writer) facts {
	return facts{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
}

func (f facts) add(name, value string) {
	if value != "" {
		fmt.Fprintf(f.writer, "%s:\t%s\n", name, cell(value))
	}
}

func (f facts) end() error { return f.writer.Flush() }

// addEntry shows what both kinds of entries have in common.
func (f facts) addEntry(e enrollment.Entry, secrets bool) {
	f.add("Status", string(e.ProvisioningStatus))
	f.add("Attestation", attestationText(e.Attestation))
	f.add("Allocation", string(e.AllocationPolicy))
	if custom := e.CustomAllocation; custom != nil {
		address := custom.WebhookURL.String()
		if secrets {
			address = custom.WebhookURL.Reveal()
		}
		f.add("Webhook", address)
		f.add("Webhook API version", custom.APIVersion)
	}
	f.add("Hubs", hubsText(e))
	f.add("Reprovisioning", reprovisionText(e.ReprovisionPolicy))
	if e.Capabilities != nil && e.Capabilities.IoTEdge {
		f.add("Edge", "yes")
	}
	f.add("Initial twin", compactText(e.InitialTwin))
	f.add("Created", timeText(e.CreatedDateTimeUTC))
	f.add("Updated", timeText(e.LastUpdatedDateTimeUTC))
	f.add("ETag", e.ETag)
}

// attestationText tells the type, and of X.509 by what.
func attestationText(a enrollment.Attestation) string {
	switch {
	case a.X509 == nil:
		return string(a.Type)
	case a.X509.ClientCertificates != nil:
		return string(a.Type) + ", client certificate"
	case a.X509.SigningCertificates != nil:
		return string(a.Type) + ", signing certificate"
	case a.X509.CAReferences != nil:
		return string(a.Type) + ", CA " + a.X509.CAReferences.Primary
	default:
		return string(a.Type)
	}
}

func hubsText(e enrollment.Entry) string {
	switch {
	case len(e.IoTHubs) > 0:
		return strings.Join(e.IoTHubs, ", ")
	case e.IoTHubHostName != "":
		return e.IoTHubHostName
	default:
		return "all linked hubs"
	}
}

// reprovisionText names a policy by the words of --reprovision-policy.
func reprovisionText(p *enrollment.ReprovisionPolicy) string {
	for _, policy := range reprovisionPolicies {
		if p != nil && *p == policy.policy {
			return policy.name + " (" + policy.meaning + ")"
		}
	}
	return ""
}

func timeText(t enrollment.Timestamp) string {
	if t.IsZero() {
		return ""
	}
	return t.Format("2006-01-02 15:04:05Z")
}

// compactText writes JSON on one line.
func compactText(text json.RawMessage) string {
	var line bytes.Buffer
	if json.Compact(&line, text) != nil {
		return ""
	}
	return line.String()
}

// printJSON prints one object on a line of its own.
func printJSON(out io.Writer, object any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(object)
}
