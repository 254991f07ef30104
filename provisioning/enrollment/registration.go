// SPDX-License-Identifier: Apache-2.0

package enrollment

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strings"
)

// Registration is what became of a device that registered (dps-protocol 9.2).
type Registration struct {
	RegistrationID         string          `json:"registrationId"`
	Status                 string          `json:"status"`              // unassigned, assigning, assigned, failed or disabled
	Substatus              string          `json:"substatus,omitempty"` // of an assigned one
	AssignedHub            string          `json:"assignedHub,omitempty"`
	DeviceID               string          `json:"deviceId,omitempty"`
	ErrorCode              int             `json:"errorCode,omitempty"` // of a failed one
	ErrorMessage           string          `json:"errorMessage,omitempty"`
	Payload                json.RawMessage `json:"payload,omitempty"` // what the webhook sent back
	ETag                   string          `json:"etag,omitempty"`
	CreatedDateTimeUTC     Timestamp       `json:"createdDateTimeUtc,omitzero"`
	LastUpdatedDateTimeUTC Timestamp       `json:"lastUpdatedDateTimeUtc,omitzero"`
}

// Registrations are the registration records of a service.
type Registrations struct{ client *Client }

// Registrations gives access to the registration records.
func (c *Client) Registrations() Registrations { return Registrations{client: c} }

// Get reads the record of one device. One that never registered has none: the
// error is a [*ServiceError] of status 404.
func (r Registrations) Get(ctx context.Context, registrationID string) (Registration, error) {
	record, err := r.get(ctx, registrationID)
	if err != nil {
		return Registration{}, fmt.Errorf("reading registration %q: %w", registrationID, err)
	}
	return record, nil
}

func (r Registrations) get(ctx context.Context, registrationID string) (record Registration, err error) {
	if err := checkID(registrationID); err != nil {
		return Registration{}, err
	}
	answer, err := r.client.exchange(ctx, request{method: http.MethodGet, path: registrationPath(registrationID)})
	if err != nil {
		return Registration{}, err
	}
	if err := decode(answer.body, &record); err != nil {
		return Registration{}, err
	}
	if !strings.EqualFold(record.RegistrationID, registrationID) {
		return Registration{}, fmt.Errorf("%w: it is about another registration", ErrNotService)
	}
	return record, nil
}

// Delete makes the service forget a record: the next registration of the device
// counts as its first. At its hub the device stays, and its enrollment lets it
// register again. The etag is one that was read, or "" or [AnyETag] for any.
func (r Registrations) Delete(ctx context.Context, registrationID, etag string) error {
	err := checkID(registrationID)
	if err == nil {
		_, err = r.client.exchange(ctx, request{method: http.MethodDelete, path: registrationPath(registrationID), ifMatch: etag})
	}
	if err != nil {
		return fmt.Errorf("deleting registration %q: %w", registrationID, err)
	}
	return nil
}

// Query reads the records of all devices that registered through a group, page by
// page as they are asked for; pageSize 0 leaves its size to the service. The
// first error ends it.
func (r Registrations) Query(ctx context.Context, groupID string, pageSize int) iter.Seq2[Registration, error] {
	return func(yield func(Registration, error) bool) {
		what := fmt.Sprintf("the registrations of enrollment group %q", groupID)
		if err := checkID(groupID); err != nil {
			yield(Registration{}, fmt.Errorf("listing %s: %w", what, err))
			return
		}
		// Of a body the service takes no notice here, so none is sent.
		query := request{method: http.MethodPost, path: registrationPath(groupID) + "/query"}
		for record, err := range list[Registration](ctx, r.client, query, pageSize) {
			if err == nil && record.RegistrationID == "" {
				err = fmt.Errorf("%w: a registration in it has no ID", ErrNotService)
			}
			if err != nil {
				err = fmt.Errorf("listing %s: %w", what, err)
			}
			if !yield(record, err) || err != nil {
				return
			}
		}
	}
}

func registrationPath(id string) string { return "/registrations/" + url.PathEscape(id) }
