// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkBuses is a building's worth of buses at work: 16 lines with 32 units each at 115,200 baud, each unit asked
// for a register and for its identity. It shows how much longer the replies take than on a wire, and the processor
// time of the simulator and of the simple master here together.
func BenchmarkBuses(b *testing.B) {
	const lines, units, baud = 16, 32, 115200
	const turnaround = 1750 * time.Microsecond
	var ports []*os.File
	for range lines {
		var pumps []HeatPump
		for u := range byte(units) {
			pumps = append(pumps, HeatPump{Unit: u + 1, Vendor: "Contoso", Model: "HPSD-088", Firmware: "12.0.2.5"})
		}
		l, err := NewModbusLine(pumps, WithTurnaround(turnaround))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = l.Close() })
		ports = append(ports, openRaw(b, l, baud))
	}
	const char = 11 * time.Second / baud
	var ideal time.Duration
	for range units {
		ideal += (8+7)*char + turnaround + (7+39)*char + turnaround
	}
	before := processorTime(b)
	for b.Loop() {
		var all sync.WaitGroup
		for _, port := range ports {
			all.Go(func() {
				for u := range byte(units) {
					exchangeRaw(b, port, withChecksum([]byte{u + 1, 0x03, 0, 0, 0, 1}), 7)
					exchangeRaw(b, port, withChecksum([]byte{u + 1, 0x2B, 0x0E, 1, 0}), 39)
				}
			})
		}
		all.Wait()
	}
	spent := processorTime(b) - before
	perRound := b.Elapsed() / time.Duration(b.N)
	b.ReportMetric(float64(perRound)/float64(ideal), "×wire")
	b.ReportMetric(spent.Seconds()/b.Elapsed().Seconds()*100, "%cpu")
}

// processorTime is what this process has used.
func processorTime(tb testing.TB) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
