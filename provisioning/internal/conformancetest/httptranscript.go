// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"bytes"
	"errors"
	"fmt"
	"net/textproto"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// requestKinds are the methods of the device API (dps-protocol 3.1), and what follows the registration in the path.
var requestKinds = map[string]string{
	"PUT":     "/register",
	"GET":     "/operations/" + Operation,
	"POST":    "",
	"UPGRADE": "",
}

// header says how a header may be sent.
type header struct {
	required bool
	value    *regexp.Regexp
}

// deviceHeaders are those of dps-protocol 3.3 and of the table of headers in real-clients-wire. UserAgent without the dash
// and Request-Id are other clients'.
var deviceHeaders = map[string]header{
	"Host":           {true, regexp.MustCompile(`^dps\.test(:443)?$`)},
	"Authorization":  {true, regexp.MustCompile(`^SharedAccessSignature `)}, // the rest is CheckToken's
	"User-Agent":     {false, regexp.MustCompile(`^[!-.0-~]+/[!-~]+$`)},
	"Useragent":      {false, regexp.MustCompile(`^[!-.0-~]+/[!-~]+$`)},
	"Accept":         {false, regexp.MustCompile(`^application/json$`)},
	"Content-Type":   {false, regexp.MustCompile(`^application/json(; charset=utf-8)?$`)},
	"Content-Length": {false, regexp.MustCompile(`^(0|[1-9][0-9]{0,5})$`)},
	"Connection":     {false, regexp.MustCompile(`^(?i:keep-alive)$`)},
	"Request-Id":     {false, regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)},
}

// upgradeHeaders are those of RFC 6455 4.1 with the values of dps-protocol 7. An Authorization is not among them: the
// token travels in the CONNECT.
var upgradeHeaders = map[string]header{
	"Host":                     {true, regexp.MustCompile(`^dps\.test(:443)?$`)},
	"Upgrade":                  {true, regexp.MustCompile(`^(?i:websocket)$`)},
	"Connection":               {true, regexp.MustCompile(`^(?i:upgrade)$`)},
	"Sec-Websocket-Version":    {true, regexp.MustCompile(`^13$`)},
	"Sec-Websocket-Key":        {true, regexp.MustCompile(`^[A-Za-z0-9+/]{21}[AQgw]==$`)}, // sixteen bytes
	"Sec-Websocket-Protocol":   {true, regexp.MustCompile(`^(mqtt|MQTT)$`)},
	"Sec-Websocket-Extensions": {false, regexp.MustCompile(`^permessage-deflate(; [a-z_]+)*$`)},
	"Origin":                   {false, regexp.MustCompile(`^https://dps\.test(:443)?$`)},
	"User-Agent":               {false, regexp.MustCompile(`^[!-.0-~]+/[!-~]+$`)},
}

// requests reads a connection of HTTP requests, one after the other.
func (r *reader) requests() error {
	for n := 1; r.offset < len(r.data); n++ {
		start := r.offset
		method, err := r.request()
		if err != nil {
			return fmt.Errorf("request %d: %w", n, err)
		}
		r.note(method, start)
	}
	return nil
}

func (r *reader) request() (method string, err error) {
	signed := r.at(r.offset)
	method, target, fields, err := r.head(deviceHeaders)
	if err != nil {
		return "", err
	}
	suffix, known := requestKinds[method]
	if !known || method == "UPGRADE" {
		return "", fmt.Errorf("the method is %s", method)
	}
	path, query, _ := strings.Cut(target, "?")
	if want := "/" + IDScope + "/registrations/" + toaster + suffix; path != want {
		return "", fmt.Errorf("the path is %s, want %s", path, want)
	}
	if version, ok := strings.CutPrefix(query, "api-version="); !ok || !slices.Contains(apiVersions, version) {
		return "", fmt.Errorf("the query is %q, want an api-version and nothing else", query)
	}
	if wrong := CheckToken(fields["Authorization"], toaster, deviceKey, signed); wrong != "" {
		return "", errors.New(wrong)
	}

	length := 0
	if text, given := fields["Content-Length"]; given {
		length, _ = strconv.Atoi(text) // its shape is checked
	}
	if length > len(r.data)-r.offset {
		return "", fmt.Errorf("the body ends before its %d bytes", length)
	}
	body := r.data[r.offset : r.offset+length]
	r.offset += length
	if method == "GET" {
		if length != 0 && string(body) != "{}" {
			return "", fmt.Errorf("a poll has the body %.40q", body)
		}
		return method, nil
	}
	if fields["Content-Type"] == "" {
		return "", fmt.Errorf("a body without a Content-Type")
	}
	return method, checkBody(body)
}

