// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/contoso/gatewayd/allocation"
)

// Bounds of a file of cases.
const (
	maxFile    = 16 << 20  // bytes
	maxRequest = 256 << 10 // bytes of one request, as for the webhook
	maxCases   = 20_000
	maxName    = 200 // bytes
)

// Load reads the file of cases at path, and the requests that it names.
func Load(path string) (*File, error) {
	text, err := readBounded(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("reading the cases: %w", err)
	}
	return Parse(path, text, func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(path), name)
		}
		return readBounded(name, maxRequest)
	})
}

// Parse is [Load] for a text already read; name stands for the file in messages
// and readRequest reads what a case names as its request. All that is wrong
// comes back in one error, a line each, with file and line number.
func Parse(name string, text []byte, readRequest func(name string) ([]byte, error)) (*File, error) {
	l := &loader{name: name, readRequest: readRequest}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s: larger than %d MiB", name, maxFile>>20)
	}
	var raw rawFile
	decoder := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := decoder.Decode(&raw); err != nil {
		return nil, located(name, err)
	}
	l.lines = findLines(text)
	l.defaults = raw.Defaults
	file := &File{Name: name}
	switch {
	case len(raw.Cases) == 0:
		l.problem(0, "there is no [[case]], so nothing would be tested")
	case len(raw.Cases) > maxCases:
		l.problem(l.lines.of(maxCases, ""), "more than %d cases", maxCases)
	default:
		for i, c := range raw.Cases {
			file.Cases = append(file.Cases, l.read(i, c))
		}
		l.namesDiffer(file.Cases)
	}
	if len(l.problems) > 0 {
		return nil, errors.Join(l.problems...)
	}
	return file, nil
}

// rawFile is the file as it is written.
type rawFile struct {
	Defaults rawRequest `toml:"defaults"`
	Cases    []rawCase  `toml:"case"`
}

// rawRequest is a request in short form.
type rawRequest struct {
	RegistrationID  *string         `toml:"registration_id"`
	Hubs            *[]string       `toml:"hubs"`
	Group           *string         `toml:"group"`
	Individual      *bool           `toml:"individual"`
	CurrentHub      *string         `toml:"current_hub"`
	CurrentDeviceID *string         `toml:"current_device_id"`
	Payload         any             `toml:"payload"`
	Certificate     *rawCertificate `toml:"certificate"`
	Device          map[string]any  `toml:"device"`
}

type rawCertificate struct {
	Subject string `toml:"subject"`
	Issuer  string `toml:"issuer"`
}

type rawCase struct {
	Name string `toml:"name"`
	rawRequest
	Without     []string `toml:"without"`
	Request     *string  `toml:"request"`
	RequestJSON *string  `toml:"request_json"`
	Want        rawWant  `toml:"want"`
}

type rawWant struct {
	Hub          *string `toml:"hub"`
	Refused      *string `toml:"refused"`
	Status       *int    `toml:"status"`
	Rule         *string `toml:"rule"`
	Tags         any     `toml:"tags"`
	Desired      any     `toml:"desired"`
	Payload      any     `toml:"payload"`
	Exact        bool    `toml:"exact"`
	ResponseJSON *string `toml:"response_json"`
}

// loader collects what is wrong.
type loader struct {
	name        string
	readRequest func(string) ([]byte, error)
	defaults    rawRequest
	lines       lines
	problems    []error
}

// problem notes a mistake; line 0 means the file as a whole.
func (l *loader) problem(line int, format string, args ...any) {
	at := l.name
	if line > 0 {
		at = fmt.Sprintf("%s:%d", l.name, line)
	}
	l.problems = append(l.problems, fmt.Errorf("%s: %s", at, fmt.Sprintf(format, args...)))
}

// reader reads one case.
type reader struct {
	*loader
	index int
	label string
}

// fail notes a mistake of the case, at one of its keys.
func (r *reader) fail(key, format string, args ...any) {
	r.problem(r.lines.of(r.index, key), "%s: %s", r.label, fmt.Sprintf(format, args...))
}

func (l *loader) read(index int, raw rawCase) Case {
	r := &reader{loader: l, index: index, label: fmt.Sprintf("case %d", index+1)}
	switch {
	case raw.Name == "":
		r.fail("", "has no name")
	case len(raw.Name) > maxName || strings.ContainsAny(raw.Name, "\r\n"):
		r.fail("name", "a name has 1 to %d bytes on one line", maxName)
	default:
		r.label = fmt.Sprintf("case %q", raw.Name)
	}
	c := Case{Name: raw.Name, Line: l.lines.of(index, "")}
	c.Request = r.request(&raw)
	c.Device = r.device(raw.Device)
	c.Want = r.want(raw.Want)
	if len(c.Request) > maxRequest {
		r.fail("", "the request is larger than %d KiB, which the webhook does not take", maxRequest>>10)
	}
	r.checkHub(&c)
	return c
}

