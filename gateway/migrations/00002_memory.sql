-- SPDX-License-Identifier: Apache-2.0
-- +goose Up

-- What the gateway as a whole remembers across restarts, each under a name and
-- as JSON: its budgets, the time that has passed, what worked last.
CREATE TABLE memory (
	key   TEXT PRIMARY KEY,
	value TEXT NOT NULL
) STRICT;

-- +goose Down
DROP TABLE memory;
