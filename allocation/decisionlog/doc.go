// SPDX-License-Identifier: Apache-2.0

// Package decisionlog keeps the decisions of an allocation webhook in a file, so
// that yesterday's requests can be put to today's policy.
//
// The file holds JSON, one record a line, with everything that a decision depended
// on and what came of it; [Record] has the members. Requests, rows and responses
// have their secrets masked, and white space between their members is gone;
// everything else in them is as it was. Like
//
//	{"v":1,"time":"2026-11-21T10:00:00.5Z","registrationId":"breakroom499-contoso-tstrsd-007","status":200,"source":"policy",
//	 "rule":"toasters","policy":"0f1e2d3c4b5a","durationMicros":212,"device":{"room":"Break room 499"},"request":{…},"response":{…}}
//
// "v" is [Version]; a record with another one is not read. A line of the form
//
//	{"v":1,"time":"2026-11-21T10:00:01Z","lost":17}
//
// says that so many decisions before it were not recorded.
//
// The file is for replaying and is best effort: a [Writer] never holds an answer
// up. It drops decisions while there are more than some thousand a second, and while
// the disk is full or away, counts what it dropped, and goes on afterwards. What must not be lost, the
// record without which nothing is assigned, is the webhook's record in the journal.
//
// A writer writes at most once a second and never syncs, so that a flash disk
// wears no more than with any other log. After a crash of the machine the last
// seconds may be missing, and after one of the program the last line may be cut
// off; a [Read] passes over both.
//
// Files are bounded: FILE is renamed to FILE.1 when it has a quarter of the limit,
// FILE.1 to FILE.2, and FILE.3 goes.
package decisionlog
