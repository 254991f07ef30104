// SPDX-License-Identifier: Apache-2.0

package enrollment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strings"
)

// AnyETag as an entry's ETag, or as the condition of a delete, stands for
// whatever is there.
const AnyETag = "*"

// maxBulk is how many entries one bulk call takes (dps-protocol 2.4).
const maxBulk = 10

// ErrBulk is wrapped by the complaint about a bulk call that is too small or too large.
var ErrBulk = errors.New("a bulk call takes 1 to 10 entries")

// Collection is all entries of one kind.
type Collection[E Kind] struct {
	client *Client
	path   string // such as "/enrollments"
	member string // of a bulk call's body
	noun   string // for errors
}

// Groups gives access to the enrollment groups.
func (c *Client) Groups() Collection[Group] {
	return Collection[Group]{client: c, path: "/enrollmentGroups", member: "enrollmentGroups", noun: "enrollment group"}
}

// Individuals gives access to the individual enrollments.
func (c *Client) Individuals() Collection[Individual] {
	return Collection[Individual]{client: c, path: "/enrollments", member: "enrollments", noun: "enrollment"}
}

// Get reads an entry, without its keys. One that does not exist is a
// [*ServiceError] of status 404.
func (c Collection[E]) Get(ctx context.Context, id string) (E, error) {
	e, err := c.one(ctx, id, request{method: http.MethodGet})
	return e, c.wrap("reading", id, err)
}

// Attestation reads how an entry's devices prove themselves, with its keys.
func (c Collection[E]) Attestation(ctx context.Context, id string) (Attestation, error) {
	attestation, err := c.attestation(ctx, id)
	return attestation, c.wrap("reading the keys of", id, err)
}

func (c Collection[E]) attestation(ctx context.Context, id string) (attestation Attestation, err error) {
	if err := checkID(id); err != nil {
		return Attestation{}, err
	}
	answer, err := c.client.exchange(ctx, request{method: http.MethodPost, path: c.path + "/" + url.PathEscape(id) + "/attestationmechanism"})
	if err != nil {
		return Attestation{}, err
	}
	if err := decode(answer.body, &attestation); err != nil {
		return Attestation{}, err
	}
	if attestation.Type == "" {
		return Attestation{}, fmt.Errorf("%w: it names no type of attestation", ErrNotService)
	}
	return attestation, nil
}

// Put writes an entry as a whole: without an ETag it creates it (409 if it
// exists), with one it replaces what has that etag (412 if it is another by now).
// It returns the entry as stored, with its new ETag and its keys.
func (c Collection[E]) Put(ctx context.Context, e E) (E, error) {
	id := of(&e).name()
	stored, err := c.put(ctx, e)
	return stored, c.wrap("writing", id, err)
}

func (c Collection[E]) put(ctx context.Context, e E) (stored E, err error) {
	document, err := writable(e)
	if err != nil {
		return stored, err
	}
	body, err := json.Marshal(document)
	if err != nil {
		return stored, err
	}
	return c.one(ctx, of(&e).name(), request{method: http.MethodPut, ifMatch: of(&e).base().ETag, body: body})
}

// Update changes an entry: it reads it with its keys, calls change, and writes it
// back on condition that nobody else has meanwhile (412). What change leaves
// alone stays as it is. An error of change ends it, and nothing is written.
func (c Collection[E]) Update(ctx context.Context, id string, change func(*E) error) (E, error) {
	e, err := c.update(ctx, id, change)
	return e, c.wrap("updating", id, err)
}

func (c Collection[E]) update(ctx context.Context, id string, change func(*E) error) (none E, err error) {
	e, err := c.one(ctx, id, request{method: http.MethodGet})
	if err != nil {
		return none, err
	}
	entry := of(&e).base()
	if entry.ETag == "" {
		return none, fmt.Errorf("%w: the entry has no etag", ErrNotService)
	}
	// Written back without its keys, the entry might get new ones (dps-protocol 17.5).
	if entry.Attestation.Type == AttestationSymmetricKey {
		if entry.Attestation, err = c.attestation(ctx, id); err != nil {
			return none, err
		}
	}
	if err := change(&e); err != nil {
		return none, err
	}
	return c.put(ctx, e)
}

// Delete removes an entry. The etag is one that was read, or "" or [AnyETag] for
// any. Devices that registered through it stay at their hubs.
func (c Collection[E]) Delete(ctx context.Context, id, etag string) error {
	err := checkID(id)
	if err == nil {
		_, err = c.client.exchange(ctx, request{method: http.MethodDelete, path: c.path + "/" + url.PathEscape(id), ifMatch: etag})
	}
	return c.wrap("deleting", id, err)
}

