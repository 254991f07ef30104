// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"encoding/json"
	"iter"
	"unicode/utf8"
)

// The functions in this file find their way through JSON that is known to be
// valid. encoding/json would decode the whole request once more at each step,
// and it folds the case of member names when it fills a struct; the webhook
// needs four members, spelled exactly.

// members gives the members of an object in their order, duplicates included. A
// name is the text itself, without quotes and escapes.
func members(object []byte) iter.Seq2[[]byte, json.RawMessage] {
	return func(yield func([]byte, json.RawMessage) bool) {
		for i := skipTo(object, 1); object[i] != '}'; i = skipTo(object, i) {
			nameEnd := endOfString(object, i)
			start := skipTo(object, nameEnd)
			end := endOfValue(object, start)
			if !yield(textOf(object[i:nameEnd]), object[start:end:end]) {
				return
			}
			i = end
		}
	}
}

// elements gives the elements of a list in their order.
func elements(list []byte) iter.Seq[json.RawMessage] {
	return func(yield func(json.RawMessage) bool) {
		for i := skipTo(list, 1); list[i] != ']'; i = skipTo(list, i) {
			end := endOfValue(list, i)
			if !yield(list[i:end:end]) {
				return
			}
			i = end
		}
	}
}

// skipTo gives the offset of the next byte from i on that is neither white
// space nor a comma or colon between values.
func skipTo(document []byte, i int) int {
	for {
		switch document[i] {
		case ' ', '\t', '\r', '\n', ',', ':':
			i++
		default:
			return i
		}
	}
}

// endOfValue gives the offset behind the value that starts at start.
func endOfValue(document []byte, start int) int {
	switch document[start] {
	case '"':
		return endOfString(document, start)
	case '{', '[':
		return endOfBrackets(document, start)
	default:
		return endOfLiteral(document, start)
	}
}

// endOfString gives the offset behind the string that starts at start.
func endOfString(document []byte, start int) int {
	for i := start + 1; ; i++ {
		switch document[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
}

// endOfBrackets gives the offset behind the object or list that starts at start.
func endOfBrackets(document []byte, start int) int {
	depth := 0
	for i := start; ; {
		switch document[i] {
		case '"':
			i = endOfString(document, i)
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		i++
		if depth == 0 {
			return i
		}
	}
}

// endOfLiteral gives the offset behind the number, boolean or null that starts
// at start.
func endOfLiteral(document []byte, start int) int {
	length := bytes.IndexAny(document[start:], ",]} \t\r\n")
	if length < 0 {
		return len(document)
	}
	return start + length
}

// unquote gives the text of a string. What is not UTF-8 in it, and half of a
// surrogate pair, becomes U+FFFD.
func unquote(quoted []byte) string { return string(textOf(quoted)) }

// textOf is unquote without a copy where none is needed.
func textOf(quoted []byte) []byte {
	inside := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inside, '\\') < 0 && utf8.Valid(inside) {
		return inside
	}
	var text string
	if err := json.Unmarshal(quoted, &text); err != nil {
		return nil
	}
	return []byte(text)
}
