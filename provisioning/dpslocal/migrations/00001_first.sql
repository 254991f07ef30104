-- SPDX-License-Identifier: Apache-2.0
-- Times are UTC text with nine fractional digits, '' when there is none.
-- Documents are JSON text; SQLite's own check is not asked, as it nests less deep.
-- Columns that end in _key hold what is compared; the spelling stands beside it.

-- +goose Up
CREATE TABLE enrollments (
    kind                TEXT NOT NULL,
    id_key              TEXT NOT NULL,
    id                  TEXT NOT NULL,
    device_id           TEXT NOT NULL,
    primary_key         TEXT NOT NULL,
    secondary_key       TEXT NOT NULL,
    provisioning_status TEXT NOT NULL,
    allocation_policy   TEXT NOT NULL,
    webhook_url         TEXT NOT NULL,
    hubs                TEXT NOT NULL,
    reprovision_policy  TEXT NOT NULL,
    initial_twin        TEXT NOT NULL,
    etag                TEXT NOT NULL,
    created             TEXT NOT NULL,
    updated             TEXT NOT NULL,
    PRIMARY KEY (kind, id_key)
) STRICT;

CREATE TABLE registrations (
    id_key          TEXT NOT NULL PRIMARY KEY,
    id              TEXT NOT NULL,
    enrollment_kind TEXT NOT NULL,
    enrollment_id   TEXT NOT NULL,
    created         TEXT NOT NULL,
    updated         TEXT NOT NULL,
    status          TEXT NOT NULL,
    state           TEXT NOT NULL,
    assigned_hub    TEXT NOT NULL,
    device_id       TEXT NOT NULL,
    substatus       TEXT NOT NULL
) STRICT;

CREATE TABLE operations (
    id               TEXT NOT NULL PRIMARY KEY,
    registration_key TEXT NOT NULL REFERENCES registrations (id_key),
    registration_id  TEXT NOT NULL,
    begun            TEXT NOT NULL,
    ended            TEXT NOT NULL,
    status           TEXT NOT NULL,
    state            TEXT NOT NULL,
    enrollment_kind  TEXT NOT NULL,
    enrollment_id    TEXT NOT NULL,
    key_id           TEXT NOT NULL,
    payload          TEXT NOT NULL,
    webhook_calls    INTEGER NOT NULL,
    next_call        TEXT NOT NULL
) STRICT;

CREATE INDEX operations_by_registration ON operations (registration_key, begun);
CREATE INDEX operations_by_end ON operations (ended);

CREATE TABLE devices (
    hub_key          TEXT NOT NULL,
    hub              TEXT NOT NULL,
    id               TEXT NOT NULL,
    primary_key      TEXT NOT NULL,
    secondary_key    TEXT NOT NULL,
    tags             TEXT NOT NULL,
    desired          TEXT NOT NULL,
    desired_version  INTEGER NOT NULL,
    reported         TEXT NOT NULL,
    reported_version INTEGER NOT NULL,
    PRIMARY KEY (hub_key, id)
) STRICT;
