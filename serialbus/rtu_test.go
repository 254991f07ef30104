// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// newTestRTU is a master at 19,200 baud 8E1 with a patience of 100 ms.
func newTestRTU(w *wire) *rtu {
	h := &habits{waits: newWaits(100*time.Millisecond, shortestWait)}
	return newRTU(w, speed{19200, ParityEven, 1}.timing(), h, slog.New(slog.DiscardHandler))
}

func TestTiming(t *testing.T) {
	for _, tc := range []struct {
		name         string
		baud         int
		parity       Parity
		stop         int
		char, silent time.Duration
	}{
		{"9600 8E1", 9600, ParityEven, 1, 1145833, 4010415},
		{"19200 8E1", 19200, ParityEven, 1, 572916, 2005206},
		{"19200 8N2", 19200, ParityNone, 2, 572916, 2005206},
		{"115200 8N1", 115200, ParityNone, 1, 86805, 1750 * time.Microsecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := speed{tc.baud, tc.parity, tc.stop}.timing()
			if got.char != tc.char || got.quiet != tc.silent {
				t.Errorf("got %d, %d ns, want %d, %d", got.char, got.quiet, tc.char, tc.silent)
			}
		})
	}
}

// TestAsk: what a master makes of what comes back (serial 5.4).
func TestAsk(t *testing.T) {
	const ms = time.Millisecond
	good := frameOf(t, "01 03 02 00 2A")
	damaged := bytes.Clone(good)
	damaged[4] ^= 1
	for _, tc := range []struct {
		name    string
		bursts  []burst
		want    error
		took    time.Duration // at least
		under   time.Duration // at most
		noReply bool
	}{
		{"at once", []burst{{1 * ms, good}}, nil, 3 * ms, 4 * ms, false},
		{"in the last moment", []burst{{104 * ms, good}}, nil, 106 * ms, 107 * ms, false},
		{"too late", []burst{{105 * ms, good}}, ErrSilent, 106 * ms, 140 * ms, true},
		{"never", nil, ErrSilent, 106 * ms, 107*ms + 20*ms, true},
		{"a gap of 40 ms inside", []burst{{5 * ms, good[:3]}, {45 * ms, good[3:]}}, nil, 47 * ms, 48 * ms, false},
		{"one byte a time, slowly", byteWise(good, 20*ms), nil, 140 * ms, 145 * ms, false},
		{"the gap is longer than a frame may take", []burst{{5 * ms, good[:3]}, {300 * ms, good[3:]}}, ErrNoise, 190 * ms, 600 * ms, true},
		{"another unit's frame first", []burst{{5 * ms, frameOf(t, "02 03 02 00 07")}, {80 * ms, good}}, nil, 100 * ms, 105 * ms, false},
		{"only another unit's frame", []burst{{5 * ms, frameOf(t, "02 03 02 00 07")}}, ErrSilent, 106 * ms, 130 * ms, true},
		{"damaged", []burst{{5 * ms, damaged}}, ErrNoise, 106 * ms, 130 * ms, true},
		{"damaged frame of somebody, then ours", []burst{{5 * ms, damaged}, {60 * ms, good}}, nil, 60 * ms, 85 * ms, false},
		{"endless noise", byteWise(bytes.Repeat([]byte{0xF7}, 4000), ms), ErrNoise, 290 * ms, 900 * ms, true},
		{"echo, then the reply", []burst{{5 * ms, readRequest(1, 0, 1)}, {10 * ms, good}}, nil, 12 * ms, 13 * ms, false},
		{"exception", []burst{{5 * ms, frameOf(t, "01 83 02")}}, &exceptionError{1, 3, 2}, 7 * ms, 8 * ms, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newTestRTU(&wire{answer: func([]byte) []burst { return tc.bursts }})
				start := time.Now()
				reply, err := m.ask(t.Context(), readRequest(1, 0, 1))
				took := time.Since(start)
				if !sameError(err, tc.want) {
					t.Errorf("got error %v, want %v", err, tc.want)
				}
				if tc.noReply != (reply == nil) || reply != nil && !bytes.Equal(reply, good) {
					t.Errorf("got the reply % X", reply)
				}
				if took < tc.took || took > tc.under {
					t.Errorf("it took %v, want %v to %v", took, tc.took, tc.under)
				}
			})
		})
	}
}

