// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// scripted is a port that says what it is told to.
type scripted struct {
	says []string // what each Read returns; "" = nothing came, "!" = lost
}

func (p *scripted) Read(buf []byte, wait time.Duration) (int, error) {
	if len(p.says) == 0 {
		time.Sleep(wait)
		return 0, errTimeout
	}
	next := p.says[0]
	p.says = p.says[1:]
	time.Sleep(time.Millisecond)
	switch next {
	case "":
		return 0, errTimeout
	case "!":
		return 0, &lostError{ErrUnplugged}
	}
	return copy(buf, next), nil
}

func (p *scripted) Write([]byte) error          { time.Sleep(time.Millisecond); return nil }
func (p *scripted) SetSpeed(speed) error        { return nil }
func (p *scripted) Check() error                { return nil }
func (p *scripted) Errors() (LineErrors, error) { return LineErrors{}, nil }
func (p *scripted) Flush() error                { return nil }
func (p *scripted) Close() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

// body is a recording without what differs from build to build.
func body(recording string) string {
	var kept []string
	for line := range strings.Lines(recording) {
		if !strings.HasPrefix(line, "# program: ") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// TestRecorderFormat pins the file to the byte: other programs read it.
func TestRecorderFormat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tape strings.Builder
		p := recordPort(&scripted{says: []string{"\x01\x83\x02|~\x7f", "", "late", "", "!"}}, newRecorder(&tape, "/dev/ttyUSB0\n", speed{19200, ParityEven, 1}, "master", slog.New(slog.DiscardHandler)))
		var buf [16]byte
		_ = p.Write([]byte{1, 3})
		_, _ = p.Read(buf[:], time.Second)
		_ = p.SetSpeed(speed{9600, ParityNone, 2})
		_, _ = p.Read(buf[:], time.Second)
		if err := p.Flush(); err != nil {
			t.Error(err)
		}
		if _, err := p.Read(buf[:], time.Second); !isLost(err) {
			t.Error(err)
		}
		<-p.Close()
		want := `# serial line recording 1
# port: /dev/ttyUSB0
# baud: 19200
# parity: even
# stop bits: 1
# mode: master
# started: 2000-01-01T00:00:00.000000Z
0.000000 opened
0.000000 tx 01 03  |..|
0.002000 rx 01 83 02 7C 7E 7F  |...|~.|
0.002000 speed 9600 8N2
0.004000 rx 6C 61 74 65  |late|
0.006000 lost the port is gone
0.006000 closed
`
		if diff := cmp.Diff(want, body(tape.String())); diff != "" {
			t.Error(diff)
		}
	})
}

// full takes some writes and fails then.
type full struct{ left int }

func (f *full) Write(p []byte) (int, error) {
	if f.left--; f.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

// TestRecordingBreaks: the line goes on without its recording; a capture, which is nothing else, ends.
func TestRecordingBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		logger := slog.New(slog.NewTextHandler(&log, nil))
		p := recordPort(&scripted{}, newRecorder(&full{left: 2}, "", speed{}, "master", logger))
		for range 3 {
			if err := p.Write([]byte{1}); err != nil {
				t.Error(err)
			}
		}
		if strings.Count(log.String(), "recording the line failed") != 1 {
			t.Errorf("logged %q", log.String())
		}
		open := func() (port, error) { return &scripted{says: []string{"abc", "", "abc", ""}}, nil }
		heard, err := capture(t.Context(), "", speed{9600, ParityNone, 1}, open, &full{left: 3}, logger)
		if err == nil || heard != (Captured{Bytes: 6, Records: 2}) {
			t.Errorf("%v after %+v", err, heard)
		}
	})
}

// TestCaptureCuts: bytes between two silences are one record, with the time of the first; a run without end is cut.
func TestCaptureCuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tape strings.Builder
		opens := 0
		open := func() (port, error) {
			switch opens++; opens {
			case 1:
				return &scripted{says: []string{"ab", "cd", "", "e", "!"}}, nil
			case 2, 3:
				return nil, ErrNoPort
			default:
				long := &scripted{}
				for range 10 {
					long.says = append(long.says, strings.Repeat("x", maxFrame))
				}
				long.says = append(long.says, "", "!")
				return long, nil
			}
		}
		heard, err := capture(t.Context(), "", speed{9600, ParityNone, 1}, open, &stopAfter{&tape, 8}, slog.New(slog.DiscardHandler))
		if err == nil || heard.Bytes != 5+10*maxFrame || heard.Records != 5 {
			t.Errorf("%v after %+v", err, heard)
		}
		text := tape.String()
		for _, want := range []string{"0.001000 rx 61 62 63 64  |abcd|\n", "0.004000 rx 65  |e|\n", "lost the port is gone\n", "opened\n"} {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in\n%.600s", want, text)
			}
		}
	})
}

// stopAfter fails after some writes.
type stopAfter struct {
	to   io.Writer
	left int
}

func (s *stopAfter) Write(p []byte) (int, error) {
	if s.left--; s.left < 0 {
		return 0, errors.New("enough")
	}
	return s.to.Write(p)
}

func TestRecordFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "line.rec")
	if err := os.WriteFile(path, []byte("an older one"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := CreateRecordFile(path, minRecordFile)
	if err != nil {
		t.Fatal(err)
	}
	read := func(path string) string {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if got := read(path + ".1"); got != "an older one" {
		t.Errorf("the older file holds %q", got)
	}
	fmt.Fprint(f, "# a\n# b\n")
	last := ""
	for i := range 5000 {
		last = fmt.Sprintf("%d.0 tx 01 02 03 04\n", i)
		if n, err := io.WriteString(f, last); n != len(last) || err != nil {
			t.Fatal(n, err)
		}
	}
	now, before := read(path), read(path+".1")
	for _, text := range []string{now, before} {
		if !strings.HasPrefix(text, "# a\n# b\n") || strings.Count(text, "#") != 2 || len(text) > minRecordFile/2 {
			t.Errorf("a file of %d bytes begins with %.20q", len(text), text)
		}
	}
	if !strings.HasSuffix(now, last) || len(before) < minRecordFile/2-100 {
		t.Errorf("%d and %d bytes, the end is %q", len(now), len(before), now[len(now)-20:])
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Error(err)
	}
	if _, err := CreateRecordFile(path, 100); err == nil {
		t.Error("100 bytes were enough")
	}
	if _, err := CreateRecordFile(filepath.Join(path, "none"), minRecordFile); err == nil {
		t.Error("a file in a file was made")
	}
}
