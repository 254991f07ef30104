// SPDX-License-Identifier: Apache-2.0

package allocation

import "fmt"

// checkDocument tells in one pass whether a document is JSON (RFC 8259) and
// within the bounds of its shape. encoding/json would take three times as long
// for the first alone, and this runs for every request.
func checkDocument(document []byte) error {
	c := checker{document: document}
	end := c.value(c.space(0), 0)
	switch {
	case c.beyond != "":
		return notAllocationRequest(c.beyond)
	case end < 0 || c.space(end) < len(document):
		return notAllocationRequest(fmt.Sprintf("the body is not valid JSON at byte %d", errorOffset(document)))
	default:
		return nil
	}
}

// checker walks through a document. Its methods are given the offset where
// something starts and give the offset behind it, or -1 when it is not JSON or
// beyond a bound.
type checker struct {
	document []byte
	values   int
	beyond   string // the bound that is exceeded, in words
}

// value checks whatever stands at i, inside of depth brackets.
func (c *checker) value(i, depth int) int {
	switch c.at(i) {
	case '"':
		return c.text(i)
	case '{':
		return c.object(i, depth+1)
	case '[':
		return c.list(i, depth+1)
	case 't':
		return c.word(i, "true")
	case 'f':
		return c.word(i, "false")
	case 'n':
		return c.word(i, "null")
	default:
		return c.number(i)
	}
}

func (c *checker) object(i, depth int) int {
	if !c.count() || !c.deeper(depth) {
		return -1
	}
	i = c.space(i + 1)
	if c.at(i) == '}' {
		return i + 1
	}
	for {
		if c.at(i) != '"' {
			return -1
		}
		if i = c.text(i); i < 0 {
			return -1
		}
		if i = c.space(i); c.at(i) != ':' {
			return -1
		}
		if i = c.value(c.space(i+1), depth); i < 0 {
			return -1
		}
		switch i = c.space(i); c.at(i) {
		case '}':
			return i + 1
		case ',':
			if !c.count() {
				return -1
			}
			i = c.space(i + 1)
		default:
			return -1
		}
	}
}

func (c *checker) list(i, depth int) int {
	if !c.count() || !c.deeper(depth) {
		return -1
	}
	i = c.space(i + 1)
	if c.at(i) == ']' {
		return i + 1
	}
	for {
		if i = c.value(i, depth); i < 0 {
			return -1
		}
		switch i = c.space(i); c.at(i) {
		case ']':
			return i + 1
		case ',':
			if !c.count() {
				return -1
			}
			i = c.space(i + 1)
		default:
			return -1
		}
	}
}

// deeper bounds the nesting, and with it the stack of whoever descends.
func (c *checker) deeper(depth int) bool {
	if depth > maxDepth {
		c.beyond = fmt.Sprintf("it is nested deeper than %d levels", maxDepth)
	}
	return depth <= maxDepth
}

// count takes one more value, each of which costs more memory than the few bytes
// that it takes on the wire.
func (c *checker) count() bool {
	c.values++
	if c.values > maxMembers {
		c.beyond = fmt.Sprintf("it has more than %d members", maxMembers)
	}
	return c.values <= maxMembers
}

func (c *checker) text(i int) int {
	for i++; ; i++ {
		i = plainEnd(c.document, i)
		switch c.at(i) {
		case '"':
			return i + 1
		case '\\':
			i++
			switch c.at(i) {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for range 4 {
					if i++; !isHex(c.at(i)) {
						return -1
					}
				}
			default:
				return -1
			}
		default:
			return -1
		}
	}
}

func (c *checker) word(i int, word string) int {
	end := i + len(word)
	if end > len(c.document) || string(c.document[i:end]) != word {
		return -1
	}
	return end
}

func (c *checker) number(i int) int {
	if c.at(i) == '-' {
		i++
	}
	if c.at(i) == '0' {
		i++
	} else if i = c.digits(i); i < 0 {
		return -1
	}
	if c.at(i) == '.' {
		if i = c.digits(i + 1); i < 0 {
			return -1
		}
	}
	if c.at(i) == 'e' || c.at(i) == 'E' {
		i++
		if c.at(i) == '+' || c.at(i) == '-' {
			i++
		}
		i = c.digits(i)
	}
	return i
}

// digits wants one digit at least.
func (c *checker) digits(i int) int {
	start := i
	for isDigit(c.at(i)) {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// space gives the offset of the next byte from i on that is not white space.
func (c *checker) space(i int) int {
	for i < len(c.document) {
		switch c.document[i] {
		case ' ', '\t', '\r', '\n':
			i++
		default:
			return i
		}
	}
	return i
}

// at gives the byte at i, and behind the end one that is no part of JSON.
func (c *checker) at(i int) byte {
	if i < len(c.document) {
		return c.document[i]
	}
	return 0
}

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

func isHex(b byte) bool { return isDigit(b) || 'a' <= b|0x20 && b|0x20 <= 'f' }
