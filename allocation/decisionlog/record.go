// SPDX-License-Identifier: Apache-2.0

package decisionlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/contoso/gatewayd/allocation"
)

// Version is the format that this package writes and reads.
const Version = 1

// Record is one decision.
type Record struct {
	// Time is when the request arrived, UTC.
	Time time.Time

	// RegistrationID is the device's spelling of it, or empty.
	RegistrationID string

	// Status is the HTTP status of the answer.
	Status int

	// Source says who decided, or is empty when nobody did.
	Source allocation.Source

	// Rule names the rule of the policy that decided, or is empty.
	Rule string

	// Policy is the digest of the policy's text, or empty for the built-in one and
	// for answers of a cloud function.
	Policy string

	// FallbackReason is why the policy decided in place of a cloud function.
	FallbackReason string

	// DirectoryTrouble is why Device is a default row.
	DirectoryTrouble string

	// Duration is how long the decision took, in whole microseconds.
	Duration time.Duration

	// Device is the row that the policy decided on, or nil; see [Record.Row]. Its
	// values have the types of [allocation.Row].
	Device allocation.Row

	// Lookup is what became of the look into the device directory. Where the
	// directory was of no help Device is the policy's default row.
	Lookup allocation.Lookup

	// Request is the AllocationRequest, with its secrets masked.
	Request json.RawMessage

	// Response is the body of a 200, and nil otherwise.
	Response json.RawMessage

	// Refusal is the text that any other status went out with.
	Refusal string
}

// Row is the device's row in the device directory, or nil: the directory was not
// asked, or has none, and another policy may say something else to that.
func (r Record) Row() allocation.Row {
	if r.Lookup == allocation.LookupMissing {
		return nil
	}
	return r.Device
}

// FromDecision gives the record of a decision, and false when there is nothing to
// replay: the request was not read, because it had no key or came at a bad time,
// or it was not JSON.
func FromDecision(d allocation.Decision) (Record, bool) {
	if d.Request == nil {
		return Record{}, false
	}
	return Record{
		Time: d.Time.UTC(), RegistrationID: d.RegistrationID, Status: d.Status, Source: d.Source, Rule: d.Rule, Policy: d.PolicyDigest,
		FallbackReason: d.FallbackReason, DirectoryTrouble: d.DirectoryTrouble, Duration: d.Duration.Truncate(time.Microsecond),
		Device: d.Device, Lookup: d.Lookup, Request: d.Request, Response: d.Response, Refusal: d.Refusal,
	}, true
}

// line is a record as it stands in the file.
type line struct {
	Version          int               `json:"v"`
	Time             time.Time         `json:"time"`
	Lost             uint64            `json:"lost,omitempty"`
	RegistrationID   string            `json:"registrationId,omitempty"`
	Status           int               `json:"status,omitempty"`
	Source           allocation.Source `json:"source,omitempty"`
	Rule             string            `json:"rule,omitempty"`
	Policy           string            `json:"policy,omitempty"`
	FallbackReason   string            `json:"fallbackReason,omitempty"`
	DirectoryTrouble string            `json:"directoryTrouble,omitempty"`
	DurationMicros   int64             `json:"durationMicros,omitempty"`
	Device           map[string]value  `json:"device,omitzero"`
	Lookup           allocation.Lookup `json:"lookup,omitempty"`
	Request          json.RawMessage   `json:"request,omitempty"`
	Response         json.RawMessage   `json:"response,omitempty"`
	Refusal          string            `json:"refusal,omitempty"`
}

// appendRecord appends a record and a newline to out; it leaves out as it was when
// the record cannot be written.
func appendRecord(out *bytes.Buffer, r Record) error {
	l := line{
		Version: Version, Time: r.Time, RegistrationID: r.RegistrationID, Status: r.Status, Source: r.Source, Rule: r.Rule, Policy: r.Policy,
		FallbackReason: r.FallbackReason, DirectoryTrouble: r.DirectoryTrouble, DurationMicros: r.Duration.Microseconds(),
		Lookup: r.Lookup, Request: r.Request, Response: r.Response, Refusal: r.Refusal,
	}
	if r.Device != nil {
		l.Device = make(map[string]value, len(r.Device))
		for column, v := range r.Device {
			l.Device[column] = value{v}
		}
	}
	if l.Refusal == "" && isCompact(l.Request) && isCompact(l.Response) {
		return appendSpliced(out, l)
	}
	return appendLine(out, l)
}