// namesDiffer: a report tells cases apart by their names.
func (l *loader) namesDiffer(all []Case) {
	first := map[string]int{}
	for i, c := range all {
		if before, taken := first[c.Name]; taken && c.Name != "" {
			l.problem(l.lines.of(i, "name"), "case %q: the case at line %d has the same name", c.Name, l.lines.of(before, ""))
			continue
		}
		first[c.Name] = i
	}
}

// request gives the case's request, whole or in short form.
func (r *reader) request(raw *rawCase) json.RawMessage {
	switch {
	case raw.Request != nil && raw.RequestJSON != nil:
		r.fail("request_json", "request and request_json exclude each other")
	case raw.Request != nil:
		r.onlyShort(raw, "request")
		text, err := r.readRequest(*raw.Request)
		if err != nil {
			r.fail("request", "%v", err)
			return nil
		}
		return r.document("request", text)
	case raw.RequestJSON != nil:
		r.onlyShort(raw, "request_json")
		return r.document("request_json", []byte(*raw.RequestJSON))
	}
	return r.build(raw)
}

// onlyShort refuses members of the short form beside a whole request.
func (r *reader) onlyShort(raw *rawCase, whole string) {
	short := reflect.ValueOf(raw.rawRequest)
	for i := range short.NumField() {
		key := short.Type().Field(i).Tag.Get("toml")
		if key != "device" && !short.Field(i).IsZero() {
			r.fail(key, "%s is part of the request, which %s gives whole", key, whole)
		}
	}
	if len(raw.Without) > 0 {
		r.fail("without", "%s takes no defaults but the device, so there is nothing to leave out", whole)
	}
}

// document checks a request that is given whole.
func (r *reader) document(key string, text []byte) json.RawMessage {
	if _, err := allocation.ParseRequest(text); err != nil {
		r.fail(key, "%v", err)
		return nil
	}
	return text
}

// device gives the directory's row.
func (r *reader) device(own map[string]any) allocation.Row {
	if own == nil {
		own = r.defaults.Device
	}
	if own == nil {
		return nil
	}
	row := allocation.Row{}
	for name, value := range own {
		switch value.(type) {
		case string, int64, float64, bool:
			row[name] = value
		default:
			r.fail("device."+name, "device.%s: a row of the directory holds text, numbers, true or false", name)
		}
	}
	return row
}

func (r *reader) want(raw rawWant) Want {
	before := len(r.problems)
	text := func(key string, value *string) string {
		if value == nil {
			return ""
		}
		if *value == "" {
			r.fail("want."+key, "want.%s is empty; leave it out if it does not matter", key)
		}
		return *value
	}
	w := Want{
		Hub: text("hub", raw.Hub), Refused: text("refused", raw.Refused), Rule: text("rule", raw.Rule), Exact: raw.Exact,
		Tags: r.object("want.tags", raw.Tags), Desired: r.object("want.desired", raw.Desired), Payload: r.json("want.payload", raw.Payload),
	}
	if whole := text("response_json", raw.ResponseJSON); whole != "" {
		if !json.Valid([]byte(whole)) {
			r.fail("want.response_json", "want.response_json is not valid JSON")
		}
		if w.assigns() {
			r.fail("want.response_json", "want.response_json is the whole answer; leave out hub, tags, desired, payload and exact")
		}
		w.Response = json.RawMessage(whole)
	}
	if w.Refused != "" && w.assigns() {
		r.fail("want.refused", "a refused device gets neither a hub nor anything else")
	}
	follows := w.status()
	w.Status = follows
	if raw.Status != nil {
		w.Status = *raw.Status
		switch {
		case !slices.Contains([]int{http.StatusOK, http.StatusBadRequest, http.StatusServiceUnavailable}, w.Status):
			r.fail("want.status", "want.status may be 200, 400 or 503")
		case follows != 0 && follows != w.Status:
			r.fail("want.status", "want.status = %d does not go with the rest, which is a %d", w.Status, follows)
		}
	}
	if w.Status == 0 && w.Rule == "" && len(r.problems) == before {
		r.fail("want", "nothing is wanted; give want.hub, want.refused, or another of %s", strings.Join(keysOf(reflect.TypeFor[rawWant](), nil), ", "))
	}
	return w
}

// checkHub finds a slip of the finger in the wanted hub.
func (r *reader) checkHub(c *Case) {
	request, err := allocation.ParseRequest(c.Request)
	if err != nil || c.Want.Hub == "" || slices.Contains(request.LinkedHubs, c.Want.Hub) {
		return
	}
	r.fail("want.hub", "want.hub = %q is not among the case's hubs, so it can never be assigned%s", c.Want.Hub, didYouMean(c.Want.Hub, request.LinkedHubs))
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%s: larger than %d KiB", path, limit>>10)
	}
	return text, nil
}
