// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// surveyed runs a scan of some units on a wire.
func surveyed(t *testing.T, ctx context.Context, w *wire, units []byte, opts ScanOptions, report func(Progress)) ([]Finding, error) {
	t.Helper()
	b, err := New(Config{
		Port: "/dev/ttyTEST", Driver: DriverModbusRTU, Units: units, Recheck: maxTimeout, Rescan: maxTimeout,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.open = func() (port, error) { return w, nil }
	result, err := b.survey(ctx, opts, report)
	return result.Findings, err
}

// brief is a finding as text.
func briefly(findings []Finding) []string {
	var all []string
	for _, f := range findings {
		line := fmt.Sprintf("%d %s", f.Unit, f.Heard)
		if f.Identity != (Identity{}) {
			line += fmt.Sprintf(" %s/%s", f.Identity.Vendor, f.Identity.Model)
		}
		for _, reply := range f.Functions {
			line += fmt.Sprintf(" %02x:%s", reply.Function, reply.Answer)
			if reply.Exception != 0 {
				line += fmt.Sprint(reply.Exception)
			}
		}
		if f.Slow {
			line += " slow"
		}
		all = append(all, line)
	}
	return all
}

// street is one unit of each kind.
func street(t *testing.T) *wire {
	var silence time.Time
	n := byte(0)
	return &wire{answer: func(request []byte) []burst {
		unit, function := request[0], request[1]
		reply := func(text string) []burst { return soon(frameOf(t, fmt.Sprintf("%02X %s", unit, text))) }
		refuse := reply(fmt.Sprintf("%02X 01", function|exceptionBit))
		read := function == fcReadRegisters
		switch {
		case unit == 1 && function == fcEncapsulated:
			return reply("2B 0E 01 01 00 00 02 00 03 41 63 6D 01 02 48 31") // "Acm", "H1"
		case unit == 1, unit == 3 && read:
			return reply("03 02 00 00")
		case unit == 2, unit == 3:
			return refuse
		case unit == 4:
			return soon([]byte("noise"))
		case unit == 5 && function == fcEncapsulated:
			n++
			return soon(sealed([]byte{5, 0x2B, 0x0E, 1, 1, 0, 0, 1, 0, 1, 'a' + n}))
		case unit == 5, unit == 6 && read:
			return reply("03 02 00 00")
		case unit == 6 && function == fcEncapsulated:
			return reply("AB 06")
		case unit == 7 && time.Since(silence) > 550*ms:
			if read {
				return reply("03 02 00 00")
			}
			return nil // silent at what it does not know
		}
		silence = time.Now()
		return nil
	}}
}

func TestSurvey(t *testing.T) {
	all := []byte{1, 2, 3, 4, 5, 6, 8, 7}
	for _, tc := range []struct {
		name string
		opts ScanOptions
		want []string
	}{
		{"whole", ScanOptions{}, []string{
			"1 identity Acm/H1 03:data 2b:data",
			"2 refusals 03:refusal1 11:refusal1 2b:refusal1",
			"3 nameless 03:data 11:refusal1 2b:refusal1",
			"4 noise 03:noise",
			"5 unsteady 03:data 2b:data",
			"6 trouble 03:data 2b:refusal6",
			"7 nameless 03:data 11:silence 2b:silence slow",
			"8 silence 03:silence slow",
		}},
		{"fast", ScanOptions{Fast: true}, []string{
			"1 identity Acm/H1 03:data 2b:data",
			"2 refusals 03:refusal1 11:refusal1 2b:refusal1",
			"3 nameless 03:data 11:refusal1 2b:refusal1",
			"4 noise 03:noise",
			"5 unsteady 03:data 2b:data",
			"6 trouble 03:data 2b:refusal6",
			"7 silence",
			"8 silence",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var last Progress
				var told []string
				got, err := surveyed(t, t.Context(), street(t), all, tc.opts, func(p Progress) {
					if p.Percent < last.Percent {
						t.Errorf("%+v after %+v", p, last)
					}
					if p.Finding != nil {
						told = append(told, briefly([]Finding{*p.Finding})...)
					}
					last = p
				})
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tc.want, briefly(got)); diff != "" {
					t.Error(diff)
				}
				for _, f := range got {
					if (f.Err == nil) != (f.Heard == HeardIdentity) {
						t.Errorf("unit %d: %v", f.Unit, f.Err)
					}
				}
				if last.Percent != 100 || last.Step != StepDone || last.Units != len(all) {
					t.Errorf("at the end %+v", last)
				}
				for _, line := range told {
					if !slices.Contains(tc.want, line) {
						t.Errorf("reported %q", line)
					}
				}
			})
		})
	}
}

