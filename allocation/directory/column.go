// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/contoso/gatewayd/allocation"
)

// table and idColumn are the names that a site cannot choose.
const (
	table    = "devices"
	idColumn = "registration_id"
)

// Column is a column of the table.
type Column struct {
	// Name is in lower case, as policies spell it.
	Name string

	// Type is what the column holds, or empty when its declaration does not say.
	Type allocation.ColumnType

	// Declared is its type in the database's words.
	Declared string

	spelled string // its name in the database, where that is not Name
	whole   bool   // it takes whole numbers only
}

// mayHold tells whether values of the column can be what a policy expects. A
// number may be kept for a bool.
func (c Column) mayHold(wanted allocation.ColumnType) bool {
	return c.Type == "" || c.Type == wanted || c.Type == allocation.ColumnNumber && wanted == allocation.ColumnBool
}

// columnName is the form of names that every database takes without a change.
var columnName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// checkColumnName tells what is wrong with a name, if anything.
func checkColumnName(name string) error {
	switch {
	case columnName.MatchString(name):
		return nil
	case name == "":
		return fmt.Errorf("the column has no name")
	case columnName.MatchString(strings.ToLower(name)):
		return fmt.Errorf("the column name %q has upper-case letters; write %q", name, strings.ToLower(name))
	default:
		return fmt.Errorf("the column name %q has something else than lower-case letters, digits and _, does not begin with a letter, or is longer than 63", clip(name))
	}
}

// ParseTypes reads the types of columns as the command line has them, such as
// "floor=number,wired=bool". Columns that are not named hold text.
func ParseTypes(text string) (map[string]allocation.ColumnType, error) {
	types := map[string]allocation.ColumnType{}
	if text == "" {
		return types, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		name, kind, found := strings.Cut(strings.TrimSpace(part), "=")
		if !found {
			return nil, fmt.Errorf("%q is not a column and its type, such as floor=number", part)
		}
		if err := checkColumnName(name); err != nil {
			return nil, err
		}
		if _, twice := types[name]; twice {
			return nil, fmt.Errorf("the column %q is given twice", name)
		}
		switch t := allocation.ColumnType(kind); t {
		case allocation.ColumnText, allocation.ColumnNumber, allocation.ColumnBool:
			types[name] = t
		default:
			return nil, fmt.Errorf("%q is no type; a column holds text, number or bool", kind)
		}
	}
	if t, ok := types[idColumn]; ok && t != allocation.ColumnText {
		return nil, fmt.Errorf("%s holds text", idColumn)
	}
	return types, nil
}

// quoted is the column's name in a statement. Names of files are checked before
// they come here; the quotes are for those that are words of SQL.
func (c Column) quoted() string {
	name := c.Name
	if c.spelled != "" {
		name = c.spelled
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

// quotedNames is the list of columns in a statement.
func quotedNames(columns []Column) string {
	var all []string
	for _, column := range columns {
		all = append(all, column.quoted())
	}
	return strings.Join(all, ", ")
}

// clip shortens what stands in a message.
func clip(text string) string {
	const most = 60
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