// byteWise sends data one byte every step.
func byteWise(data []byte, step time.Duration) []burst {
	var all []burst
	for i := range data {
		all = append(all, burst{time.Duration(i+1) * step, data[i : i+1]})
	}
	return all
}

// TestLateReplyIsNotTakenForTheNext: after a timeout the unit is left alone, so that its late reply is thrown away
// instead of answering the next question (serial 5.4).
func TestLateReplyIsNotTakenForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := []burst{{400 * time.Millisecond, frameOf(t, "01 03 02 00 01")}}
		onTime := soon(frameOf(t, "01 03 02 00 02"))
		w := &wire{}
		w.answer = func([]byte) []burst {
			if len(w.written) == 1 {
				return late
			}
			return onTime
		}
		m := newTestRTU(w)
		if _, err := m.ask(t.Context(), readRequest(1, 0, 1)); !errors.Is(err, ErrSilent) {
			t.Fatalf("got %v, want silence", err)
		}
		reply, err := m.ask(t.Context(), readRequest(1, 1, 1))
		if err != nil || reply[4] != 2 {
			t.Errorf("got % X, %v, want the second reply", reply, err)
		}
		if heard := &m.habits.traffic; heard.late != 1 || heard.strays != 0 {
			t.Errorf("%d replies counted as late and %d as nobody's, want 1 and 0", heard.late, heard.strays)
		}
	})
}

func TestAskPatiently(t *testing.T) {
	good, bad := frameOf(t, "01 03 02 00 2A"), []byte("noise")
	for _, tc := range []struct {
		name   string
		script [][]burst
		want   error
		asked  int
	}{
		{"good", [][]burst{soon(good)}, nil, 1},
		{"one silence", [][]burst{nil, soon(good)}, nil, 2},
		{"two silences", [][]burst{nil, nil, soon(good)}, ErrSilent, 2},
		{"two damaged", [][]burst{soon(bad), soon(bad), soon(good)}, nil, 3},
		{"busy, then free", [][]burst{soon(frameOf(t, "01 83 06")), soon(frameOf(t, "01 83 05")), soon(good)}, nil, 3},
		{"busy for ever", busy(t, 20), &exceptionError{1, 3, exceptionBusy}, 6},
		{"a refusal for good", [][]burst{soon(frameOf(t, "01 83 04")), soon(good)}, &exceptionError{1, 3, exceptionFailure}, 1},
		{"three damaged", [][]burst{soon(bad), soon(bad), soon(bad), soon(good)}, ErrNoise, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &wire{}
				w.answer = func([]byte) []burst { return tc.script[len(w.written)-1] }
				_, err := newTestRTU(w).askPatiently(t.Context(), readRequest(1, 0, 1))
				if !sameError(err, tc.want) || w.writes() != tc.asked {
					t.Errorf("got %v after %d requests, want %v after %d", err, w.writes(), tc.want, tc.asked)
				}
			})
		})
	}
}

// TestUnknownFunctionIsAskedOnce: its silence costs more than half a second each time.
func TestUnknownFunctionIsAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{answer: func([]byte) []burst { return nil }}
		m := newTestRTU(w)
		for i, want := range []int{2, 3, 4} {
			if _, err := m.askPatiently(t.Context(), serverIDRequest(1)); !errors.Is(err, ErrSilent) || w.writes() != want {
				t.Errorf("time %d: got %v after %d requests in all, want %d", i+1, err, w.writes(), want)
			}
		}
		if _, err := m.askPatiently(t.Context(), readRequest(1, 7, 1)); !errors.Is(err, ErrSilent) || w.writes() != 6 {
			t.Errorf("a register: got %v after %d requests in all, want 6", err, w.writes())
		}
	})
}

// TestALostPortIsNoSilence: what was not heard because the port went away says nothing about the unit.
func TestALostPortIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{answer: func([]byte) []burst { return nil }}
		m := newTestRTU(w)
		m.habits.waits = newWaits(time.Second, shortestWait)
		time.AfterFunc(20*ms, w.cut)
		if _, err := m.ask(t.Context(), serverIDRequest(1)); !isLost(err) {
			t.Errorf("got %v", err)
		}
		if reply, noted := m.habits.note(1).functions[fcServerID]; noted {
			t.Errorf("noted %+v", reply)
		}
	})
}

