// SPDX-License-Identifier: Apache-2.0

// Package policy is the language in which a site writes its allocation policy:
// a file of rules, read from the top, of which the first that applies decides.
//
//	[[rule]]
//	name = "toasters"
//	when.registration_id.contains = "-contoso-tstrsd-007"
//	hub.contains = "-toasters-"
//	desired = { state = "ready", darknessSetting = "medium" }
//	tags = { deviceType = "toaster" }
//
//	[[rule]]
//	refuse = "Unrecognized device registration."
//
// [Load] reads and checks a file, [Policy.Decide] answers an
// [allocation.Question] by it, and [Policy.Explain] tells how it came to the
// answer, by the same steps. The file is TOML, and packaging/policy.toml is the
// reference with everything that may stand in one.
//
// # Every device is answered, and every mistake is found at load
//
// The last rule must take every device, and a rule that none can reach is
// refused. Unknown keys, fields that do not exist, tests that do not fit a field,
// expressions that misspell a member or give the wrong type, names that a twin
// cannot have, and what looks like a secret are refused with file, line and
// column ([LoadError]); [LoadError.Report] shows the lines.
//
// What can only be found out at a request is an error that names file, line,
// column and rule, and never a silent No: a rule that was skipped because of a
// mistake could send an appliance to the wrong company. The webhook answers it
// with 503, and the service asks again.
//
// # Conditions
//
// A rule without when takes every device. when is a table of fields, all of
// which must fit; or a CEL expression as text; or a list of these, one of which
// must hold.
//
//	registration_id         as the device spells it; case counts unless said otherwise
//	model, firmware         the payload's model and MyDeviceFirmwareVersion
//	payload.NAME            any member of the device's payload; payload."a.b" inside another,
//	                        payload."/a/b" as a JSON pointer
//	enrollment_group        the ID of the enrollment group; absent for an individual enrollment
//	individual_enrollment   the registration ID of the individual enrollment, or absent
//	attestation             "symmetricKey", "x509" or "tpm"
//	certificate.subject     of an X.509 device; also issuer, thumbprint (SHA-1 or SHA-256)
//	                        and serial_number, both in any spelling of their digits
//	current_hub             where the device is assigned; absent at its first registration
//	current_device_id       likewise
//	linked_hubs             the hubs to choose from: one of them must fit
//	device.COLUMN           the row of the device directory
//	cel                     an expression, beside fields
//
// A field fits text (it equals), a list (it fits one of them), or a table of
// tests, all of which must hold:
//
//	equals, contains, prefix, suffix   text, or a list of which one must fit
//	glob                    * for any text and ? for one character, over the whole value
//	regex                   RE2, anywhere in the value
//	ignore_case = true      for the tests above
//	from, above, below, up_to   a number; or a version as text, compared part by part:
//	                        "12.10" is above "12.9" and equal to "12.10.0"
//	present = true | false  the member is there, or is not; null counts as absent
//	not = …                 text, list or table that must not fit
//
// A test of an absent member does not hold, so that not = "x" does. A test that
// cannot be told, such as from = "12" of a firmware "unknown", is an error.
//
// # Hubs
//
// hub is a host name, a list of them, or a table that says which linked hubs are
// candidates: by the tests above on their names, by weights = { "name" = 2 }, or
// by cel = '…' that names one. Candidates are always linked hubs, compared without
// regard to case where they are named. Several are told apart by pick: "first" or
// "last" in the order of linkedHubs, or "spread", the default, which is weighted
// rendezvous hashing: a device keeps its hub as long as that is a candidate, a
// hub that is added or taken away moves only its share, and a hub of weight 0 takes
// no new devices. keep_current = true leaves a device where it is assigned as long
// as that hub is a candidate.
//
// Without a candidate none decides: "retry", the default, is trouble of our own,
// because a hub that nobody linked is a mistake of the site's and not of the
// device, which must not be turned away for good; "next" leaves the device to the
// next rule; { refuse = "…" } refuses it.
//
// # Values
//
// desired, tags and payload are tables and become JSON with their members in the
// order of the file; dates and times become text as in RFC 3339. Any value inside
// may be { cel = '…' }, and so may each table as a whole and a refusal. A member
// whose expression gives an empty optional is left out. A rule without desired and
// tags leaves the enrollment's own initial twin in force; with one of them the
// other is empty.
//
// # Expressions
//
// An expression is CEL. It reads request, the AllocationRequest with its members
// spelled as on the wire; payload, the device's payload, or {} where it sent none;
// and device, the directory's row. Members that may be absent are read with
// payload.?model.orValue("") or asked for with has(request.enrollmentGroup).
// Beside CEL's standard functions there are lowerAscii, upperAscii, trim, split,
// join and replace. Members of maps come in the order of their names.
//
// # Bounds
//
// A file has at most 512 KiB and 1,000 rules, a table 2,000 keys, an expression
// 4 KiB; patterns, values and answers are bounded too. Expressions of one decision are stopped at 100,000
// steps of CEL's cost or after a second. A decision reads no clock, no random
// number, no file and no network.
package policy
