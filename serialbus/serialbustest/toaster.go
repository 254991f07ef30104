// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// Toaster is a simulated toaster that speaks ALP/1: Contoso's TSTRSD-007.
type Toaster struct {
	RegistrationID string
	Vendor         string
	Model          string
	Serial         string
	Firmware       string
	Provisioning   string
}

// NewToasterLine is an RS-232 or USB line with one toaster.
func NewToasterLine(t Toaster, opts ...Option) (*Line, error) {
	return start(&toaster{Toaster: t}, false, opts)
}

// toasterMaxLine is the longest line that it takes, trailer included.
const toasterMaxLine = 1024

// toaster is a Toaster at work. Its settings live in two slots: staged, and applied by a commit.
type toaster struct {
	Toaster
	power
	buf       []byte
	applied   *slot
	staged    *slot
	committed int
}

// slot is one set of settings, as the params of stage brought it.
type slot struct {
	Rev      uint64                     `json:"rev"`
	CRC      string                     `json:"crc"`
	Hub      string                     `json:"hub"`
	DeviceID string                     `json:"deviceId"`
	Desired  map[string]json.RawMessage `json:"desired"`
	Payload  json.RawMessage            `json:"payload,omitempty"`
}

// rpcError is a JSON-RPC error object.
type rpcError struct {
	Code    int            `json:"code"`
	Message string         `json:"message"`
	Data    map[string]any `json:"data,omitempty"`
}

func (t *toaster) silence()                   {} // half a line waits for ever: the host ends it with a line feed
func (t *toaster) units() []int               { return []int{0} }
func (t *toaster) writes() int                { return t.committed }
func (t *toaster) setFirmware(version string) { t.Firmware = version }

func (t *toaster) appliance(unit int) appliance {
	if unit == 0 {
		return t
	}
	return nil
}

// cut implements appliance: what is staged and not committed is lost with the power.
func (t *toaster) cut(until time.Time) {
	t.staged, t.buf = nil, nil
	t.power.cut(until)
}

// set turns a knob: the toaster shows another setting than the one it was last given.
func (t *toaster) set(name, value string) error {
	quoted := json.RawMessage(strconv.Quote(value))
	if refused := checkToaster(map[string]json.RawMessage{name: quoted}); refused != nil {
		return errors.New(refused.Message)
	}
	next := slot{Desired: make(map[string]json.RawMessage)}
	if t.applied != nil {
		next = *t.applied
		next.Desired = maps.Clone(next.Desired)
	}
	next.Desired[name] = quoted
	t.applied = &next
	return nil
}

func (t *toaster) get(name string) (string, error) {
	value, has := t.settings()[name]
	if !has {
		return "", errNoSetting(name)
	}
	return value, nil
}

// stray makes the reply one to a request that was never sent.
func (t *toaster) stray([]byte) []byte {
	return withTrailer([]byte(`{"jsonrpc":"2.0","id":99999999,"result":{"alp":1,"vendor":"Fabrikam"}}`))
}

// settings shows the document in force over the factory's settings, strings without their quotes.
func (t *toaster) settings() map[string]string {
	shown := map[string]string{"state": "off", "darknessSetting": "light"} // as it leaves the factory
	if t.applied == nil {
		return shown
	}
	for name, value := range t.applied.Desired {
		shown[name] = string(value)
		if plain, err := strconv.Unquote(string(value)); err == nil {
			shown[name] = plain
		}
	}
	shown["assignedHub"], shown["deviceId"] = t.applied.Hub, t.applied.DeviceID
	if t.applied.Payload != nil {
		shown["payload"] = string(t.applied.Payload)
	}
	return shown
}

// hear cuts lines out of the bytes and answers those that are intact requests; the others it drops in silence.
func (t *toaster) hear(data []byte, at time.Time, decide decision) []exchange {
	t.buf = append(t.buf, data...)
	var done []exchange
	for {
		end := bytes.IndexByte(t.buf, '\n')
		if end < 0 {
			break
		}
		line := append([]byte(nil), t.buf[:end]...)
		t.buf = t.buf[end+1:]
		if !t.on(at) {
			continue
		}
		request, intact := readRequest(bytes.TrimSuffix(line, []byte("\r")))
		if !intact {
			continue
		}
		is := decide(0, request.Method)
		if reply := t.meet(request, at, is); reply != nil {
			done = append(done, exchange{unit: 0, kind: request.Method, request: line, reply: reply, fate: is})
		}
	}
	if len(t.buf) > 2*toasterMaxLine {
		t.buf = t.buf[len(t.buf)-toasterMaxLine-1:] // still too long to be a line
	}
	return done
}

// meet lets a request take effect, unless its fate is another.
func (t *toaster) meet(request rpcRequest, at time.Time, is fate) []byte {
	switch is.fault {
	case FaultUnheard:
		return nil
	case FaultPowerBefore:
		t.cut(at.Add(is.delay))
		return nil
	case FaultPowerAfter:
		t.answer(request)
		t.cut(at.Add(is.delay))
		return nil
	default:
		return t.answer(request)
	}
}

