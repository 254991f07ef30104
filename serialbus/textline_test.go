// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// textWire answers each query with a text, and says the rest by itself 100 ms after the port was flushed.
type textWire struct {
	wire
	unasked string
}

func newTextWire(answers map[string]string, unasked string) *textWire {
	w := &textWire{unasked: unasked}
	w.answer = func(request []byte) []burst {
		answer := answers[strings.TrimRight(string(request), "\r\n")]
		if answer == "" {
			return nil
		}
		half := len(answer) / 2 // no reply comes in one piece
		return []burst{{5 * time.Millisecond, []byte(answer[:half])}, {9 * time.Millisecond, []byte(answer[half:])}}
	}
	return w
}

func (w *textWire) Flush() error {
	err := w.wire.Flush()
	if w.unasked != "" {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.coming = append(w.coming, arrival{time.Now().Add(100 * time.Millisecond), []byte(w.unasked)})
	}
	return err
}

// textDriverOn is the driver of a profile on a wire.
func textDriverOn(t testing.TB, profile string, w port) *textDriver {
	t.Helper()
	p, err := loadProfile(profile)
	if err != nil {
		t.Fatal(err)
	}
	at := speed{p.Serial.Baud, p.Serial.Parity, p.Serial.StopBits}
	return &textDriver{port: w, timing: at.timing(), wait: p.Text.timeout, dialect: p.Text, log: slog.New(slog.DiscardHandler)}
}

// modem is what a well-behaved one answers.
func modem(change map[string]string) map[string]string {
	answers := map[string]string{
		"ATE0":   "ATE0\r\r\nOK\r\n", // it still repeats this one
		"AT+GMI": "\r\nContoso\r\n\r\nOK\r\n",
		"AT+GMM": "\r\nTSTRSD-007\r\n\r\nOK\r\n",
		"AT+GMR": "\r\n12.0.2.5\r\n\r\nOK\r\n",
		"AT+GSN": "\r\n499\r\n\r\nOK\r\n",
	}
	for query, answer := range change {
		answers[query] = answer
	}
	return answers
}

