// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/allocation"
)

// TestForeignFile reads a table that somebody else has made, with everything that
// SQLite lets into one.
func TestForeignFile(t *testing.T) {
	t.Parallel()
	config := newFile(t)
	run(t, config,
		`CREATE TABLE devices (registration_id TEXT PRIMARY KEY, Hub VARCHAR(40), floor INTEGER, share REAL, wired BOOLEAN, seen DATETIME, raw BLOB, any_thing, "odd name" TEXT)`,
		`INSERT INTO devices VALUES ('a', 'h1', 3, 0.5, 1, '2026-11-22 06:00:00', x'ff00', 'x', 'y'), ('b', NULL, 'ground', NULL, 'maybe', NULL, 'text', 7, NULL)`)
	d := open(t, config)
	for id, want := range map[string]allocation.Row{
		"a": {"registration_id": "a", "hub": "h1", "floor": int64(3), "share": 0.5, "wired": true, "seen": "2026-11-22T06:00:00Z", "raw": "ff00", "any_thing": "x", "odd name": "y"},
		"b": {"registration_id": "b", "hub": nil, "floor": "ground", "share": nil, "wired": "maybe", "seen": nil, "raw": "text", "any_thing": int64(7), "odd name": nil},
	} {
		if diff := cmp.Diff(want, wantRow(t, d, id)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", id, diff)
		}
	}
	want := "registration_id,hub,floor,share,wired,seen,raw,any_thing,odd name\n" +
		"a,h1,3,0.5,true,2026-11-22T06:00:00Z,ff00,x,y\nb,,ground,,maybe,,text,7,\n"
	if diff := cmp.Diff(want, exported(t, config)); diff != "" {
		t.Errorf("exported (-want +got):\n%s", diff)
	}
}

