// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/contoso/gatewayd/provisioning"
)

// screen is where register's reporters write: whole lines, with a progress line
// kept below them where there is one. The methods that take a function hold the
// screen while it writes.
type screen struct {
	out    *output
	errOut io.Writer
	line   *progressLine // nil: none is shown

	mu    sync.Mutex // guards what follows, and keeps lines whole
	tally tally
	said  map[string]bool // kinds of failures whose next step was shown
}

// newScreen counts total devices. The progress line is shown only for several,
// and only if standard error is a terminal.
func newScreen(out, errOut io.Writer, total int) *screen {
	s := &screen{out: &output{to: out}, errOut: errOut, tally: tally{total: total, began: time.Now()}, said: make(map[string]bool)}
	if file, ok := errOut.(*os.File); ok && total > 1 && term.IsTerminal(int(file.Fd())) {
		s.line = &progressLine{to: file, width: func() int {
			width, _, err := term.GetSize(int(file.Fd()))
			if err != nil || width <= 0 {
				return 80
			}
			return width
		}}
	}
	return s
}

// output is standard output, which remembers that it failed: a script that reads
// outcomes from a full disk must not take them for all there are.
type output struct {
	to  io.Writer
	err error // the first; nothing is written after it
}

// Write writes as long as that works.
func (o *output) Write(text []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.to.Write(text)
	o.err = err
	return n, err
}

// show writes lines above the progress line.
func (s *screen) show(write func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line.clear()
	write()
	s.line.draw(s.tally.progress(time.Now()))
}

// ended counts an outcome and writes what there is to say of it.
func (s *screen) ended(o outcome, write func()) {
	s.show(func() {
		s.tally.count(o.err)
		write()
	})
}

// tick draws the progress line again, because time passes.
func (s *screen) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line.draw(s.tally.progress(time.Now()))
}

// finish takes the progress line away for good.
func (s *screen) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line.clear()
	s.line = nil
}

// unwritten is why standard output is not complete, if it is not. It is called
// when nothing writes any more.
func (s *screen) unwritten() error {
	if s.out.err == nil {
		return nil
	}
	return fmt.Errorf("not all that was registered could be shown: %w", s.out.err)
}

// printFailure shows why a registration failed, what that means and what to do
// next; the latter two once for each kind, because a hundred devices behind one
// broken cable need one advice. The screen is held.
func (s *screen) printFailure(err error) {
	d := provisioning.Verdict(err)
	// Several transports may have failed, each on a line of its own.
	fmt.Fprintf(s.errOut, "gatewayctl: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	if s.said[d.Kind] {
		return
	}
	s.said[d.Kind] = true
	kind := d.Kind
	if d.SDKResult != "" {
		kind += "; in the C SDK " + d.SDKResult
	}
	fmt.Fprintf(s.errOut, "  %s (%s)\n  Next: %s\n  Kind: %s\n", d.Verdict, d.Owner, d.Next, kind)
}

// tally counts devices.
type tally struct {
	total, done, failed int
	kinds               map[string]int // of the failed
	began               time.Time
}

// count counts one that has ended.
func (t *tally) count(err error) {
	t.done++
	if err == nil {
		return
	}
	t.failed++
	if t.kinds == nil {
		t.kinds = make(map[string]int)
	}
	t.kinds[provisioning.Verdict(err).Kind]++
}

// text is the summary: "200 devices: 198 assigned, 2 failed (1 disabled, 1
// not-enrolled), in 12.3s".
func (t *tally) text() string {
	text := fmt.Sprintf("%d devices: %d assigned", t.total, t.done-t.failed)
	if t.failed > 0 {
		var kinds []string
		for _, kind := range slices.Sorted(maps.Keys(t.kinds)) {
			kinds = append(kinds, fmt.Sprintf("%d %s", t.kinds[kind], kind))
		}
		text += fmt.Sprintf(", %d failed (%s)", t.failed, strings.Join(kinds, ", "))
	}
	return text + fmt.Sprintf(", in %s", time.Since(t.began).Round(100*time.Millisecond))
}

// progress is the progress line. The time left is guessed from the devices that
// are done, once that means something.
func (t *tally) progress(now time.Time) string {
	text := fmt.Sprintf("%d of %d done, %d failed, %d waiting", t.done, t.total, t.failed, t.total-t.done)
	if elapsed := now.Sub(t.began); t.done > 0 && t.done < t.total && elapsed >= 2*time.Second {
		left := elapsed / time.Duration(t.done) * time.Duration(t.total-t.done)
		text += fmt.Sprintf(", about %s left", max(left.Round(time.Second), time.Second))
	}
	return text
}

// progressLine is a line on a terminal that is overwritten as things go on. A
// nil one does nothing.
type progressLine struct {
	to    io.Writer
	width func() int // of the terminal now
}

// clear makes room for other lines.
func (p *progressLine) clear() {
	if p != nil {
		fmt.Fprint(p.to, "\r\x1b[K")
	}
}

// draw shows text in place of what was there.
func (p *progressLine) draw(text string) {
	if p == nil {
		return
	}
	if most := p.width() - 1; len(text) > most { // one that wraps could not be cleared
		text = text[:max(most, 0)]
	}
	fmt.Fprint(p.to, "\r\x1b[K", text)
}

// warnings is a [slog.Handler] that shows a person what the client warns of, but
// for retries, which the reporters show.
type warnings struct {
	*screen
	with string // attributes of the logger, in words
}

// Enabled takes warnings and errors only.
func (w warnings) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// Handle prints one line.
func (w warnings) Handle(_ context.Context, record slog.Record) error {
	text, retry := w.with, false
	record.Attrs(func(attr slog.Attr) bool {
		text += words(attr)
		retry = retry || attr.Key == "retry_in"
		return true
	})
	if retry {
		return nil
	}
	if text != "" {
		text = " (" + strings.TrimSpace(text) + ")"
	}
	w.show(func() { fmt.Fprintf(w.errOut, "gatewayctl: warning: %s%s\n", record.Message, text) })
	return nil
}

// WithAttrs keeps attributes for every line.
func (w warnings) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, attr := range attrs {
		w.with += words(attr)
	}
	return w
}

// WithGroup is not needed for lines.
func (w warnings) WithGroup(string) slog.Handler { return w }

// words writes an attribute down, after a space.
func words(attr slog.Attr) string {
	value := attr.Value.Resolve()
	if value.Kind() == slog.KindTime {
		return fmt.Sprintf(" %s=%s", attr.Key, value.Time().UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf(" %s=%v", attr.Key, value)
}
