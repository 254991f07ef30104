// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/provisioning/enrollment"
)

// newRegistrationCommand builds registration and what is below it.
func newRegistrationCommand() *cobra.Command {
	return newParentCommand("registration", "Registration records of the provisioning service",
		`Registration reads and deletes what a provisioning service, Azure's or a local
one, remembers of the devices that registered. The connection string of a shared
access policy comes from a file or from DPS_CONNECTION_STRING.`,
		newRegistrationShowCommand(), newRegistrationListCommand(), newRegistrationDeleteCommand())
}

// registrationCommand is what the three commands have in common.
type registrationCommand struct {
	service serviceFlags
	output  string
}

// command builds a command's frame.
func (c *registrationCommand) command(cmd *cobra.Command, run func(cmd *cobra.Command, records enrollment.Registrations, host, id string) error) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkOutput(cmd, c.output); err != nil {
			return err
		}
		client, err := c.service.client(cmd)
		if err != nil {
			return err
		}
		defer client.Close()
		return run(cmd, client.Registrations(), client.HostName(), args[0])
	}
	c.service.add(cmd)
	cmd.Flags().StringVarP(&c.output, "output", "o", "text", "text, or json: one object a line")
	return cmd
}

// newRegistrationShowCommand builds show.
func newRegistrationShowCommand() *cobra.Command {
	var c registrationCommand
	return c.command(&cobra.Command{
		Use:     "show REGISTRATION-ID",
		Short:   "Show what became of one device",
		Long:    "Show prints what the service remembers of a device that has registered.",
		Example: "  gatewayctl registration show breakroom499-contoso-tstrsd-007",
		Args:    oneID("registration"),
	}, func(cmd *cobra.Command, records enrollment.Registrations, _, id string) error {
		record, err := records.Get(cmd.Context(), id)
		if err != nil {
			return err
		}
		if c.output == "json" {
			return printJSON(cmd.OutOrStdout(), record)
		}
		lines := newFacts(cmd.OutOrStdout())
		lines.add("Registration ID", record.RegistrationID)
		lines.add("Status", record.Status)
		lines.add("Substatus", record.Substatus)
		lines.add("Hub", record.AssignedHub)
		lines.add("Device ID", record.DeviceID)
		if record.ErrorCode != 0 {
			lines.add("Error", fmt.Sprintf("%d %s", record.ErrorCode, record.ErrorMessage))
		}
		lines.add("Payload", compactText(record.Payload))
		lines.add("Created", timeText(record.CreatedDateTimeUTC))
		lines.add("Updated", timeText(record.LastUpdatedDateTimeUTC))
		lines.add("ETag", record.ETag)
		return lines.end()
	})
}

// newRegistrationListCommand builds list.
func newRegistrationListCommand() *cobra.Command {
	var c registrationCommand
	return c.command(&cobra.Command{
		Use:     "list GROUP",
		Short:   "List the devices that registered through a group",
		Long:    "List prints the registration records of an enrollment group, page by page as the\nservice gives them.",
		Example: "  gatewayctl registration list contoso-custom-allocated-devices",
		Args:    oneID("enrollment group"),
	}, func(cmd *cobra.Command, records enrollment.Registrations, _, id string) (err error) {
		var rows *table
		if c.output == "text" {
			rows = newTable(cmd.OutOrStdout(), "REGISTRATION ID", "STATUS", "HUB", "DEVICE ID", "UPDATED")
			defer func() { err = errors.Join(err, rows.end()) }()
		}
		for record, err := range records.Query(cmd.Context(), id, pageSize) {
			switch {
			case err != nil:
				return err
			case rows != nil:
				rows.row(record.RegistrationID, record.Status, record.AssignedHub, record.DeviceID, timeText(record.LastUpdatedDateTimeUTC))
			default:
				if err := printJSON(cmd.OutOrStdout(), record); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// newRegistrationDeleteCommand builds delete.
func newRegistrationDeleteCommand() *cobra.Command {
	var c registrationCommand
	yes := false
	cmd := c.command(&cobra.Command{
		Use:   "delete REGISTRATION-ID",
		Short: "Make the service forget one registration",
		Long: `Delete removes a registration record after asking: the next registration of the
device counts as its first. The device stays at its hub, and its enrollment lets
it register again; to bar it see "gatewayctl enrollment disable".`,
		Example: "  gatewayctl registration delete breakroom499-contoso-tstrsd-007",
		Args:    oneID("registration"),
	}, func(cmd *cobra.Command, records enrollment.Registrations, host, id string) error {
		if err := confirm(cmd, yes, fmt.Sprintf("Delete the registration of %s at %s?", cell(id), host)); err != nil {
			return err
		}
		if err := records.Delete(cmd.Context(), id, enrollment.AnyETag); err != nil {
			return err
		}
		if c.output == "json" {
			return printJSON(cmd.OutOrStdout(), map[string]string{"registrationId": id, "status": "deleted"})
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "The registration of %s is deleted at the service.\n", cell(id))
		return err
	})
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// registrationText tells a record in one line.
func registrationText(record enrollment.Registration) string {
	parts := []string{record.Status}
	if record.AssignedHub != "" {
		parts = append(parts, "to", record.AssignedHub)
	}
	if record.DeviceID != "" {
		parts = append(parts, "as", record.DeviceID)
	}
	return strings.Join(parts, " ")
}
