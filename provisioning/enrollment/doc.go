// SPDX-License-Identifier: Apache-2.0

// Package enrollment is a client of the service API of the Device Provisioning
// Service (DPS): the half that operators use, of Azure or of a local service
// alike (dps-protocol 17, api-version 2021-10-01).
//
// A [Client] is made from the connection string of a shared access policy. Its
// two collections, [Client.Groups] and [Client.Individuals], offer the same
// operations on entries of either kind; [Client.Registrations] tells what became
// of the devices:
//
//	policy, err := enrollment.ParseConnectionString(text)
//	client, err := enrollment.New(enrollment.Config{ConnectionString: policy})
//	for group, err := range client.Groups().Query(ctx, 0) { … }
//
// # Writing
//
// An entry whose ETag is empty is created, and one that exists already is a
// conflict. With the ETag that was read it is replaced if nobody has written
// since, with [AnyETag] in any case. The service takes an entry as a whole and
// shows the keys apart from it, so the safe way to change one is
// [Collection.Update]: it reads entry and keys, lets the caller change the entry
// and writes it back, members that this package does not know included.
//
// # Secrets
//
// Keys and the query of a webhook's URL, where the function key stands, print as
// "[redacted]" and "****" for every verb, in slog and in JSON. They come out of
// [Key.Reveal], [WebhookURL.Reveal] and [RevealJSON] only.
//
// # Errors
//
// What the service refuses is a [*ServiceError]. Nothing is sent twice: behind
// this API stands a person or a script who reads the error and knows whether to
// ask again, and a write that has taken effect although its answer was lost
// would be a conflict the second time.
package enrollment
