// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// bench is a Bus on a wire in memory, with what it told.
type bench struct {
	bus    *Bus
	cancel context.CancelFunc
	ended  chan error

	mu     sync.Mutex // guards the rest
	told   []string
	scans  []Progress
	found  Event         // the last Found
	wire   *wire         // what the next open gives
	openAs error         // or this error
	port   port          // if not nil, what the next open gives instead of the wire
	faults [][]Diagnosis // each as told
	opens  []time.Time
	unit   speaker // who is on the line
}

// run starts a bus with one ALP appliance's worth of line inside a synctest bubble.
func run(t *testing.T, who speaker, change func(*Config)) *bench {
	t.Helper()
	cfg := Config{Port: "/dev/ttyTEST", Driver: DriverLine, Profile: "alp", ReplyTimeout: 100 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	bus, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{bus: bus, ended: make(chan error, 1), unit: who}
	b.plug()
	bus.open = b.open
	return b.start(t)
}

func (b *bench) start(t *testing.T) *bench {
	ctx, cancel := context.WithCancel(t.Context())
	b.cancel = cancel
	go func() { b.ended <- b.bus.Run(ctx, b.hear) }()
	t.Cleanup(b.stop)
	return b
}

func (b *bench) stop() {
	if b.cancel != nil {
		b.cancel()
		b.cancel = nil
		if err := <-b.ended; err != nil {
			panic("Run returned " + err.Error())
		}
	}
}

// plug puts a working wire in.
func (b *bench) plug() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.openAs = nil
	b.wire = speaker(func(method string, params json.RawMessage) string {
		b.mu.Lock()
		unit := b.unit
		b.mu.Unlock()
		return unit(method, params)
	}).wire()
}

// unplug cuts the wire; opening fails with err until plug.
func (b *bench) unplug(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wire.cut()
	b.openAs = err
}

func (b *bench) replace(who speaker) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unit = who
}

func (b *bench) open() (port, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opens = append(b.opens, time.Now())
	if b.openAs != nil {
		return nil, b.openAs
	}
	if b.port != nil {
		return b.port, nil
	}
	return b.wire, nil
}

func (b *bench) opened() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.opens)
}

func (b *bench) hear(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.Kind == Scanning {
		b.scans = append(b.scans, e.Progress)
		return
	}
	if e.Kind == Diagnosed {
		b.faults = append(b.faults, e.Diagnoses)
		return
	}
	line := e.Kind.String()
	if e.Kind == Found {
		b.found = e
		line += " " + e.Identity.Serial + " " + e.Identity.Firmware
	}
	if e.Kind == Lost && e.Identity.Serial != "" {
		line += " " + e.Identity.Serial
	}
	for _, known := range []error{ErrSilent, ErrNoise, ErrChanged, ErrUnplugged, ErrNoPort, errUnsteady} {
		if errors.Is(e.Err, known) {
			line += ": " + known.Error()
		}
	}
	b.told = append(b.told, strings.TrimSpace(line))
}

// after lets time pass and returns what was told in it.
func (b *bench) after(d time.Duration) []string {
	time.Sleep(d)
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	told := b.told
	b.told = nil
	return told
}

func expect(t *testing.T, when string, got, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: %s", when, diff)
	}
}

// toaster answers as the one with that serial number and firmware.
func toaster(serial, firmware string) speaker {
	return func(method string, _ json.RawMessage) string {
		if method == "identify" {
			return fmt.Sprintf(`"result":{"alp":1,"serial":%q,"firmware":%q}`, serial, firmware)
		}
		return `"result":{}`
	}
}

func silent(string, json.RawMessage) string { return "" }

func TestFoundAndLostAndFoundAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, toaster("499", "1.0"), nil)
		expect(t, "at first", b.after(2*time.Second), []string{"line-up", "found 499 1.0"})
		expect(t, "later", b.after(5*time.Minute), nil)
		b.replace(silent)
		expect(t, "two misses are no loss", b.after(19*time.Second), nil)
		expect(t, "three are", b.after(15*time.Second), []string{"lost 499: nobody answered"})
		expect(t, "it is told once", b.after(5*time.Minute), nil)
		b.replace(toaster("499", "1.0"))
		expect(t, "and back", b.after(DefaultRescan+2*time.Second), []string{"found 499 1.0"})
	})
}

// TestSwitchedOnLater: a place where nobody answered is looked at again.
func TestSwitchedOnLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, silent, nil)
		expect(t, "at first", b.after(10*time.Second), []string{"line-up", "lost: nobody answered"})
		b.replace(toaster("499", "1.0"))
		expect(t, "later", b.after(DefaultRescan), []string{"found 499 1.0"})
	})
}