// TestTextIdentity holds what each built-in text profile makes of what an appliance says.
func TestTextIdentity(t *testing.T) {
	whole := Identity{Vendor: "Contoso", Model: "TSTRSD-007", Serial: "499", Firmware: "12.0.2.5", Source: SourceText}
	without := func(change func(*Identity)) Identity {
		id := whole
		change(&id)
		return id
	}
	idn := func(answer string) map[string]string { return map[string]string{"*IDN?": answer} }
	for _, tc := range []struct {
		name, profile string
		answers       map[string]string
		unasked       string
		want          Identity
		err           error
	}{
		{"scpi", "scpi", idn("Contoso,TSTRSD-007,499,12.0.2.5\n"), "", whole, nil},
		{"scpi with CR LF and spaces", "scpi", idn("Contoso, TSTRSD-007, 499, 12.0.2.5\r\n"), "", whole, nil},
		{"scpi without a serial number", "scpi", idn("Contoso,TSTRSD-007,0,12.0.2.5\n"), "", without(func(id *Identity) { id.Serial = "" }), nil},
		{"scpi with a serial number that begins with 0", "scpi", idn("Contoso,TSTRSD-007,0499,12.0.2.5\n"), "", without(func(id *Identity) { id.Serial = "0499" }), nil},
		{"scpi that repeats the query", "scpi", idn("*IDN?\r\nContoso,TSTRSD-007,499,12.0.2.5\r\n"), "", whole, nil},
		{"scpi with a greeting before", "scpi", idn("ready\nContoso,TSTRSD-007,499,12.0.2.5\n"), "", whole, nil},
		{"scpi with three fields", "scpi", idn("Contoso,TSTRSD-007,499\n"), "", Identity{}, ErrStrange},
		{"scpi without an end", "scpi", idn("Contoso,TSTRSD-007,499,12.0.2.5"), "", Identity{}, ErrNoise},
		{"scpi in garbage", "scpi", idn("\xf8\x00\xfe\n\x80\n"), "", Identity{}, ErrNoise},
		{"scpi that never ends", "scpi", idn(strings.Repeat("x", 3000) + "\n"), "", Identity{}, ErrStrange},
		{"nobody", "scpi", nil, "", Identity{}, ErrSilent},
		{"at", "at", modem(nil), "", whole, nil},
		{"at that repeats all", "at", modem(map[string]string{"AT+GMI": "AT+GMI\r\r\nContoso\r\n\r\nOK\r\n"}), "", whole, nil},
		{"at with prefix and quotes", "at", modem(map[string]string{"AT+GSN": "\r\n+GSN: \"499\"\r\n\r\nOK\r\n"}), "", whole, nil},
		{"at without a revision", "at", modem(map[string]string{"AT+GMR": "\r\nERROR\r\n"}), "", without(func(id *Identity) { id.Firmware = "" }), nil},
		{"at with a numbered refusal", "at", modem(map[string]string{"AT+GMR": "\r\n+CME ERROR: 3\r\n"}), "", without(func(id *Identity) { id.Firmware = "" }), nil},
		{"at with an empty answer", "at", modem(map[string]string{"AT+GMR": "\r\nOK\r\n"}), "", without(func(id *Identity) { id.Firmware = "" }), nil},
		{"at without OK", "at", modem(map[string]string{"AT+GSN": "\r\n499\r\n"}), "", Identity{}, ErrNoise},
		{"at longer than V.250 allows", "at", modem(map[string]string{"AT+GMI": strings.Repeat("Contoso\r\n", 300) + "OK\r\n"}), "", Identity{}, ErrStrange},
		{"at that knows nothing", "at", map[string]string{
			"ATE0": "OK\r\n", "AT+GMI": "ERROR\r\n", "AT+GMM": "ERROR\r\n", "AT+GMR": "ERROR\r\n", "AT+GSN": "ERROR\r\n",
		}, "", Identity{}, nil},
		{"at that refuses to be silent", "at", map[string]string{"ATE0": "ERROR\r\n"}, "", Identity{}, ErrStrange},
		{"eva-dts", "eva-dts", nil, "ID1*12345*LAV OCS*v1.00\r\n", Identity{Serial: "12345", Model: "LAV OCS", Firmware: "v1.00", Source: SourceText}, nil},
		{"eva-dts with more fields", "eva-dts", nil, "DXS*X\r\nID1*12345*LAV OCS*v1.00*KITCHEN**7\r\n", Identity{Serial: "12345", Model: "LAV OCS", Firmware: "v1.00", Source: SourceText}, nil},
		{"eva-dts, the end of a record first", "eva-dts", nil, "1*9*A*B\r\nID1*12345*LAV OCS*v1.00\r\n", Identity{Serial: "12345", Model: "LAV OCS", Firmware: "v1.00", Source: SourceText}, nil},
		{"eva-dts with other records", "eva-dts", nil, "CA1*12\r\n", Identity{}, ErrStrange},
		{"eva-dts, nobody", "eva-dts", nil, "", Identity{}, ErrSilent},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTextWire(tc.answers, tc.unasked)
				got, err := textDriverOn(t, tc.profile, w).identify(t.Context(), 0)
				if !errors.Is(err, tc.err) || tc.err == nil && err != nil {
					t.Errorf("error %v, want %v", err, tc.err)
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Error(diff)
				}
				if tc.profile == "eva-dts" && w.writes() != 0 {
					t.Errorf("%d frames were sent by a profile that listens", w.writes())
				}
			})
		})
	}
}

// TestTextAsksAgain: silence and garbage are asked about once more, a clear answer is not.
func TestTextAsksAgain(t *testing.T) {
	for _, tc := range []struct {
		name, answer string
		writes       int
	}{{"silence", "", 2}, {"garbage", "\xff\xff\n", 2}, {"another protocol", "hello\n", 1}, {"an answer", "a,b,c,d\n", 1}} {
		synctest.Test(t, func(t *testing.T) {
			w := newTextWire(map[string]string{"*IDN?": tc.answer}, "")
			_, _ = textDriverOn(t, "scpi", w).identify(t.Context(), 0)
			if w.writes() != tc.writes {
				t.Errorf("%s: asked %d times, want %d", tc.name, w.writes(), tc.writes)
			}
		})
	}
}

