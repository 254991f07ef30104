// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestALPLine(t *testing.T) {
	const golden = `{"jsonrpc":"2.0","id":1,"method":"identify"}*2F104B70` // serial 6
	if got := string(alpEncode([]byte(golden[:len(golden)-alpTrailer]))); got != golden+"\n" {
		t.Errorf("encoding: got %q", got)
	}
	for _, tc := range []struct {
		name, line string
		want       string // "" = dropped
	}{
		{"golden", golden, golden[:len(golden)-alpTrailer]},
		{"with CR", golden + "\r", golden[:len(golden)-alpTrailer]},
		{"lower-case checksum", strings.ToLower(golden), ""},
		{"wrong checksum", golden[:len(golden)-1] + "1", ""},
		{"changed text", strings.Replace(golden, "identify", "identifz", 1), ""},
		{"no trailer", golden[:len(golden)-alpTrailer], ""},
		{"short", "*2F104B7", ""},
		{"empty", "", ""},
		{"not UTF-8", strings.TrimSuffix(string(alpEncode([]byte("\"\xff\""))), "\n"), ""},
		{"1,024 bytes", strings.TrimSuffix(string(alpEncode(bytes.Repeat([]byte("x"), 1015))), "\n"), strings.Repeat("x", 1015)},
		{"1,025 bytes", strings.TrimSuffix(string(alpEncode(bytes.Repeat([]byte("x"), 1016))), "\n"), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := alpDecode([]byte(tc.line))
			if ok != (tc.want != "") || ok && string(got) != tc.want {
				t.Errorf("got %q, %v", got, ok)
			}
		})
	}
}

func TestLineReader(t *testing.T) {
	long := strings.Repeat("x", 2000)
	for _, tc := range []struct {
		name, in string
		want     []string
	}{
		{"one", "abc\n", []string{"abc"}},
		{"two and a half", "abc\ndef\ngh", []string{"abc", "def"}},
		{"empty lines", "\n\nabc\n\n", []string{"abc"}},
		{"too long, then good", long + "\nabc\n", []string{"abc"}},
		{"nothing whole", "abc", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, step := range []int{1, 7, len(tc.in)} {
				var r lineReader
				var got []string
				for i := 0; i < len(tc.in); i += step {
					for _, line := range r.take([]byte(tc.in[i:min(i+step, len(tc.in))])) {
						got = append(got, string(line))
					}
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("%d bytes a time: %s", step, diff)
				}
			}
		})
	}
}

func FuzzLineReader(f *testing.F) {
	f.Add([]byte("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"identify\"}*2F104B70\r\n"), uint8(1))
	f.Add(bytes.Repeat([]byte("x"), 3000), uint8(200))
	f.Add([]byte("\n*\n**00000000\n"), uint8(3))
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		var r lineReader
		var lines [][]byte
		for rest := data; len(rest) > 0; {
			n := min(len(rest), int(step)+1)
			lines = append(lines, r.take(rest[:n])...)
			rest = rest[n:]
			if len(r.buf) > alpMaxLine+1 {
				t.Fatalf("holds %d bytes", len(r.buf))
			}
		}
		for _, line := range lines {
			if message, ok := alpDecode(line); ok && !bytes.Equal(alpEncode(message), append(bytes.TrimSuffix(line, []byte("\r")), '\n')) {
				t.Errorf("%q does not encode to itself", line)
			}
		}
	})
}

// speaker is the appliance's end in these tests: it answers a request with a result or an error in JSON, "" = silence.
type speaker func(method string, params json.RawMessage) string

