// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/contoso/gatewayd/allocation"
)

// TestImport reads one file with everything that is allowed in one.
func TestImport(t *testing.T) {
	t.Parallel()
	config := newFile(t)
	report := fill(t, config, ImportOptions{Types: types},
		"\ufeffregistration_id,hub,floor,wired,group\r",
		"Oven-7,contoso-toasters-hub,3,yes,\"a, \"\"b\"\"\r",
		"c\"\r",
		"\r",
		"pump:8,,-0.5,0,\r",
		"kettle_9-,ü,9007199254740993,,x",
	)
	if report.Rows != 3 || report.Lowered != 1 || report.Before != 0 || report.After != 3 || report.BadLines != 0 {
		t.Errorf("got %+v", report)
	}
	d := open(t, config)
	for id, want := range map[string]allocation.Row{
		"oven-7":    {"registration_id": "oven-7", "hub": "contoso-toasters-hub", "floor": int64(3), "wired": true, "group": "a, \"b\"\nc"},
		"pump:8":    {"registration_id": "pump:8", "hub": nil, "floor": -0.5, "wired": false, "group": nil},
		"KETTLE_9-": {"registration_id": "kettle_9-", "hub": "ü", "floor": int64(9007199254740993), "wired": nil, "group": "x"},
	} {
		if diff := cmp.Diff(want, wantRow(t, d, id)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", id, diff)
		}
	}
	if _, found, err := d.Lookup(t.Context(), "nobody"); found || err != nil {
		t.Errorf("nobody: found %v, %v", found, err)
	}
	want := []Column{
		{Name: "registration_id", Type: allocation.ColumnText, Declared: "TEXT"},
		{Name: "hub", Type: allocation.ColumnText, Declared: "TEXT"},
		{Name: "floor", Type: allocation.ColumnNumber, Declared: "NUMERIC"},
		{Name: "wired", Type: allocation.ColumnBool, Declared: "BOOLEAN"},
		{Name: "group", Type: allocation.ColumnText, Declared: "TEXT"},
	}
	columns, err := d.Columns(t.Context())
	if diff := cmp.Diff(want, columns, cmpopts.IgnoreUnexported(Column{})); diff != "" || err != nil {
		t.Errorf("columns: %v (-want +got):\n%s", err, diff)
	}
	if left, _ := os.ReadDir(strings.TrimSuffix(config.File, "devices.db")); len(left) != 1 {
		t.Errorf("beside the file is more: %v", left)
	}
}

