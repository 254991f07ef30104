-- SPDX-License-Identifier: Apache-2.0
-- +goose Up

-- The latest write to each appliance. step is planned, written or verified;
-- settings is what was to be written, as JSON, so that it can be looked for
-- after a kill or a power cut.
CREATE TABLE journal (
	registration_id TEXT PRIMARY KEY,
	revision        INTEGER NOT NULL,
	hash            TEXT    NOT NULL,
	step            TEXT    NOT NULL,
	settings        TEXT    NOT NULL,
	updated         TEXT    NOT NULL
) STRICT;

-- How often each register of an appliance was written on its latest day
-- (UTC, "2026-11-22"): registers are cells that wear out.
CREATE TABLE wear (
	registration_id TEXT    NOT NULL,
	register        INTEGER NOT NULL,
	day             TEXT    NOT NULL,
	writes          INTEGER NOT NULL,
	PRIMARY KEY (registration_id, register)
) STRICT;

-- +goose Down
DROP TABLE wear;
DROP TABLE journal;
