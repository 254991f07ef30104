// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"reflect"
	"slices"
	"strings"
)

// clone copies a record so deep that a change of the copy leaves it alone.
// Raw JSON is replaced, never edited, so it may be shared.
func (r record) clone() record {
	if r.Error != nil {
		e := *r.Error
		r.Error = &e
	}
	if r.Assignment != nil {
		a := *r.Assignment
		r.Assignment = &a
	}
	if r.Registration != nil {
		g := *r.Registration
		r.Registration = &g
	}
	return r
}

// equal compares all but the time of the last change.
func (r record) equal(other record) bool {
	r.Updated = other.Updated
	return reflect.DeepEqual(r, other)
}

func sortedList(items []string) string {
	slices.Sort(items)
	return strings.Join(items, ", ")
}
