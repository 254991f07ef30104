-- SPDX-License-Identifier: Apache-2.0
-- How a device proves itself is now part of an enrollment, and what it has shown
-- part of an operation and of its identity on a hub.

-- +goose Up
ALTER TABLE enrollments ADD COLUMN attestation TEXT COLLATE "C" NOT NULL DEFAULT 'symmetricKey';
ALTER TABLE enrollments ADD COLUMN x509 TEXT COLLATE "C" NOT NULL DEFAULT '{}';
ALTER TABLE enrollments ADD COLUMN tpm TEXT COLLATE "C" NOT NULL DEFAULT '{}';
ALTER TABLE enrollments ADD COLUMN iot_edge BOOLEAN NOT NULL DEFAULT FALSE;

ALTER TABLE operations ADD COLUMN certificates TEXT COLLATE "C" NOT NULL DEFAULT '';

ALTER TABLE devices ADD COLUMN primary_thumbprint TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN secondary_thumbprint TEXT COLLATE "C" NOT NULL DEFAULT '';