// TestSurveyGoesOn: stopped by its context or by the loss of the port, a scan tells what it has found, and the next one
// asks only for the rest.
func TestSurveyGoesOn(t *testing.T) {
	units := allUnits()[:100]
	v := &village{delays: map[byte]time.Duration{1: 5 * ms, 90: 5 * ms}}
	for _, tc := range []struct {
		name string
		stop func(w *wire, cancel context.CancelFunc)
		want error
	}{
		{"cancelled", func(_ *wire, cancel context.CancelFunc) { cancel() }, context.Canceled},
		{"unplugged", func(w *wire, _ context.CancelFunc) { w.cut() }, errAny},
	} {
		for _, stopAt := range []Progress{{Step: StepFast, Unit: 50}, {Step: StepSlow, Unit: 50}} {
			t.Run(fmt.Sprintf("%s in the %s step", tc.name, stopAt.Step), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					w := &wire{answer: v.answer}
					first, err := surveyed(t, ctx, w, units, ScanOptions{}, func(p Progress) {
						if p.Step == stopAt.Step && p.Unit == stopAt.Unit {
							tc.stop(w, cancel)
						}
					})
					if tc.want == errAny && err == nil || tc.want != errAny && !errors.Is(err, tc.want) {
						t.Fatalf("got %v, want %v", err, tc.want)
					}
					if found := strings.Join(briefly(first), "\n"); !strings.HasPrefix(found, "1 refusals") && !strings.HasPrefix(found, "1 nameless") {
						t.Fatalf("it had found %s", found)
					}
					w = &wire{answer: v.answer}
					second, err := surveyed(t, t.Context(), w, units, ScanOptions{Resume: first}, func(p Progress) {
						if p.Found == 0 {
							t.Errorf("it forgot what was found: %+v", p)
						}
					})
					if err != nil {
						t.Fatal(err)
					}
					for _, frame := range w.written {
						if frame[0] == 1 || stopAt.Step == StepSlow && frame[0] < 50 {
							t.Fatalf("unit %d was asked again", frame[0])
						}
					}
					if len(second) != len(units) || second[0].Heard == HeardSilence || second[89].Heard == HeardSilence {
						t.Errorf("got %v", briefly(second))
					}
					again, err := surveyed(t, t.Context(), &wire{}, units, ScanOptions{Resume: second}, nil)
					if diff := cmp.Diff(briefly(second), briefly(again)); err != nil || diff != "" {
						t.Errorf("with nothing left to do: %v, %s", err, diff)
					}
				})
			})
		}
	}
}

// TestSurveyOfALine: a line with one appliance is one place.
func TestSurveyOfALine(t *testing.T) {
	for _, tc := range []struct {
		name string
		who  speaker
		want string
	}{
		{"a toaster", toaster("499", "1.0"), "0 identity /"},
		{"nobody", silent, "0 silence"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, err := New(Config{Port: "/dev/ttyTEST", Driver: DriverLine, Profile: "alp"}, nil)
				if err != nil {
					t.Fatal(err)
				}
				b.open = func() (port, error) { return tc.who.wire(), nil }
				got, err := b.survey(t.Context(), ScanOptions{}, nil)
				if diff := cmp.Diff([]string{tc.want}, briefly(got.Findings)); err != nil || diff != "" {
					t.Errorf("%v, %s", err, diff)
				}
			})
		})
	}
}

