// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
)

// directoryUse is what a policy wants of the directory, with its defaults.
func directoryUse(policy Policy) DirectoryUse {
	user, ok := policy.(DirectoryUser)
	if !ok {
		return DirectoryUse{}
	}
	use := user.DirectoryUse()
	if use.Timeout == 0 {
		use.Timeout = DefaultDirectoryTimeout
	}
	use.Timeout = min(use.Timeout, MaxDirectoryTimeout)
	return use
}

// device gives the row that the policy decides on, or nil for a policy that
// reads none, and, where that is the policy's own row because the directory was
// of no help, why it was not. An error ends the request: a [Refusal] when the
// policy refuses whoever has no row, and trouble of our own otherwise.
func (s *Setup) device(ctx context.Context, registrationID *string) (row Row, lookup Lookup, trouble string, err error) {
	if !s.use.Used {
		return nil, LookupNone, "", nil
	}
	row, found, err := s.lookUp(ctx, registrationID)
	switch {
	case err != nil && ctx.Err() == nil && s.use.Unavailable == DirectoryDefault:
		return s.defaultRow(), LookupFailed, oneLine(err.Error()), nil
	case err != nil && errors.Is(ctx.Err(), context.Canceled):
		return nil, LookupNone, "", err // the caller has gone, which tells nothing of the directory
	case err != nil:
		return nil, LookupFailed, "", err
	case found:
		return row, LookupFound, "", nil
	}
	switch s.use.Missing {
	case DirectoryDefault:
		return s.defaultRow(), LookupMissing, "", nil
	case DirectoryRefuse:
		return nil, LookupMissing, "", Refusal{Message: s.use.Refusal, Rule: "device directory"}
	default:
		return nil, LookupMissing, "", fmt.Errorf("the device directory has no row for %q", shorten(orEmpty(registrationID), maxLoggedID))
	}
}

// lookUp asks the directory. It is not asked for what cannot be in it.
func (s *Setup) lookUp(ctx context.Context, registrationID *string) (Row, bool, error) {
	id := orEmpty(registrationID)
	if !isRegistrationID(id) {
		return nil, false, nil
	}
	id = strings.ToLower(id)
	if s.Directory == nil {
		return nil, false, errors.New("the policy reads the device directory, and there is none")
	}
	ctx, cancel := context.WithTimeout(ctx, s.use.Timeout)
	defer cancel()
	row, found, err := s.askDirectory(ctx, id)
	if err != nil || !found {
		return nil, false, err
	}
	if row, err = s.use.Fit(row); err != nil {
		return nil, false, fmt.Errorf("reading the device directory's row for %q: %w", id, err)
	}
	return row, true, nil
}

// askDirectory asks the directory and turns a panic into an error, as askPolicy does:
// a shadow's would end the process.
func (s *Setup) askDirectory(ctx context.Context, id string) (row Row, found bool, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			row, found, err = nil, false, fmt.Errorf("the device directory panicked: %v\n%s", reason, debug.Stack())
		}
	}()
	return s.Directory.Lookup(ctx, id)
}

// defaultRow is the policy's own row. It is never nil, which would mean that
// there is no directory.
func (s *Setup) defaultRow() Row {
	if s.use.Default == nil {
		return Row{}
	}
	return s.use.Default
}

// Fit gives the row of a [Directory] in the form that a policy reads: without
// its NULLs, and with a bool where the policy wants one and the database keeps
// 0 and 1. A column that the row lacks, or that holds something else than the
// policy expects, is an error that names it, and never shows what is in it.
func (u DirectoryUse) Fit(row Row) (Row, error) {
	fitted := make(Row, len(row))
	for name, value := range row {
		if value != nil {
			fitted[name] = value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(u.Columns)) {
		value, there := row[name]
		if !there {
			return nil, fmt.Errorf("the table has no column %q, which the policy reads", name)
		}
		if value == nil {
			continue
		}
		fit, ok := u.Columns[name].fit(value)
		if !ok {
			return nil, fmt.Errorf("the column %q holds a %s, and the policy expects a %s", name, typeOf(value), u.Columns[name])
		}
		fitted[name] = fit
	}
	return fitted, nil
}

// fit gives a value as one of the type, and whether it is one.
func (t ColumnType) fit(value any) (any, bool) {
	switch v := value.(type) {
	case string:
		return v, t == ColumnText
	case bool:
		return v, t == ColumnBool
	case float64:
		return v, t == ColumnNumber
	case int64:
		if t == ColumnBool && (v == 0 || v == 1) {
			return v == 1, true
		}
		return v, t == ColumnNumber
	default:
		return nil, false
	}
}

// typeOf names a value's type in the words of a policy's file.
func typeOf(value any) string {
	switch value.(type) {
	case string:
		return string(ColumnText)
	case bool:
		return string(ColumnBool)
	case int64, float64:
		return string(ColumnNumber)
	default:
		return "value of another type"
	}
}

// UnmarshalJSON reads a row as a record keeps it: a number without a fraction
// becomes an int64 again, where it fits, and NULLs are left out.
func (r *Row) UnmarshalJSON(text []byte) error {
	var members map[string]any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&members); err != nil {
		return fmt.Errorf("reading a row of the device directory: %w", err)
	}
	if members == nil {
		*r = nil
		return nil
	}
	row := make(Row, len(members))
	for name, member := range members {
		switch value := member.(type) {
		case nil:
		case string, bool:
			row[name] = value
		case json.Number:
			number, err := parseNumber(value.String())
			if err != nil {
				return fmt.Errorf("reading a row of the device directory: %q: %w", name, err)
			}
			row[name] = number
		default:
			return fmt.Errorf("reading a row of the device directory: %q is neither text, number nor bool", name)
		}
	}
	*r = row
	return nil
}

// parseNumber gives an int64 or, for a fraction or what is too large, a float64.
func parseNumber(text string) (any, error) {
	if whole, err := strconv.ParseInt(text, 10, 64); err == nil {
		return whole, nil
	}
	return strconv.ParseFloat(text, 64)
}

// redactRow gives the row as a decision may show it: columns whose names say
// that they are secret are masked, and texts that carry a secret, as in redact.
// A row without secrets is returned as it is, not as a copy.
func redactRow(row Row) Row {
	var shown Row
	for name, value := range row {
		masked, hide := maskColumn(name, value)
		if !hide {
			continue
		}
		if shown == nil {
			shown = maps.Clone(row)
		}
		shown[name] = masked
	}
	if shown == nil {
		return row
	}
	return shown
}

func maskColumn(name string, value any) (masked string, hide bool) {
	if isSecretName(strconv.AppendQuote(nil, name)) {
		return redacted, true
	}
	text, ok := value.(string)
	if !ok {
		return "", false
	}
	quoted, err := json.Marshal(text)
	if err != nil {
		return redacted, true
	}
	shown := maskText(quoted, false)
	if shown == nil {
		return "", false
	}
	return unquote(shown), true
}

// isRegistrationID tells whether a text can be a registration ID
// (dps-protocol 2.2).
func isRegistrationID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for _, c := range []byte(id) {
		if !isAlphanumeric(c) && !strings.ContainsRune("-._:", rune(c)) {
			return false
		}
	}
	last := id[len(id)-1]
	return isAlphanumeric(last) || last == '-'
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
