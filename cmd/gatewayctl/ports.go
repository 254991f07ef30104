// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/serialbus"
)

// newPortsCommand builds ports.
func newPortsCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "ports",
		Short: "List the serial ports, their stable names and who holds them",
		Long: `Ports lists the serial ports of this computer. PORT is the name for the
configuration: it leads to the same adapter after a restart, where there is such a
name. HELD BY is the process that has the port open, as far as your rights go. No
port is opened, and nothing is sent.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return wrongUsage(cmd, "--output %q is neither text nor json", output)
			}
			return showPorts(serialbus.Machine{}, output == "json", cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text, or json: one object a line")
	return cmd
}

// portRow is a port as -o json shows it; absent is what the system does not tell.
type portRow struct {
	Port         string      `json:"port"`
	Why          string      `json:"why,omitempty"` // why port is no name under by-id
	Device       string      `json:"device"`
	Driver       string      `json:"driver,omitempty"`
	VendorID     string      `json:"vendorId,omitempty"`
	ProductID    string      `json:"productId,omitempty"`
	Vendor       string      `json:"vendor,omitempty"`
	Product      string      `json:"product,omitempty"`
	Serial       string      `json:"serial,omitempty"`
	LatencyTimer int         `json:"latencyTimerMs,omitempty"`
	HeldBy       []holderRow `json:"heldBy"`
	HoldersKnown bool        `json:"holdersKnown"` // false = somebody may hold it whom we may not see
}

type holderRow struct {
	PID  int    `json:"pid"`
	Name string `json:"name"`
}

// showPorts prints the ports of a machine. What is only advice goes to hints.
func showPorts(machine serialbus.Machine, asJSON bool, out, hints io.Writer) error {
	ports, err := machine.Ports()
	if err != nil {
		return err
	}
	devices := make([]string, 0, len(ports))
	for _, p := range ports {
		devices = append(devices, p.Device)
	}
	holders, all := machine.Holders(devices...)
	if asJSON {
		for _, p := range ports {
			row := portRow{
				p.Path, p.Why, p.Device, p.Driver, p.VendorID, p.ProductID, p.Vendor, p.Product, p.Serial, p.LatencyTimer,
				[]holderRow{},
				all,
			}
			for _, h := range holders[p.Device] {
				row.HeldBy = append(row.HeldBy, holderRow(h))
			}
			if err := printJSON(out, row); err != nil {
				return err
			}
		}
		return nil
	}
	if len(ports) == 0 {
		fmt.Fprintln(hints, "There is no serial port. Plug an adapter in; one that stays unseen has no driver (dmesg tells).")
		return nil
	}
	t := newTable(out, "PORT", "DEVICE", "WHAT", "HELD BY")
	for _, p := range ports {
		var names []string
		for _, h := range holders[p.Device] {
			names = append(names, h.String())
		}
		t.row(p.Path, p.Device, whatIs(p), strings.Join(names, ", "))
	}
	if err := t.end(); err != nil {
		return err
	}
	for _, p := range ports {
		if p.Why != "" {
			fmt.Fprintf(hints, "%s: %s.\n", p.Device, p.Why)
		}
		if p.LatencyTimer > 1 {
			fmt.Fprintf(hints, "%s: it holds short replies back for %d ms; packaging/udev.rules sets 1 ms, and scans are quicker.\n", p.Device, p.LatencyTimer)
		}
	}
	if !all {
		fmt.Fprintln(hints, "Processes of other users may hold a port unseen; sudo gatewayctl ports shows them.")
	}
	return nil
}

// whatIs describes an adapter, or at least its driver.
func whatIs(p serialbus.PortInfo) string {
	words := []string{p.Vendor, p.Product}
	if p.Serial != "" {
		words = append(words, "no. "+p.Serial)
	}
	if p.VendorID != "" {
		words = append(words, "["+p.VendorID+":"+p.ProductID+"]")
	} else {
		words = append(words, p.Driver)
	}
	return strings.Join(strings.Fields(strings.Join(words, " ")), " ")
}
