// SPDX-License-Identifier: Apache-2.0

package conformancetest

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Transcript is all that a client sent over one connection, decrypted. Its readers are written from dps-protocol 3, 5, 6
// and 7 and from real-clients-wire, share no code with a client, and are stricter than the service: they refuse what the
// documents do not name.
type Transcript struct {
	Transport Transport
	Began     time.Time // of the trial
	Heard     []Heard
}

// Record has a client make one whole registration with a payload, register and two polls, over HTTPS a lookup before
// them, and returns what it sent over each of its connections.
func Record(t *testing.T, transport Transport, factory Factory) (transcripts []Transcript) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		trial := newTrial(t, transport, factory)
		trial.Service.Script = func(n int, q Asked) Answer {
			switch q.Do {
			case "lookup":
				return Refusal(404, 404201, "")
			case "register":
				return Assigning("3")
			}
			if n == 3 || n == 2 && transport != HTTPS {
				return Assigned(Operation)
			}
			return Assigning("3")
		}
		d := device(toaster)
		d.Payload = json.RawMessage(`{"MyDeviceFirmwareVersion":"12.0.2.5"}`)
		d.Interrupted = true
		_, _ = trial.register(d, EndAssigned)
		trial.end()
		synctest.Wait()
		for _, finding := range trial.findings {
			t.Error(finding)
		}
		for _, c := range trial.Service.Connections() {
			transcripts = append(transcripts, Transcript{Transport: transport, Began: trial.Service.Begun, Heard: c.Heard()})
		}
	})
	return transcripts
}

// Entry is one thing that was sent: an HTTP request, a WebSocket frame's head, an MQTT packet.
type Entry struct {
	At   time.Duration
	Kind string // "PUT", "GET", "frame", "CONNECT", …
	Data []byte
}

// Read takes a transcript apart. The error says what no document allows, and the entries are those before it.
func (t Transcript) Read() ([]Entry, error) {
	r := &reader{transcript: t}
	for _, heard := range t.Heard {
		r.data = append(r.data, heard.Data...)
	}
	var err error
	switch t.Transport {
	case HTTPS:
		err = r.requests()
	case MQTT:
		err = r.packets()
	case MQTTWebSocket:
		err = r.webSocket()
	}
	return r.entries, err
}

// reader reads the bytes of a transcript from the front.
type reader struct {
	transcript Transcript
	data       []byte
	offset     int // into data, of what comes next
	entries    []Entry
}

// at is when a byte had arrived.
func (r *reader) at(offset int) time.Time {
	for _, heard := range r.transcript.Heard {
		if offset < len(heard.Data) {
			return heard.At
		}
		offset -= len(heard.Data)
	}
	return r.transcript.Began
}

// note adds the bytes from start to the offset as an entry.
func (r *reader) note(kind string, start int) {
	r.entries = append(r.entries, Entry{
		At: r.at(start).Sub(r.transcript.Began), Kind: kind, Data: slices.Clone(r.data[start:r.offset]),
	})
}

// apiVersions are those of dps-protocol 3.2 that know a payload and are no preview.
var apiVersions = []string{"2019-03-31", "2021-06-01", "2021-10-01"}

// checkBody reads the document of a register or a lookup: its members are named in dps-protocol 3.4, and those of TPM and
// of previews are none of ours.
func checkBody(body []byte) error {
	decoder := json.NewDecoder(strings.NewReader(string(body)))
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return fmt.Errorf("the body is not a JSON object: %.40q", body)
	}
	seen := make(map[string]json.RawMessage)
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return fmt.Errorf("the body is not JSON: %w", err)
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return fmt.Errorf("the body is not JSON: %w", err)
		}
		if _, again := seen[name.(string)]; again {
			return fmt.Errorf("the body names %s twice", name)
		}
		seen[name.(string)] = value
	}
	if _, err := decoder.Token(); err != nil || decoder.More() {
		return fmt.Errorf("the body is more than a JSON object")
	}
	for name, value := range seen {
		switch {
		case name == "registrationId":
			if string(value) != `"`+toaster+`"` {
				return fmt.Errorf("the body is about %s", value)
			}
		case name != "payload":
			return fmt.Errorf("the body has the member %q", name)
		case value[0] != '{':
			return fmt.Errorf("the payload is not an object: %s", value)
		}
	}
	if seen["registrationId"] == nil {
		return fmt.Errorf("the body names no registrationId")
	}
	return nil
}

// Text writes entries down for a golden file. What differs from run to run is replaced: signatures, expiries, request
// IDs, nonces, and the version of the program.
func Text(entries []Entry, version string) string {
	var text strings.Builder
	for _, e := range entries {
		data := string(e.Data)
		if _, isRequest := requestKinds[e.Kind]; isRequest {
			data = strings.ReplaceAll(data, "\r\n", "\n  ")
			fmt.Fprintf(&text, "%v\n  %s\n", e.At.Round(time.Millisecond), strings.TrimRight(data, " \n"))
			continue
		}
		fmt.Fprintf(&text, "%v %s %q\n", e.At.Round(time.Millisecond), e.Kind, data)
	}
	out := text.String()
	for _, volatile := range []struct {
		shape *regexp.Regexp
		with  string
	}{
		{regexp.MustCompile(`sig=[^&]+&se=[0-9]+`), "sig={sig}&se={se}"},
		{regexp.MustCompile(`\$rid=[0-9A-Za-z]+-`), "$$rid={rid}-"},
		{regexp.MustCompile(`(Sec-Websocket-Key|Sec-WebSocket-Key): [^\n]+`), "$1: {key}"},
	} {
		out = volatile.shape.ReplaceAllString(out, volatile.with)
	}
	return strings.ReplaceAll(strings.ReplaceAll(out, "gatewayd/"+version, "gatewayd/VERSION"), "gatewayd%2F"+escaped(version), "gatewayd%2FVERSION")
}
