// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"iter"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/provisioning/enrollment"
)

// newEnrollmentGroupCommand builds enrollment-group and what is below it.
func newEnrollmentGroupCommand() *cobra.Command {
	kind := groupKind()
	return newParentCommand("enrollment-group", "Enrollment groups of the provisioning service",
		`Enrollment-group reads and writes the enrollment groups of a provisioning
service, Azure's or a local one, over its service API. The connection string of
a shared access policy comes from a file or from DPS_CONNECTION_STRING.`,
		newCreateCommand(kind), newShowCommand(kind), newListCommand(kind),
		newUpdateCommand(kind), newDeleteCommand(kind), newKeysCommand(kind),
		newCheckCommand(kind), newFailoverCommand(kind))
}

// groupKind says what is particular about groups.
func groupKind() entryKind[enrollment.Group] {
	return entryKind[enrollment.Group]{
		command:  "enrollment-group",
		group:    true,
		noun:     "enrollment group",
		title:    "Enrollment group",
		argument: "GROUP",
		example:  "contoso-custom-allocated-devices",
		all:      (*enrollment.Client).Groups,
		make:     func(id string) enrollment.Group { return enrollment.Group{ID: id} },
		id:       func(g enrollment.Group) string { return g.ID },
		entry:    func(g *enrollment.Group) *enrollment.Entry { return &g.Entry },
		records: func(ctx context.Context, client *enrollment.Client, id string) iter.Seq2[enrollment.Registration, error] {
			return client.Registrations().Query(ctx, id, pageSize)
		},
		addFlags: func(cmd *cobra.Command, flags *entryFlags) {
			cmd.Flags().StringVar(&flags.caName, "ca", "", "`name` of a CA certificate of the service instance, which signs those of the devices")
		},
		applyOwn: func(*cobra.Command, *entryFlags, *enrollment.Group) {},
		head:     []string{"ENROLLMENT GROUP", "STATUS", "ATTESTATION", "ALLOCATION", "HUBS", "UPDATED"},
		row: func(g enrollment.Group) []string {
			return []string{g.ID, string(g.ProvisioningStatus), attestationText(g.Attestation), string(g.AllocationPolicy), hubsText(g.Entry), timeText(g.LastUpdatedDateTimeUTC)}
		},
		ownFacts:   func(facts, enrollment.Group) {},
		deleteNote: "Its devices stay at\ntheir hubs, but cannot register any more.",
	}
}
