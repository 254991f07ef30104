-- SPDX-License-Identifier: Apache-2.0
-- The tables of the SQLite store. Times are UTC text with nine fractional digits,
-- '' when there is none. Documents are JSON text. Columns that end in _key hold
-- what is compared; the spelling stands beside it. Text sorts by its bytes, as in
-- SQLite, whatever the locale of the database.

-- +goose Up
CREATE TABLE enrollments (
    kind                TEXT COLLATE "C" NOT NULL,
    id_key              TEXT COLLATE "C" NOT NULL,
    id                  TEXT COLLATE "C" NOT NULL,
    device_id           TEXT COLLATE "C" NOT NULL,
    primary_key         TEXT COLLATE "C" NOT NULL,
    secondary_key       TEXT COLLATE "C" NOT NULL,
    provisioning_status TEXT COLLATE "C" NOT NULL,
    allocation_policy   TEXT COLLATE "C" NOT NULL,
    webhook_url         TEXT COLLATE "C" NOT NULL,
    hubs                TEXT COLLATE "C" NOT NULL,
    reprovision_policy  TEXT COLLATE "C" NOT NULL,
    initial_twin        TEXT COLLATE "C" NOT NULL,
    etag                TEXT COLLATE "C" NOT NULL,
    created             TEXT COLLATE "C" NOT NULL,
    updated             TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, id_key)
);

CREATE TABLE registrations (
    id_key          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    id              TEXT COLLATE "C" NOT NULL,
    enrollment_kind TEXT COLLATE "C" NOT NULL,
    enrollment_id   TEXT COLLATE "C" NOT NULL,
    created         TEXT COLLATE "C" NOT NULL,
    updated         TEXT COLLATE "C" NOT NULL,
    status          TEXT COLLATE "C" NOT NULL,
    state           TEXT COLLATE "C" NOT NULL,
    assigned_hub    TEXT COLLATE "C" NOT NULL,
    device_id       TEXT COLLATE "C" NOT NULL,
    substatus       TEXT COLLATE "C" NOT NULL
);

CREATE TABLE operations (
    id               TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    registration_key TEXT COLLATE "C" NOT NULL REFERENCES registrations (id_key),
    registration_id  TEXT COLLATE "C" NOT NULL,
    begun            TEXT COLLATE "C" NOT NULL,
    ended            TEXT COLLATE "C" NOT NULL,
    status           TEXT COLLATE "C" NOT NULL,
    state            TEXT COLLATE "C" NOT NULL,
    enrollment_kind  TEXT COLLATE "C" NOT NULL,
    enrollment_id    TEXT COLLATE "C" NOT NULL,
    key_id           TEXT COLLATE "C" NOT NULL,
    payload          TEXT COLLATE "C" NOT NULL,
    webhook_calls    INTEGER NOT NULL,
    next_call        TEXT COLLATE "C" NOT NULL
);

CREATE INDEX operations_by_registration ON operations (registration_key, begun);
CREATE INDEX operations_by_end ON operations (ended);

CREATE TABLE devices (
    hub_key          TEXT COLLATE "C" NOT NULL,
    hub              TEXT COLLATE "C" NOT NULL,
    id               TEXT COLLATE "C" NOT NULL,
    primary_key      TEXT COLLATE "C" NOT NULL,
    secondary_key    TEXT COLLATE "C" NOT NULL,
    tags             TEXT COLLATE "C" NOT NULL,
    desired          TEXT COLLATE "C" NOT NULL,
    desired_version  INTEGER NOT NULL,
    reported         TEXT COLLATE "C" NOT NULL,
    reported_version INTEGER NOT NULL,
    PRIMARY KEY (hub_key, id)
);
