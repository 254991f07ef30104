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
	typeBool   = "bool"
)

// The formats of a number in registers. Two registers have the high word first, unless the profile says low_word_first.
const (
	formatUint16 = "uint16"
	formatInt16  = "int16"
	formatUint32 = "uint32"
	formatInt32  = "int32"
)

// property is one thing that a product can be set to, under the name that the twin gives it. With Modbus a property
// is one holding register or two; with ALP it is a member of the desired document and the profile only bounds it.
type property struct {
	Name string `toml:"name"`
	Type string `toml:"type"` // "enum", "number" or "bool"
	Unit string `toml:"unit"` // number: what the twin counts, e.g. "degF"

	// Register is the PDU address of the holding register, the first of two with a format of 32 bits.
	Register     *uint16 `toml:"register"`
	Format       string  `toml:"format"` // "uint16" (the default), "int16", "uint32", "int32"
	LowWordFirst bool    `toml:"low_word_first"`
	// RegisterUnit is the unit that the register is made in, e.g. "degC"; values are converted. Required for a number.
	RegisterUnit string `toml:"register_unit"`
	// Scale is steps of the register per RegisterUnit: 10 = the register counts tenths. 0 = 1.
	Scale float64  `toml:"scale"`
	Min   *float64 `toml:"min"` // number: in units of the property, inclusive
	Max   *float64 `toml:"max"`
	// Values maps the words of an enum to register values (Modbus).
	Values map[string]uint16 `toml:"values"`
	// Allowed lists the words of an enum (ALP, which sends the word itself).
	Allowed []string `toml:"allowed"`
	// WritesPerDay takes the place of the profile's for this property; 0 = the profile's.
	WritesPerDay int `toml:"writes_per_day"`
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
	case p.WritesPerDay < 0 || p.WritesPerDay > maxWritesPerDay:
		return fmt.Errorf("writes_per_day %d: allowed are 1 to %d", p.WritesPerDay, maxWritesPerDay)
	case p.Type != typeNumber && (p.Unit != "" || p.RegisterUnit != "" || p.Format != "" || p.LowWordFirst || p.Scale != 0 || p.Min != nil || p.Max != nil):
		return errors.New("unit, register_unit, format, low_word_first, scale, min, max: only for a number")
	case p.Type != typeEnum && (p.Values != nil || p.Allowed != nil):
		return errors.New("values, allowed: only for an enum")
	}
	switch p.Type {
	case typeEnum:
		if modbus && (len(p.Values) == 0 || p.Allowed != nil) {
			return errors.New("values: an enum in a register needs its words and numbers there")
		}
		if !modbus && (len(p.Allowed) == 0 || p.Values != nil) {
			return errors.New("allowed: an enum of the driver line needs its words there")
		}
		return nil
	case typeBool:
		return nil
	case typeNumber:
		return p.checkNumber(modbus)
	default:
		return fmt.Errorf("type %q: allowed are %s, %s and %s", p.Type, typeEnum, typeNumber, typeBool)
	}
}

// checkNumber refuses a number without bounds or units, or one that its register cannot hold.
func (p property) checkNumber(modbus bool) error {
	switch {
	case p.Min == nil || p.Max == nil || *p.Max < *p.Min:
		return errors.New("min, max: a number needs both, min first")
	case p.Unit == "":
		return errors.New(`unit: missing; name what the twin counts, e.g. "degC", or "1" for a bare number`)
	case !modbus && (p.RegisterUnit != "" || p.Format != "" || p.LowWordFirst):
		return errors.New("register_unit, format, low_word_first: only for a register")
	case !modbus:
		return nil
	case p.RegisterUnit == "":
		return errors.New("register_unit: missing; name what the register is made in, with scale = 10 for its tenths")
	case !convertible(p.Unit, p.RegisterUnit):
		return fmt.Errorf("register_unit %q: nothing is known of how to make it from %q; known are %s", p.RegisterUnit, p.Unit,
			strings.Join(slices.Sorted(maps.Keys(measures)), ", "))
	}
	lowest, highest, known := p.span()
	switch {
	case !known:
		return fmt.Errorf("format %q: allowed are %s, %s, %s and %s", p.Format, formatUint16, formatInt16, formatUint32, formatInt32)
	case p.LowWordFirst && p.size() != 2:
		return errors.New("low_word_first: only for a format of 32 bits")
	case int(*p.Register)+p.size() > math.MaxUint16+1:
		return errors.New("register: the second one would be above 65535")
	}
	if low, high := p.limits(); low < lowest || high > highest || low > high {
		return fmt.Errorf("min, max: the register holds %s to %s, this would be %s to %s in it", decimal(lowest), decimal(highest), decimal(low), decimal(high))
	}
	return nil
}

// span is what the format can hold.
func (p property) span() (lowest, highest float64, known bool) {
	switch p.Format {
	case "", formatUint16:
		return 0, math.MaxUint16, true
	case formatInt16:
		return math.MinInt16, math.MaxInt16, true
	case formatUint32:
		return 0, math.MaxUint32, true
	case formatInt32:
		return math.MinInt32, math.MaxInt32, true
	default:
		return 0, 0, false
	}
}

