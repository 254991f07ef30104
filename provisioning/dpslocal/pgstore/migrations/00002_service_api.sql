-- SPDX-License-Identifier: Apache-2.0
-- What the service API keeps beside what registrations need.

-- +goose Up
ALTER TABLE enrollments ADD COLUMN webhook_api_version TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE enrollments ADD COLUMN device_information TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN tags_version INTEGER NOT NULL DEFAULT 1;
CREATE INDEX registrations_by_enrollment ON registrations (enrollment_kind, lower(enrollment_id), id_key);
