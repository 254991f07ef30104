// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// textHandler writes records as slog.TextHandler does, to the byte, but quotes
// long texts several times as fast: the webhook logs each request with its body,
// and quoting that was a sixth of a request's time. It also quotes DEL, which
// slog passes on to the terminal.
type textHandler struct {
	out      *lockedWriter
	level    slog.Leveler
	withTime bool

	before []byte // the attributes given with WithAttrs, each after a space
	prefix string // the open groups, each with its dot
}

// lockedWriter keeps lines whole. Handlers made from one another share it.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// lines holds buffers for one line each.
var lines = sync.Pool{New: func() any { return new(make([]byte, 0, 4096)) }}

// maxKeptLine keeps a long line's buffer from staying for good.
const maxKeptLine = 32 << 10

func newTextHandler(w io.Writer, level slog.Leveler, withTime bool) *textHandler {
	return &textHandler{out: &lockedWriter{w: w}, level: level, withTime: withTime}
}

// Enabled tells whether records of a level are written.
func (h *textHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

// WithGroup puts a name before the keys of all attributes to come.
func (h *textHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	next := *h
	next.prefix += name + "."
	return &next
}

// WithAttrs writes attributes into all records to come.
func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.before = slices.Clip(h.before)
	for _, attr := range attrs {
		next.before = appendAttr(next.before, h.prefix, attr)
	}
	return &next
}

// Handle writes one line.
func (h *textHandler) Handle(_ context.Context, record slog.Record) error {
	buffer := lines.Get().(*[]byte)
	line := (*buffer)[:0]
	if h.withTime && !record.Time.IsZero() {
		line = append(line, "time="...)
		line = append(appendTime(line, record.Time), ' ')
	}
	line = append(line, "level="...)
	line = append(line, record.Level.String()...)
	line = append(line, " msg="...)
	line = appendText(line, record.Message)
	line = append(line, h.before...)
	record.Attrs(func(attr slog.Attr) bool {
		line = appendAttr(line, h.prefix, attr)
		return true
	})
	line = append(line, '\n')
	h.out.mu.Lock()
	_, err := h.out.w.Write(line)
	h.out.mu.Unlock()
	if cap(line) <= maxKeptLine {
		*buffer = line
		lines.Put(buffer)
	}
	return err
}

// appendAttr writes one attribute, or those of a group, each after a space.
func appendAttr(line []byte, prefix string, attr slog.Attr) []byte {
	value := attr.Value.Resolve()
	if attr.Key == "" && value.Equal(slog.Value{}) {
		return line
	}
	if value.Kind() == slog.KindGroup {
		if attr.Key != "" {
			prefix += attr.Key + "."
		}
		for _, member := range value.Group() {
			line = appendAttr(line, prefix, member)
		}
		return line
	}
	line = append(line, ' ')
	line = appendText(line, prefix+attr.Key)
	line = append(line, '=')
	return appendValue(line, value)
}

func appendValue(line []byte, value slog.Value) (written []byte) {
	switch value.Kind() {
	case slog.KindString:
		return appendText(line, value.String())
	case slog.KindTime:
		return appendTime(line, value.Time())
	case slog.KindAny:
		defer func() {
			if reason := recover(); reason != nil {
				written = appendText(line, fmt.Sprintf("!PANIC: %v", reason))
			}
		}()
		return appendAny(line, value.Any())
	default:
		return append(line, value.String()...)
	}
}

func appendAny(line []byte, value any) []byte {
	switch v := value.(type) {
	case encoding.TextMarshaler:
		text, err := v.MarshalText()
		if err != nil {
			return appendText(line, "!ERROR:"+err.Error())
		}
		return appendText(line, text)
	case []byte:
		return strconv.AppendQuote(line, string(v))
	default:
		return appendText(line, fmt.Sprintf("%+v", v))
	}
}

// appendTime writes RFC 3339 with milliseconds.
func appendTime(line []byte, t time.Time) []byte {
	return t.Truncate(time.Millisecond).AppendFormat(line, "2006-01-02T15:04:05.000Z07:00")
}

// appendText writes text, quoted where a reader could not tell its end.
func appendText[T string | []byte](line []byte, text T) []byte {
	if needsQuotes(text) {
		return appendQuoted(line, text)
	}
	return append(line, text...)
}

func needsQuotes[T string | []byte](text T) bool {
	for i := range len(text) {
		switch c := text[i]; {
		case c >= utf8.RuneSelf:
			return hasUnprintable(string(text[i:]))
		case c <= ' ' || c == '=' || c == '"' || c == 0x7f:
			return true
		}
	}
	return len(text) == 0
}

// hasUnprintable is needsQuotes from the first character on that is not ASCII.
func hasUnprintable(text string) bool {
	for i, r := range text {
		if r == utf8.RuneError || unicode.IsSpace(r) || !unicode.IsPrint(r) || text[i] == '=' || text[i] == '"' {
			return true
		}
	}
	return false
}

// appendQuoted is strconv.AppendQuote, which looks at every character by itself.
// Most texts are plain but for quotes and backslashes.
func appendQuoted[T string | []byte](line []byte, text T) []byte {
	start, copied := len(line), 0
	line = append(line, '"')
	for i := range len(text) {
		switch c := text[i]; {
		case c == '"' || c == '\\':
			line = append(append(line, text[copied:i]...), '\\', c)
			copied = i + 1
		case c < ' ' || c > '~':
			return strconv.AppendQuote(line[:start], string(text))
		}
	}
	return append(append(line, text[copied:]...), '"')
}
