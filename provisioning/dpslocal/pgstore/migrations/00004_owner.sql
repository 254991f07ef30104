-- SPDX-License-Identifier: Apache-2.0
-- One operation at most runs for a registration. Its owner is the instance of the
-- service that works on it, which others may delete when its lease has ended; an
-- operation of nobody can be taken over. Secrets are what instances share.

-- +goose Up
CREATE TABLE instances (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    lease_until TIMESTAMPTZ NOT NULL
);

ALTER TABLE operations ADD COLUMN owner TEXT COLLATE "C" REFERENCES instances (id) ON DELETE SET NULL;
CREATE UNIQUE INDEX operations_running ON operations (registration_key) WHERE ended = '';
CREATE INDEX operations_by_owner ON operations (owner) WHERE owner IS NOT NULL;

CREATE TABLE secrets (
    name  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value TEXT COLLATE "C" NOT NULL
);
