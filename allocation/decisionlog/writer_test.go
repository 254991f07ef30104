// SPDX-License-Identifier: Apache-2.0

package decisionlog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/allocation"
)

// decision is a small one that tells its number.
func decision(i int) allocation.Decision {
	return allocation.Decision{Time: morning, Status: 200, RegistrationID: fmt.Sprint("device-", i), Request: json.RawMessage(`{}`)}
}

// numbers gives the registration IDs of records.
func numbers(all []Record) string {
	var ids []string
	for _, r := range all {
		ids = append(ids, strings.TrimPrefix(r.RegistrationID, "device-"))
	}
	return strings.Join(ids, " ")
}

func TestWriter(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "decisions.jsonl")
	for range 2 { // a restart goes on in the same file
		w := NewWriter(Config{Path: path})
		for _, d := range decisions() {
			w.Add(d)
		}
		w.Add(allocation.Decision{Status: 401})
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(Stats{Written: 3}, w.Stats()); diff != "" {
			t.Errorf("stats (-want +got):\n%s", diff)
		}
	}
	got, problems := readAll(t, path)
	if diff := cmp.Diff(append(records(t), records(t)...), got); diff != "" || problems != nil {
		t.Errorf("records (-want +got):\n%s%v", diff, problems)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v; requests hold certificates and payloads", info.Mode())
	}
}

// TestOneWriteASecond: decisions gather for a second, and nothing is written
// without one.
func TestOneWriteASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "decisions.jsonl")
		w := NewWriter(Config{Path: path})
		defer w.Close()
		time.Sleep(time.Hour)
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("there is a file without a decision: %v", err)
		}
		for i := range 5 {
			w.Add(decision(i))
			time.Sleep(199 * time.Millisecond)
		}
		synctest.Wait()
		if got := w.Stats().Written; got != 0 {
			t.Errorf("%d decisions written before the second was over", got)
		}
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		if got := w.Stats().Written; got != 5 {
			t.Errorf("%d decisions written after the second, want 5", got)
		}
	})
}

// TestFloodIsDropped: while the writer does not come to write, only so much is
// kept, the rest is counted, and the file tells of it.
func TestFloodIsDropped(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "decisions.jsonl")
	w := &Writer{cfg: Config{Path: path, Limit: DefaultLimit, Logger: slog.New(slog.DiscardHandler)}, wake: make(chan struct{}, 1)}
	large := strings.Repeat("x", 500_000)
	for i := range 20 {
		d := decision(0)
		if i%2 == 0 {
			d.Request = json.RawMessage(`"` + large + `"`)
		} else {
			d.Device = allocation.Row{"note": large}
		}
		w.Add(d)
	}
	w.flush()
	w.Add(decision(1))
	w.flush()
	w.closeFile()
	if got := w.Stats(); got.Written != 17 || got.Lost != 4 || got.Err != nil {
		t.Errorf("got %+v, want 16 and 1 of 21 decisions written", got)
	}
	got, problems := readAll(t, path)
	if len(got) != 17 {
		t.Errorf("%d records, want 17", len(got))
	}
	if diff := cmp.Diff([]string{path + ":1: 4 decisions before this line were not recorded"}, problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

// TestRotation: all files together stay within the limit, the newest decisions are
// kept, and their order is that of the files.
func TestRotation(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "decisions.jsonl")
	w := &Writer{cfg: Config{Path: path, Limit: 4000, Logger: slog.New(slog.DiscardHandler)}, wake: make(chan struct{}, 1)}
	var entries []os.DirEntry
	flush := func() {
		w.flush()
		var err error
		if entries, err = os.ReadDir(filepath.Dir(path)); err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			info, err := entry.Info()
			if err != nil {
				t.Fatal(err)
			}
			if info.Size() > 1000 {
				t.Errorf("%s has %d bytes, want at most 1000", entry.Name(), info.Size())
			}
		}
	}
	const all = 300
	for i := range all {
		d := decision(i)
		d.Rule = strings.Repeat("r", i*13%61) // lines of many lengths
		w.Add(d)
		if i%7 == 0 && i%5 != 0 { // batches begin and end anywhere in a file, and may fill more than one
			flush()
		}
	}
	flush()
	w.closeFile()
	if got := w.Stats(); got.Written != all || got.Err != nil {
		t.Errorf("got %+v, want %d written", got, all)
	}
	if len(entries) != 4 {
		t.Errorf("%d files, want 4", len(entries))
	}
	got, problems := readAll(t, path)
	if problems != nil {
		t.Errorf("problems: %v", problems)
	}
	var want []string
	for i := all - len(got); i < all; i++ {
		want = append(want, fmt.Sprint(i))
	}
	if diff := cmp.Diff(strings.Join(want, " "), numbers(got)); diff != "" || len(got) < 20 {
		t.Errorf("%d records (-want +got):\n%s", len(got), diff)
	}
}

// TestRecordTooLong is lost alone.
func TestRecordTooLong(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "decisions.jsonl")
	w := NewWriter(Config{Path: path})
	long := decision(1)
	long.Response = json.RawMessage(`"` + strings.Repeat("x", maxLine) + `"`)
	for _, d := range []allocation.Decision{decision(0), long, decision(2)} {
		w.Add(d)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, _ := readAll(t, path)
	if numbers(got) != "0 2" || w.Stats().Lost != 1 {
		t.Errorf("got %q and %+v, want 0 2 and one lost", numbers(got), w.Stats())
	}
}

