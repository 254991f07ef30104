// SPDX-License-Identifier: Apache-2.0

package dpslocal

import (
	"encoding/base64"
	"errors"
	"regexp"
	"strconv"
	"strings"
)

const (
	defaultPage = 100  // entries in a page when nothing is said
	maxPage     = 1000 // more is not given, whatever is asked for

	// anyPage asks for the default, as some clients write it.
	anyPage = "-1"
)

// selectPattern is the whole of the query language here: everything. The real
// service's grammar is not documented (dps-protocol 17.5).
var selectPattern = regexp.MustCompile(`(?i)^\s*(\*|select\s+\*(\s+from\s+[a-z_][a-z0-9_]*)?)\s*$`)

// parseQuery reads the body of a query and refuses what would need a choice.
func parseQuery(body []byte) error {
	var specification struct {
		Query *string `json:"query"`
	}
	if err := decodeJSON(body, &specification); err != nil || specification.Query == nil {
		return errors.New(`the body is not of the form {"query":"SELECT * FROM enrollments"}`)
	}
	if !selectPattern.MatchString(*specification.Query) {
		return errors.New("the query is none that is understood here; use SELECT *, and filter the answer")
	}
	return nil
}

// page is the part of a list that is asked for.
type page struct {
	after string // the lower-cased ID behind which it begins, or ""
	size  int
}

// parsePage reads x-ms-max-item-count and x-ms-continuation.
func parsePage(maxItems, continuation string) (page, error) {
	p := page{size: defaultPage}
	if maxItems != "" && maxItems != anyPage {
		size, err := strconv.Atoi(maxItems)
		if err != nil || size < 1 {
			return page{}, errors.New("x-ms-max-item-count is not a number above 0")
		}
		p.size = min(size, maxPage)
	}
	after, err := base64.RawURLEncoding.DecodeString(continuation)
	if err != nil || (continuation != "" && !registrationIDPattern.Match(after)) {
		return page{}, errors.New("x-ms-continuation is none of this service's")
	}
	p.after = string(after)
	return p, nil
}

// continueAfter is the continuation token of a page that ends with an ID.
func continueAfter(id string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strings.ToLower(id)))
}