// busy is n refusals.
func busy(t *testing.T, n int) [][]burst {
	all := make([][]burst, n)
	for i := range all {
		all[i] = soon(frameOf(t, "01 83 06"))
	}
	return all
}

// TestEcho: a two-wire adapter sends every request back. That is seen where it is certain, remembered, taken off every
// reply from then on, and forgotten when it ends (serial 5.4).
func TestEcho(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		echoes := false
		// With its checksum this request is how a server ID of 194 bytes could begin.
		server := serverIDRequest(5)
		long := sealed(append(bytes.Clone(server), make([]byte, 193)...))
		w := &wire{}
		w.answer = func(request []byte) []burst {
			var all []burst
			if echoes {
				all = append(all, burst{time.Millisecond, request})
			}
			if request[0] == 9 {
				return all // nobody is there
			}
			if request[1] == fcServerID {
				return append(all, burst{5 * time.Millisecond, long})
			}
			return append(all, burst{5 * time.Millisecond, frameOf(t, "05 03 02 00 2A")})
		}
		m := newTestRTU(w)
		read := readRequest(5, 0, 1)
		for _, step := range []struct {
			name    string
			echoes  bool
			request []byte
			reply   int // bytes; 0 = silence
			known   bool
		}{
			{"no echo, and a reply that begins like its request", false, server, len(long), false},
			{"an echo where it is certain", true, read, 7, true},
			{"the echo before the reply that begins like it", true, server, len(long), true},
			{"only an echo is silence", true, readRequest(9, 0, 1), 0, true},
			{"no echo any more", false, read, 7, true},
			{"once is no proof", false, read, 7, true},
			{"three times is", false, read, 7, false},
			{"so nothing is taken off", false, server, len(long), false},
		} {
			echoes = step.echoes
			start := time.Now()
			reply, err := m.ask(t.Context(), step.request)
			if len(reply) != step.reply || step.reply == 0 && !errors.Is(err, ErrSilent) {
				t.Errorf("%s: got % X, %v", step.name, reply, err)
			}
			if m.habits.echo != step.known {
				t.Errorf("%s: echo known %v, want %v", step.name, m.habits.echo, step.known)
			}
			if took := time.Since(start); step.reply != 0 && took > 20*time.Millisecond {
				t.Errorf("%s: it took %v", step.name, took)
			}
		}
	})
}

// TestHalfAnEcho: bytes of an echo that come with gaps between are no noise.
func TestHalfAnEcho(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		request := readRequest(1, 0, 1)
		w := &wire{answer: func([]byte) []burst {
			return append(byteWise(request, 25*time.Millisecond), burst{201 * time.Millisecond, frameOf(t, "01 03 02 00 2A")})
		}}
		m := newTestRTU(w)
		m.habits.waits = newWaits(time.Second, shortestWait)
		if _, err := m.ask(t.Context(), request); err != nil || !m.habits.echo {
			t.Errorf("%v, echo known %v", err, m.habits.echo)
		}
	})
}

// TestLateFrames: a reply that comes while the next unit is asked is dropped, makes the waits longer and tells who is
// there (serial 5.4).
func TestLateFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{answer: func(request []byte) []burst {
			delays := map[byte]time.Duration{7: 50 * ms, 8: 15 * ms}
			delay := max(delays[request[0]], 5*ms)
			return []burst{{delay, frameOf(t, fmt.Sprintf("%02X 03 02 00 2A", request[0]))}}
		}}
		d := testDriver(t, w, "")
		for unit := byte(1); unit <= 6; unit++ {
			if err := d.glance(t.Context(), unit); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.glance(t.Context(), 7); !errors.Is(err, ErrSilent) {
			t.Fatalf("got %v", err)
		}
		time.Sleep(20 * time.Millisecond)
		if err := d.glance(t.Context(), 8); err != nil {
			t.Fatal(err)
		}
		if got := d.late(); !bytes.Equal(got, []byte{7}) {
			t.Errorf("late were %v", got)
		}
		if got, want := d.master.habits.waits.wait, 2*shortestWait; got != want {
			t.Errorf("a fast look waits %v, want %v", got, want)
		}
	})
}