// rpcRequest is a JSON-RPC request.
type rpcRequest struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

// readRequest returns the request in a line; intact is false if the line must be dropped.
func readRequest(line []byte) (request rpcRequest, intact bool) {
	star := len(line) - 9
	if star < 0 || len(line) > toasterMaxLine || !utf8.Valid(line) || string(line[star:]) != trailer(line[:star]) {
		return request, false
	}
	err := json.Unmarshal(line[:star], &request)
	return request, err == nil && request.ID != nil
}

// answer returns the reply line to a request.
func (t *toaster) answer(request rpcRequest) []byte {
	reply := map[string]any{"jsonrpc": "2.0", "id": request.ID}
	result, refused := t.call(request.Method, request.Params)
	if refused != nil {
		reply["error"] = refused
	} else {
		reply["result"] = result
	}
	message, err := json.Marshal(reply)
	if err != nil {
		return nil
	}
	return withTrailer(message)
}

// call does one method; exactly one of its results is not nil.
func (t *toaster) call(method string, params json.RawMessage) (any, *rpcError) {
	switch method {
	case "identify":
		return t.identify(), nil
	case "status":
		return t.status(), nil
	case "stage":
		return t.stage(params)
	case "commit":
		return t.commit(params)
	default:
		return nil, &rpcError{Code: -32601, Message: "Method not found"}
	}
}

// identify says who the toaster is and which settings are in force.
func (t *toaster) identify() any {
	said := map[string]any{
		"alp": 1, "vendor": t.Vendor, "model": t.Model, "serial": t.Serial, "registrationId": t.RegistrationID,
		"firmware": t.Firmware, "provisioning": t.Provisioning, "maxLine": toasterMaxLine,
	}
	if t.applied != nil {
		said["applied"] = map[string]any{"rev": t.applied.Rev, "crc": t.applied.CRC}
	}
	return said
}

// status shows the applied document as a whole, which goes beyond the published protocol, and the staged revision.
func (t *toaster) status() any {
	said := map[string]any{}
	if t.applied != nil {
		said["applied"] = t.applied
	}
	if t.staged != nil {
		said["staged"] = map[string]any{"rev": t.staged.Rev, "crc": t.staged.CRC}
	}
	return said
}

// stage takes a set of settings without using it yet. The same twice is answered the same; an older revision, or
// another content under a known one, is refused.
func (t *toaster) stage(params json.RawMessage) (any, *rpcError) {
	var next slot
	if json.Unmarshal(params, &next) != nil || next.Rev == 0 || next.Desired == nil {
		return nil, &rpcError{Code: -32602, Message: "stage needs rev, hub, deviceId and desired"}
	}
	next.CRC = fmt.Sprintf("%08X", crc32.ChecksumIEEE(params))
	for _, known := range []*slot{t.applied, t.staged} {
		if known == nil || known.Rev < next.Rev {
			continue
		}
		if known.Rev > next.Rev || known.CRC != next.CRC {
			return nil, &rpcError{Code: -32000, Message: fmt.Sprintf("revision %d is known already", known.Rev)}
		}
	}
	if refused := checkToaster(next.Desired); refused != nil {
		return nil, refused
	}
	t.staged = &next
	return map[string]any{"rev": next.Rev, "crc": next.CRC}, nil
}

// checkToaster refuses properties and values that a toaster does not have.
func checkToaster(desired map[string]json.RawMessage) *rpcError {
	accepted := map[string][]string{
		"state":           {`"off"`, `"ready"`, `"toasting"`},
		"darknessSetting": {`"light"`, `"medium"`, `"dark"`},
	}
	for name, value := range desired {
		if !slices.Contains(accepted[name], string(value)) {
			return &rpcError{
				Code: -32602, Message: fmt.Sprintf("%s cannot be %s", name, value),
				Data: map[string]any{"property": name},
			}
		}
	}
	return nil
}

// commit puts the staged settings in force.
func (t *toaster) commit(params json.RawMessage) (any, *rpcError) {
	var which struct {
		Rev uint64 `json:"rev"`
		CRC string `json:"crc"`
	}
	if json.Unmarshal(params, &which) != nil {
		return nil, &rpcError{Code: -32602, Message: "commit needs rev and crc"}
	}
	named := func(s *slot) bool { return s != nil && s.Rev == which.Rev && s.CRC == which.CRC }
	switch {
	case named(t.applied):
	case named(t.staged):
		t.applied = t.staged
		t.committed++
	default:
		return nil, &rpcError{Code: -32000, Message: "nothing of that revision and checksum is staged"}
	}
	return map[string]any{"applied": true}, nil
}

// trailer is "*" and the CRC-32 of the message in eight upper-case hex digits.
func trailer(message []byte) string {
	return fmt.Sprintf("*%08X", crc32.ChecksumIEEE(message))
}

// withTrailer returns a message as a line.
func withTrailer(message []byte) []byte {
	return append(append(append([]byte(nil), message...), trailer(message)...), '\n')
}