func (s speaker) wire() *wire {
	return &wire{answer: func(frame []byte) []burst {
		message, ok := alpDecode(bytes.TrimSuffix(bytes.TrimPrefix(frame, []byte("\n")), []byte("\n")))
		if !ok {
			return nil
		}
		var q alpRequest
		if json.Unmarshal(message, &q) != nil {
			return nil
		}
		body := s(q.Method, q.Params)
		if body == "" {
			return nil
		}
		return soon(alpEncode(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,%s}`, q.ID, body)))
	}}
}

func testALP(t *testing.T, w *wire, profile string) *alpDriver {
	p, err := loadProfile(profile)
	if err != nil {
		t.Fatal(err)
	}
	return &alpDriver{
		port: w, timing: speed{115200, ParityNone, 1}.timing(), wait: 100 * time.Millisecond, profile: p,
		log: slog.New(slog.DiscardHandler),
	}
}

func TestIdentifyALP(t *testing.T) {
	const full = `"result":{"alp":1,"vendor":"Contoso","model":"TSTRSD-007","serial":"499","registrationId":"breakroom499-contoso-tstrsd-007",
		"firmware":"12.0.2.5","provisioning":"1.0.0.0","maxLine":512,"applied":{"rev":3,"crc":"00000000"}}`
	toaster := Identity{
		Vendor: "Contoso", Model: "TSTRSD-007", Serial: "499", RegistrationID: "breakroom499-contoso-tstrsd-007",
		Firmware: "12.0.2.5", Provisioning: "1.0.0.0", Source: SourceALP,
	}
	for _, tc := range []struct {
		name, body string
		want       Identity
		wantErr    string
	}{
		{"all", strings.Join(strings.Fields(full), ""), toaster, ""},
		{"unknown members", `"result":{"alp":2,"vendor":"Contoso","colour":["red"]}`, Identity{Vendor: "Contoso", Source: SourceALP}, ""},
		{"null is no result", `"result":null,"error":{"code":-32601,"message":"Method\u001b not found"}`, Identity{}, "Method\uFFFD not found"},
		{"another protocol", `"result":{"vendor":"Contoso"}`, Identity{}, "speaks another protocol"},
		{"a number for a name", `"result":{"alp":1,"vendor":7}`, Identity{}, "not an ALP/1 identity"},
		{"silent", ``, Identity{}, "nobody answered"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := testALP(t, speaker(func(string, json.RawMessage) string { return tc.body }).wire(), "alp")
				got, err := d.identify(t.Context(), 0)
				if (tc.wantErr == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("got error %v, want %q in it", err, tc.wantErr)
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// TestCallALP: what counts as a reply, and how often is asked (serial 6: 500 ms, 3 tries).
func TestCallALP(t *testing.T) {
	reply := func(id int) []byte { return alpEncode(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"result":{}}`, id)) }
	for _, tc := range []struct {
		name   string
		answer func(try int, frame []byte) []burst
		want   error
		asked  int
	}{
		{"at once", func(try int, _ []byte) []burst { return soon(reply(try)) }, nil, 1},
		{"never", func(int, []byte) []burst { return nil }, ErrSilent, 3},
		{"at the third", func(try int, _ []byte) []burst {
			if try < 3 {
				return nil
			}
			return soon(reply(try))
		}, nil, 3},
		{"always another id", func(int, []byte) []burst { return soon(reply(77)) }, ErrSilent, 3},
		{"a late one first", func(try int, _ []byte) []burst { return soon(append(reply(try-1), reply(try)...)) }, nil, 1},
		{"its banner first", func(try int, _ []byte) []burst { return soon(append([]byte("Toaster 12.0\r\n"), reply(try)...)) }, nil, 1},
		{"only echo", func(_ int, frame []byte) []burst { return soon(frame) }, ErrSilent, 3},
		{"noise", func(int, []byte) []burst { return soon([]byte{0xF0, 0x9F, '\n', 0xFF}) }, ErrNoise, 3},
		{"a line that is none", func(int, []byte) []burst { return soon([]byte("Toaster 12.0\r\n")) }, ErrNoise, 3},
		{"noise without end", func(int, []byte) []burst { return byteWise(bytes.Repeat([]byte("~"), 5000), time.Millisecond/4) }, ErrNoise, 3},
		{"in halves", func(try int, _ []byte) []burst {
			return []burst{{5 * time.Millisecond, reply(try)[:9]}, {120 * time.Millisecond, reply(try)[9:]}}
		}, nil, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &wire{}
				w.answer = func(frame []byte) []burst { return tc.answer(len(w.written), frame) }
				_, err := testALP(t, w, "alp").call(t.Context(), "status", nil, 100*time.Millisecond)
				if !errors.Is(err, tc.want) || w.writes() != tc.asked {
					t.Errorf("got %v after %d requests, want %v after %d", err, w.writes(), tc.want, tc.asked)
				}
			})
		})
	}
}

// memory is an appliance with the two slots of ALP/1; it can be told to lose answers, to show no content, to refuse.
type memory struct {
	applied, staged *alpApplied
	bare            bool   // status shows revision and checksum only, as published
	refuse          string // this method's error member
	lose            string // this method's answer is lost once
	lie             bool   // says yes to commit and keeps what it has
	garble          bool   // confirms another checksum than it was sent
	stages, commits int
}

