// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/contoso/gatewayd/allocation"
)

// benchRows is the size of a directory that no site exceeds soon.
const benchRows = 1_000_000

// million writes a CSV file of benchRows devices.
func million(w io.WriteCloser) {
	defer w.Close()
	line := []byte("registration_id,hub,room,floor,wired\n")
	for i := range benchRows {
		line = fmt.Appendf(line, "building%d-contoso-tstrsd-007,h%d,Room %d,%d,%t\n", i, 1+i%2, i%5000, i%40, i%3 == 0)
		if len(line) > 1<<16 {
			if _, err := w.Write(line); err != nil {
				return
			}
			line = line[:0]
		}
	}
	_, _ = w.Write(line)
}

// BenchmarkMillion imports a million devices, looks them up, and answers
// requests by their rows: at one caller and at sixteen, with the slowest
// hundredth told.
func BenchmarkMillion(b *testing.B) {
	config := newFile(b)
	read, write := io.Pipe()
	go million(write)
	start := time.Now()
	report, err := Import(context.Background(), config, read, ImportOptions{Types: types})
	if err != nil || report.After != benchRows {
		b.Fatalf("%v, %+v", err, report)
	}
	b.Logf("imported %d rows in %.1f s", report.After, time.Since(start).Seconds())
	d := open(b, config)
	id := func(i int) string { return fmt.Sprintf("building%d-contoso-tstrsd-007", i*7919%benchRows) }

	b.Run("lookup", func(b *testing.B) {
		i := 0
		for b.Loop() {
			if _, found, err := d.Lookup(context.Background(), id(i)); err != nil || !found {
				b.Fatal(found, err)
			}
			i++
		}
	})
	handler := webhook(d, allocation.DirectoryRetry)
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprintf("webhook-%d", callers), func(b *testing.B) {
			times := make([][]time.Duration, callers)
			var all sync.WaitGroup
			b.ResetTimer()
			for caller := range callers {
				all.Go(func() {
					for i := caller; i < b.N; i += callers {
						start := time.Now()
						if status, body := ask(handler, id(i)); status != 200 {
							b.Errorf("got %d %s", status, body)
							return
						}
						times[caller] = append(times[caller], time.Since(start))
					}
				})
			}
			all.Wait()
			b.StopTimer()
			sorted := slices.Sorted(slices.Values(slices.Concat(times...)))
			b.ReportMetric(float64(sorted[len(sorted)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
		})
	}
}
