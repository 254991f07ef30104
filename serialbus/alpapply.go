// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// alpStatusRoom is how much longer the status that shows a document may be than the stage that brought it: both must
// fit into a line.
const alpStatusRoom = 128

// alpDocument is what an ALP/1 appliance is set to: the params of stage, and, as an addition of ours to status, the
// content of what is applied. The appliance keeps two of them, with revision and checksum, and switches on commit.
type alpDocument struct {
	Rev      uint64                     `json:"rev"`
	Hub      string                     `json:"hub"`
	DeviceID string                     `json:"deviceId"`
	Desired  map[string]json.RawMessage `json:"desired"`
	Payload  json.RawMessage            `json:"payload,omitempty"`
}

// alpRevision names a document.
type alpRevision struct {
	Rev uint64 `json:"rev"`
	CRC string `json:"crc"` // CRC-32 of the exact bytes of stage's params
}

// alpApplied is the document in force. An appliance that only knows the published protocol shows its name alone.
type alpApplied struct {
	alpDocument
	CRC string `json:"crc"`
}

// alpStatus is the result of status. Both members are absent on an appliance that was never set.
type alpStatus struct {
	Applied *alpApplied  `json:"applied"`
	Staged  *alpRevision `json:"staged"`
}

// apply brings the appliance to the settings: status, compare, stage and commit on difference, status again. A power
// cut or a kill at any point leaves the old document or the new one in force, and the next apply sees which.
func (d *alpDriver) apply(ctx context.Context, _ byte, s Settings) (Applied, error) {
	plan := d.profile.plan(s.Desired)
	applied := Applied{Reported: make(map[string]json.RawMessage), Unmapped: plan.unmapped}
	books, err := open(ctx, d.journal, s, 0)
	if err != nil {
		return applied, err
	}
	status, err := d.status(ctx)
	if err != nil {
		return applied, err
	}
	want, err := d.document(s, status.keeping(plan), status.nextRevision())
	if err != nil {
		return applied, plan.rejections(err)
	}
	if !status.holds(want) {
		applied.Wrote = true
		if err := d.write(ctx, want, books); err != nil {
			var rejected *RejectedError
			if errors.As(err, &rejected) {
				applied.Reported = status.reported(plan.wanted)
				err = errors.Join(err, books.verified(ctx)) // its answer says that nothing changed
			}
			return applied, plan.rejections(err)
		}
		if status, err = d.status(ctx); err != nil {
			return applied, err
		}
		if !status.holds(want) {
			return applied, errors.New("the appliance accepted the settings, but its status shows others: trying again")
		}
	}
	applied.Reported = status.reported(plan.wanted)
	return applied, errors.Join(plan.rejections(), books.verified(ctx))
}

// holds asks the appliance for its status and compares.
func (d *alpDriver) holds(ctx context.Context, _ byte, s Settings) (bool, error) {
	plan := d.profile.plan(s.Desired)
	status, err := d.status(ctx)
	if err != nil {
		return false, err
	}
	want, err := d.document(s, status.keeping(plan), status.nextRevision())
	if err != nil {
		return false, err
	}
	return status.holds(want), nil
}

// document builds what is wanted. Only desired properties are a must: a payload that makes the line too long for the
// appliance stays in the gateway.
func (d *alpDriver) document(s Settings, desired map[string]json.RawMessage, rev uint64) (alpDocument, error) {
	doc := alpDocument{Rev: rev, Hub: s.AssignedHub, DeviceID: s.DeviceID, Desired: desired, Payload: s.Payload}
	if len(doc.Payload) > 0 && !json.Valid(doc.Payload) {
		return doc, &RejectedError{Property: "payload", Reason: "what the policy sent back is no JSON"}
	}
	limit := alpMaxLine
	if d.maxLine > 0 {
		limit = d.maxLine
	}
	if doc.lineLength() > limit && doc.Payload != nil {
		d.log.Warn("the payload of the assignment is too long for the appliance and stays in the gateway", "bytes", len(doc.Payload), "limit", limit)
		doc.Payload = nil
	}
	if n := doc.lineLength(); n > limit {
		return doc, &RejectedError{Property: "desired", Reason: fmt.Sprintf("all properties together need a line of %d bytes, the appliance takes %d", n, limit)}
	}
	return doc, nil
}

// lineLength is how long the longer of the two lines is that carry the document.
func (doc alpDocument) lineLength() int {
	encoded, err := json.Marshal(doc)
	if err != nil {
		return alpMaxLine + 1 // not JSON: never sent
	}
	return len(encoded) + alpStatusRoom
}

