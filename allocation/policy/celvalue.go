// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// appendValue writes what an expression gave as JSON: members of a map in the
// order of their names, bytes in base64, times and durations as text in the
// forms of RFC 3339 and "90s".
func appendValue(out []byte, value ref.Val, depth int) ([]byte, error) {
	if depth > maxValueDepth {
		return nil, fmt.Errorf("the expression gives a value nested deeper than %d levels", maxValueDepth)
	}
	if len(out) > maxResponse {
		return nil, fmt.Errorf("the expression gives more than %d KiB", maxResponse>>10)
	}
	switch v := value.(type) {
	case types.Null:
		return append(out, "null"...), nil
	case types.Bool:
		return strconv.AppendBool(out, bool(v)), nil
	case types.Int:
		return strconv.AppendInt(out, int64(v), 10), nil
	case types.Uint:
		return strconv.AppendUint(out, uint64(v), 10), nil
	case types.Double:
		return appendNumber(out, float64(v))
	case types.String:
		return append(out, quoteJSON(string(v))...), nil
	case types.Bytes:
		return append(out, quoteJSON(base64.StdEncoding.EncodeToString(v))...), nil
	case types.Timestamp:
		return append(out, quoteJSON(v.Time.UTC().Format(time.RFC3339Nano))...), nil
	case types.Duration:
		return append(out, quoteJSON(strconv.FormatFloat(v.Duration.Seconds(), 'f', -1, 64)+"s")...), nil
	case traits.Mapper:
		return appendMap(out, v, depth)
	case traits.Lister:
		return appendList(out, v, depth)
	default:
		return nil, fmt.Errorf("the expression gives %s, which is no value of JSON", value.Type().TypeName())
	}
}

func appendNumber(out []byte, value float64) ([]byte, error) {
	if math.IsInf(value, 0) || math.IsNaN(value) {
		return nil, errors.New("the expression gives a number that JSON does not have")
	}
	document, err := json.Marshal(value)
	return append(out, document...), err
}

func appendMap(out []byte, m traits.Mapper, depth int) ([]byte, error) {
	out = append(out, '{')
	first := len(out)
	for _, key := range (sortedMap{m}).keys() {
		name, ok := key.(types.String)
		if !ok {
			return nil, fmt.Errorf("the expression gives a map with a key of type %s; names in JSON are text", key.Type().TypeName())
		}
		member, _ := m.Find(key)
		if optional, ok := member.(*types.Optional); ok {
			if !optional.HasValue() {
				continue
			}
			member = optional.GetValue()
		}
		out = append(append(comma(out, first), quoteJSON(string(name))...), ':')
		var err error
		if out, err = appendValue(out, member, depth+1); err != nil {
			return nil, err
		}
	}
	return append(out, '}'), nil
}

func appendList(out []byte, l traits.Lister, depth int) ([]byte, error) {
	out = append(out, '[')
	first := len(out)
	for it := l.Iterator(); it.HasNext() == types.True; {
		var err error
		if out, err = appendValue(comma(out, first), it.Next(), depth+1); err != nil {
			return nil, err
		}
	}
	return append(out, ']'), nil
}
