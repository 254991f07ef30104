// SPDX-License-Identifier: Apache-2.0

package serialbus_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/serialbus"
	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// tellOfAll runs a bus until it has told of each of its units, and returns what it told, by unit.
func tellOfAll(ctx context.Context, cfg serialbus.Config) ([]string, error) {
	bus, err := serialbus.New(cfg, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var told []string
	left := slices.Clone(cfg.Units)
	err = bus.Run(ctx, func(e serialbus.Event) {
		if e.Kind != serialbus.Found && e.Kind != serialbus.Lost {
			return
		}
		told = append(told, fmt.Sprintf("unit %d %v %+v %v", e.Unit, e.Kind, e.Identity, e.Err))
		if left = slices.DeleteFunc(left, func(unit byte) bool { return int(unit) == e.Unit }); len(left) == 0 {
			cancel()
		}
	})
	if err != nil || len(left) > 0 {
		return nil, fmt.Errorf("it did not tell of units %v: %w", left, err)
	}
	slices.Sort(told)
	for i := range told {
		told[i] = strings.ReplaceAll(told[i], cfg.Port, "PORT")
	}
	return told, nil
}

// TestFieldBugIsReproducible: a session with a late frame, a damaged one, two units on one address and a silent one is
// recorded; on the recording our master comes to the same ends, by the same requests.
func TestFieldBugIsReproducible(t *testing.T) {
	t.Parallel()
	newToaster(t) // skips where there are no pseudo-terminals
	again(t, func() error { return reproduceFieldBug(t.Context()) })
}

func reproduceFieldBug(ctx context.Context) error {
	twin := func(serial string) serialbustest.Unit {
		return serialbustest.Unit{
			Address: 5, Objects: map[byte]string{0: "Contoso", 1: "HPSD-088", 2: "12.0.2.5", 0x81: serial},
			Registers: map[uint16]uint16{0: 0},
		}
	}
	l, err := serialbustest.NewUnitsLine([]serialbustest.Unit{
		{Address: 1, Objects: map[byte]string{0: "Contoso", 1: "HPSD-088", 2: "12.0.2.5", 0x81: "167"}, Registers: map[uint16]uint16{0: 0}},
		twin("first"), twin("other"),
	}, serialbustest.WithRules(
		serialbustest.Rule{Fault: serialbustest.FaultLate, Unit: 1, Skip: 1, Times: 1, Delay: 60 * time.Millisecond},
		serialbustest.Rule{Fault: serialbustest.FaultCorrupt, Unit: 1, Skip: 2, Times: 1},
	))
	if err != nil {
		return err
	}
	defer l.Close()
	var tape bytes.Buffer
	cfg := pumpConfig(l.Path(), 1, 5, 9)
	cfg.Recheck, cfg.Rescan, cfg.ReplyTimeout, cfg.Record = time.Hour, 2*time.Second, 200*time.Millisecond, &tape
	told, err := tellOfAll(ctx, cfg)
	if err != nil {
		return err
	}

	recording, err := serialbustest.ParseRecording(tape.Bytes())
	if err != nil {
		return fmt.Errorf("%w in\n%s", err, &tape)
	}
	replay, err := serialbustest.NewReplayLine(recording, 1)
	if err != nil {
		return err
	}
	defer replay.Close()
	cfg.Port, cfg.Record = replay.Path(), nil
	toldAgain, err := tellOfAll(ctx, cfg)
	if err != nil {
		return err
	}
	if diff := cmp.Diff(told, toldAgain); diff != "" {
		return fmt.Errorf("the master met something else: %s\non\n%s", diff, &tape)
	}
	if got := replay.Replayed(); got.Strange > 0 || got.Matched < got.Requests*9/10 {
		return fmt.Errorf("it was played like this: %+v", got)
	}
	if stats := l.Stats(); stats.Faults["late"] != 1 || stats.Faults["corrupt"] != 1 {
		return fmt.Errorf("nothing went wrong at the recording: %+v", stats)
	}
	return nil
}

// TestCapture: a second ear on the line hears everything, says nothing, and lives through a lost adapter.
func TestCapture(t *testing.T) {
	t.Parallel()
	link := filepath.Join(t.TempDir(), "usb-adapter")
	l, err := serialbustest.NewUnitsLine([]serialbustest.Unit{{Address: 3, Registers: map[uint16]uint16{0: 7}}}, serialbustest.WithLink(link),
		serialbustest.WithStranger(serialbustest.Stranger{Kind: serialbustest.AnotherMaster, Unit: 3, Every: 100 * time.Millisecond}))
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	defer l.Close()
	path := filepath.Join(t.TempDir(), "line.rec")
	file, err := serialbus.CreateRecordFile(path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	var heard serialbus.Captured
	go func() {
		var err error
		heard, err = serialbus.Capture(ctx, serialbus.CaptureConfig{Port: link, Baud: 115200, Parity: serialbus.ParityNone}, file, nil)
		ended <- err
	}()
	// holds waits until the file holds a text; it is there at once, since every record is.
	holds := func(text string, times int) string {
		for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
			got, err := os.ReadFile(path)
			if err == nil && strings.Count(string(got), text) >= times {
				return string(got)
			}
			if time.Now().After(end) {
				t.Fatalf("no %q in\n%s", text, got)
			}
		}
	}
	const exchange = "03 03 02 00 07 80 46"
	holds(exchange, 2)
	l.Unplug()
	holds("lost ", 1)
	if err := l.Plug(); err != nil {
		t.Fatal(err)
	}
	holds("opened", 2)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	text := holds("closed", 1)
	recording, err := serialbustest.ParseRecording([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if !recording.Passive() || recording.Head["port"] != link || recording.Head["baud"] != "115200" || recording.Head["parity"] != "none" {
		t.Errorf("%v", recording.Head)
	}
	if heard.Bytes < 30 || heard.Records < 2 || l.Stats().BytesIn != 0 {
		t.Errorf("heard %+v, and it sent %d bytes", heard, l.Stats().BytesIn)
	}
	if err := file.Close(); err != nil {
		t.Error(err)
	}
}

func TestCaptureRefused(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "none")
	for _, cfg := range []serialbus.CaptureConfig{{}, {Port: missing}, {Port: missing, Baud: 1}, {Port: missing, Parity: "mark"}, {Port: missing, StopBits: 3}} {
		if _, err := serialbus.Capture(t.Context(), cfg, new(bytes.Buffer), nil); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}