// TestBadFiles has a row for each thing that can be wrong with a file. Nothing of
// such a file is imported.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	const head = "registration_id,hub,floor,wired\n"
	tests := []struct {
		name string
		file string
		want []string
	}{
		{"empty", "", []string{"line 1: the file is empty; its first line names the columns"}},
		{"only a mark", "\ufeff", []string{"line 1: the file is empty; its first line names the columns"}},
		{"no ID column", "id,hub\na,b\n", []string{"line 1: field 1: there is no column registration_id"}},
		{"semicolons", "registration_id;hub\na;b\n", []string{"line 1: field 1: the columns are not separated by commas; give --delimiter"}},
		{"column names", "registration_id,Hub,,2nd,hub,hub,a b\n", []string{
			`line 1: field 2: the column name "Hub" has upper-case letters; write "hub"`,
			"line 1: field 3: the column has no name",
			`line 1: field 4: the column name "2nd" has something else than lower-case letters, digits and _, does not begin with a letter, or is longer than 63`,
			"line 1: field 6: the column hub stands in field 5 already",
			`line 1: field 7: the column name "a b" has something else than lower-case letters, digits and _, does not begin with a letter, or is longer than 63`,
		}},
		{"type of no column", "registration_id,hub\na,b\n", []string{"line 1: has no column floor, for which a type is given", "line 1: has no column wired, for which a type is given"}},
		{"too many columns", "registration_id" + strings.Repeat(",a", 200), []string{"line 1: field 201: there are 201 columns, and at most 200 are possible"}},
		{"lengths", head + "a,b,1\nb,c,1,yes,\nc\n", []string{
			"line 2: the line has 3 values, and there are 4 columns",
			"line 3: the line has 5 values, and there are 4 columns",
			"line 4: the line has 1 value, and there are 4 columns",
		}},
		{"IDs", head + ",,,\nend.,,,\nsp ace,,,\nü,,,\n\u212a,,,\n" + strings.Repeat("a", 129) + ",,,\n", []string{
			`line 2: registration_id is "" and no registration ID: those have 1 to 128 letters, digits and - . _ :, with a letter, digit or - at the end`,
			`line 3: registration_id is "end." and no registration ID: those have 1 to 128 letters, digits and - . _ :, with a letter, digit or - at the end`,
			`line 4: registration_id is "sp ace" and no registration ID: those have 1 to 128 letters, digits and - . _ :, with a letter, digit or - at the end`,
			`line 5: registration_id is "ü" and no registration ID: those have 1 to 128 letters, digits and - . _ :, with a letter, digit or - at the end`,
			"line 6: registration_id is \"\u212a\" and no registration ID: those have 1 to 128 letters, digits and - . _ :, with a letter, digit or - at the end",
			`line 7: registration_id is "` + strings.Repeat("a", 60) + `…" and no registration ID: those have 1 to 128 letters, digits and - . _ :, with a letter, digit or - at the end`,
		}},
		{"the same ID twice", head + "a,,x,\nb,,,\nA,,,\n", []string{
			`line 2: floor is "x" and no number such as 12, -0.5 or 1e6`,
			`line 4: registration_id is "A", which line 2 has already; case does not count`,
		}},
		{"numbers", head + "a,,007,\nb,,0x10,\nc,,1_000,\nd,,NaN,\ne,,18446744073709551616,\nf,,1e400,\ng,,\"1,5\",\nh,, 5 ,\n", []string{
			`line 2: floor is "007" and no number such as 12, -0.5 or 1e6`,
			`line 3: floor is "0x10" and no number such as 12, -0.5 or 1e6`,
			`line 4: floor is "1_000" and no number such as 12, -0.5 or 1e6`,
			`line 5: floor is "NaN" and no number such as 12, -0.5 or 1e6`,
			`line 6: floor is "18446744073709551616", which is too large to be kept exactly`,
			`line 7: floor is "1e400", which is too large to be kept exactly`,
			`line 8: floor is "1,5" and no number such as 12, -0.5 or 1e6`,
		}},
		{"two values of a line", head + "a,\xff,x,maybe\n", []string{
			"line 2: hub is not UTF-8; save the file as UTF-8",
			`line 2: floor is "x" and no number such as 12, -0.5 or 1e6`,
			`line 2: wired is "maybe" and neither true, yes or 1 nor false, no or 0`,
		}},
		{"NUL", head + "a,\x00,,\n", []string{"line 2: hub holds a NUL byte, which no database takes"}},
		{"quotes", head + "a,b\"c\",,\nb,\"c\"d,,\nc,\"d\nd\"e,,\nd,,,\n,,,\n", []string{
			`line 2: there is a quote within a value that has none around it, at byte 4 of line 2; write the value as "a ""word"" in quotes"`,
			"line 3: a quoted value does not end well, at byte 5",
			"line 4: a quoted value that begins here does not end well, at byte 2 of line 5",
			`line 7: registration_id is "" and no registration ID: those have 1 to 128 letters, digits and - . _ :, with a letter, digit or - at the end`,
		}},
		{"quote without an end", head + "a,b,,\nb,\"c\n,,\n", []string{"line 3: a quoted value that begins here does not end well, at byte 4 of line 4"}},
		{"endless line", head + "a,b,,\n" + strings.Repeat("x", maxRecord+2*readAhead), []string{"line 3: the line, or a quoted value that does not end, is longer than 64 KiB"}},
		{"endless quote", head + "a,b,,\nb,\"" + strings.Repeat("x\n", maxRecord), []string{"line 3: the line, or a quoted value that does not end, is longer than 64 KiB"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, options := range []ImportOptions{{Types: types}, {Types: types, DryRun: true}} {
				config := newFile(t)
				report, err := Import(t.Context(), config, strings.NewReader(test.file), options)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, problem := range report.Problems {
					got = append(got, problem.String())
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("problems (-want +got):\n%s", diff)
				}
				if report.Imported || report.BadLines == 0 {
					t.Errorf("got %+v", report)
				}
				if _, err := os.Stat(config.File); err == nil {
					t.Error("a file was made")
				}
			}
		})
	}
}

// TestSkipBad imports the good lines, and counts all problems but lists a
// hundred.
func TestSkipBad(t *testing.T) {
	t.Parallel()
	config := newFile(t)
	var file strings.Builder
	file.WriteString("registration_id,floor\n")
	for i := range 300 {
		fmt.Fprintf(&file, "a%d,%d\nb%d,x\n", i, i, i)
	}
	options := ImportOptions{Types: map[string]allocation.ColumnType{"floor": allocation.ColumnNumber}, SkipBad: true}
	report := fill(t, config, options, file.String())
	if report.Rows != 300 || report.BadLines != 300 || len(report.Problems) != 100 || report.After != 300 {
		t.Errorf("got %d rows, %d bad lines, %d problems, %d after", report.Rows, report.BadLines, len(report.Problems), report.After)
	}
	if row := wantRow(t, open(t, config), "a299"); row["floor"] != int64(299) {
		t.Errorf("got %v", row)
	}
}

