// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/contoso/gatewayd/allocation"
)

// Decided is a decision of the past. Its secrets are masked already.
type Decided struct {
	RegistrationID string
	Request        json.RawMessage
	Device         allocation.Row
	Answer         allocation.Answer
}

// Collector turns decisions into cases, and takes only those that are news:
// devices that differ in their IDs alone and got the same answer from the same
// rule make one case. A case wants the answer and not the rule, which may get
// another name and do the same.
type Collector struct {
	// Limit and PerRule bound the cases, and those of each rule; 0 is no bound.
	Limit, PerRule int

	// Cases are those taken so far.
	Cases []Case

	// Known counts decisions that were like an earlier one, and Beyond those that
	// were left out because of a bound.
	Known, Beyond int

	seen    map[string]bool // keys of decisions
	taken   map[string]bool // names of cases
	names   map[string]int  // how often a name was taken already
	perRule map[string]int
}

// Add looks at one decision. Only answers to an AllocationRequest make cases:
// what has another status than 200 and 400, or another body, gives false.
func (c *Collector) Add(d Decided) bool {
	_, err := allocation.ParseRequest(d.Request)
	if err != nil || d.Answer.Status != http.StatusOK && d.Answer.Status != http.StatusBadRequest {
		return false
	}
	if c.seen == nil {
		c.seen, c.taken, c.names, c.perRule = map[string]bool{}, map[string]bool{}, map[string]int{}, map[string]int{}
	}
	key := d.key()
	switch {
	case c.seen[key]:
		c.Known++
		return true
	case c.Limit > 0 && len(c.Cases) >= c.Limit, c.PerRule > 0 && c.perRule[d.Answer.Rule] >= c.PerRule:
		c.Beyond++
		return true
	}
	c.seen[key] = true
	c.perRule[d.Answer.Rule]++
	made := Case{Name: c.name(d), Request: compact(d.Request), Device: d.Device, Want: Want{Status: d.Answer.Status}}
	if d.Answer.Status == http.StatusOK {
		made.Want.Response = compact(d.Answer.Response)
	} else {
		made.Want.Refused = d.Answer.Refusal
	}
	c.Cases = append(c.Cases, made)
	return true
}

// name gives the case a name that no other has.
func (c *Collector) name(d Decided) string {
	id := d.RegistrationID
	if id == "" {
		id = "no registration ID"
	}
	name := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '\ufffd'
		}
		return r
	}, id)
	if d.Answer.Rule != "" {
		name = d.Answer.Rule + ": " + name
	}
	if len(name) > maxName-10 {
		name = strings.ToValidUTF8(name[:maxName-10], "") + "…"
	}
	unique := name
	for c.taken[unique] {
		c.names[name]++
		unique = fmt.Sprintf("%s (%d)", name, c.names[name]+1)
	}
	c.taken[unique] = true
	return unique
}

// key is what matters about a decision: everything but who and when.
func (d Decided) key() string {
	var request map[string]any
	if decode(d.Request, &request) == nil {
		if context, ok := request["deviceRuntimeContext"].(map[string]any); ok {
			delete(context, "registrationId")
			delete(context, "currentDeviceId")
		}
		for _, entry := range []string{"enrollmentGroup", "individualEnrollment"} {
			if entry, ok := request[entry].(map[string]any); ok {
				for _, name := range []string{"etag", "createdDateTimeUtc", "lastUpdatedDateTimeUtc", "registrationId", "deviceId"} {
					delete(entry, name)
				}
			}
		}
	}
	var response any
	_ = decode(d.Answer.Response, &response) // of a refusal there is none
	row := maps.Clone(d.Device)
	delete(row, "registration_id")
	key, err := json.Marshal([]any{d.Answer.Status, d.Answer.Rule, d.Answer.Refusal, response, request, row})
	if err != nil {
		return string(d.Request)
	}
	return string(key)
}

// compact takes white space away; what is not JSON stays as it is.
func compact(document json.RawMessage) json.RawMessage {
	var out bytes.Buffer
	if json.Compact(&out, document) != nil {
		return document
	}
	return out.Bytes()
}

// Write writes cases as a file that [Load] reads.
func Write(w io.Writer, all []Case) error {
	var out bytes.Buffer
	for i, c := range all {
		if i > 0 {
			out.WriteByte('\n')
		}
		fmt.Fprintf(&out, "[[case]]\nname = %s\n", tomlText(c.Name))
		fmt.Fprintf(&out, "request_json = %s\n", tomlText(string(c.Request)))
		if c.Device != nil {
			fmt.Fprintf(&out, "device = %s\n", tomlRow(c.Device))
		}
		c.Want.write(&out)
		if _, err := out.WriteTo(w); err != nil {
			return err
		}
	}
	return nil
}

func (w *Want) write(out *bytes.Buffer) {
	text := func(name, value string) {
		if value != "" {
			fmt.Fprintf(out, "want.%s = %s\n", name, tomlText(value))
		}
	}
	text("rule", w.Rule)
	text("hub", w.Hub)
	text("refused", w.Refused)
	text("response_json", string(w.Response))
	if w.Status != w.status() {
		fmt.Fprintf(out, "want.status = %d\n", w.Status)
	}
}

func tomlRow(row allocation.Row) string {
	var members []string
	for _, name := range slices.Sorted(maps.Keys(row)) {
		if value, ok := tomlValue(row[name]); ok {
			members = append(members, tomlKey(name)+" = "+value)
		}
	}
	if len(members) == 0 {
		return "{ }"
	}
	return "{ " + strings.Join(members, ", ") + " }"
}

func tomlValue(value any) (string, bool) {
	switch value := value.(type) {
	case string:
		return tomlText(value), true
	case bool:
		return strconv.FormatBool(value), true
	case int64:
		return strconv.FormatInt(value, 10), true
	case float64:
		text := strconv.FormatFloat(value, 'g', -1, 64)
		if !strings.ContainsAny(text, ".e") {
			text += ".0"
		}
		return text, !math.IsInf(value, 0) && !math.IsNaN(value)
	default:
		return "", false
	}
}

func tomlKey(name string) string {
	plain := func(r rune) bool {
		return r == '_' || r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	}
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }) {
		return tomlBasic(name)
	}
	return name
}

// tomlText writes text between single quotes, where it stands as it is, as long
// as it has none itself and all of it can be seen; JSON is unreadable otherwise.
func tomlText(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == '\'' || r == '\ufffd' }) || !strings.Contains(text, `"`) {
		return tomlBasic(text)
	}
	return "'" + text + "'"
}

// tomlBasic writes text between double quotes. What cannot be seen, or moves what can
// be, is escaped: devices name themselves, and people read the file.
func tomlBasic(text string) string {
	var out strings.Builder
	out.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			out.WriteByte('\\')
			out.WriteRune(r)
		case !unicode.IsPrint(r):
			fmt.Fprintf(&out, `\U%08X`, r)
		default:
			out.WriteRune(r)
		}
	}
	out.WriteByte('"')
	return out.String()
}