func (m *memory) call(method string, params json.RawMessage) string {
	body := m.do(method, params)
	if m.lose == method {
		m.lose = ""
		return ""
	}
	return body
}

func (m *memory) do(method string, params json.RawMessage) string {
	if m.refuse != "" && method == "stage" {
		return m.refuse
	}
	switch method {
	case "status":
		status := map[string]any{}
		if m.applied != nil {
			status["applied"] = m.applied
			if m.bare {
				status["applied"] = alpRevision{m.applied.Rev, m.applied.CRC}
			}
		}
		if m.staged != nil {
			status["staged"] = alpRevision{m.staged.Rev, m.staged.CRC}
		}
		text, _ := json.Marshal(status)
		return `"result":` + string(text)
	case "stage":
		m.stages++
		m.staged = &alpApplied{CRC: alpChecksum(params)}
		if err := json.Unmarshal(params, &m.staged.alpDocument); err != nil {
			return `"error":{"code":-32700,"message":"no JSON"}`
		}
		if m.garble {
			return fmt.Sprintf(`"result":{"rev":%d,"crc":"00000000"}`, m.staged.Rev)
		}
		return fmt.Sprintf(`"result":{"rev":%d,"crc":%q}`, m.staged.Rev, m.staged.CRC)
	default:
		m.commits++
		if !m.lie {
			m.applied = m.staged
		}
		return `"result":{"applied":true}`
	}
}

func TestApplyALP(t *testing.T) {
	const ready = `{"state":"ready","darknessSetting":"medium"}`
	held := func(rev uint64, desired, payload string) *alpApplied {
		doc := alpDocument{Rev: rev, Hub: "hub", DeviceID: "dev", Desired: desiredOf(t, desired), Payload: json.RawMessage(payload)}
		params, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		return &alpApplied{alpDocument: doc, CRC: alpChecksum(params)}
	}
	for _, tc := range []struct {
		name     string
		profile  string
		memory   memory
		desired  string
		payload  string
		reported map[string]string
		wrote    bool
		rev      uint64 // in force afterwards
		rejected string
		wantErr  error
	}{
		{
			"never set", "contoso-tstrsd-007",
			memory{},
			ready, `{"a":1}`,
			map[string]string{"state": `"ready"`, "darknessSetting": `"medium"`},
			true, 1, "", nil,
		},
		{
			"it is so already, in another spelling", "contoso-tstrsd-007",
			memory{applied: held(4, ready, `{"a":1}`)},
			ready, `{ "a" : 1 }`,
			map[string]string{"state": `"ready"`, "darknessSetting": `"medium"`},
			false, 4, "", nil,
		},
		{
			"it is so already, shown by checksum only", "contoso-tstrsd-007",
			memory{applied: held(4, ready, ``), bare: true},
			ready, ``,
			map[string]string{"state": `"ready"`, "darknessSetting": `"medium"`},
			false, 4, "", nil,
		},
		{
			"changed, shown by checksum only", "contoso-tstrsd-007",
			memory{applied: held(4, `{"state":"off"}`, ``), bare: true},
			ready, ``,
			map[string]string{"state": `"ready"`, "darknessSetting": `"medium"`},
			true, 5, "", nil,
		},
		{
			"another payload", "contoso-tstrsd-007",
			memory{applied: held(4, ready, `{"a":1}`)},
			ready, `{"a":2}`,
			map[string]string{"state": `"ready"`, "darknessSetting": `"medium"`},
			true, 5, "", nil,
		},
		{
			"killed between stage and commit: above both revisions", "contoso-tstrsd-007",
			memory{applied: held(4, `{"state":"off"}`, ``), staged: held(5, ready, ``)},
			ready, ``,
			map[string]string{"state": `"ready"`, "darknessSetting": `"medium"`},
			true, 6, "", nil,
		},
		{
			"the answer to stage is lost", "contoso-tstrsd-007",
			memory{lose: "stage"},
			ready, ``,
			map[string]string{"state": `"ready"`, "darknessSetting": `"medium"`},
			true, 1, "", nil,
		},
		{
			"the answer to commit is lost", "contoso-tstrsd-007",
			memory{lose: "commit"},
			ready, ``,
			map[string]string{"state": `"ready"`, "darknessSetting": `"medium"`},
			true, 1, "", nil,
		},
		{
			"the profile's bounds refuse one: the appliance keeps what it had", "contoso-tstrsd-007",
			memory{applied: held(4, ready, ``)},
			`{"state":"off","darknessSetting":"burnt"}`, ``,
			map[string]string{"state": `"off"`},
			true, 5, "darknessSetting", nil,
		},
		{
			"the appliance refuses one", "alp",
			memory{refuse: `"error":{"code":-32602,"message":"too dark","data":{"property":"darknessSetting"}}`, applied: held(4, ready, ``)},
			`{"state":"off","darknessSetting":"burnt"}`, ``,
			map[string]string{"state": `"ready"`, "darknessSetting": `"medium"`},
			true, 4, "darknessSetting", nil,
		},
		{
			"it refuses for now", "alp",
			memory{refuse: `"error":{"code":-32000,"message":"toasting"}`},
			ready, ``,
			map[string]string{},
			true, 0, "", errAny,
		},
		{
			"it says yes and does no", "alp",
			memory{lie: true},
			ready, ``,
			map[string]string{},
			true, 0, "", errAny,
		},
		{
			"it confirms another checksum: no commit", "alp",
			memory{garble: true},
			ready, ``,
			map[string]string{},
			true, 0, "", errAny,
		},
		{
			"a payload too long for its line stays here", "alp",
			memory{},
			ready, `"` + strings.Repeat("x", 900) + `"`,
			map[string]string{"state": `"ready"`, "darknessSetting": `"medium"`},
			true, 1, "", nil,
		},
		{
			"properties too long for its line", "alp",
			memory{},
			`{"text":"` + strings.Repeat("x", 1000) + `"}`, ``,
			map[string]string{},
			false, 0, "desired", nil,
		},
		{
			"numbers with all their digits", "alp",
			memory{applied: held(2, `{"n":9007199254740993}`, ``)},
			`{"n":9007199254740992}`, ``,
			map[string]string{"n": `9007199254740992`},
			true, 3, "", nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := tc.memory
				d := testALP(t, speaker(m.call).wire(), tc.profile)
				got, err := d.apply(t.Context(), 0, Settings{
					AssignedHub: "hub", DeviceID: "dev", Desired: desiredOf(t, tc.desired), Payload: json.RawMessage(tc.payload),
				})
				checkApplied(t, got, err, tc.reported, tc.wrote, tc.rejected, tc.wantErr)
				var rev uint64
				if m.applied != nil {
					rev = m.applied.Rev
				}
				if rev != tc.rev {
					t.Errorf("revision %d is in force, want %d", rev, tc.rev)
				}
			})
		})
	}
}