// TestImportAgain: rows are added and changed, or the table is made anew.
func TestImportAgain(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"delete", "wal"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			config := newFile(t)
			fill(t, config, ImportOptions{Types: types}, "registration_id,hub,floor,wired", "a,h1,1,yes", "b,h2,2,no")
			run(t, config, "PRAGMA journal_mode="+mode, "CREATE INDEX mine ON devices (hub)", "CREATE TABLE other (x)", "INSERT INTO other VALUES (1)")
			d := open(t, config)

			report := fill(t, config, ImportOptions{}, "floor,registration_id", "7,B", "8,c")
			if report.Before != 2 || report.After != 3 {
				t.Errorf("got %+v", report)
			}
			want := "registration_id,hub,floor,wired\na,h1,1,true\nb,h2,7,false\nc,,8,\n"
			if diff := cmp.Diff(want, exported(t, config)); diff != "" {
				t.Errorf("after rows were added (-want +got):\n%s", diff)
			}
			if row := wantRow(t, d, "b"); row["floor"] != int64(7) {
				t.Errorf("whoever had the file open sees %v", row)
			}

			report = fill(t, config, ImportOptions{Replace: true}, "registration_id,wired,floor,hub", "d,1,9,h3")
			if report.Before != 3 || report.After != 1 {
				t.Errorf("got %+v", report)
			}
			want = "registration_id,hub,floor,wired\nd,h3,9,true\n"
			if diff := cmp.Diff(want, exported(t, config)); diff != "" {
				t.Errorf("after a replacement with the same columns (-want +got):\n%s", diff)
			}
			run(t, config, "DROP INDEX mine") // it is still there

			fill(t, config, ImportOptions{Replace: true, Types: map[string]allocation.ColumnType{"floor": allocation.ColumnText}}, "registration_id,floor,room", "e,07,x")
			if diff := cmp.Diff("registration_id,floor,room\ne,07,x\n", exported(t, config)); diff != "" {
				t.Errorf("after a replacement with others (-want +got):\n%s", diff)
			}
			if row := wantRow(t, d, "e"); row["room"] != "x" {
				t.Errorf("whoever had the file open sees %v", row)
			}
			run(t, config, "DELETE FROM other WHERE x = 1", "DROP TABLE other") // so is that
		})
	}
}

// TestColumnsOfTheTable: a file that does not fit the table is refused.
func TestColumnsOfTheTable(t *testing.T) {
	t.Parallel()
	config := newFile(t)
	fill(t, config, ImportOptions{Types: types}, "registration_id,hub,floor,wired", "a,h1,1,yes")
	before := exported(t, config)
	for _, test := range []struct {
		types map[string]allocation.ColumnType
		file  string
		want  string
	}{
		{nil, "registration_id,room\nb,x", "line 1: room is no column of the table, which has registration_id, hub, floor, wired; --replace makes the table anew"},
		{map[string]allocation.ColumnType{"floor": allocation.ColumnText}, "registration_id,floor\nb,1", "line 1: floor is a column of the table already, declared NUMERIC; floor=text needs --replace"},
		{nil, "registration_id,floor\nb,ground", `line 2: floor is "ground" and no number such as 12, -0.5 or 1e6`},
	} {
		for _, dryRun := range []bool{false, true} {
			report, err := Import(t.Context(), config, strings.NewReader(test.file), ImportOptions{Types: test.types, DryRun: dryRun})
			if err != nil || len(report.Problems) != 1 || report.Problems[0].String() != test.want || report.Imported {
				t.Errorf("%q: %v, %+v; want %q", test.file, err, report, test.want)
			}
		}
	}
	if diff := cmp.Diff(before, exported(t, config)); diff != "" {
		t.Errorf("the table has changed:\n%s", diff)
	}
	run(t, config, "ALTER TABLE devices RENAME TO things", "CREATE VIEW devices AS SELECT * FROM things")
	if _, err := Import(context.Background(), config, strings.NewReader("registration_id\na"), ImportOptions{}); err == nil || !strings.Contains(err.Error(), "is a view") {
		t.Errorf("into a view: %v", err)
	}
	if row := wantRow(t, open(t, config), "a"); row["hub"] != "h1" {
		t.Errorf("through a view: %v", row)
	}
}