func TestAnotherApplianceOrFirmware(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, toaster("499", "1.0"), nil)
		b.after(2 * time.Second)
		changed := "lost 499: " + ErrChanged.Error()
		b.replace(toaster("499", "2.0"))
		expect(t, "updated", b.after(rereadAfter*DefaultRescan+DefaultRecheck), []string{changed, "found 499 2.0"})
		b.replace(toaster("500", "2.0"))
		expect(t, "swapped", b.after(rereadAfter*DefaultRescan+DefaultRecheck), []string{changed, "found 500 2.0"})
	})
}

// TestIdentityIsReadTwice: an identity that never reads the same twice is not believed (serial 1.7).
func TestIdentityIsReadTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		flickering := func(method string, params json.RawMessage) string {
			n++
			return toaster(fmt.Sprint(n), "1.0")(method, params)
		}
		b := run(t, flickering, nil)
		expect(t, "never alike", b.after(5*time.Second), []string{"line-up", "lost: " + errUnsteady.Error()})
	})
	synctest.Test(t, func(t *testing.T) {
		n := 0
		once := func(method string, params json.RawMessage) string {
			if method == "identify" {
				n++
			}
			if n == 1 {
				return toaster("4O0", "1.0")(method, params) // one wrong reading
			}
			return toaster("499", "1.0")(method, params)
		}
		b := run(t, once, nil)
		expect(t, "the second and third are alike", b.after(5*time.Second), []string{"line-up", "found 499 1.0"})
	})
}

// TestOneWrongReadingIsNoChange: a known appliance that is misread once is neither lost nor another one.
func TestOneWrongReadingIsNoChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		misread := func(method string, params json.RawMessage) string {
			if method == "identify" {
				if n++; n == 4 {
					return toaster("4O0", "1.0")(method, params)
				}
			}
			return toaster("499", "1.0")(method, params)
		}
		b := run(t, misread, nil)
		expect(t, "at first", b.after(2*time.Second), []string{"line-up", "found 499 1.0"})
		expect(t, "later", b.after(time.Hour), nil)
		b.stop()
		if n < 5 {
			t.Errorf("the identity was read %d times", n)
		}
	})
}

// TestReopens: a lost port is opened again for ever, with growing delays up to a limit, and told once.
func TestReopens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, toaster("499", "1.0"), nil)
		b.after(2 * time.Second)
		b.unplug(fmt.Errorf("/dev/ttyTEST: %w", ErrNoPort))
		got := b.after(30 * time.Second)
		expect(t, "unplugged", got, []string{"lost 499", "line-down", "line-down: " + ErrNoPort.Error()})
		expect(t, "it is told once", b.after(time.Hour), nil)
		b.mu.Lock()
		opens := b.opens
		b.mu.Unlock()
		for i := 2; i < len(opens); i++ {
			delay := opens[i].Sub(opens[i-1])
			if delay < firstReopen/2 || delay > longestReopen {
				t.Errorf("delay %d is %v", i, delay)
			}
			if i > 10 && delay < longestReopen/2 {
				t.Errorf("delay %d has not grown: %v", i, delay)
			}
		}
		b.plug()
		expect(t, "plugged in again", b.after(longestReopen+2*time.Second), []string{"line-up", "found 499 1.0"})
	})
}

func TestReadyAfterTheFirstAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus, err := New(Config{Port: "/dev/ttyTEST", Driver: DriverLine, Profile: "alp"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		b := &bench{bus: bus, ended: make(chan error, 1), openAs: ErrNoPort}
		bus.open = b.open
		select {
		case <-bus.Ready():
			t.Error("ready before Run")
		default:
		}
		b.start(t)
		synctest.Wait()
		select {
		case <-bus.Ready():
		default:
			t.Error("not ready after the first attempt failed")
		}
		b.stop()
	})
}

// TestHungPortIsNotOpenedTwice: while a write hangs in the kernel the port is not free (libraries 2.1).
func TestHungPortIsNotOpenedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, silent, nil)
		b.after(2 * time.Second)
		free := make(chan struct{})
		b.mu.Lock()
		b.port = &hungWire{wire: b.wire, free: free}
		b.mu.Unlock()
		b.wire.cut()
		b.after(time.Hour)
		if n := b.opened(); n != 2 {
			t.Errorf("%d opens, want the first and one that hung", n)
		}
		close(free)
		b.after(time.Minute)
		if n := b.opened(); n < 3 {
			t.Errorf("%d opens after it came back", n)
		}
	})
}

// TestStuckWriterDoesNotHoldUpTheStop: a write that hangs for good delays Run's end by a second, not more; so does a
// driver that takes its time to close.
func TestStuckWriterDoesNotHoldUpTheStop(t *testing.T) {
	for _, tc := range []struct {
		name string
		lost bool
		want time.Duration
	}{{"lost before", true, 0}, {"at work", false, time.Second}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := run(t, silent, nil)
				b.after(2 * time.Second)
				b.wire.cut()
				b.plug()
				b.mu.Lock()
				b.port = &hungWire{wire: b.wire, free: make(chan struct{})}
				b.mu.Unlock()
				b.after(time.Minute)
				if tc.lost {
					b.wire.cut()
					b.after(time.Minute)
				}
				start := time.Now()
				b.stop()
				if took := time.Since(start); took != tc.want {
					t.Errorf("the stop took %v, want %v", took, tc.want)
				}
			})
		})
	}
}

