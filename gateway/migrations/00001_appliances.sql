-- SPDX-License-Identifier: Apache-2.0
-- +goose Up

-- One row for each registration ID ever seen on a line. identity and error are
-- JSON in the form of the appliance's JSON document; times are RFC 3339, UTC.
CREATE TABLE appliance (
	registration_id TEXT PRIMARY KEY,
	bus             TEXT    NOT NULL,
	port            TEXT    NOT NULL,
	driver          TEXT    NOT NULL,
	unit            INTEGER NOT NULL,
	place           TEXT    NOT NULL,
	identity        TEXT    NOT NULL,
	state           TEXT    NOT NULL,
	error           TEXT,
	updated         TEXT    NOT NULL
) STRICT;

-- The assignment in force. sent_payload is what the device told the policy
-- then; a change of it (a firmware update) is a reason to ask again.
CREATE TABLE assignment (
	registration_id TEXT PRIMARY KEY REFERENCES appliance (registration_id) ON DELETE CASCADE,
	assigned_hub    TEXT NOT NULL,
	device_id       TEXT NOT NULL,
	substatus       TEXT NOT NULL,
	payload         TEXT,
	sent_payload    TEXT,
	assigned_at     TEXT NOT NULL
) STRICT;

-- A registration that is wanted or under way. in_doubt is 1 from before a
-- register is sent until the service's answer is known.
CREATE TABLE registration (
	registration_id TEXT PRIMARY KEY REFERENCES appliance (registration_id) ON DELETE CASCADE,
	reason          TEXT    NOT NULL,
	since           TEXT    NOT NULL,
	attempts        INTEGER NOT NULL,
	next_attempt    TEXT,
	operation_id    TEXT    NOT NULL,
	in_doubt        INTEGER NOT NULL
) STRICT;

-- +goose Down
DROP TABLE registration;
DROP TABLE assignment;
DROP TABLE appliance;
