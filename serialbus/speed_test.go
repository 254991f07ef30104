// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// strict is a wire whose units understand one speed only, and hear and send garbage at any other.
func (v *village) strict(at speed) *wire {
	w := &wire{}
	w.answer = v.strictOn(w, at)
	return w
}

func (v *village) strictOn(w *wire, at speed) func([]byte) []burst {
	return func(request []byte) []burst {
		replies := v.answer(request)
		if w.speed == at {
			return replies
		}
		if v.hush {
			return nil
		}
		for i := range replies {
			replies[i].data = []byte{0xF8, 0x1F, 0x86}
		}
		return replies
	}
}

// speeds returns the speeds of the reports, each once.
func (b *bench) speeds() []string {
	var all []string
	for _, p := range b.progress() {
		if !slices.Contains(all, p.Speed) {
			all = append(all, p.Speed)
		}
	}
	return all
}

func autoBaud(c *Config) { c.AutoBaud, c.Units = true, allUnits()[:20] }

// TestSpeedIsFound at each of the usual ones, tried in their order, and what answers there is found.
func TestSpeedIsFound(t *testing.T) {
	for i, at := range usualSpeeds() {
		t.Run(at.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := &village{delays: map[byte]time.Duration{9: 5 * ms, 11: 5 * ms}, hush: true}
				b := runWire(t, v.strict(at), autoBaud)
				told := b.after(2 * time.Minute)
				if found := strings.Count(strings.Join(told, "\n"), "found"); found != 2 {
					t.Errorf("%d found: %v", found, told)
				}
				var want []string
				for _, s := range usualSpeeds()[:i+1] {
					want = append(want, s.String())
				}
				if got := b.speeds(); !slices.Equal(got, want) {
					t.Errorf("tried %v, want %v", got, want)
				}
				last := b.progress()[len(b.progress())-1]
				if want := (Progress{Percent: 100, Step: StepDone, Unit: 20, Found: 2, Units: 20, Speed: at.String()}); last != want {
					t.Errorf("got %+v, want %+v", last, want)
				}
			})
		})
	}
}

// TestGarbageShowsWhereToAsk: who answers in garbage is asked at each speed at once.
func TestGarbageShowsWhereToAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &village{delays: map[byte]time.Duration{200: 5 * ms}}
		b := runWire(t, v.strict(usualSpeeds()[4]), func(c *Config) { c.AutoBaud = true })
		if told := b.after(time.Minute); !slices.ContainsFunc(told, func(s string) bool { return strings.HasPrefix(s, "found") }) {
			t.Errorf("not found within a minute: %v", told)
		}
		for _, p := range b.progress() {
			if p.Step == StepSpeed && p.Speed != usualSpeeds()[0].String() && p.Unit != 200 {
				t.Errorf("asked %+v", p)
			}
		}
	})
}

// TestSlowOnesAreFoundInTheFirstRound: where garbage came, and where the profile says that the product thinks for long.
func TestSlowOnesAreFoundInTheFirstRound(t *testing.T) {
	for _, tc := range []struct {
		name, profile string
		hush          bool
	}{{"garbage", "", false}, {"a slow product", "nibe-modbus40", true}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := &village{delays: map[byte]time.Duration{2: 450 * ms}, hush: tc.hush}
				b, err := New(Config{
					Port: "/dev/ttyTEST", Driver: DriverModbusRTU, Profile: tc.profile, Units: []byte{1, 2}, AutoBaud: true,
					Rescan: maxTimeout, Recheck: maxTimeout,
				}, nil)
				if err != nil {
					t.Fatal(err)
				}
				at := usualSpeeds()[1]
				w := &wire{}
				right := v.strictOn(w, at)
				w.answer = func(request []byte) []burst {
					replies := right(request)
					if w.speed != at {
						for i := range replies {
							replies[i].after = 5 * ms
						}
					}
					return replies
				}
				b.open = func() (port, error) { return w, nil }
				result, err := b.survey(t.Context(), ScanOptions{Fast: true}, nil)
				got := result.Findings
				if err != nil || len(got) != 2 || got[0].Heard != HeardSilence || got[1].Heard == HeardSilence || got[1].Heard == HeardNoise {
					t.Errorf("got %v, %v", briefly(got), err)
				}
				if b.speed != at {
					t.Errorf("found %s, want %s", b.speed, at)
				}
			})
		})
	}
}

