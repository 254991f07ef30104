// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"database/sql"
	"path/filepath"
	"strings"
	"testing"

	"github.com/contoso/gatewayd/allocation"
)

// newFile is the path of a SQLite file that does not exist yet.
func newFile(t testing.TB) Config {
	t.Helper()
	return Config{File: filepath.Join(t.TempDir(), "devices.db")}
}

// open opens a directory for the length of the test.
func open(t testing.TB, config Config) *Directory {
	t.Helper()
	d, err := Open(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// fill imports lines that must be good.
func fill(t testing.TB, config Config, options ImportOptions, lines ...string) Report {
	t.Helper()
	report, err := Import(context.Background(), config, strings.NewReader(strings.Join(lines, "\n")), options)
	if err != nil {
		t.Fatal(err)
	}
	if !report.Imported {
		t.Fatalf("not imported: %v", report.Problems)
	}
	return report
}

// run runs statements on a SQLite file, as another program does.
func run(t testing.TB, config Config, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", dsn(config.File, "_pragma=busy_timeout(5000)"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, statement := range statements {
		if _, err := db.ExecContext(context.Background(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// exported is the table as CSV.
func exported(t testing.TB, config Config) string {
	t.Helper()
	d := open(t, config)
	columns, err := d.Columns(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if _, err := d.Export(context.Background(), &out, columns); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// wantRow looks a row up.
func wantRow(t testing.TB, d *Directory, id string) allocation.Row {
	t.Helper()
	row, found, err := d.Lookup(context.Background(), id)
	if err != nil || !found {
		t.Fatalf("looking up %s: found %v, %v", id, found, err)
	}
	return row
}

// types are those of most tests.
var types = map[string]allocation.ColumnType{"floor": allocation.ColumnNumber, "wired": allocation.ColumnBool}
