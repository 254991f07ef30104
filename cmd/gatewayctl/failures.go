// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/contoso/gatewayd/provisioning"
)

// failuresHelp is the end of register's help: the exit statuses, and the client's
// own table of what can go wrong, so that the two cannot drift apart.
func failuresHelp() string {
	var text strings.Builder
	text.WriteString(`
Exit status: 0 all devices are assigned, 1 at least one is not, 2 the command
line is wrong and nothing was tried.

Failures: the kind, which -o json has as error.kind; the service's codes; what
Azure's C SDK says, with PROV_DEVICE_RESULT_ before it (two: MQTT, HTTPS); who
can do something about it; and below what it means.

`)
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "  KIND\tCODES\tC SDK\tWHO")
	failures := provisioning.Failures()
	for _, f := range failures {
		var codes []string
		for _, code := range f.Codes {
			codes = append(codes, fmt.Sprint(code))
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\t%s\n", f.Kind, strings.Join(codes, " "), strings.ReplaceAll(f.SDKResult, "PROV_DEVICE_RESULT_", ""), f.Owner)
	}
	_ = table.Flush() // a strings.Builder takes everything

	// What it means goes below each row, which would widen the columns if it
	// were there before.
	lines := strings.SplitAfter(text.String(), "\n")
	head := len(lines) - 1 - len(failures)
	var whole strings.Builder
	whole.WriteString(strings.Join(lines[:head], ""))
	for i, f := range failures {
		whole.WriteString(lines[head+i])
		fmt.Fprintf(&whole, "    %s\n", f.Verdict)
	}
	return whole.String()
}