// appendSpliced writes what appendLine writes, in less than half the time, where
// the documents can go in as they are: encoding/json would look at each of their
// characters several times.
func appendSpliced(out *bytes.Buffer, l line) error {
	before := out.Len()
	request, response := l.Request, l.Response
	l.Request, l.Response = nil, nil
	if err := appendLine(out, l); err != nil {
		return err
	}
	out.Truncate(out.Len() - len("}\n"))
	if request != nil {
		out.WriteString(`,"request":`)
		out.Write(request)
	}
	if response != nil {
		out.WriteString(`,"response":`)
		out.Write(response)
	}
	out.WriteString("}\n")
	if out.Len()-before > maxLine {
		out.Truncate(before)
		return errTooLong
	}
	return nil
}

// isCompact tells of a document, or of none, that no white space stands in it. That
// it is JSON is a decision's own promise.
func isCompact(document json.RawMessage) bool {
	return document == nil || len(document) > 0 && !bytes.ContainsAny(document, " \t\r\n")
}

var errTooLong = fmt.Errorf("larger than %d KiB", maxLine>>10)

func appendLine(out *bytes.Buffer, l line) error {
	before := out.Len()
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false) // requests are kept as they came
	err := encoder.Encode(l)
	if err == nil && out.Len()-before > maxLine {
		err = errTooLong
	}
	if err != nil {
		out.Truncate(before)
	}
	return err
}

// parseLine reads one line; lost is the count of a line that tells of lost ones.
func parseLine(text []byte) (r Record, lost uint64, err error) {
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return Record{}, 0, err
	}
	switch {
	case l.Version != Version:
		return Record{}, 0, fmt.Errorf("format version %d; this program reads version %d", l.Version, Version)
	case l.Lost > 0:
		return Record{}, l.Lost, nil
	case l.Request == nil:
		return Record{}, 0, errors.New("no request")
	}
	r = Record{
		Time: l.Time, RegistrationID: l.RegistrationID, Status: l.Status, Source: l.Source, Rule: l.Rule, Policy: l.Policy,
		FallbackReason: l.FallbackReason, DirectoryTrouble: l.DirectoryTrouble,
		Lookup: l.Lookup, Request: l.Request, Response: l.Response, Refusal: l.Refusal,
	}
	if l.DurationMicros > 0 && l.DurationMicros < math.MaxInt64/int64(time.Microsecond) {
		r.Duration = time.Duration(l.DurationMicros) * time.Microsecond
	}
	if l.Device != nil {
		r.Device = make(allocation.Row, len(l.Device))
		for column, v := range l.Device {
			if v.any != nil { // a column that is NULL is absent
				r.Device[column] = v.any
			}
		}
	}
	return r, 0, nil
}

// value is a value of a directory row, which must come back with its type: a
// float64 is written with a point or an exponent, an int64 without.
type value struct{ any }

// MarshalJSON writes the value; what is no number in JSON becomes null.
func (v value) MarshalJSON() ([]byte, error) {
	number, ok := v.any.(float64)
	if !ok {
		return json.Marshal(v.any)
	}
	if math.IsNaN(number) || math.IsInf(number, 0) {
		return []byte("null"), nil
	}
	text := strconv.FormatFloat(number, 'g', -1, 64)
	if !strings.ContainsAny(text, ".e") {
		text += ".0"
	}
	return []byte(text), nil
}

// UnmarshalJSON reads text, a number, a boolean or null.
func (v *value) UnmarshalJSON(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&v.any); err != nil {
		return err
	}
	switch known := v.any.(type) {
	case nil, string, bool:
		return nil
	case json.Number:
		var err error
		if strings.ContainsAny(known.String(), ".eE") {
			v.any, err = known.Float64()
		} else {
			v.any, err = known.Int64()
		}
		return err
	default:
		return errors.New("a value of the device's row is a list or an object")
	}
}
