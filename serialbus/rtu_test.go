// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// newTestRTU is a master at 19,200 baud 8E1 with a patience of 100 ms.
func newTestRTU(w *wire) *rtu {
	return newRTU(w, newTiming(19200, ParityEven, 1), 100*time.Millisecond, slog.New(slog.DiscardHandler))
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
			got := newTiming(tc.baud, tc.parity, tc.stop)
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
				var refused, wanted *exceptionError
				switch {
				case errors.As(tc.want, &wanted):
					if !errors.As(err, &refused) || *refused != *wanted {
						t.Errorf("got error %v, want %v", err, tc.want)
					}
				case !errors.Is(err, tc.want):
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
		{"three damaged", [][]burst{soon(bad), soon(bad), soon(bad), soon(good)}, ErrNoise, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &wire{}
				w.answer = func([]byte) []burst { return tc.script[len(w.written)-1] }
				_, err := newTestRTU(w).askPatiently(t.Context(), readRequest(1, 0, 1))
				if !errors.Is(err, tc.want) || w.writes() != tc.asked {
					t.Errorf("got %v after %d requests, want %v after %d", err, w.writes(), tc.want, tc.asked)
				}
			})
		})
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