// requestLine is that of HTTP/1.1, with a target of printable characters.
var requestLine = regexp.MustCompile(`^([A-Z]+) (/[!-~]*) HTTP/1\.1$`)

// head reads a request's head and checks its headers against a table.
func (r *reader) head(allowed map[string]header) (method, target string, fields map[string]string, err error) {
	end := bytes.Index(r.data[r.offset:], []byte("\r\n\r\n"))
	if end < 0 {
		return "", "", nil, fmt.Errorf("the head does not end")
	}
	lines := strings.Split(string(r.data[r.offset:r.offset+end]), "\r\n")
	r.offset += end + len("\r\n\r\n")

	first := requestLine.FindStringSubmatch(lines[0])
	if first == nil {
		return "", "", nil, fmt.Errorf("not a request line: %.80q", lines[0])
	}
	fields = make(map[string]string)
	for _, line := range lines[1:] {
		name, value, found := strings.Cut(line, ": ")
		if !found || strings.ContainsAny(line, "\r\n") {
			return "", "", nil, fmt.Errorf("not a header: %.80q", line)
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		rule, known := allowed[name]
		if !known {
			return "", "", nil, fmt.Errorf("no document names the header %s", name)
		}
		if _, again := fields[name]; again {
			return "", "", nil, fmt.Errorf("the header %s is given twice", name)
		}
		if !rule.value.MatchString(value) {
			return "", "", nil, fmt.Errorf("the header %s has the value %.60q", name, value)
		}
		fields[name] = value
	}
	for name, rule := range allowed {
		if _, given := fields[name]; rule.required && !given {
			return "", "", nil, fmt.Errorf("the header %s is missing", name)
		}
	}
	return first[1], first[2], fields, nil
}

// webSocket reads an upgrade and the frames after it, and then the packets within.
func (r *reader) webSocket() error {
	method, target, _, err := r.head(upgradeHeaders)
	if err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	if method != "GET" || target != webSocketPath {
		return fmt.Errorf("upgrade: %s %s, want GET %s", method, target, webSocketPath)
	}
	r.note("UPGRADE", 0)

	within := &reader{transcript: Transcript{Transport: MQTT, Began: r.transcript.Began}}
	masks := make(map[string]bool)
	for n := 1; r.offset < len(r.data); n++ {
		start := r.offset
		op, mask, payload, err := r.frame()
		if err != nil {
			return fmt.Errorf("frame %d: %w", n, err)
		}
		if masks[mask] {
			return fmt.Errorf("frame %d: a mask is used again", n)
		}
		masks[mask] = true
		switch op {
		case opBinary:
			within.transcript.Heard = append(within.transcript.Heard, Heard{At: r.at(start), Data: payload})
			within.data = append(within.data, payload...)
		case opClose:
			if r.offset < len(r.data) {
				return fmt.Errorf("frame %d: something follows the close", n)
			}
		}
	}
	err = within.packets()
	r.entries = append(r.entries, within.entries...)
	return err
}

// frame reads one frame of a client (RFC 6455 5).
func (r *reader) frame() (op byte, mask string, payload []byte, err error) {
	head := r.data[r.offset:]
	if len(head) < 6 {
		return 0, "", nil, fmt.Errorf("it ends in its head")
	}
	switch op = head[0] & 0x0F; {
	case head[0]&0x70 != 0:
		return 0, "", nil, fmt.Errorf("a reserved bit is set")
	case head[0]&0x80 == 0 || op == opContinuation:
		return 0, "", nil, fmt.Errorf("it is a part of a message")
	case !slices.Contains([]byte{opBinary, opClose, opPing, opPong}, op):
		return 0, "", nil, fmt.Errorf("its opcode is 0x%X, want binary", op)
	case head[1]&0x80 == 0:
		return 0, "", nil, fmt.Errorf("it is not masked")
	}
	length, size := int(head[1]&0x7F), 2
	switch length {
	case 126:
		length, size = int(head[2])<<8|int(head[3]), 4
		if length < 126 {
			return 0, "", nil, fmt.Errorf("its length is written longer than need be")
		}
	case 127:
		return 0, "", nil, fmt.Errorf("it is longer than a registration is")
	}
	if len(head) < size+4+length {
		return 0, "", nil, fmt.Errorf("it ends before its %d bytes", length)
	}
	mask = string(head[size : size+4])
	payload = slices.Clone(head[size+4 : size+4+length])
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	r.offset += size + 4 + length
	return op, mask, payload, nil
}