// write stages the document and commits it. Both are one write to the journal; the appliance looks after its own memory,
// so no cells are counted.
func (d *alpDriver) write(ctx context.Context, doc alpDocument, books *bookkeeper) error {
	params, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("writing the settings: %w", err)
	}
	want := alpRevision{Rev: doc.Rev, CRC: alpChecksum(params)}
	if err := books.plan(ctx, nil); err != nil {
		return err
	}
	result, err := d.call(ctx, "stage", params, d.wait)
	if err != nil {
		return fmt.Errorf("staging revision %d: %w", doc.Rev, rejection(err))
	}
	var staged alpRevision
	if err := json.Unmarshal(result, &staged); err != nil || staged != want {
		return fmt.Errorf("staging revision %d: the appliance did not confirm its checksum %s: trying again", want.Rev, want.CRC)
	}
	params, err = json.Marshal(want)
	if err != nil {
		return fmt.Errorf("committing revision %d: %w", want.Rev, err)
	}
	if _, err := d.call(ctx, "commit", params, alpCommitTimeout); err != nil {
		return fmt.Errorf("committing revision %d: %w", want.Rev, rejection(err))
	}
	return books.written(ctx)
}

// rejection turns the refusal that will not change by trying again into a RejectedError.
func rejection(err error) error {
	var refused *alpError
	if !errors.As(err, &refused) || refused.Code != alpInvalidParams {
		return err
	}
	name := cleanText(refused.Data.Property)
	if name == "" {
		name = "desired"
	}
	return &RejectedError{Property: name, Reason: "the appliance says: " + cleanText(refused.Message)}
}

// status reads what is in force and what is staged.
func (d *alpDriver) status(ctx context.Context) (alpStatus, error) {
	var status alpStatus
	result, err := d.call(ctx, "status", nil, d.wait)
	if err != nil {
		return status, fmt.Errorf("reading the status: %w", err)
	}
	if err := json.Unmarshal(result, &status); err != nil {
		return status, fmt.Errorf("reading the status: the appliance's answer is not an ALP/1 status: %w", err)
	}
	return status, nil
}

// nextRevision is one above the highest that the appliance knows: it refuses an older one.
func (s alpStatus) nextRevision() uint64 {
	var highest uint64
	if s.Applied != nil {
		highest = s.Applied.Rev
	}
	if s.Staged != nil {
		highest = max(highest, s.Staged.Rev)
	}
	return highest + 1
}

// holds reports whether the appliance has the wanted content in force, under whatever revision. An appliance that
// does not show the content is judged by its checksum.
func (s alpStatus) holds(want alpDocument) bool {
	if s.Applied == nil {
		return false
	}
	is := s.Applied.alpDocument
	if is.Desired == nil {
		want.Rev = is.Rev
		params, err := json.Marshal(want)
		return err == nil && alpChecksum(params) == s.Applied.CRC
	}
	return is.Hub == want.Hub && is.DeviceID == want.DeviceID &&
		maps.EqualFunc(is.Desired, want.Desired, sameJSON) && sameJSON(is.Payload, want.Payload)
}

// keeping returns what is to be staged: the wanted properties, and the refused ones as the appliance holds them now. A
// document replaces the one before as a whole, and a value that may not be set must not erase the one that is.
func (s alpStatus) keeping(p plan) map[string]json.RawMessage {
	desired := maps.Clone(p.wanted)
	for _, r := range p.refused {
		if s.Applied == nil {
			break
		}
		if value, ok := s.Applied.Desired[r.Property]; ok {
			desired[r.Property] = value
		}
	}
	return desired
}

// reported returns the wanted properties as the appliance holds them; nil values do not occur. An appliance that does
// not show the content has proven it by checksum.
func (s alpStatus) reported(wanted map[string]json.RawMessage) map[string]json.RawMessage {
	if s.Applied == nil {
		return map[string]json.RawMessage{}
	}
	if s.Applied.Desired == nil {
		return maps.Clone(wanted)
	}
	reported := make(map[string]json.RawMessage, len(wanted))
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if value, ok := s.Applied.Desired[name]; ok {
			reported[name] = value
		}
	}
	return reported
}

// sameJSON reports whether two values are equal as JSON, whatever their spacing; absent and null are equal.
func sameJSON(a, b json.RawMessage) bool {
	left, okLeft := decodeJSON(a)
	right, okRight := decodeJSON(b)
	return okLeft && okRight && reflect.DeepEqual(left, right)
}

// decodeJSON decodes a value for comparison. Numbers keep their digits: a float64 would call two long ones equal.
func decodeJSON(value json.RawMessage) (any, bool) {
	if len(value) == 0 {
		return nil, true
	}
	decoder := json.NewDecoder(bytes.NewReader(value))
	decoder.UseNumber()
	var decoded any
	if err := decoder.Decode(&decoded); err != nil {
		return nil, false
	}
	return decoded, true
}
