// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/contoso/gatewayd/gateway"
)

// result is the document of --json; the appliances have the form of design
// section 4.
type result struct {
	Appliances     []gateway.Status `json:"appliances"`
	ElapsedSeconds float64          `json:"elapsedSeconds"`
}

// show prints the appliances as a table, or as one JSON document.
func show(w io.Writer, asJSON bool, appliances []gateway.Status, elapsed time.Duration) error {
	if asJSON {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(result{appliances, float64(elapsed.Milliseconds()) / 1000})
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nAPPLIANCE\tLINE\tSTATE\tDPS ASKED\tASSIGNED HUB\tSETTINGS READ BACK")
	configured := 0
	for _, a := range appliances {
		if a.State == gateway.StateConfigured {
			configured++
		}
		asked := "no, stored"
		if a.Registered {
			asked = "yes"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", a.RegistrationID, where(a), a.State, asked, orDash(a.AssignedHub), properties(a.Reported))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%d of %d appliances configured after %.1f s\n", configured, len(appliances), elapsed.Seconds())
	return err
}

func where(a gateway.Status) string {
	if a.Unit == 0 {
		return a.Bus
	}
	return fmt.Sprintf("%s, unit %d", a.Bus, a.Unit)
}

func properties(values map[string]json.RawMessage) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		parts = append(parts, fmt.Sprintf("%s=%s", name, values[name]))
	}
	return orDash(strings.Join(parts, " "))
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// reasons says, for every expected appliance that is not configured, why.
func reasons(appliances []gateway.Status, expected []string) []string {
	byID := map[string]gateway.Status{}
	for _, a := range appliances {
		byID[a.RegistrationID] = a
	}
	var all []string
	for _, id := range expected {
		a, found := byID[id]
		switch {
		case found && a.State == gateway.StateConfigured:
		case !found:
			all = append(all, id+": not heard on its line")
		case a.Error != nil:
			all = append(all, fmt.Sprintf("%s: %s: %s; next: %s (%s)", id, a.State, a.Error.Verdict, a.Error.Next, a.Error.Owner))
		default:
			all = append(all, fmt.Sprintf("%s: still %s", id, a.State))
		}
	}
	return all
}
