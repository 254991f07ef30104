// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"iter"
	"math/bits"
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
	for i := start + 1; ; i += 2 { // behind the backslash and what it escapes
		i = plainEnd(document, i)
		if document[i] == '"' {
			return i + 1
		}
	}
}

// plainEnd gives the offset of the first byte from i on that ends the plain part of
// a string, a quote, a backslash or a control character, or the document's length.
//
// It looks at eight bytes at a time: all of a request is looked at three times.
func plainEnd(document []byte, i int) int {
	const each, highest = 0x0101010101010101, 0x8080808080808080
	for ; len(document)-i >= 8; i += 8 {
		word := binary.LittleEndian.Uint64(document[i:])
		quote, backslash := word^each*'"', word^each*'\\'
		// Subtracting borrows from a byte's highest bit where the byte was smaller.
		// A borrow goes on upwards, so the lowest bit that is set is right.
		ends := ((quote-each)&^quote | (backslash-each)&^backslash | (word-each*' ')&^word) & highest
		if ends != 0 {
			return i + bits.TrailingZeros64(ends)/8
		}
	}
	for i < len(document) && document[i] != '"' && document[i] != '\\' && document[i] >= ' ' {
		i++
	}
	return i
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
