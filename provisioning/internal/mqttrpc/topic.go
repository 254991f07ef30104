// SPDX-License-Identifier: Apache-2.0

package mqttrpc

import (
	"net/url"
	"strconv"
	"strings"
)

// requestID is the parameter that ties an answer to its request.
const requestID = "$rid"

// parseTopic splits a topic that the service publishes to:
//
//	$dps/registrations/res/202/?$rid=1&retry-after=3            status 202
//	$iothub/twin/PATCH/properties/desired/?$version=2           status 0: not an answer
//
// Any prefix will do. A parameter that is given twice keeps its first value; one without "=" has the value "".
func parseTopic(topic string) (status int, params map[string]string) {
	path, query, _ := strings.Cut(topic, "?")
	params = make(map[string]string)
	for part := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		if name == "" {
			continue
		}
		// The service does not escape; a tolerant reader takes both. A broken escape is left as it came.
		if plain, err := url.PathUnescape(value); err == nil {
			value = plain
		}
		if _, given := params[name]; !given {
			params[name] = value
		}
	}

	_, digits, found := strings.Cut(path, "/res/")
	if !found {
		return 0, params
	}
	status, err := strconv.Atoi(strings.TrimSuffix(digits, "/"))
	if err != nil || status < 100 || status > 599 {
		return 0, params
	}
	return status, params
}