// TestCheck compares what a policy reads with what the table has.
func TestCheck(t *testing.T) {
	t.Parallel()
	config := newFile(t)
	d := open(t, config)
	if err := d.Check(t.Context(), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	run(t, config, "CREATE TABLE other (x)")
	var wrong *allocation.DirectoryTableError
	if err := d.Check(t.Context(), nil); !errors.As(err, &wrong) || err.Error() != "the device directory does not fit: there is no table devices" {
		t.Errorf("no table: %v", err)
	}
	run(t, config, "CREATE TABLE devices (id TEXT, hub TEXT, floor INT, wired INT, open)")
	for _, test := range []struct {
		column string
		t      allocation.ColumnType
		want   string
	}{
		{"hub", allocation.ColumnText, ""},
		{"floor", allocation.ColumnNumber, ""},
		{"wired", allocation.ColumnBool, ""},
		{"open", allocation.ColumnBool, ""},
		{"room", allocation.ColumnText, `; the table devices has no column "room", which the policy reads; it has id, hub, floor, wired, open`},
		{"hub", allocation.ColumnNumber, `; the column "hub" is declared TEXT, and the policy expects a number`},
		{"floor", allocation.ColumnText, `; the column "floor" is declared INT, and the policy expects a text`},
	} {
		err := d.Check(t.Context(), map[string]allocation.ColumnType{test.column: test.t})
		want := "the device directory does not fit: the table devices has no column registration_id" + test.want
		if !errors.As(err, &wrong) || err.Error() != want {
			t.Errorf("%s as %s: got %v, want %s", test.column, test.t, err, want)
		}
	}
	run(t, config, "DROP TABLE devices", "CREATE TABLE devices (registration_id TEXT)")
	if err := d.Check(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestRowsInTrouble: what is wrong with a row is told, and does not shut the
// gate.
func TestRowsInTrouble(t *testing.T) {
	t.Parallel()
	config := newFile(t)
	run(t, config, "CREATE TABLE devices (registration_id TEXT, note TEXT)",
		"INSERT INTO devices VALUES ('twice', 1), ('twice', 2), ('good', 1), ('large', hex(zeroblob(32769)))")
	d := open(t, config)
	for id, want := range map[string]string{
		"twice": `asking the device directory: there are several rows for "twice"; make registration_id the primary key, or mend the view`,
		"large": "asking the device directory: the row has 64 KiB of text, and at most 64 are of use here; leave columns out with a view",
	} {
		if _, _, err := d.Lookup(t.Context(), id); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", id, err, want)
		}
		wantRow(t, d, "good")
	}
}

// TestRowOfAnotherDevice: what a database takes for the same ID is none to us.
func TestRowOfAnotherDevice(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ declared, stored, asked, want string }{
		{"NUMERIC", "7", "007", `the database gives the row of "7" for "007"; declare registration_id as text, with a collation that tells the two apart`},
		{"INTEGER PRIMARY KEY", "1000", "1e3", `the database gives the row of "1000" for "1e3"; declare registration_id as text, with a collation that tells the two apart`},
		{"TEXT", "007", "007", ""},
		{"TEXT COLLATE NOCASE", "Breakroom499", "breakroom499", ""},
		{"TEXT COLLATE RTRIM", "breakroom499  ", "breakroom499", ""},
	} {
		config := newFile(t)
		run(t, config, "CREATE TABLE devices (registration_id "+test.declared+", hub TEXT)", "INSERT INTO devices VALUES ('"+test.stored+"', 'h')")
		d := open(t, config)
		if test.want == "" {
			wantRow(t, d, test.asked)
			continue
		}
		row, found, err := d.Lookup(t.Context(), test.asked)
		if err == nil || err.Error() != "asking the device directory: "+test.want || row != nil || found {
			t.Errorf("%s: got %v, %v, %v, want %s", test.declared, row, found, err, test.want)
		}
	}
}

// TestCopiedOver: a file that is copied over the open one has the counts by which
// SQLite notices a change, since both were made in the same few steps.
func TestCopiedOver(t *testing.T) {
	t.Parallel()
	config, other := newFile(t), newFile(t)
	run(t, config, "CREATE TABLE devices (registration_id TEXT PRIMARY KEY, hub TEXT, room TEXT)", "INSERT INTO devices VALUES ('a', 'hub 1', 'room 1')")
	run(t, other, "CREATE TABLE devices (registration_id TEXT PRIMARY KEY, room TEXT, hub TEXT)", "INSERT INTO devices VALUES ('a', 'room 2', 'hub 2')")
	d := open(t, config)
	wantRow(t, d, "a")
	text, err := os.ReadFile(other.File)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config.File, text, 0o644); err != nil {
		t.Fatal(err)
	}
	// Later than any tick of the file system's clock.
	if err := os.Chtimes(config.File, time.Time{}, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(allocation.Row{"registration_id": "a", "hub": "hub 2", "room": "room 2"}, wantRow(t, d, "a")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestFilesInTrouble says what a person can do.
func TestFilesInTrouble(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, config Config)
		want    string
	}{
		{"absent", func(*testing.T, Config) {}, "no such file or directory"},
		{"no database", func(t *testing.T, c Config) {
			if err := os.WriteFile(c.File, []byte(strings.Repeat("no database ", 200)), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "file is not a database"},
		{"empty", func(t *testing.T, c Config) {
			if err := os.WriteFile(c.File, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "has no table devices"},
		{"no table", func(t *testing.T, c Config) { run(t, c, "CREATE TABLE other (x)") }, "gatewayctl directory import makes it"},
		{"a directory", func(t *testing.T, c Config) {
			if err := os.Mkdir(c.File, 0o755); err != nil {
				t.Fatal(err)
			}
		}, "devices.db: it is a directory, and not a SQLite file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			config := newFile(t)
			test.prepare(t, config)
			d := open(t, config)
			if _, _, err := d.Lookup(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want one with %q", err, test.want)
			}
			if test.name == "a directory" {
				return
			}
			// It is mended, and found so after the pause.
			_ = os.Remove(config.File)
			fill(t, config, ImportOptions{}, "registration_id,hub", "a,h1")
			d.gate.until = time.Time{}
			wantRow(t, d, "a")
		})
	}
}

// TestReadOnly: the webhook's connections cannot write.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	config := newFile(t)
	fill(t, config, ImportOptions{}, "registration_id", "a")
	d := open(t, config)
	wantRow(t, d, "a")
	file := d.source.(*sqlite).opened
	if _, err := file.db.ExecContext(t.Context(), "DELETE FROM devices"); err == nil {
		t.Error("a row was deleted")
	}
}

// TestLocked: a lookup ends with its time although a writer holds the file.
func TestLocked(t *testing.T) {
	t.Parallel()
	config := newFile(t)
	fill(t, config, ImportOptions{}, "registration_id", "a")
	db, err := sql.Open("sqlite", dsn(config.File, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(t.Context(), "BEGIN EXCLUSIVE"); err != nil {
		t.Fatal(err)
	}
	d := open(t, config)
	if _, _, err := d.Lookup(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "locked") {
		t.Errorf("got %v", err)
	}
	if _, err := db.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	d.gate.until = time.Time{}
	wantRow(t, d, "a")
}

// TestServingWhileImported: a reader sees the old table or the new one and never
// anything else, while the table is made anew again and again, in each of the
// ways in which that is done.
func TestServingWhileImported(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"delete", "wal"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			config := newFile(t)
			run(t, config, "PRAGMA journal_mode="+mode, "CREATE TABLE other (x)")
			serveWhileImported(t, config)
		})
	}
}

// serveWhileImported reads from a table while it is made anew.
func serveWhileImported(t *testing.T, config Config) {
	t.Helper()
	const rows = 100
	table := func(generation int) string {
		column := []string{"same", "other"}[generation/2%2] // so that the columns change too
		var b strings.Builder
		fmt.Fprintf(&b, "registration_id,generation,%s\n", column)
		for i := range rows {
			fmt.Fprintf(&b, "d%d,%d,x\n", i, generation)
		}
		return b.String()
	}
	fill(t, config, ImportOptions{}, table(0))
	d := open(t, config)
	ctx, stop := context.WithCancel(context.Background())
	var reading sync.WaitGroup
	for reader := range 4 {
		reading.Go(func() {
			newest := 0
			for i := reader; ctx.Err() == nil; i++ {
				row, found, err := d.Lookup(context.Background(), fmt.Sprintf("d%d", i%rows))
				if err != nil || !found {
					t.Errorf("found %v, %v", found, err)
					return
				}
				var generation int
				if _, err := fmt.Sscan(row["generation"].(string), &generation); err != nil || generation < newest || len(row) != 3 {
					t.Errorf("got %v after generation %d", row, newest)
					return
				}
				newest = generation
				time.Sleep(50 * time.Microsecond) // for the import's sake
			}
		})
	}
	for generation := 1; generation <= 6; generation++ {
		fill(t, config, ImportOptions{Replace: true}, table(generation))
		bad := strings.Replace(table(generation+1), "d99,", "d99;", 1)
		if report, err := Import(context.Background(), config, strings.NewReader(bad), ImportOptions{Replace: true}); err != nil || report.Imported {
			t.Errorf("%v, %+v", err, report)
		}
	}
	stop()
	reading.Wait()
	if row := wantRow(t, d, "d0"); row["generation"] != "6" {
		t.Errorf("in the end: %v", row)
	}
}

// TestTwoImports: of two imports at once one is told so.
func TestTwoImports(t *testing.T) {
	t.Parallel()
	config := newFile(t)
	slow, feed := io.Pipe()
	done := make(chan error, 1)
	go func() {
		report, err := Import(context.Background(), config, slow, ImportOptions{})
		if err == nil && !report.Imported {
			err = fmt.Errorf("%+v", report)
		}
		done <- err
	}()
	if _, err := feed.Write([]byte("registration_id\na\n")); err != nil { // it has begun
		t.Fatal(err)
	}
	_, err := Import(t.Context(), config, strings.NewReader("registration_id\nb\n"), ImportOptions{})
	if err == nil || !strings.Contains(err.Error(), "another import may be under way") {
		t.Errorf("got %v", err)
	}
	feed.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	wantRow(t, open(t, config), "a")
}

// TestLinkAndMode: an import keeps the file's mode, and a link a link.
func TestLinkAndMode(t *testing.T) {
	t.Parallel()
	config := newFile(t)
	fill(t, config, ImportOptions{}, "registration_id", "a")
	if err := os.Chmod(config.File, 0o640); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(config.File, link); err != nil {
		t.Fatal(err)
	}
	fill(t, Config{File: link}, ImportOptions{}, "registration_id", "b")
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link: %v, %v", info, err)
	}
	if info, err := os.Stat(config.File); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the file: %v, %v", info, err)
	}
	wantRow(t, open(t, config), "b")
}