// TestNobodyAtAnySpeed is told once, and the search goes on until somebody is switched on.
func TestNobodyAtAnySpeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &village{delays: map[byte]time.Duration{9: 5 * ms}}
		v.gone.Store(true)
		b := runWire(t, v.strict(usualSpeeds()[2]), autoBaud)
		told := b.after(10 * time.Minute)
		if lost := strings.Count(strings.Join(told, "\n"), "lost: "+ErrSilent.Error()); lost != 20 || len(told) != 21 {
			t.Errorf("%d lost of %v", lost, told)
		}
		if _, err := b.bus.Apply(t.Context(), 9, Settings{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("settings: %v", err)
		}
		v.gone.Store(false)
		told = b.after(3 * time.Minute)
		if len(told) == 0 || !strings.HasPrefix(told[0], "found") {
			t.Errorf("switched on: %v", told)
		}
	})
}

// TestSpeedIsRemembered over the loss of the port, and searched again when nobody has answered for long.
func TestSpeedIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &village{delays: map[byte]time.Duration{9: 5 * ms}}
		first, second := usualSpeeds()[1], usualSpeeds()[3]
		b := runWire(t, v.strict(first), autoBaud)
		b.after(2 * time.Minute)
		b.unplug(errors.New("gone"))
		b.after(10 * time.Second)
		b.mu.Lock()
		b.openAs, b.wire, b.scans = nil, v.strict(first), nil
		b.wire.speed = first // as it is opened
		b.mu.Unlock()
		if told := b.after(10 * time.Second); len(told) != 2 || len(b.speeds()) != 0 {
			t.Errorf("plugged in again: %v, tried %v", told, b.speeds())
		}
		// The appliance is replaced by one with another speed.
		b.wire.mu.Lock()
		b.wire.answer = v.strictOn(b.wire, second)
		b.wire.mu.Unlock()
		told := b.after(5 * time.Minute)
		if len(b.speeds()) != 0 || len(told) == 0 {
			t.Errorf("at first: %v, tried %v", told, b.speeds())
		}
		told = b.after(10 * time.Minute)
		if got := b.speeds(); len(got) < 2 || got[0] != first.String() || got[len(got)-1] != second.String() || !slices.Contains(told, "found") {
			t.Errorf("after a while: %v, tried %v", told, got)
		}
	})
}

// TestSurveyOfASpeed: a scan for tools searches once.
func TestSurveyOfASpeed(t *testing.T) {
	for _, tc := range []struct {
		name  string
		there bool
		want  Heard
	}{{"somebody", true, HeardRefusals}, {"nobody", false, HeardSilence}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := &village{delays: map[byte]time.Duration{2: 5 * ms}}
				v.gone.Store(!tc.there)
				b, err := New(Config{
					Port: "/dev/ttyTEST", Driver: DriverModbusRTU, Units: []byte{1, 2}, AutoBaud: true, Rescan: maxTimeout, Recheck: maxTimeout,
				}, nil)
				if err != nil {
					t.Fatal(err)
				}
				b.open = func() (port, error) { return v.strict(usualSpeeds()[4]), nil }
				var last Progress
				result, err := b.survey(t.Context(), ScanOptions{Fast: true}, func(p Progress) { last = p })
				got := result.Findings
				if all := "10 requests at the usual speeds, no reply"; !tc.there && (len(result.Diagnoses) != 1 || result.Diagnoses[0].Heard != all) {
					t.Errorf("diagnosed %v, want %q", result.Diagnoses, all)
				}
				if err != nil || len(got) != 2 || got[0].Heard != HeardSilence || got[1].Heard != tc.want && got[1].Heard != HeardNameless {
					t.Errorf("got %v, %v", briefly(got), err)
				}
				if last.Step != StepDone || last.Speed != usualSpeeds()[4].String() {
					t.Errorf("at the end %+v", last)
				}
			})
		})
	}
}
