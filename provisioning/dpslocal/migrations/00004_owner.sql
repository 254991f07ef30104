-- SPDX-License-Identifier: Apache-2.0
-- One operation at most runs for a registration. Its owner is the instance of the
-- service that works on it; it is NULL where one instance has the store to itself.

-- +goose Up
ALTER TABLE operations ADD COLUMN owner TEXT;
CREATE UNIQUE INDEX operations_running ON operations (registration_key) WHERE ended = '';
