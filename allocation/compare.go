// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Answer is what a policy or a cloud function says to one request.
type Answer struct {
	// Status is the HTTP status that the answer goes out with: 200 with a
	// Response, 400 with the Refusal of a policy, 503 and others with the text of
	// some trouble in Refusal.
	Status int

	// Rule names the rule that decided, or is empty. It is no part of the answer
	// and counts for nothing in a comparison.
	Rule string

	// Response is the AllocationResponse as it goes out, or nil.
	Response json.RawMessage

	// Refusal is the line of text of every answer that is not 200.
	Refusal string
}

// Hub is the hub that the answer assigns, or empty.
func (a Answer) Hub() string {
	var response struct {
		Hub *string `json:"iotHubHostName"`
	}
	if a.Status != http.StatusOK || json.Unmarshal(a.Response, &response) != nil {
		return ""
	}
	return orEmpty(response.Hub)
}

// Redacted is the answer without its secrets, as a [Decision] shows it.
func (a Answer) Redacted() Answer {
	if json.Valid(a.Response) {
		a.Response = redact(a.Response)
	}
	return a
}

// Difference is one place at which two answers or documents differ.
type Difference struct {
	// Path leads to the place, such as initialTwin.properties.desired.state. It
	// is "answer" where one side assigned and the other did not, "refusal" where
	// both did not, and empty for a whole document.
	Path string

	// Was and Is are JSON on one line, or empty where that side has nothing.
	Was, Is string
}

// String gives the difference on one line:
//
//	initialTwin.properties.desired.state: "ready" → "off"
func (d Difference) String() string {
	was, is := d.Was, d.Is
	if was == "" {
		was = "(nothing)"
	}
	if is == "" {
		is = "(nothing)"
	}
	if d.Path == "" {
		return was + " → " + is
	}
	return d.Path + ": " + was + " → " + is
}

// Compare tells where two answers differ, in the order in which a response lists
// its members. No differences means that a device would not notice which of the
// two it got. Responses are compared as [Differences] does, but a member of the
// contract that is null counts as absent (dps-protocol 12.2).
func Compare(was, is Answer) []Difference {
	switch assigned := was.Status == http.StatusOK; {
	case assigned != (is.Status == http.StatusOK):
		return []Difference{{Path: "answer", Was: was.text(), Is: is.text()}}
	case assigned:
		a, errA := decodeAny(was.Response)
		b, errB := decodeAny(is.Response)
		if errA != nil || errB != nil {
			return Differences(was.Response, is.Response)
		}
		return differences(withoutNulls(a), withoutNulls(b))
	case was.Status != is.Status:
		return []Difference{{Path: "answer", Was: was.text(), Is: is.text()}}
	case was.Refusal != is.Refusal:
		return []Difference{{Path: "refusal", Was: quoteJSON(was.Refusal), Is: quoteJSON(is.Refusal)}}
	}
	return nil
}

// text names an answer where a comparison of documents has no meaning.
func (a Answer) text() string {
	switch a.Status {
	case http.StatusOK:
		return "assigned to " + quoteJSON(a.Hub())
	case http.StatusBadRequest:
		return "refused " + quoteJSON(a.Refusal)
	default:
		return fmt.Sprintf("%d %s", a.Status, quoteJSON(a.Refusal))
	}
}

// withoutNulls leaves out the members of a response for which null means absent.
func withoutNulls(response any) any {
	top, ok := response.(map[string]any)
	if !ok {
		return response
	}
	drop := func(object map[string]any, names ...string) {
		for _, name := range names {
			if value, there := object[name]; there && value == nil {
				delete(object, name)
			}
		}
	}
	drop(top, "initialTwin", "payload")
	if twin, ok := top["initialTwin"].(map[string]any); ok {
		drop(twin, "properties", "tags")
		if properties, ok := twin["properties"].(map[string]any); ok {
			drop(properties, "desired")
		}
	}
	return top
}

// Differences tells where two JSON documents differ in what they mean: the order
// of members and white space do not count, and numbers are equal by value. Of
// several members of one name the last counts. A text that is not JSON differs
// from all but itself.
func Differences(was, is []byte) []Difference {
	a, errA := decodeAny(was)
	b, errB := decodeAny(is)
	if errA != nil || errB != nil {
		if bytes.Equal(was, is) {
			return nil
		}
		return []Difference{{Was: oneLine(string(was)), Is: oneLine(string(is))}}
	}
	return differences(a, b)
}