func TestWaits(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct {
		name   string
		floor  time.Duration
		delays []time.Duration // -1 = a late frame
		want   time.Duration
	}{
		{"at first the ceiling", 20 * ms, nil, 500 * ms},
		{"four replies teach nothing", 20 * ms, []time.Duration{ms, ms, ms, ms}, 500 * ms},
		{"five do", 20 * ms, []time.Duration{ms, ms, 30 * ms, ms, ms}, 70 * ms},
		{"not below 20 ms", 20 * ms, []time.Duration{ms, ms, ms, ms, 0}, 20 * ms},
		{"not below 40 ms behind an FTDI timer", 40 * ms, []time.Duration{ms, ms, ms, ms, ms}, 40 * ms},
		{"not above the ceiling", 20 * ms, []time.Duration{ms, ms, ms, ms, 400 * ms}, 500 * ms},
		{"a late frame doubles", 20 * ms, []time.Duration{ms, ms, ms, ms, ms, -1}, 40 * ms},
		{"each does", 20 * ms, []time.Duration{ms, ms, ms, ms, ms, -1, -1, -1}, 160 * ms},
		{"never above the ceiling", 20 * ms, []time.Duration{ms, ms, ms, ms, ms, -1, -1, -1, -1, -1, -1}, 500 * ms},
		{"until five further replies", 20 * ms, []time.Duration{ms, ms, ms, ms, ms, -1, ms, ms, ms, ms}, 40 * ms},
		{"then it is learned anew", 20 * ms, []time.Duration{ms, ms, ms, ms, ms, -1, ms, ms, ms, ms, ms}, 20 * ms},
		{"a slow reply is forgotten after 64", 20 * ms, append([]time.Duration{100 * ms}, make([]time.Duration, 64)...), 20 * ms},
		{"not before", 20 * ms, append([]time.Duration{100 * ms}, make([]time.Duration, 63)...), 210 * ms},
		{"a reply before the request ended", 20 * ms, []time.Duration{-2, -2, -2, -2, -2}, 20 * ms},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWaits(500*ms, tc.floor)
			for _, d := range tc.delays {
				if d == -1 {
					w.late()
				} else {
					w.answered(d)
				}
			}
			if w.wait != tc.want {
				t.Errorf("got %v, want %v", w.wait, tc.want)
			}
		})
	}
}

func TestShortestWaitOf(t *testing.T) {
	root := t.TempDir()
	class, port := filepath.Join(root, "class"), filepath.Join(root, "by-id")
	tty := filepath.Join(root, "ttyUSB3")
	timer := filepath.Join(class, "ttyUSB3", "device", "latency_timer")
	for _, err := range []error{
		os.MkdirAll(filepath.Dir(timer), 0o700), os.WriteFile(tty, nil, 0o600), os.Symlink(tty, port),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name, content string
		want          time.Duration
	}{
		{"no FTDI adapter", "", shortestWait},
		{"as it comes", "16\n", shortestFTDIWait},
		{"as it should be", "1\n", shortestWait},
		{"not a number", "soon\n", shortestWait},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.content != "" {
				if err := os.WriteFile(timer, []byte(tc.content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := shortestWaitOf(class, port); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
	if got := shortestWaitOf(class, filepath.Join(root, "none")); got != shortestWait {
		t.Errorf("no such port: %v", got)
	}
}

func TestAskEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		m := newTestRTU(&wire{answer: func([]byte) []burst { return nil }})
		start := time.Now()
		if _, err := m.ask(ctx, readRequest(1, 0, 1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took > 150*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}

// FuzzAsk: whatever comes back, a question ends in time and without a panic.
func FuzzAsk(f *testing.F) {
	frameSeeds(f, func(_, data []byte) { f.Add(data, uint8(2), uint8(1)) })
	f.Fuzz(func(t *testing.T, data []byte, step, gap uint8) {
		if len(data) > 4096 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			var bursts []burst
			at := time.Duration(0)
			for rest := data; len(rest) > 0; {
				n := min(len(rest), int(step)+1)
				at += time.Duration(gap) * time.Millisecond
				bursts = append(bursts, burst{at, rest[:n]})
				rest = rest[n:]
			}
			m := newTestRTU(&wire{answer: func([]byte) []burst { return bursts }})
			start := time.Now()
			_, _ = m.ask(t.Context(), readRequest(1, 0, 1))
			// Patience, the longest frame, and half a second of waiting for silence.
			if took := time.Since(start); took > 107*time.Millisecond+197*time.Millisecond+600*time.Millisecond {
				t.Errorf("it took %v", took)
			}
		})
	})
}