func TestScanWithoutAPort(t *testing.T) {
	got, err := Scan(t.Context(), Config{Port: "/dev/ttyNOWHERE", Driver: DriverModbusRTU, Units: []byte{1}}, ScanOptions{}, nil)
	if !errors.Is(err, ErrNoPort) || len(got.Findings) != 0 || len(got.Diagnoses) != 1 || got.Diagnoses[0].Kind != PortMissing {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := Scan(t.Context(), Config{}, ScanOptions{}, nil); err == nil {
		t.Error("a scan of nothing")
	}
}

// TestAllUnitsAreFoundThoughSomeAreLate: 247 units at 115,200 baud, 1 % of whose replies come 25 to 60 ms late and
// collide with whoever speaks then, are all found, in each of twenty runs (serial 5.4).
func TestAllUnitsAreFoundThoughSomeAreLate(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &lateLine{random: rand.New(rand.NewPCG(seed, 1)), char: speed{115200, ParityEven, 1}.timing().char}
				b, err := New(Config{
					Port: "/dev/ttyTEST", Driver: DriverModbusRTU, Units: allUnits(), Baud: 115200,
					Recheck: maxTimeout, Rescan: maxTimeout,
				}, nil)
				if err != nil {
					t.Fatal(err)
				}
				b.open = func() (port, error) { return &wire{answer: l.answer}, nil }
				start := time.Now()
				result, err := b.survey(t.Context(), ScanOptions{}, nil)
				if err != nil {
					t.Fatal(err)
				}
				found := result.Findings
				for _, f := range found {
					if f.Heard != HeardIdentity || f.Identity.Serial != "" || f.Identity.Model != fmt.Sprint("HP-", f.Unit) {
						t.Errorf("unit %d: %+v", f.Unit, f)
					}
				}
				if len(found) != 247 || l.lates == 0 {
					t.Errorf("%d units, %d late replies", len(found), l.lates)
				}
				t.Logf("%v, %d late replies, %d collisions", time.Since(start), l.lates, l.collisions)
			})
		})
	}
}

// lateLine is a line of 247 units whose replies take their time on the wire, and are late at random.
type lateLine struct {
	random            *rand.Rand
	char              time.Duration
	speaking          []speech
	lates, collisions int
}

// speech is a reply on the wire.
type speech struct {
	from, to time.Time
	data     []byte
}

func (l *lateLine) answer(request []byte) []burst {
	now := time.Now()
	unit, function := request[0], request[1]
	reply := []byte{unit, function | exceptionBit, exceptionAddress}
	switch {
	case function == fcReadRegisters:
		reply = []byte{unit, function, 2, 0, 0}
	case function == fcEncapsulated && request[3] == codeBasic:
		model := fmt.Sprint("HP-", unit)
		reply = append([]byte{unit, function, meiDeviceID, codeBasic, 0x81, 0, 0, 2, 0, 3, 'A', 'c', 'm', 1, byte(len(model))}, model...)
	}
	begin := now.Add(time.Duration(len(request))*l.char + 1750*time.Microsecond)
	if l.random.IntN(100) == 0 {
		l.lates++
		begin = begin.Add(25*ms + time.Duration(l.random.Int64N(int64(35*ms))))
	}
	said := speech{begin, begin, sealed(reply)}
	said.to = begin.Add(time.Duration(len(said.data)) * l.char)
	l.speaking = slices.DeleteFunc(l.speaking, func(s speech) bool { return s.to.Before(now) })
	for _, other := range l.speaking {
		if other.from.Before(said.to) && said.from.Before(other.to) {
			l.collisions++
			other.data[len(other.data)/2] ^= 0x55
			said.data[len(said.data)/2] ^= 0x33
		}
	}
	l.speaking = append(l.speaking, said)
	return []burst{{said.to.Sub(now), said.data}}
}
