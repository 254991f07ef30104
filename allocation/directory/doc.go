// SPDX-License-Identifier: Apache-2.0

// Package directory is the site's device directory: a table "devices" with a
// column "registration_id" and whatever other columns the site has. The row of a
// registration ID is what a policy reads as device.
//
// The table is in a SQLite file, or in PostgreSQL where several gateways share
// it; there it may as well be a view over the site's own tables. Registration
// IDs are kept in lower case, because they compare without case
// (dps-protocol 2.2).
//
// [Open] gives what the webhook asks: it only ever reads, with one statement
// whose parameter is the ID, over a few connections. A database that fails is
// left alone for a moment, and then asked by one request at a time, so that
// requests do not queue for a database that is away. [Import] fills the table
// from CSV, all of it or nothing, while others read; [Export] writes it.
package directory
