// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/allocation"
)

// program runs a program that nobody here wrote and gives what it prints. The
// test is skipped without PEERS=1.
func program(t *testing.T, stdin, name string, args ...string) (string, error) {
	t.Helper()
	if os.Getenv("PEERS") != "1" {
		t.Skip("needs " + name + ": set PEERS=1")
	}
	command := exec.Command(name, args...)
	command.Stdin = strings.NewReader(stdin)
	output, err := command.CombinedOutput()
	return string(output), err
}

// TestSQLiteShell: SQLite's own shell reads what an import wrote, cannot write
// what does not fit, and writes what a lookup reads.
func TestSQLiteShell(t *testing.T) {
	t.Parallel()
	config := newFile(t)
	fill(t, config, ImportOptions{Types: types}, "registration_id,hub,floor,wired", "Oven-7,\"h,1\",3,yes", "pump-8,,-0.5,no", "urn-9,ü,,")
	shell := func(statements string) (string, error) {
		return program(t, statements, "sqlite3", "-batch", "-bail", config.File)
	}
	got, err := shell("PRAGMA integrity_check; PRAGMA journal_mode; SELECT *, typeof(hub), typeof(floor), typeof(wired) FROM devices;")
	want := "ok\ndelete\noven-7|h,1|3|1|text|integer|integer\npump-8||-0.5|0|null|real|integer\nurn-9|ü|||text|null|null\n"
	if err != nil || got != want {
		t.Errorf("%v; the shell reads\n%s\nwant\n%s", err, got, want)
	}
	for _, bad := range []string{
		"INSERT INTO devices (registration_id) VALUES ('Upper');",
		"INSERT INTO devices (registration_id) VALUES ('oven-7');",
		"UPDATE devices SET floor = 'ground';",
		"UPDATE devices SET wired = 2;",
	} {
		if got, err := shell(bad); err == nil || !strings.Contains(got, "constraint failed") {
			t.Errorf("%s: %v, %s", bad, err, got)
		}
	}
	d := open(t, config)
	for _, mode := range []string{"delete", "wal"} {
		if got, err := shell("PRAGMA journal_mode=" + mode + "; INSERT INTO devices VALUES ('by-" + mode + "', 'h2', 4, 1);"); err != nil {
			t.Fatalf("%v: %s", err, got)
		}
		want := allocation.Row{"registration_id": "by-" + mode, "hub": "h2", "floor": int64(4), "wired": true}
		if diff := cmp.Diff(want, wantRow(t, d, "by-"+mode)); diff != "" {
			t.Errorf("written in mode %s (-want +got):\n%s", mode, diff)
		}
	}
}

// TestHotJournal: why a file is not changed in place. What a killed writer leaves
// of a large transaction keeps out who may only read, until somebody writes.
func TestHotJournal(t *testing.T) {
	t.Parallel()
	config := newFile(t)
	fill(t, config, ImportOptions{}, "registration_id,note", "old,x")
	// The shell dies within the transaction, when more has changed than it keeps
	// in memory.
	_, err := program(t, `PRAGMA cache_size = 10;
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
INSERT INTO devices SELECT 'new' || i, hex(randomblob(40)) FROM n;
.shell kill -9 $PPID
`, "sqlite3", "-batch", config.File)
	if err == nil {
		t.Fatal("the shell was not killed")
	}
	if _, err := os.Stat(config.File + "-journal"); err != nil {
		t.Fatalf("no journal is left: %v", err)
	}
	d := open(t, config)
	if row, found, err := d.Lookup(t.Context(), "old"); err == nil {
		t.Errorf("a reader reads on: %v, %v", row, found)
	}
	// An import writes, and so mends it.
	fill(t, config, ImportOptions{}, "registration_id,note", "next,y")
	if got, want := exported(t, config), "registration_id,note\nnext,y\nold,x\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestPythonCSV: what Python's csv module writes in any of its ways is read as it
// was meant, and what an export writes Python reads so too.
func TestPythonCSV(t *testing.T) {
	t.Parallel()
	const rows = `rows = [
    ["registration_id", "text", "more"],
    ["a-1", "plain", ""],
    ["a-2", "a, b", "say \"hello\""],
    ["a-3", "two\nlines", "ü € 日本 \U0001F525"],
    ["a-4", "  spaces  ", "'single'; tab\there"],
    ["a-5", "=1+1", "\"\"\""],
    ["a-6", "\\ back \\n", ","],
]
`
	want := "registration_id,text,more\na-1,plain,\na-2,\"a, b\",\"say \"\"hello\"\"\"\na-3,\"two\nlines\",ü € 日本 🔥\n" +
		"a-4,\"  spaces  \",'single'; tab\there\na-5,=1+1,\"\"\"\"\"\"\"\"\na-6,\\ back \\n,\",\"\n"
	for _, way := range []struct{ name, writer, encoding string }{
		{"excel", "csv.writer(f)", "utf-8"},
		{"excel with a mark", "csv.writer(f)", "utf-8-sig"},
		{"unix", "csv.writer(f, dialect='unix')", "utf-8"},
		{"all quoted", "csv.writer(f, quoting=csv.QUOTE_ALL)", "utf-8-sig"},
		{"semicolons", "csv.writer(f, delimiter=';')", "utf-8"},
		{"tabs", "csv.writer(f, dialect='excel-tab')", "utf-8"},
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "python.csv")
			script := "import csv\n" + rows + "with open('" + file + "', 'w', newline='', encoding='" + way.encoding + "') as f:\n    " + way.writer + ".writerows(rows)\n"
			if got, err := program(t, script, "python3", "-"); err != nil {
				t.Fatalf("%v: %s", err, got)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			config := newFile(t)
			fill(t, config, ImportOptions{Delimiter: map[string]rune{"semicolons": ';', "tabs": '\t'}[way.name]}, string(text))
			ours := exported(t, config)
			if diff := cmp.Diff(want, strings.Replace(ours, "\"  spaces  \"", "\"  spaces  \"", 1)); diff != "" {
				t.Errorf("exported (-want +got):\n%s", diff)
			}
			if err := os.WriteFile(file, []byte(ours), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := program(t, "import csv\n"+rows+"with open('"+file+"', newline='', encoding='utf-8') as f:\n    assert list(csv.reader(f, strict=True)) == rows\n", "python3", "-")
			if err != nil {
				t.Errorf("Python reads something else: %s", got)
			}
		})
	}
}
