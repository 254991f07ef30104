// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/contoso/gatewayd/allocation"
)

// fromDatabase gives a value of a driver as a row has it.
func fromDatabase(value any) any {
	switch v := value.(type) {
	case nil, bool, int64:
		return v
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return strconv.FormatFloat(v, 'g', -1, 64) // JSON has no such number
		}
		return v
	case string:
		return strings.ToValidUTF8(v, "\ufffd")
	case []byte:
		if utf8.Valid(v) {
			return string(v)
		}
		return hex.EncodeToString(v)
	case time.Time:
		return v.Format(time.RFC3339Nano)
	default:
		return fmt.Sprint(v)
	}
}

// toText gives a value as a cell of a CSV file has it.
func toText(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	default:
		return fmt.Sprint(v)
	}
}

// newRow makes a row of values.
func newRow(names []string, values []any) (allocation.Row, error) {
	row := make(allocation.Row, len(names))
	size := 0
	for i, name := range names {
		if text, ok := values[i].(string); ok {
			size += len(text)
		}
		name = strings.ToLower(name)
		if _, twice := row[name]; twice {
			return nil, &rowError{fmt.Errorf("there are several columns %s, which differ in case only; leave one out with a view", name)}
		}
		row[name] = values[i]
	}
	if size > maxRow {
		return nil, &rowError{fmt.Errorf("the row has %d KiB of text, and at most %d are of use here; leave columns out with a view", size>>10, maxRow>>10)}
	}
	return row, nil
}

// checkID tells whether a row is that of the registration ID. What a database takes
// for equal depends on the column: numbers are, with and without zeros in front, and
// so is much under the collations that a site may choose. It would be the row of
// another device. Spaces behind an ID are those of a column of fixed length.
func checkID(row allocation.Row, id string) error {
	if have := toText(row[idColumn]); strings.ToLower(strings.TrimRight(have, " ")) != id {
		return &rowError{fmt.Errorf("the database gives the row of %q for %q; declare registration_id as text, with a collation that tells the two apart", clip(have), id)}
	}
	return nil
}

// errTwice is the error of a registration ID with more than one row.
func errTwice(id string) error {
	return &rowError{fmt.Errorf("there are several rows for %q; make registration_id the primary key, or mend the view", id)}
}
