// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// maxBulk is how many entries one bulk call may have (dps-protocol 2.4).
const maxBulk = 10

// bulkRequest is the body of a bulk call; which of the lists counts is told by
// the path.
type bulkRequest struct {
	Mode             string            `json:"mode"`
	Enrollments      []json.RawMessage `json:"enrollments"`
	EnrollmentGroups []json.RawMessage `json:"enrollmentGroups"`
}

// bulkResult tells which entries failed. The others took effect.
type bulkResult struct {
	IsSuccessful bool        `json:"isSuccessful"`
	Errors       []bulkError `json:"errors"`
}

// bulkError is one entry that failed.
type bulkError struct {
	RegistrationID    string `json:"registrationId,omitempty"`
	EnrollmentGroupID string `json:"enrollmentGroupId,omitempty"`
	ErrorCode         int    `json:"errorCode"`
	ErrorStatus       string `json:"errorStatus"`
}

// The modes of a bulk call, lower-cased: clients do not agree on their case.
const (
	bulkCreate        = "create"
	bulkUpdate        = "update"
	bulkUpdateIfMatch = "updateifmatchetag"
	bulkDelete        = "delete"
)

// bulk applies one operation to up to ten entries, each by itself. That some
// fail is normal and still answered 200.
func (a *serviceAPI) bulk(_ context.Context, c operatorCall) answer {
	var request bulkRequest
	if err := decodeJSON(c.body, &request); err != nil {
		return refuse(400, codeInvalid, "The body is not the JSON object of a bulk operation.")
	}
	entries, list := request.Enrollments, "enrollments"
	if c.kind == Group {
		entries, list = request.EnrollmentGroups, "enrollmentGroups"
	}
	mode := strings.ToLower(request.Mode)
	switch mode {
	case bulkCreate, bulkUpdate, bulkUpdateIfMatch, bulkDelete:
	default:
		return refuse(400, codeInvalid, fmt.Sprintf("The mode %q is none of create, update, updateIfMatchETag and delete.", request.Mode))
	}
	if len(entries) == 0 || len(entries) > maxBulk {
		return refuse(400, codeInvalid, fmt.Sprintf("There are %d %s in the body; give 1 to %d.", len(entries), list, maxBulk))
	}
	result := bulkResult{IsSuccessful: true, Errors: []bulkError{}}
	for _, entry := range entries {
		if failed := a.bulkOne(c.kind, mode, entry); failed != nil {
			result.IsSuccessful = false
			result.Errors = append(result.Errors, *failed)
		}
	}
	return answer{status: 200, body: encodeJSON(result)}
}

// bulkOne applies a mode to one entry and returns why it failed, or nil.
func (a *serviceAPI) bulkOne(kind EnrollmentKind, mode string, document json.RawMessage) *bulkError {
	var d entryDocument
	if err := json.Unmarshal(document, &d); err != nil {
		return &bulkError{ErrorCode: codeInvalid, ErrorStatus: "The entry is not the JSON object of an enrollment."}
	}
	err := a.bulkApply(kind, mode, d)
	if err == nil {
		return nil
	}
	_, code, message := a.explain(err, kind.unknownCode())
	failed := &bulkError{ErrorCode: code, ErrorStatus: message}
	if kind == Group {
		failed.EnrollmentGroupID = d.EnrollmentGroupID
	} else {
		failed.RegistrationID = d.RegistrationID
	}
	return failed
}

// bulkApply deletes, makes or replaces one entry by the rule of the mode.
func (a *serviceAPI) bulkApply(kind EnrollmentKind, mode string, d entryDocument) error {
	if mode == bulkDelete {
		return a.service.deleteEnrollment(kind, d.id(kind), func(Enrollment) error { return nil })
	}
	e, err := d.entry(kind, "")
	if err != nil {
		return &ConfigError{err}
	}
	_, err = a.write(e, func(existing Enrollment, found bool) error {
		switch {
		case mode == bulkCreate && found:
			return errExists
		case mode != bulkCreate && !found:
			return ErrNotFound
		case mode == bulkUpdateIfMatch && !etagMatches(d.ETag, existing.ETag):
			return errETag
		}
		return nil
	})
	return err
}
