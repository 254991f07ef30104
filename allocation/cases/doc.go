// SPDX-License-Identifier: Apache-2.0

// Package cases holds a policy to what its author expects of it: a file of
// cases, each a request with the answer that it should get.
//
//	[defaults]                      # for every case that says nothing else
//	hubs = ["contoso-toasters-hub-1098.azure-devices.net"]
//
//	[[case]]
//	name = "a toaster goes to the toasters hub"
//	registration_id = "breakroom499-contoso-tstrsd-007"
//	want.hub = "contoso-toasters-hub-1098.azure-devices.net"
//	want.tags = { deviceType = "toaster" }
//
// [Load] reads such a file, [Run] asks a policy and tells what differs and which
// rules no case reached, [WriteJUnit] writes the outcome in the form that CI
// systems read, and [Write] makes a file of decisions that were recorded.
//
// A case's request is built from the members that the case gives and from no
// others, so that a case without hubs is a request without linkedHubs. They are:
//
//	registration_id    deviceRuntimeContext.registrationId
//	hubs               linkedHubs
//	group              the ID of the enrollment group
//	individual         true: by an individual enrollment and not by a group
//	current_hub        where the device is assigned now
//	current_device_id  its ID there; registration_id if only current_hub is given
//	payload            what the device sent
//	certificate        { subject = "CN=…", issuer = "CN=…" }: attestation by X.509
//
// Or the request is given whole: request names a file beside the file of cases,
// and request_json is the document itself. device is the row of the device
// directory; a case without one is a device without a row. without lists
// defaults that the case does not want.
//
// What is wanted may be given by these, of which at least one must be there:
//
//	hub                     the hub's host name
//	refused                 the sentence of the refusal
//	status                  200, 400, or 503 for trouble of our own
//	rule                    the name of the rule that decides
//	tags, desired, payload  members that must be there with these values;
//	                        others may be there too, unless exact = true
//	response_json           the whole AllocationResponse
//
// Documents are compared as [allocation.Differences] does.
package cases