// TestTextPresence: whoever answers is there, in whatever words.
func TestTextPresence(t *testing.T) {
	for _, tc := range []struct {
		name, answer string
		want         error
	}{{"as it should", "a,b,c,d\n", nil}, {"otherwise", "hello\n", nil}, {"garbage", "\xff\n", ErrNoise}, {"not at all", "", ErrSilent}} {
		synctest.Test(t, func(t *testing.T) {
			w := newTextWire(map[string]string{"*IDN?": tc.answer}, "")
			if err := textDriverOn(t, "scpi", w).present(t.Context(), 0); !errors.Is(err, tc.want) || tc.want == nil && err != nil {
				t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
			}
		})
	}
}

// TestLateTextIsNoReply: what comes after its time is not taken for the answer to the next query.
func TestLateTextIsNoReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTextWire(modem(nil), "")
		quick := w.answer
		w.answer = func(request []byte) []burst {
			if string(request) == "AT+GMI\r" && len(w.written) == 2 {
				return []burst{{1020 * time.Millisecond, []byte("\r\nlate\r\n\r\nOK\r\n")}}
			}
			return quick(request)
		}
		got, err := textDriverOn(t, "at", w).identify(t.Context(), 0)
		want := Identity{Vendor: "Contoso", Model: "TSTRSD-007", Serial: "499", Firmware: "12.0.2.5", Source: SourceText}
		if err != nil || got != want {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

func TestTextProfileRefuses(t *testing.T) {
	const head = "name='x'\ndriver='line'\nprotocol='text'\n[serial]\nbaud=9600\nparity='none'\nstop_bits=1\n"
	query := func(q string) string { return head + "[text]\nterminator='\\n'\n[[text.query]]\n" + q }
	for _, tc := range []struct{ name, text, want string }{
		{"no conversation", head, "text: the protocol text needs it"},
		{"conversation of ALP", strings.Replace(query("send='a'"), "'text'", "'alp'", 1), "no other has it"},
		{"no query", head + "[text]\n", "query: 0 of them; allowed are 1 to 16"},
		{"too many queries", query("send='a'\nexpect='(?P<model>.)'\n") + strings.Repeat("[[text.query]]\nsend='a'\n", 16), "17 of them"},
		{"timeout", strings.Replace(query("send='a'"), "[text]", "[text]\ntimeout='1h'", 1), `timeout "1h": allowed are durations up to 5m0s`},
		{"no terminator", head + "[text]\n[[text.query]]\nsend='a'\nexpect='(?P<model>.)'", "terminator: missing"},
		{"no end", query("send='a'"), "nothing else tells that the reply has come"},
		{"nothing is told", query("send='a'\nexpect='.'"), "no expression has a named group"},
		{"unknown group", query("send='a'\nexpect='(?P<colour>.)'"), `group "colour": allowed are vendor, model, serial`},
		{"group twice", query("send='a'\nexpect='(?P<model>.)'\n[[text.query]]\nsend='b'\nexpect='(?P<model>.)'"), `query 2 ("b"): expect: group "model" is there twice`},
		{"not RE2", query("send='a'\nexpect='(?=x)'"), "expect: error parsing regexp"},
		{"long expression", query("send='a'\nexpect='" + strings.Repeat("x", 1025) + "'"), "expect: 1025 bytes; allowed are 1024"},
		{"long query", query("send='" + strings.Repeat("x", 257) + "'\nexpect='(?P<model>.)'"), "send: 257 bytes; allowed are 256"},
		{"listening among queries", query("expect='(?P<model>.)'\n[[text.query]]\nsend='b'\nexpect='(?P<serial>.)'"), "only a profile with one query can just listen"},
		{"a property", query("send='a'\nexpect='(?P<model>.)'\n[[property]]\nname='p'\ntype='enum'\nallowed=['on']"), "sets nothing"},
		{"unknown key", query("sent='a'"), "sent"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := parseProfile([]byte(tc.text))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q in it", err, tc.want)
			}
		})
	}
}

