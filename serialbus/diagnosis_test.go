// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// hearing builds what a line was heard like.
type hearing struct{ traffic }

func (h *hearing) data(unit, function byte, times int) *hearing {
	return h.times(times, unit, FunctionReply{Function: function, Answer: "data"}, damage{})
}

func (h *hearing) silent(units ...byte) *hearing {
	for _, u := range units {
		h.times(1, u, FunctionReply{Function: fcReadRegisters, Answer: "silence"}, damage{})
	}
	return h
}

// garbled is replies without a checksum, of these lengths.
func (h *hearing) garbled(unit, function byte, lengths ...int) *hearing {
	for i, n := range lengths {
		h.times(1, unit, FunctionReply{Function: function, Answer: "noise"}, damage{n, time.Duration(4+i) * ms})
	}
	return h
}

func (h *hearing) times(n int, unit byte, f FunctionReply, d damage) *hearing {
	for range n {
		h.asked(unit, f, d)
	}
	return h
}

// heard is bytes while nobody was asked.
func (h *hearing) heard(t *testing.T, text string) *hearing {
	t.Helper()
	h.overheard(bytesOf(t, text), nil, func(byte) bool { return false })
	return h
}

// hearings are lines as they are met in the field, and what is wrong with them.
func hearings(t *testing.T) []struct {
	name string
	line *hearing
	want []DiagnosisKind
} {
	const id = fcEncapsulated
	new := func() *hearing { return &hearing{} }
	sealedText := func(text string) string { return fmt.Sprintf("% X ", frameOf(t, text)) }
	poll, reply := sealedText("03 03 00 00 00 01"), sealedText("03 03 02 00 07")
	input := sealedText("0C 04 75 30 00 02") // by a function that this master never uses
	return []struct {
		name string
		line *hearing
		want []DiagnosisKind
	}{
		{"nothing was asked", new(), nil},
		{"all is well", new().data(1, 3, 4).data(2, 3, 4).silent(3, 4, 5), nil},
		{"one accident", new().data(1, 3, 200).garbled(1, 3, 7), nil},
		{"nobody", new().silent(1, 2, 3), []DiagnosisKind{SilentLine}},
		{"nobody but the echo", func() *hearing { h := new().silent(1, 2, 3); h.echoes = 3; return h }(), []DiagnosisKind{SilentLine}},
		{"garbage of one length after each request", new().garbled(1, 3, 7, 8, 7).garbled(2, 3, 7, 7, 8), []DiagnosisKind{WrongSpeed}},
		{"garbage of one length at one address", new().silent(1, 2).garbled(3, 3, 7, 8, 7), []DiagnosisKind{WrongSpeed}},
		{"garbage of any length", new().garbled(1, 3, 1, 40, 3).garbled(2, 3, 17, 90, 2), []DiagnosisKind{BadWiring}},
		{"garbage while nobody is asked", new().silent(1).garbled(2, 3, 7).heard(t, "00 00 FF").heard(t, "00").heard(t, "FE 00"), []DiagnosisKind{BadWiring}},
		{"a line that never rests", func() *hearing { h := new().garbled(1, 3, 260, 250, 255); h.unrest = 3; return h }(), []DiagnosisKind{BadWiring}},
		{"garbage with wrong parity bits only", func() *hearing {
			h := new().garbled(1, 3, 7, 7, 7)
			h.errors = LineErrors{Parity: 12}
			return h
		}(), []DiagnosisKind{WrongSpeed}},
		{"nobody, and a line that is held low", func() *hearing {
			h := new().silent(1, 2, 3)
			h.errors = LineErrors{Frame: 3, Break: 3}
			return h
		}(), []DiagnosisKind{BadWiring}},
		{"some replies damaged everywhere", new().data(1, 3, 10).data(2, 3, 10).garbled(1, 3, 7, 7).garbled(2, 3, 7, 9), []DiagnosisKind{NoisyLine}},
		{"good replies, and garbage between them", new().data(1, 3, 20).heard(t, "FF").heard(t, "00 FF").heard(t, "FF"), []DiagnosisKind{NoisyLine}},
		{"damage at one address only", new().data(1, 3, 10).data(2, 3, 10).garbled(7, 3, 7, 7, 7), []DiagnosisKind{AddressClash}},
		{"damage at one question only", new().data(7, 3, 6).garbled(7, id, 40, 40, 40), []DiagnosisKind{AddressClash}},
		{"an identity that changes", func() *hearing { h := new().data(7, id, 4); h.of(7).unsteady = 1; return h }(), []DiagnosisKind{AddressClash}},
		{"a clash beside noise", new().data(1, 3, 40).data(2, 3, 40).garbled(1, 3, 7, 7).garbled(2, 3, 7).garbled(7, 3, 7, 7, 7), []DiagnosisKind{AddressClash, NoisyLine}},
		{"two polls may be an accident", new().data(1, 3, 4).heard(t, poll+reply).heard(t, poll), nil},
		{"another master", new().data(1, 3, 4).garbled(1, 3, 7, 7, 7).heard(t, poll+reply).heard(t, poll+input).heard(t, poll+reply), []DiagnosisKind{AnotherMaster}},
		{"nobody but one who is too late", func() *hearing { h := new().silent(1, 2, 3); h.late, h.of(3).late = 1, 1; return h }(), []DiagnosisKind{LateReplies}},
		{"one who is too late each time", func() *hearing { h := new().data(1, 3, 400).silent(2, 2); h.late, h.of(2).late = 2, 2; return h }(), []DiagnosisKind{LateReplies}},
		{"one who is too late once", func() *hearing { h := new().data(1, 3, 400).silent(2, 2); h.late, h.of(2).late = 1, 1; return h }(), nil},
		{"an identity that changes, with replies too late", func() *hearing {
			h := new().data(1, 3, 100).data(7, id, 4).silent(7)
			h.late, h.of(7).late, h.of(7).unsteady = 1, 1, 1
			return h
		}(), []DiagnosisKind{LateReplies}},
		{"noise that hits one address more often", new().data(1, 3, 40).data(10, id, 5).garbled(1, 3, 7, 9, 30).garbled(10, id, 40, 41, 40), []DiagnosisKind{NoisyLine}},
		{"replies too late", func() *hearing { h := new().data(1, 3, 20); h.late = 3; return h }(), []DiagnosisKind{LateReplies}},
	}
}