// TestKilled: the part of a line that a killed writer has left costs no other.
func TestKilled(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "decisions.jsonl")
	if err := os.WriteFile(path, []byte(`{"v":1,"ti`), 0o600); err != nil {
		t.Fatal(err)
	}
	w := NewWriter(Config{Path: path})
	w.Add(decision(0))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, problems := readAll(t, path)
	if numbers(got) != "0" || len(problems) != 1 || !strings.HasPrefix(problems[0], path+":1: ") {
		t.Errorf("got %q and %q, want the record and a word on line 1", numbers(got), problems)
	}
}

// TestTrouble: whatever becomes of the file, decisions are counted, the trouble is
// told once, and so is its end.
func TestTrouble(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name         string
		begin, mend  func(t *testing.T, path string)
		wantTrouble  string // in the log, or "" for none
		want         string // the decisions that are in the files at the end
		wantProblems int
	}{
		{
			name:  "deleted",
			begin: func(t *testing.T, path string) { remove(t, path) },
			mend:  func(*testing.T, string) {}, want: "1 2 3",
		},
		{
			name:  "moved away",
			begin: func(t *testing.T, path string) { rename(t, path, path+".old") },
			mend:  func(*testing.T, string) {}, want: "1 2 3",
		},
		{
			name: "emptied",
			begin: func(t *testing.T, path string) {
				if err := os.Truncate(path, 0); err != nil {
					t.Fatal(err)
				}
			},
			mend: func(*testing.T, string) {}, want: "1 2 3",
		},
		{
			name:  "directory deleted",
			begin: func(t *testing.T, path string) { rename(t, filepath.Dir(path), filepath.Dir(path)+".away") },
			mend:  func(t *testing.T, path string) { rename(t, filepath.Dir(path)+".away", filepath.Dir(path)) },
			want:  "0 3", wantTrouble: "no such file", wantProblems: 1,
		},
		{
			name: "disk full",
			begin: func(t *testing.T, path string) {
				remove(t, path)
				if err := os.Symlink("/dev/full", path); err != nil {
					t.Fatal(err)
				}
			},
			mend: func(t *testing.T, path string) { remove(t, path) },
			want: "3", wantTrouble: "no space left", wantProblems: 1,
		},
		{
			name: "not a file",
			begin: func(t *testing.T, path string) {
				remove(t, path)
				if err := os.Mkdir(path, 0o700); err != nil {
					t.Fatal(err)
				}
			},
			mend: func(t *testing.T, path string) { remove(t, path) },
			want: "3", wantTrouble: "is a directory", wantProblems: 1,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if test.name == "disk full" {
				if _, err := os.Stat("/dev/full"); err != nil {
					t.Skip("no /dev/full here:", err)
				}
			}
			path := filepath.Join(t.TempDir(), "state", "decisions.jsonl")
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			w := &Writer{cfg: Config{Path: path, Limit: DefaultLimit, Logger: slog.New(slog.NewTextHandler(&log, nil))}, wake: make(chan struct{}, 1)}
			defer w.closeFile()
			add := func(i int) {
				w.Add(decision(i))
				w.flush()
			}
			add(0)
			test.begin(t, path)
			add(1)
			add(2)
			if err := w.Stats().Err; (err != nil) != (test.wantTrouble != "") {
				t.Errorf("during the trouble: %v", err)
			}
			test.mend(t, path)
			add(3)

			got, problems := readAll(t, path)
			if numbers(got) != test.want || len(problems) != test.wantProblems {
				t.Errorf("got %q and %q, want %q and %d problems", numbers(got), problems, test.want, test.wantProblems)
			}
			for _, problem := range problems {
				if !strings.Contains(problem, "2 decisions before this line were not recorded") {
					t.Errorf("problem %q", problem)
				}
			}
			stats := w.Stats()
			if stats.Err != nil || stats.Written+stats.Lost != 4 {
				t.Errorf("got %+v", stats)
			}
			told := strings.Count(log.String(), "\n")
			if test.wantTrouble == "" && told != 0 {
				t.Errorf("told of trouble:\n%s", &log)
			}
			if test.wantTrouble != "" && (told != 2 || !strings.Contains(log.String(), test.wantTrouble) || !strings.Contains(log.String(), "again") || !strings.Contains(log.String(), "lost=2")) {
				t.Errorf("told, want one line for the beginning, with %q, and one for the end:\n%s", test.wantTrouble, &log)
			}
		})
	}
}

// TestAfterClose: a late decision is lost, and neither it nor a second Close does harm.
func TestAfterClose(t *testing.T) {
	t.Parallel()
	w := NewWriter(Config{Path: filepath.Join(t.TempDir(), "decisions.jsonl")})
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for i := range 100 {
				w.Add(decision(i))
			}
		})
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	group.Wait()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if got := w.Stats(); got.Written+got.Lost != 400 {
		t.Errorf("got %+v, want 400 together", got)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}
