// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// The types of a property.
const (
	typeEnum   = "enum"
	typeNumber = "number"
)

// property is one thing that a product can be set to, under the name that the twin gives it. With Modbus a property
// is one holding register; with ALP it is a member of the desired document and the profile only bounds it.
type property struct {
	Name     string  `toml:"name"`
	Type     string  `toml:"type"` // "enum" or "number"
	Unit     string  `toml:"unit"` // number: what it counts, e.g. "degF"; for people
	Register *uint16 `toml:"register"`
	// Scale is register units per unit of the property: 10 = the register counts tenths. 0 = 1.
	Scale float64  `toml:"scale"`
	Min   *float64 `toml:"min"` // number: in units of the property, inclusive
	Max   *float64 `toml:"max"`
	// Values maps the words of an enum to register values (Modbus).
	Values map[string]uint16 `toml:"values"`
	// Allowed lists the words of an enum (ALP, which sends the word itself).
	Allowed []string `toml:"allowed"`
}

// check refuses a description that does not fit its driver.
func (p property) check(driver Driver) error {
	modbus := driver == DriverModbusRTU
	switch {
	case p.Name == "":
		return errors.New("name: missing")
	case modbus != (p.Register != nil):
		return errors.New("register: modbus-rtu needs one, line has none")
	case p.Scale < 0 || p.Scale != 0 && !modbus:
		return errors.New("scale: only for a register, and above 0")
	}
	switch p.Type {
	case typeEnum:
		if modbus && (len(p.Values) == 0 || p.Allowed != nil) {
			return errors.New("values: an enum in a register needs its words and numbers there")
		}
		if !modbus && (len(p.Allowed) == 0 || p.Values != nil) {
			return errors.New("allowed: an enum of the driver line needs its words there")
		}
	case typeNumber:
		if p.Min == nil || p.Max == nil || *p.Max < *p.Min {
			return errors.New("min, max: a number needs both, min first")
		}
		if modbus && (*p.Min < 0 || *p.Max*p.scale() > math.MaxUint16) {
			return fmt.Errorf("min, max: the register holds 0 to %d", math.MaxUint16)
		}
	default:
		return fmt.Errorf("type %q: allowed are %s and %s", p.Type, typeEnum, typeNumber)
	}
	return nil
}

// scale is the factor between the property and its register; absent means 1.
func (p property) scale() float64 {
	if p.Scale == 0 {
		return 1
	}
	return p.Scale
}

// words returns the allowed words of an enum, sorted.
func (p property) words() []string {
	if p.Values != nil {
		return slices.Sorted(maps.Keys(p.Values))
	}
	return slices.Sorted(slices.Values(p.Allowed))
}

// refuse says why the twin's value may not be set; "" = it may. The bounds are the profile's: they hold whatever the
// cloud wants (serial 7.6).
func (p property) refuse(value json.RawMessage) string {
	if p.Type == typeEnum {
		word, isText := text(value)
		if !isText || !slices.Contains(p.words(), word) {
			return fmt.Sprintf("%s is not one of %s", brief(value), strings.Join(p.words(), ", "))
		}
		return ""
	}
	number, ok := number(value)
	switch {
	case !ok:
		return brief(value) + " is not a number"
	case number < *p.Min || number > *p.Max:
		return strings.TrimSpace(fmt.Sprintf("%s is outside %s to %s %s", brief(value), decimal(*p.Min), decimal(*p.Max), p.Unit))
	}
	if steps := number * p.scale(); math.Abs(steps-math.Round(steps)) > 1e-6 && p.Register != nil {
		return fmt.Sprintf("%s is finer than the appliance can hold (steps of %s)", brief(value), decimal(1/p.scale()))
	}
	return ""
}

// encode returns the register value for a value that was not refused.
func (p property) encode(value json.RawMessage) uint16 {
	if p.Type == typeEnum {
		word, _ := text(value)
		return p.Values[word]
	}
	n, _ := number(value)
	return uint16(math.Round(n * p.scale()))
}

// decode returns the twin's value for a register, in the JSON type of like: a number is text if like is text. A
// register value that has no word in an enum is returned as its number, so that the truth is reported.
func (p property) decode(register uint16, like json.RawMessage) json.RawMessage {
	if p.Type == typeEnum {
		for _, word := range p.words() {
			if p.Values[word] == register {
				return quote(word)
			}
		}
		return json.RawMessage(strconv.Itoa(int(register)))
	}
	n := decimal(float64(register) / p.scale())
	if _, isText := text(like); isText {
		return quote(n)
	}
	return json.RawMessage(n)
}

// text returns the string in a JSON string.
func text(value json.RawMessage) (string, bool) {
	if len(value) == 0 || value[0] != '"' {
		return "", false
	}
	var s string
	if json.Unmarshal(value, &s) != nil {
		return "", false
	}
	return s, true
}

// number returns the number in a JSON number or in a JSON string: the tutorial's policy says "65", others say 65.
func number(value json.RawMessage) (float64, bool) {
	if s, isText := text(value); isText {
		value = json.RawMessage(s)
	}
	// The JSON decoder is the stricter reader: ParseFloat would take "Inf", "0x1p4" and "1_000".
	var n json.Number
	if json.Unmarshal(value, &n) != nil || len(value) == 0 || value[0] == '"' {
		return 0, false
	}
	f, err := n.Float64()
	return f, err == nil
}

// quote returns a JSON string.
func quote(s string) json.RawMessage {
	quoted, _ := json.Marshal(s) // a string always marshals
	return quoted
}

// decimal writes a number the way people do: no exponent, no trailing zeros.
func decimal(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// brief returns a value for an error text, cut so that a huge one does not fill the log.
func brief(value json.RawMessage) string {
	const most = 60
	if len(value) > most {
		return cleanText(string(value[:most])) + "…"
	}
	return cleanText(string(value))
}