func TestJudge(t *testing.T) {
	for _, tc := range hearings(t) {
		t.Run(tc.name, func(t *testing.T) {
			var got []DiagnosisKind
			for _, d := range judge(&tc.line.traffic, DriverModbusRTU, "19200 8E1") {
				got = append(got, d.Kind)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestDiagnosesRead keeps the words, which a person has read, in a file.
func TestDiagnosesRead(t *testing.T) {
	var text strings.Builder
	show := func(name string, all []Diagnosis) {
		fmt.Fprintf(&text, "%s\n", name)
		for _, d := range all {
			fmt.Fprintf(&text, "  [%s] %s.\n  Heard: %s.\n  Next:  %s (%s)\n", d.Kind, d.Verdict, d.Heard, d.Next, d.Owner)
		}
		fmt.Fprintln(&text)
	}
	const at = "19200 8E1"
	for _, tc := range hearings(t) {
		if len(tc.want) > 0 {
			show(tc.name, judge(&tc.line.traffic, DriverModbusRTU, at))
		}
	}
	one := &hearing{}
	show("one appliance, silent", judge(&one.times(2, 0, outcomeOf(ErrSilent), damage{}).traffic, DriverLine, at))
	show("one appliance, garbage", judge(&one.times(2, 0, outcomeOf(ErrNoise), damage{}).traffic, DriverLine, at))
	show("units that answer some functions only", partial([]Finding{
		{Unit: 4, Heard: HeardNameless, Functions: []FunctionReply{{3, "data", 0}, {0x11, "silence", 0}, {0x2B, "refusal", 1}}},
		{Unit: 5, Heard: HeardNameless, Functions: []FunctionReply{{3, "data", 0}, {0x11, "silence", 0}, {0x2B, "refusal", 1}}},
		{Unit: 9, Heard: HeardRefusals, Functions: []FunctionReply{{3, "refusal", 2}, {0x11, "refusal", 1}, {0x2B, "refusal", 1}}},
	}))
	show("a port that is not there", []Diagnosis{*Diagnose(fmt.Errorf("/dev/ttyUSB7: %w; plug the adapter in", ErrNoPort))})
	golden(t, "diagnoses.golden.txt", text.String())
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

// TestDiagnosisTable: the guide explains each diagnosis in the code's words.
func TestDiagnosisTable(t *testing.T) {
	guide, err := os.ReadFile("../docs/serial.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range advices {
		row := fmt.Sprintf("| `%s` | %s | %s |", a.kind, a.verdict, a.next)
		if !strings.Contains(string(guide), row) {
			t.Errorf("docs/serial.md lacks the row\n%s", row)
		}
	}
}

func TestDiagnose(t *testing.T) {
	for _, a := range advices {
		isPort := strings.HasPrefix(string(a.kind), "port-")
		if isPort {
			d := Diagnose(fmt.Errorf("x: %w", a.cause))
			if d == nil || d.Kind != a.kind || !errors.Is(d, a.cause) {
				t.Errorf("%s: %v", a.kind, d)
			}
		}
		d := diagnosed(a.kind, "", 9, 3)
		if got := Diagnose(fmt.Errorf("x: %w", &d)); got.Kind != a.kind || !slices.Equal(got.Units, []int{3, 9}) {
			t.Errorf("%s: %v", a.kind, got)
		}
	}
	for _, err := range []error{nil, ErrSilent, errors.New("x")} {
		if d := Diagnose(err); d != nil {
			t.Errorf("%v: %v", err, d)
		}
	}
}

func TestOverhearIn(t *testing.T) {
	for _, tc := range []struct {
		name    string
		run     string
		want    []string
		garbage int
	}{
		{"a poll and its reply", "01 03 00 0A 00 04 64 0B 01 03 08 00 6E 00 6F 00 70 00 71 0F E7", []string{"1 3 request", "1 3"}, 0},
		{"a write and its reply", "01 10 00 14 00 03 06 00 07 00 08 00 09 52 C4 01 10 00 14 00 03 C0 0C", []string{"1 16 request", "1 16"}, 0},
		{"a refusal in garbage", "00 FF 01 83 02 C0 F1 07", []string{"1 3"}, 3},
		{"a server ID", "05 11 C2 EC 05 11 0A B4 FF 4C 4D 42 33 2E 31 2E 36 46 2A", []string{"5 17 request", "5 17"}, 0},
		{"an identification", "01 2B 0E 01 00 70 77", []string{"1 43 request"}, 0},
		{"a frame with a wrong bit", "01 2B 0E 01 00 70 76", nil, 7},
		{"half a frame", "01 03 00", nil, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			frames, garbage := overhearIn(bytesOf(t, tc.run))
			var got []string
			for _, f := range frames {
				line := fmt.Sprint(f.unit, " ", f.function)
				if f.request {
					line += " request"
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" || garbage != tc.garbage {
				t.Errorf("%d bytes of garbage, %s", garbage, diff)
			}
		})
	}
}

func FuzzOverhearIn(f *testing.F) {
	for _, seed := range []string{"\x01\x03\x00\x0a\x00\x04\x64\x0b", "\x01\x83\x02\xc0\xf1", "\x01\x10\x00\x14\x00\x03\xff", ""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, run []byte) {
		frames, garbage := overhearIn(run)
		whole := garbage
		for _, frame := range frames {
			if whole += len(frame.bytes); !intact(frame.bytes) {
				t.Errorf("% X has no valid checksum", frame.bytes)
			}
		}
		if whole != len(run) {
			t.Errorf("%d of %d bytes", whole, len(run))
		}
	})
}

// TestGivesWay: while another master talks nothing is asked, settings are refused with the reason, and after half a
// minute without it all goes on.
func TestGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{answer: (&village{delays: map[byte]time.Duration{1: 5 * ms}}).answer}
		b := runWire(t, w, func(c *Config) { c.Units = []byte{1} })
		b.after(5 * time.Second)
		other := time.NewTicker(200 * ms)
		silence := time.AfterFunc(2*time.Minute, other.Stop)
		defer silence.Stop()
		go func() {
			for {
				select {
				case <-other.C:
					w.mu.Lock()
					w.coming = append(w.coming, arrival{time.Now(), frameOf(t, "07 03 00 00 00 02")})
					w.mu.Unlock()
				case <-t.Context().Done():
					return
				}
			}
		}()
		b.after(20 * time.Second)
		before := w.writes()
		b.after(time.Minute)
		if n := w.writes() - before; n != 0 {
			t.Errorf("%d requests while another master talks", n)
		}
		_, err := b.bus.Apply(t.Context(), 1, Settings{})
		if d := Diagnose(err); !errors.Is(err, ErrAnotherMaster) || d == nil || d.Kind != AnotherMaster {
			t.Errorf("got %v", err)
		}
		b.after(2 * time.Minute)
		if n := w.writes() - before; n == 0 {
			t.Error("nothing is asked when the other master is gone")
		}
		var kinds []string
		for _, told := range b.faults {
			var line []string
			for _, d := range told {
				line = append(line, string(d.Kind))
			}
			kinds = append(kinds, strings.Join(line, " "))
		}
		if diff := cmp.Diff([]string{"another-master", ""}, kinds); diff != "" {
			t.Error(diff)
		}
	})
}

// TestDiagnosisComesAndGoes: a line is judged after its first round and each minute, and what is told is told once.
func TestDiagnosisComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &village{delays: map[byte]time.Duration{1: 5 * ms}}
		v.gone.Store(true)
		b := runLine(t, v, func(c *Config) { c.Units = []byte{1, 2} })
		b.after(10 * time.Minute)
		v.gone.Store(false)
		b.after(10 * time.Minute)
		if len(b.faults) != 2 || len(b.faults[0]) != 1 || b.faults[0][0].Kind != SilentLine || len(b.faults[1]) != 0 {
			t.Errorf("told %v", b.faults)
		}
	})
}

// TestDiagnosisGoesByThePortsCounters: what the port's driver counted counts once, from judgement to judgement.
func TestDiagnosisGoesByThePortsCounters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &village{delays: map[byte]time.Duration{1: 5 * ms}}
		v.gone.Store(true)
		w := &wire{answer: v.answer, errors: LineErrors{Break: 9}} // from before the line came up
		b := runWire(t, w, func(c *Config) { c.Units = []byte{1, 2} })
		b.after(10 * time.Minute)
		w.mu.Lock()
		w.errors.Break += 5
		w.mu.Unlock()
		b.after(20 * time.Minute)
		var got []DiagnosisKind
		for _, told := range b.faults {
			for _, d := range told {
				got = append(got, d.Kind)
			}
		}
		if diff := cmp.Diff([]DiagnosisKind{SilentLine, BadWiring, SilentLine}, got); diff != "" {
			t.Error(diff)
		}
	})
}
