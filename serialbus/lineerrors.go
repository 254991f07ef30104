// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"fmt"
	"strings"
)

// LineErrors counts what the receiver of a port could not take for characters, since its driver was loaded. A
// character with a wrong parity bit is given to the program as a zero byte, so only these counters tell of it
// (serial 3.2).
type LineErrors struct {
	Frame   int // characters without a stop bit: wrong speed, noise
	Parity  int // characters with a wrong parity bit
	Overrun int // characters that came faster than they were fetched
	Break   int // the line was held low for longer than a character: a wire is cut or swapped
}

// since returns what was counted after an earlier reading.
func (e LineErrors) since(before LineErrors) LineErrors {
	return LineErrors{e.Frame - before.Frame, e.Parity - before.Parity, e.Overrun - before.Overrun, e.Break - before.Break}
}

// plus returns the sum of two readings.
func (e LineErrors) plus(more LineErrors) LineErrors {
	return LineErrors{e.Frame + more.Frame, e.Parity + more.Parity, e.Overrun + more.Overrun, e.Break + more.Break}
}

// String returns the counters that are not zero in words, e.g. "3 framing, 1 parity"; "none" if all are.
func (e LineErrors) String() string {
	var parts []string
	for _, c := range []struct {
		count int
		name  string
	}{{e.Frame, "framing"}, {e.Parity, "parity"}, {e.Overrun, "overrun"}, {e.Break, "break"}} {
		if c.count != 0 {
			parts = append(parts, fmt.Sprintf("%d %s", c.count, c.name))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}