// Query reads all entries, without keys, page by page as they are asked for;
// pageSize 0 leaves its size to the service. The first error ends it.
func (c Collection[E]) Query(ctx context.Context, pageSize int) iter.Seq2[E, error] {
	return func(yield func(E, error) bool) {
		query := request{method: http.MethodPost, path: c.path + "/query", body: []byte(`{"query":"SELECT *"}`)}
		for e, err := range list[E](ctx, c.client, query, pageSize) {
			if err == nil && of(&e).name() == "" {
				err = fmt.Errorf("%w: an entry in it has no ID", ErrNotService)
			}
			if err != nil {
				err = fmt.Errorf("listing every %s: %w", c.noun, err)
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// BulkMode says what a bulk call does with its entries.
type BulkMode string

// The modes of a bulk call.
const (
	BulkCreate            BulkMode = "create"
	BulkUpdate            BulkMode = "update"            // whatever is there
	BulkUpdateIfMatchETag BulkMode = "updateIfMatchETag" // what has the entry's ETag
	BulkDelete            BulkMode = "delete"
)

// BulkResult tells which entries of a bulk call were not done. Some may be done
// and others not.
type BulkResult struct {
	IsSuccessful bool        `json:"isSuccessful"` // all are done
	Errors       []BulkError `json:"errors"`       // one for each that is not
}

// BulkError is why one entry was not done.
type BulkError struct {
	RegistrationID    string `json:"registrationId,omitempty"`    // of an individual enrollment
	EnrollmentGroupID string `json:"enrollmentGroupId,omitempty"` // of a group
	ErrorCode         int    `json:"errorCode"`
	ErrorStatus       string `json:"errorStatus"` // the service's words, made printable
}

// Bulk does the same with 1 to 10 entries in one request. An entry that fails is
// told in the result, the error is for a call that failed as a whole.
func (c Collection[E]) Bulk(ctx context.Context, mode BulkMode, entries []E) (BulkResult, error) {
	result, err := c.bulk(ctx, mode, entries)
	if err != nil {
		return BulkResult{}, fmt.Errorf("writing %d entries at once, %s: %w", len(entries), mode, err)
	}
	return result, nil
}

func (c Collection[E]) bulk(ctx context.Context, mode BulkMode, entries []E) (result BulkResult, err error) {
	if len(entries) < 1 || len(entries) > maxBulk {
		return BulkResult{}, ErrBulk
	}
	documents := make([]map[string]json.RawMessage, 0, len(entries))
	for _, e := range entries {
		if err := checkID(of(&e).name()); err != nil {
			return BulkResult{}, err
		}
		document, err := writable(e)
		if err != nil {
			return BulkResult{}, err
		}
		documents = append(documents, document)
	}
	body, err := json.Marshal(map[string]any{"mode": mode, c.member: documents})
	if err != nil {
		return BulkResult{}, err
	}
	answer, err := c.client.exchange(ctx, request{method: http.MethodPost, path: c.path, body: body})
	if err != nil {
		return BulkResult{}, err
	}
	err = decode(answer.body, &result)
	for i := range result.Errors {
		result.Errors[i].ErrorStatus = printable(result.Errors[i].ErrorStatus, maxMessage)
	}
	return result, err
}

// one sends a request about one entry and reads the entry that answers it.
func (c Collection[E]) one(ctx context.Context, id string, r request) (e E, err error) {
	if err := checkID(id); err != nil {
		return e, err
	}
	r.path = c.path + "/" + url.PathEscape(id)
	answer, err := c.client.exchange(ctx, r)
	if err != nil {
		return e, err
	}
	var read E
	if err := decode(answer.body, &read); err != nil {
		return e, err
	}
	if !strings.EqualFold(of(&read).name(), id) {
		return e, fmt.Errorf("%w: it is about another %s", ErrNotService, c.noun)
	}
	return read, nil
}

// wrap names the entry, once.
func (c Collection[E]) wrap(doing, id string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s %q: %w", doing, c.noun, id, err)
}

// writable is an entry as it is sent: with its secrets, without the members that
// only the service sets.
func writable[E Kind](e E) (map[string]json.RawMessage, error) {
	document, err := reveal(e)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"createdDateTimeUtc", "lastUpdatedDateTimeUtc", "registrationState"} {
		delete(document, name)
	}
	if of(&e).base().ETag == AnyETag {
		delete(document, "etag") // a condition, and no etag
	}
	return document, nil
}