// TestReplugWhileQuiet: another device behind the port's name is noticed by polling alone, though nobody reads, and at
// once when there is news of an adapter.
func TestReplugWhileQuiet(t *testing.T) {
	for _, tc := range []struct {
		name string
		news bool
		wait time.Duration
	}{{"polling", false, watchEvery}, {"news", true, 0}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := run(t, toaster("499", "1.0"), func(c *Config) { c.Recheck = time.Hour })
				b.after(time.Minute)
				b.wire.mu.Lock()
				b.wire.moved = true
				b.wire.mu.Unlock()
				b.plug()
				if tc.news {
					b.bus.nudge <- struct{}{}
				}
				told := b.after(tc.wait)
				if len(told) == 0 {
					t.Error("it was not noticed in time")
				}
				expect(t, "moved", append(told, b.after(2*time.Second)...), []string{
					"lost 499: " + ErrUnplugged.Error(), "line-down: " + ErrUnplugged.Error(), "line-up", "found 499 1.0",
				})
			})
		})
	}
}

// hungWire is a wire that is not free when it was closed.
type hungWire struct {
	*wire
	free chan struct{}
}

func (w *hungWire) Close() <-chan struct{} { return w.free }

func TestApplyThroughTheBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // the bus asks the appliance from a goroutine of its own
		var m memory
		locked := func(f func()) {
			mu.Lock()
			defer mu.Unlock()
			f()
		}
		who := func(serial string) speaker {
			return func(method string, params json.RawMessage) (body string) {
				if method == "identify" {
					return toaster(serial, "1.0")(method, params)
				}
				locked(func() { body = m.call(method, params) })
				return body
			}
		}
		b := run(t, who("499"), nil)
		settings := Settings{AssignedHub: "hub", DeviceID: "dev", Desired: desiredOf(t, `{"state":"ready"}`)}
		for _, step := range []struct {
			name    string
			before  func()
			unit    int
			want    error
			commits int
		}{
			{"found", func() { b.after(2 * time.Second) }, 0, nil, 1},
			{"again", nil, 0, nil, 1},
			{"another unit", nil, 3, ErrNotFound, 1},
			{"a negative unit", nil, -1, ErrNotFound, 1},
			{"swapped", func() { b.replace(who("500")) }, 0, ErrChanged, 1},
			{"the new one", func() { locked(func() { m = memory{} }); b.after(time.Second) }, 0, nil, 1},
			{"silent", func() { b.replace(silent) }, 0, ErrSilent, 1},
			{"lost", func() { b.after(time.Minute) }, 0, ErrNotFound, 1},
			{"unplugged", func() { b.unplug(ErrNoPort); b.after(time.Minute) }, 0, ErrNoPort, 1},
			{"stopped", func() { b.stop() }, 0, ErrLineStopped, 1},
		} {
			if step.before != nil {
				step.before()
			}
			_, err := b.bus.Apply(t.Context(), step.unit, settings)
			var commits int
			locked(func() { commits = m.commits })
			if !errors.Is(err, step.want) || commits != step.commits {
				t.Errorf("%s: got %v and %d commits, want %v and %d", step.name, err, commits, step.want, step.commits)
			}
		}
	})
}

func TestApplyWaitsForItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus, err := New(Config{Port: "/dev/ttyTEST", Driver: DriverLine, Profile: "alp"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if _, err := bus.Apply(ctx, 0, Settings{}); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

// TestStopWhileApplying: ending Run ends the Apply that is under way.
func TestStopWhileApplying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(method string, params json.RawMessage) string {
			if method == "stage" {
				return ""
			}
			return toaster("499", "1.0")(method, params)
		}
		b := run(t, slow, nil)
		b.after(2 * time.Second)
		result := make(chan error, 1)
		go func() {
			_, err := b.bus.Apply(t.Context(), 0, Settings{Desired: desiredOf(t, `{"state":"ready"}`)})
			result <- err
		}()
		b.after(50 * time.Millisecond)
		start := time.Now()
		b.stop()
		if err := <-result; !errors.Is(err, ErrLineStopped) || time.Since(start) > 2*readSlice {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

func TestString(t *testing.T) {
	bus, err := New(Config{Port: "/dev/ttyUSB0", Driver: DriverLine, Profile: "alp"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := bus.String(), `serial line "/dev/ttyUSB0"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for kind, want := range map[EventKind]string{LineUp: "line-up", LineDown: "line-down", Found: "found", Lost: "lost", Scanning: "scanning", Diagnosed: "diagnosed", 0: "unknown"} {
		if got := kind.String(); got != want {
			t.Errorf("kind %d: got %s, want %s", kind, got, want)
		}
	}
}
