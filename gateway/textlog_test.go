// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// bothLogs writes with a logger of ours and with slog's own, and gives the lines
// of both.
func bothLogs(write func(*slog.Logger)) (ours, theirs string) {
	var got, want bytes.Buffer
	write(slog.New(newTextHandler(&got, slog.LevelInfo, false)))
	write(slog.New(slog.NewTextHandler(&want, &slog.HandlerOptions{ReplaceAttr: func(groups []string, attr slog.Attr) slog.Attr {
		if len(groups) == 0 && attr.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return attr
	}})))
	return got.String(), want.String()
}

type valuer struct{ value slog.Value }

func (v valuer) LogValue() slog.Value { return v.value }

type failing struct{ panics bool }

func (f failing) MarshalText() ([]byte, error) {
	if f.panics {
		panic("no text")
	}
	return nil, errors.New("no text")
}

// TestTextHandlerIsSlogs compares lines with slog's text handler.
func TestTextHandlerIsSlogs(t *testing.T) {
	t.Parallel()
	moment := time.Date(2026, 11, 22, 6, 27, 16, 606_900_000, time.FixedZone("", 3600))
	tests := []struct {
		name  string
		write func(*slog.Logger)
	}{
		{"no attributes", func(l *slog.Logger) { l.Info("hello") }},
		{"levels", func(l *slog.Logger) { l.Debug("no"); l.Warn("yes"); l.Log(t.Context(), slog.LevelError+2, "more") }},
		{"message to be quoted", func(l *slog.Logger) { l.Info(`say "hello" to=all`); l.Info("") }},
		{"kinds", func(l *slog.Logger) {
			l.Info("m", "i", -7, "u", uint64(7), "f", 1.5e9, "b", true, "d", 1500*time.Microsecond, "t", moment, "s", "text", "n", nil)
		}},
		{"any", func(l *slog.Logger) {
			l.Info("m", "err", errors.New("a b"), "bytes", []byte("a"), "list", []string{"a", "b c"}, "addr", netip.MustParseAddr("::1"), "struct", struct{ A int }{1})
		}},
		{"texts", func(l *slog.Logger) {
			for _, text := range []string{"", " ", "a=b", `"`, `\`, `\"`, "é", "\u00a0", "\u2028", "\ufeff", "\ufffd", "\xff", "a\tb", "\x00", "日本", "😀", "\u202e", `{"a":"b\"c"}`} {
				l.Info(text, text, text)
			}
		}},
		{"valuers", func(l *slog.Logger) {
			l.Info("m", "v", valuer{slog.StringValue("a b")}, "g", valuer{slog.GroupValue(slog.Int("x", 1))}, "vv", valuer{slog.AnyValue(valuer{slog.IntValue(3)})})
		}},
		{"groups", func(l *slog.Logger) {
			l.WithGroup("g").With("a", 1).WithGroup("h h").Info("m", "b", 2, slog.Group("i", "c", 3), slog.Group("", "d", 4), slog.Group("empty"))
		}},
		{"with", func(l *slog.Logger) {
			base := l.With("a", 1)
			base.With("b", 2).Info("one")
			base.With("c", 3).Info("two")
			base.Info("three")
			l.WithGroup("").With().Info("four")
		}},
		{"empty attribute", func(l *slog.Logger) { l.Info("m", slog.Attr{}, slog.Attr{Key: "k"}, slog.Any("", 1)) }},
		{"failing text", func(l *slog.Logger) { l.Info("m", "a", failing{}) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ours, theirs := bothLogs(test.write)
			if diff := cmp.Diff(theirs, ours); diff != "" {
				t.Errorf("lines (-slog +ours):\n%s", diff)
			}
		})
	}
}

func TestTextHandlerSurvivesAPanic(t *testing.T) {
	t.Parallel()
	ours, _ := bothLogs(func(l *slog.Logger) { l.Info("m", "a", failing{panics: true}, "b", 1) })
	if want := "level=INFO msg=m a=\"!PANIC: no text\" b=1\n"; ours != want {
		t.Errorf("got %q, want %q", ours, want)
	}
}

func TestTextHandlerQuotesDelete(t *testing.T) {
	t.Parallel()
	ours, _ := bothLogs(func(l *slog.Logger) { l.Info("a\x7fb") })
	if want := `level=INFO msg="a\x7fb"` + "\n"; ours != want {
		t.Errorf("got %q, want %q", ours, want)
	}
}

func TestTextHandlerTime(t *testing.T) {
	t.Parallel()
	moment := time.Date(2026, 11, 22, 6, 27, 16, 606_900_000, time.UTC)
	var got, want bytes.Buffer
	record := slog.NewRecord(moment, slog.LevelInfo, "m", 0)
	if err := errors.Join(
		newTextHandler(&got, slog.LevelInfo, true).Handle(t.Context(), record),
		slog.NewTextHandler(&want, nil).Handle(t.Context(), record),
	); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), got.String()); diff != "" {
		t.Errorf("line (-slog +ours):\n%s", diff)
	}
}

// TestTextHandlerKeepsLinesWhole writes from many goroutines through handlers
// made from one another.
func TestTextHandlerKeepsLinesWhole(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(newTextHandler(&out, slog.LevelInfo, false))
	text := strings.Repeat("x", 5000)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			mine := log.With("i", i)
			for range 50 {
				mine.Info("m", "text", text)
			}
		})
	}
	group.Wait()
	lines := 0
	for line := range strings.Lines(out.String()) {
		lines++
		if !strings.HasPrefix(line, "level=INFO msg=m i=") || !strings.HasSuffix(line, " text="+text+"\n") {
			t.Fatalf("got line %q", line)
		}
	}
	if lines != 8*50 {
		t.Errorf("got %d lines, want 400", lines)
	}
}

// FuzzTextHandler holds the quoting against slog's.
func FuzzTextHandler(f *testing.F) {
	f.Add("key", `{"a":"b\"c\\"}`)
	f.Add("", "\x00é\u2028\xff")
	f.Fuzz(func(t *testing.T, key, text string) {
		if strings.Contains(key+text, "\x7f") {
			return
		}
		ours, theirs := bothLogs(func(l *slog.Logger) { l.Info(text, key, text, "err", errors.New(text)) })
		if ours != theirs {
			t.Errorf("got  %qslog %q", ours, theirs)
		}
	})
}

func BenchmarkTextHandler(b *testing.B) {
	file, err := os.ReadFile("../allocation/testdata/tutorial-toaster.request.json")
	if err != nil {
		b.Fatal(err)
	}
	body := string(file)
	for _, log := range []*slog.Logger{
		slog.New(newTextHandler(io.Discard, slog.LevelInfo, true)),
		slog.New(slog.NewTextHandler(io.Discard, nil)), //nolint:sloglint // DiscardHandler would spare the formatting
	} {
		name := "ours"
		if _, theirs := log.Handler().(*slog.TextHandler); theirs {
			name = "slog"
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				log.Info("webhook processed a request", "registration_id", "a", "status", 200, "request_body", body)
			}
		})
	}
}
