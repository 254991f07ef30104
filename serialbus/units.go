// SPDX-License-Identifier: Apache-2.0

package serialbus

// measure is a unit that values are counted in: a value v of it is v·factor + zero of its kind's base unit.
type measure struct {
	kind         string
	factor, zero float64
}

// measures are the units that can be converted into one another. A profile may name any other unit too, but then it
// must name the same one for the property and for its register.
var measures = map[string]measure{
	"degC": {"temperature", 1, 0},
	"degF": {"temperature", 5. / 9, -160. / 9},
	"K":    {"temperature", 1, -273.15},
	"s":    {"time", 1, 0},
	"min":  {"time", 60, 0},
	"h":    {"time", 3600, 0},
	"W":    {"power", 1, 0},
	"kW":   {"power", 1000, 0},
	"Pa":   {"pressure", 1, 0},
	"bar":  {"pressure", 100_000, 0},
}

// convertible reports whether values of one unit can be written in another.
func convertible(from, to string) bool {
	if from == to {
		return true
	}
	a, known := measures[from]
	b := measures[to]
	return known && a.kind == b.kind
}

// convert writes a value of one unit in another; the two are convertible.
func convert(value float64, from, to string) float64 {
	if from == to {
		return value
	}
	a, b := measures[from], measures[to]
	return (value*a.factor + a.zero - b.zero) / b.factor
}
