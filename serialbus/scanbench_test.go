// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// BenchmarkScan measures how close the master comes to what the wire allows (serial 5.2): lines of 1, 8, 32 and 247
// units on pseudo-terminals, their bytes paced to the speed of the line, all addresses from 1 to 247.
//
//	direct     0x2B at every address, a fixed wait of 20 ms at the silent ones
//	two-step   0x03 at every address, 0x2B where somebody answers, the same wait
//	scan       what Scan does without slow looks: a wait learned from the replies, each identity read twice and with
//	           object 0x80
//
// For each it reports the seconds, the ratio to the limit of serial 5.1 with that wait (x-limit; the budget is 1.05 up
// to 19,200 baud and 1.15 at 115,200; that of a scan is the two-step one, of which it does more) and to the floor, where
// silence costs nothing (x-floor).
//
// The full table takes some minutes: SCAN_BENCH=full. Without it, 115,200 baud and one line at 19,200.
func BenchmarkScan(b *testing.B) {
	for _, baud := range []int{9600, 19200, 115200} {
		for _, units := range []int{1, 8, 32, 247} {
			for _, form := range []string{"direct", "two-step", "scan"} {
				if os.Getenv("SCAN_BENCH") != "full" && baud < 115200 && (baud < 19200 || units != 32) {
					continue
				}
				s := benchScan{baud: baud, units: units, form: form}
				b.Run(s.String(), func(b *testing.B) { s.run(b, 1) })
			}
		}
	}
}

// BenchmarkScanManyLines scans lines of 32 units at once: buses are independent, so the time should stay that of one.
// cpu-ms/line is processor time of master and simulator together.
func BenchmarkScanManyLines(b *testing.B) {
	for _, lines := range []int{1, 16} {
		s := benchScan{baud: 115200, units: 32, form: "two-step"}
		b.Run(fmt.Sprintf("%d", lines), func(b *testing.B) { s.run(b, lines) })
	}
}

// BenchmarkScanLateReplies scans 247 units at 115,200 baud, 1 % of whose replies come 25 to 60 ms late. complete is the
// share of the runs in which every unit was found; it should be 1. Two runs, or twenty with SCAN_BENCH=full.
func BenchmarkScanLateReplies(b *testing.B) {
	runs := 2
	if os.Getenv("SCAN_BENCH") == "full" {
		runs = 20
	}
	s := benchScan{baud: 115200, units: maxUnit, form: "scan"}
	complete, missed := 0, 0
	for seed := range uint64(runs) {
		l := s.line(b, speed{s.baud, ParityEven, 1}.timing(), serialbustest.WithSeed(seed), serialbustest.WithRules(serialbustest.Rule{
			Fault: serialbustest.FaultLate, Share: 0.01, Delay: 25 * time.Millisecond, MostDelay: 60 * time.Millisecond,
		}))
		found := s.survey(b, l.Path(), ScanOptions{})
		_ = l.Close()
		missed += s.units - found
		if found == s.units {
			complete++
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(b.Elapsed().Seconds()/float64(runs), "s")
	b.ReportMetric(float64(complete)/float64(runs), "complete")
	b.ReportMetric(float64(missed), "missed")
}

// benchScan is one cell of the table.
type benchScan struct {
	baud, units int
	form        string
}

func (s benchScan) String() string {
	return fmt.Sprintf("%d-baud/N=%d/%s/R=%d/W=%v", s.baud, s.units, s.form, benchReply, benchWait)
}

const benchWait = 20 * time.Millisecond

// benchReply is the length of the benchmark's basic identification: a header of 8, three objects, a checksum.
const benchReply = 8 + (2 + len("Contoso")) + (2 + len("HPSD-088")) + (2 + len("12.0.2.5")) + 2

// limit is how long the scan takes at least if silence costs wait at each address (serial 5.1).
func (s benchScan) limit(t timing, wait time.Duration) time.Duration {
	chars := func(n int) time.Duration { return time.Duration(n) * t.char }
	present, absent := chars(7+benchReply)+2*t.quiet, chars(7)+wait
	if s.form != "direct" {
		present, absent = present+chars(8+7)+2*t.quiet, chars(8)+wait
	}
	return time.Duration(s.units)*present + time.Duration(maxUnit-s.units)*absent
}

// run scans that many lines at once and reports.
func (s benchScan) run(b *testing.B, lines int) {
	t := speed{s.baud, ParityEven, 1}.timing()
	var ports []string
	for range lines {
		l := s.line(b, t)
		defer l.Close()
		ports = append(ports, l.Path())
	}
	missed, cpu := 0, processorTime(b)
	for b.Loop() {
		var all sync.WaitGroup
		var mu sync.Mutex
		for _, port := range ports {
			all.Go(func() {
				found := s.scan(b, port, t)
				mu.Lock()
				defer mu.Unlock()
				missed += s.units - found
			})
		}
		all.Wait()
	}
	took := b.Elapsed() / time.Duration(b.N)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(took.Seconds(), "s")
	b.ReportMetric(float64(took)/float64(s.limit(t, benchWait)), "x-limit")
	b.ReportMetric(float64(took)/float64(s.limit(t, t.quiet+t.char)), "x-floor")
	b.ReportMetric(float64(missed)/float64(b.N), "missed")
	b.ReportMetric(float64((processorTime(b)-cpu).Milliseconds())/float64(b.N*lines), "cpu-ms/line")
}

// line makes a line of units.
func (s benchScan) line(b *testing.B, t timing, opts ...serialbustest.Option) *serialbustest.Line {
	var pumps []serialbustest.HeatPump
	for n := range s.units {
		pumps = append(pumps, serialbustest.HeatPump{
			Unit: byte(n + 1), Vendor: "Contoso", Model: "HPSD-088", Firmware: "12.0.2.5",
		})
	}
	line, err := serialbustest.NewModbusLine(pumps, append(opts, serialbustest.WithTurnaround(t.quiet))...)
	if err != nil {
		b.Fatal(err)
	}
	return line
}

// config is the line's.
func (s benchScan) config(path string) Config {
	return Config{Port: path, Driver: DriverModbusRTU, Baud: s.baud, Parity: ParityEven, Units: allUnits(), Settle: time.Nanosecond}
}

// survey does what Scan does and returns how many units were identified.
func (s benchScan) survey(b *testing.B, path string, opts ScanOptions) int {
	found := 0
	all, err := Scan(context.Background(), s.config(path), opts, nil)
	if err != nil {
		b.Error(err)
	}
	for _, f := range all.Findings {
		if f.Heard == HeardIdentity {
			found++
		}
	}
	return found
}

// scan looks at every address once and returns how many units were identified.
func (s benchScan) scan(b *testing.B, path string, t timing) int {
	if s.form == "scan" {
		return s.survey(b, path, ScanOptions{Fast: true})
	}
	ctx, found := context.Background(), 0
	p, err := openTTY(path, speed{s.baud, ParityEven, 1}, opening{})
	if err != nil {
		b.Error(err)
		return 0
	}
	defer func() { <-p.Close() }()
	h := &habits{waits: newWaits(benchWait, benchWait)}
	d := &modbusDriver{master: newRTU(p, t, h, slog.New(slog.DiscardHandler))}
	for unit := byte(minUnit); unit <= maxUnit; unit++ {
		if s.form == "two-step" && errors.Is(d.glance(ctx, unit), ErrSilent) {
			continue
		}
		reply, err := d.master.ask(ctx, deviceIDRequest(unit, codeBasic, 0))
		switch {
		case isLost(err):
			b.Error(err)
			return found
		case err == nil && len(reply) == benchReply:
			found++
		}
	}
	return found
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