// maxDifferences bounds what one comparison lists.
const maxDifferences = 1000

func differences(a, b any) []Difference {
	var all comparison
	all.walk("", a, b)
	return all
}

// comparison collects differences.
type comparison []Difference

// missing stands for a value that is not there.
type missing struct{}

func (c *comparison) walk(path string, a, b any) {
	if len(*c) >= maxDifferences {
		return
	}
	switch a := a.(type) {
	case map[string]any:
		if b, both := b.(map[string]any); both {
			c.walkMembers(path, a, b)
			return
		}
	case []any:
		if b, both := b.([]any); both {
			c.walkElements(path, a, b)
			return
		}
	case json.Number:
		if b, both := b.(json.Number); both && sameNumber(a.String(), b.String()) {
			return
		}
	default:
		if a == b {
			return
		}
	}
	*c = append(*c, Difference{Path: path, Was: compactJSON(a), Is: compactJSON(b)})
}

func (c *comparison) walkMembers(path string, a, b map[string]any) {
	names := slices.Collect(maps.Keys(a))
	for name := range b {
		if _, both := a[name]; !both {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, byContract)
	for _, name := range names {
		c.walk(below(path, name), valueOf(a, name), valueOf(b, name))
	}
}

func (c *comparison) walkElements(path string, a, b []any) {
	for i := range max(len(a), len(b)) {
		var x, y any = missing{}, missing{}
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		c.walk(path+"["+strconv.Itoa(i)+"]", x, y)
	}
}

func valueOf(object map[string]any, name string) any {
	if value, there := object[name]; there {
		return value
	}
	return missing{}
}

// byContract orders the hub before all others, as a reader wants it, and these
// by name.
func byContract(a, b string) int {
	const hub = "iotHubHostName"
	switch {
	case a == b:
		return 0
	case a == hub:
		return -1
	case b == hub:
		return 1
	default:
		return strings.Compare(a, b)
	}
}

// below is the path of a member; a name that would be mistaken for a path is
// quoted.
func below(path, name string) string {
	plain := func(r rune) bool {
		return r == '_' || r == '-' || r == '$' || unicode.IsLetter(r) || unicode.IsDigit(r)
	}
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }) {
		return path + "[" + quoteJSON(name) + "]"
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

// decodeAny reads one document and keeps its numbers as they are written.
func decodeAny(document []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	if decoder.More() {
		return nil, fmt.Errorf("more than one document")
	}
	return value, nil
}

// compactJSON is a decoded value on one line, or nothing for a missing one.
func compactJSON(value any) string {
	if value == any(missing{}) {
		return ""
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return fmt.Sprint(value)
	}
	return strings.TrimSuffix(out.String(), "\n")
}

func quoteJSON(text string) string { return compactJSON(text) }

// sameNumber compares numbers by their exact values, without computing them: an
// exponent of ten digits costs nothing.
func sameNumber(a, b string) bool {
	if a == b {
		return true
	}
	x, okX := parseDecimal(a)
	y, okY := parseDecimal(b)
	return okX && okY && x == y
}

// decimal is the number ± 0.digits × 10^exponent, with neither a leading nor a
// trailing zero among the digits; zero has no digits.
type decimal struct {
	negative bool
	digits   string
	exponent int
}

// parseDecimal takes a number of JSON; an exponent beyond any use is not taken.
func parseDecimal(text string) (decimal, bool) {
	var d decimal
	text, d.negative = strings.CutPrefix(text, "-")
	mantissa, exponent := text, ""
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		mantissa, exponent = text[:i], text[i+1:]
	}
	if exponent != "" {
		var err error
		if d.exponent, err = strconv.Atoi(exponent); err != nil || d.exponent > 1e9 || d.exponent < -1e9 {
			return d, false
		}
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	d.exponent += len(whole)
	digits := whole + fraction
	d.digits = strings.TrimLeft(digits, "0")
	d.exponent -= len(digits) - len(d.digits)
	d.digits = strings.TrimRight(d.digits, "0")
	if d.digits == "" {
		return decimal{}, true
	}
	return d, true
}
