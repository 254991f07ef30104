// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"
)

// BenchmarkHandler is the webhook's own part of a request, without the server and
// the network around it. cpu-ns/op is what it costs whatever else the machine
// does.
func BenchmarkHandler(b *testing.B) {
	handler := NewHandler(Config{
		Setup:  Setup{Policy: Tutorial(), FunctionKeys: parseKeys(b, keyOne, keyTwo)},
		Limits: Limits{Rate: 1e9},
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), //nolint:sloglint // DiscardHandler would spare the formatting
	})
	body := golden(b, "tutorial-toaster.request.json")
	reader := bytes.NewReader(body)
	request := httptest.NewRequest(http.MethodPost, "/api/HttpTrigger1?code="+keyTwo, nil)
	request.RemoteAddr = loopback
	request.ContentLength = int64(len(body))
	writer := &countingWriter{header: http.Header{}}
	b.ReportAllocs()
	before := ownCPUTime(b)
	for b.Loop() {
		reader.Reset(body)
		request.Body = io.NopCloser(reader)
		clear(writer.header)
		handler.ServeHTTP(writer, request)
	}
	b.ReportMetric(float64((ownCPUTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
	if writer.status != http.StatusOK {
		b.Fatalf("got status %d", writer.status)
	}
}

// countingWriter is the least of a ResponseWriter.
type countingWriter struct {
	header http.Header
	status int
}

func (w *countingWriter) Header() http.Header         { return w.header }
func (w *countingWriter) WriteHeader(status int)      { w.status = status }
func (w *countingWriter) Write(p []byte) (int, error) { return len(p), nil }

// ownCPUTime gives the time that this process had on a core.
func ownCPUTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