// TestRefusedPropertyKeepsItsValue: a value that may not be set does not erase the one that is.
func TestRefusedPropertyKeepsItsValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory{applied: &alpApplied{alpDocument: alpDocument{Rev: 1, Desired: desiredOf(t, `{"state":"ready","darknessSetting":"medium"}`)}}}
		d := testALP(t, speaker(m.call).wire(), "contoso-tstrsd-007")
		_, _ = d.apply(t.Context(), 0, Settings{Desired: desiredOf(t, `{"state":"off","darknessSetting":"burnt"}`)})
		if diff := cmp.Diff(desiredOf(t, `{"state":"off","darknessSetting":"medium"}`), m.applied.Desired); diff != "" {
			t.Error(diff)
		}
	})
}

// FuzzALPReply: whatever an appliance sends as its result, the driver ends without a panic.
func FuzzALPReply(f *testing.F) {
	for _, body := range []string{
		`"result":{"alp":1}`, `"result":{"applied":{"rev":18446744073709551615}}`, `"result":{"applied":{"desired":{"state":null}}}`,
		`"result":{"applied":{"rev":1,"crc":"00000000","desired":null}}`, `"error":{"code":-32602}`, `"result":[]`, `"id":2`, `"result":{"maxLine":-1,"alp":1}`,
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		synctest.Test(t, func(t *testing.T) {
			d := testALP(t, speaker(func(string, json.RawMessage) string { return body }).wire(), "alp")
			_, _ = d.identify(t.Context(), 0)
			_, _ = d.apply(t.Context(), 0, Settings{Desired: map[string]json.RawMessage{"state": json.RawMessage(`"ready"`)}, Payload: json.RawMessage(`{}`)})
		})
	})
}
