// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"iter"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/contoso/gatewayd/provisioning/enrollment"
)

// newEnrollmentCommand builds enrollment and what is below it.
func newEnrollmentCommand() *cobra.Command {
	kind := individualKind()
	return newParentCommand("enrollment", "Individual enrollments of the provisioning service",
		`Enrollment reads and writes the individual enrollments of a provisioning
service, Azure's or a local one, over its service API. An individual enrollment
is for one device and counts before any group. The connection string of a shared
access policy comes from a file or from DPS_CONNECTION_STRING.`,
		newCreateCommand(kind), newShowCommand(kind), newListCommand(kind),
		newUpdateCommand(kind), newDeleteCommand(kind), newKeysCommand(kind),
		newCheckCommand(kind), newFailoverCommand(kind),
		newStatusCommand(kind, "disable", "Bar one device at the service",
			`Disable bars a device at the service: it cannot register, whatever group lets it
in, until it is enabled there. At its hub it stays as it is. A device of a group
has no enrollment of its own; create one to bar it:

  gatewayctl enrollment create ID --provisioning-status disabled`,
			enrollment.Disabled, " The device cannot register until it is enabled there."),
		newStatusCommand(kind, "enable", "Let one device register again",
			"Enable lets a device that was disabled at the service register again.",
			enrollment.Enabled, " The device can register."))
}

// individualKind says what is particular about individual enrollments.
func individualKind() entryKind[enrollment.Individual] {
	return entryKind[enrollment.Individual]{
		command:  "enrollment",
		noun:     "enrollment",
		title:    "Enrollment",
		argument: "REGISTRATION-ID",
		example:  "breakroom499-contoso-tstrsd-007",
		all:      (*enrollment.Client).Individuals,
		make:     func(id string) enrollment.Individual { return enrollment.Individual{RegistrationID: id} },
		id:       func(i enrollment.Individual) string { return i.RegistrationID },
		entry:    func(i *enrollment.Individual) *enrollment.Entry { return &i.Entry },
		records:  registrationOf,
		addFlags: func(cmd *cobra.Command, flags *entryFlags) {
			cmd.Flags().StringVar(&flags.deviceID, "device-id", "", "`ID` of the device at its hub; without it the registration ID")
		},
		applyOwn: func(cmd *cobra.Command, flags *entryFlags, i *enrollment.Individual) {
			if cmd.Flags().Changed("device-id") {
				i.DeviceID = flags.deviceID
			}
		},
		head: []string{"REGISTRATION ID", "STATUS", "ATTESTATION", "ALLOCATION", "HUBS", "DEVICE ID", "UPDATED"},
		row: func(i enrollment.Individual) []string {
			return []string{i.RegistrationID, string(i.ProvisioningStatus), attestationText(i.Attestation), string(i.AllocationPolicy), hubsText(i.Entry), i.DeviceID, timeText(i.LastUpdatedDateTimeUTC)}
		},
		ownFacts: func(f facts, i enrollment.Individual) {
			f.add("Device ID", i.DeviceID)
			if record := i.RegistrationState; record != nil {
				f.add("Registration", registrationText(*record))
			}
		},
		deleteNote: "Its device stays at its\nhub, and can register only if a group lets it in.",
	}
}

// registrationOf is the record of the one device, if it has ever registered.
func registrationOf(ctx context.Context, client *enrollment.Client, id string) iter.Seq2[enrollment.Registration, error] {
	return func(yield func(enrollment.Registration, error) bool) {
		record, err := client.Registrations().Get(ctx, id)
		if refused, ok := errors.AsType[*enrollment.ServiceError](err); ok && refused.HTTPStatus == http.StatusNotFound {
			return
		}
		yield(record, err)
	}
}