// FuzzTextProfiles: whatever comes over the line, each built-in profile ends with a clean identity or an error, holds no
// more than a line of it, and makes the same of it in one piece and byte by byte.
func FuzzTextProfiles(f *testing.F) {
	for _, said := range []string{
		"Contoso,TSTRSD-007,499,12.0.2.5\n", "*IDN?\r\na,b,0,0\r\n", ",,,\n", "\r\nContoso\r\n\r\nOK\r\n", "ERROR\n", "+GSN: \"4\"9\"\r\nOK\r",
		"ID1*12345*LAV OCS*v1.00\r\n", "ID1***\n", "\xff\xfe\n", strings.Repeat("a,", 1500) + "\n", "\x1b[31m,b,c,d\n", "a,b,\u202e,d\n",
	} {
		f.Add([]byte(said))
	}
	var dialects []*textDialect
	for _, name := range Profiles() {
		p, err := loadProfile(name)
		if err != nil {
			f.Fatal(err)
		}
		if p.Text != nil {
			dialects = append(dialects, p.Text)
		}
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		for _, d := range dialects {
			for i := range d.Queries {
				whole, slow := &textHearing{dialect: d, query: &d.Queries[i]}, &textHearing{dialect: d, query: &d.Queries[i]}
				over, slowOver := whole.take(said), false
				for j := range said {
					if slowOver = slow.take(said[j : j+1]); slowOver {
						break
					}
					if len(slow.line) > textMaxReply {
						t.Fatalf("%d bytes of a line are held", len(slow.line))
					}
				}
				if over != slowOver || !cmp.Equal(whole.found, slow.found) {
					t.Fatalf("in one piece %v %q, byte by byte %v %q", over, whole.found, slowOver, slow.found)
				}
				if err := whole.verdict(over); err != nil && len(err.Error()) > 3*textMaxQuery {
					t.Fatalf("an error of %d bytes", len(err.Error()))
				}
				if whole.found == nil {
					continue
				}
				var id Identity
				whole.query.fill(&id, whole.found)
				if id = id.cleaned(); id != id.cleaned() || strings.ContainsFunc(id.Vendor+id.Model+id.Serial+id.Firmware, unprintable) {
					t.Fatalf("not clean: %q", id)
				}
			}
		}
	})
}

// ovenProfile is a profile as an integrator writes one.
const ovenProfile = `name = "fabrikam-oven"
driver = "line"
protocol = "text"
[serial]
baud = 9600
parity = "none"
stop_bits = 1
[text]
terminator = "\r"
timeout = "2s"
[[text.query]]
send = "WHO"
expect = '^OVEN (?P<model>\S+) #(?P<serial>\d+)$'
`

// TestSiteProfile: an appliance that no built-in profile fits is found by a profile of the site's own.
func TestSiteProfile(t *testing.T) {
	own, err := ParseProfile([]byte(ovenProfile))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		b := &bench{ended: make(chan error, 1)}
		w := newTextWire(map[string]string{"WHO": "OVEN B12 #0815\r\n"}, "")
		b.port = w
		if b.bus, err = New(Config{Port: "/dev/ttyTEST", Driver: DriverLine, Profile: "fabrikam-oven", Profiles: []Profile{own}}, nil); err != nil {
			t.Fatal(err)
		}
		b.bus.open = b.open
		b.start(t)
		expect(t, "at first", b.after(2*time.Second), []string{"line-up", "found 0815"})
		applied, err := b.bus.Apply(t.Context(), 0, Settings{Desired: map[string]json.RawMessage{"state": json.RawMessage(`"on"`)}})
		if err != nil || !cmp.Equal(applied.Unmapped, []string{"state"}) || applied.Wrote {
			t.Errorf("got %+v, %v", applied, err)
		}
	})
	for _, tc := range []struct{ name, profile, want string }{
		{"none of them", "fabrikam-kiln", "known are alp, at, contoso-hpsd-088, contoso-tstrsd-007, eva-dts, nibe-modbus40, scpi, and of the site's own fabrikam-oven"},
	} {
		cfg := Config{Port: "/dev/ttyTEST", Driver: DriverLine, Profile: tc.profile, Profiles: []Profile{own}}
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
	if cfg := (Config{Port: "/dev/ttyTEST", Driver: DriverModbusRTU, Units: []byte{1}, Profile: "fabrikam-oven", Profiles: []Profile{own}}); cfg.Validate() == nil {
		t.Error("a profile of the driver line was taken for modbus-rtu")
	}
}