// size is how many registers the property has.
func (p property) size() int {
	if p.Format == formatUint32 || p.Format == formatInt32 {
		return 2
	}
	return 1
}

// end is the address behind the last register.
func (p property) end() int { return int(*p.Register) + p.size() }

// scale is the factor between the property and its register; absent means 1.
func (p property) scale() float64 {
	if p.Scale == 0 {
		return 1
	}
	return p.Scale
}

// converts reports whether the register counts in another unit, so that few values are whole steps of it.
func (p property) converts() bool { return p.Register != nil && p.Unit != p.RegisterUnit }

// steps returns a number of the property in steps of its register, not rounded.
func (p property) steps(number float64) float64 {
	return convert(number, p.Unit, p.RegisterUnit) * p.scale()
}

// stepTolerance covers what floating-point arithmetic makes of a whole number of steps.
const stepTolerance = 1e-6

// limits are the first and the last step inside the bounds.
func (p property) limits() (low, high float64) {
	return math.Ceil(p.steps(*p.Min) - stepTolerance), math.Floor(p.steps(*p.Max) + stepTolerance)
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
	switch p.Type {
	case typeEnum:
		word, isText := text(value)
		if !isText || !slices.Contains(p.words(), word) {
			return fmt.Sprintf("%s is not one of %s", brief(value), strings.Join(p.words(), ", "))
		}
		return ""
	case typeBool:
		if _, ok := truth(value); !ok {
			return brief(value) + " is not true or false"
		}
		return ""
	}
	number, ok := number(value)
	switch {
	case !ok:
		return brief(value) + " is not a number"
	case number < *p.Min || number > *p.Max:
		return strings.TrimSpace(fmt.Sprintf("%s is outside %s to %s %s", brief(value), decimal(*p.Min), decimal(*p.Max), p.Unit))
	case p.Register == nil || p.converts():
		return ""
	}
	if steps := p.steps(number); math.Abs(steps-math.Round(steps)) > stepTolerance {
		return fmt.Sprintf("%s is finer than the appliance can hold (steps of %s)", brief(value), decimal(1/p.scale()))
	}
	return ""
}

// encode returns the registers for a value that was not refused. A value that had to be converted becomes the nearest
// step inside the bounds.
func (p property) encode(value json.RawMessage) []uint16 {
	switch p.Type {
	case typeEnum:
		word, _ := text(value)
		return []uint16{p.Values[word]}
	case typeBool:
		if yes, _ := truth(value); yes {
			return []uint16{1}
		}
		return []uint16{0}
	}
	n, _ := number(value)
	low, high := p.limits()
	bits := uint32(int64(min(max(math.Round(p.steps(n)), low), high))) // negative ones become two's complement
	switch {
	case p.size() == 1:
		return []uint16{uint16(bits)}
	case p.LowWordFirst:
		return []uint16{uint16(bits), uint16(bits >> 16)}
	default:
		return []uint16{uint16(bits >> 16), uint16(bits)}
	}
}

// held returns the number of steps in the registers.
func (p property) held(registers []uint16) float64 {
	bits := uint32(registers[0])
	if p.size() == 2 {
		high, low := registers[0], registers[1]
		if p.LowWordFirst {
			high, low = low, high
		}
		bits = uint32(high)<<16 | uint32(low)
	}
	switch p.Format {
	case formatInt16:
		return float64(int16(bits))
	case formatInt32:
		return float64(int32(bits))
	default:
		return float64(bits)
	}
}

// decode returns the twin's value for registers, in the JSON type of like: a number is text if like is text. A
// register value that has no word in an enum is returned as its number, so that the truth is reported. Where the
// register counts in another unit and holds like as well as it can, like itself is returned.
func (p property) decode(registers []uint16, like json.RawMessage) json.RawMessage {
	switch p.Type {
	case typeEnum:
		for _, word := range p.words() {
			if p.Values[word] == registers[0] {
				return quote(word)
			}
		}
		return json.RawMessage(strconv.Itoa(int(registers[0])))
	case typeBool:
		if registers[0] > 1 {
			return json.RawMessage(strconv.Itoa(int(registers[0])))
		}
		return likewise(strconv.FormatBool(registers[0] == 1), like)
	}
	if p.converts() && like != nil && p.refuse(like) == "" && slices.Equal(p.encode(like), registers) {
		return like
	}
	n := convert(p.held(registers)/p.scale(), p.RegisterUnit, p.Unit)
	if p.converts() {
		n = math.Round(n*1000) / 1000 // more digits would tell of the arithmetic, not of the appliance
	}
	return likewise(decimal(n), like)
}

// likewise returns a value as JSON text if like is text.
func likewise(value string, like json.RawMessage) json.RawMessage {
	if _, isText := text(like); isText {
		return quote(value)
	}
	return json.RawMessage(value)
}

// truth returns the boolean in a JSON true or false, or in the same as text.
func truth(value json.RawMessage) (yes, ok bool) {
	word := string(value)
	if s, isText := text(value); isText {
		word = s
	}
	return word == "true", word == "true" || word == "false"
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