// TestKilledImport: whatever an import leaves when it is killed, the table is the
// old one, for a reader that may not write too, and the next import goes well.
func TestKilledImport(t *testing.T) {
	t.Parallel()
	if os.Getenv("KILLED_IMPORT") != "" {
		_, _ = Import(context.Background(), Config{File: os.Getenv("KILLED_IMPORT")}, os.Stdin, ImportOptions{Replace: true})
		return
	}
	for _, mode := range []string{"none", "delete", "wal"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			config := newFile(t)
			if mode != "none" {
				fill(t, config, ImportOptions{}, "registration_id,hub", "old,h1")
				run(t, config, "PRAGMA journal_mode="+mode)
			}
			importing := exec.Command(os.Args[0], "-test.run=^TestKilledImport$")
			importing.Env = append(os.Environ(), "KILLED_IMPORT="+config.File)
			stdin, err := importing.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := importing.Start(); err != nil {
				t.Fatal(err)
			}
			// More than a pipe holds and than SQLite keeps in memory: when it has been
			// written, most of it has been imported.
			out := bufio.NewWriter(stdin)
			fmt.Fprintln(out, "registration_id,hub")
			for i := range 30_000 {
				fmt.Fprintf(out, "new%d,a-hub-with-a-rather-long-name-%d\n", i, i)
			}
			if err := out.Flush(); err != nil {
				t.Fatal(err)
			}
			if err := importing.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = importing.Wait() // it was killed
			stdin.Close()

			d := open(t, config)
			if mode == "none" {
				if _, err := os.Stat(config.File); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("there is a file: %v", err)
				}
			} else {
				wantRow(t, d, "old")
				if row, found, err := d.Lookup(t.Context(), "new0"); found || err != nil {
					t.Errorf("half of the table: %v, %v", row, err)
				}
			}
			if report := fill(t, config, ImportOptions{Replace: true}, "registration_id,hub", "next,h2"); report.After != 1 {
				t.Errorf("got %+v", report)
			}
			d.gate.until = time.Time{}
			wantRow(t, d, "next")
		})
	}
}
