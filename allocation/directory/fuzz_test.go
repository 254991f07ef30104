// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"bytes"
	"context"
	"encoding/csv"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/contoso/gatewayd/allocation"
)

// memory is a target without a database.
type memory struct{ rows [][]any }

func (m *memory) existing() []Column { return nil }

func (m *memory) load(_ context.Context, _ []Column, _ bool, rows iter.Seq[[]any]) error {
	for row := range rows {
		m.rows = append(m.rows, slices.Clone(row))
	}
	return nil
}

func (m *memory) commit(context.Context) (before, after int, err error) { return 0, len(m.rows), nil }
func (m *memory) abort()                                                {}

// FuzzImport: whatever a file holds, an import ends, counts each line once and
// lists a bounded number of problems; and the rows that it takes are the same
// after they have been written and read again.
func FuzzImport(f *testing.F) {
	for _, seed := range []string{
		"registration_id,hub,floor,wired\na,b,1,yes\nB,,-0.5e3,0\n",
		"\ufeffregistration_id;hub\r\n\"a\";\"b\"\"c\r\nd\"\r\n",
		"registration_id,floor\na,1\na,x\nb,1,2\n\"",
		"registration_id\n" + strings.Repeat("a", 200),
		"floor,registration_id,wired\n9223372036854775807,a:b,TRUE\n1e400,c,\n",
		"hub\n\n\n,,,\x00\xff",
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, file []byte, skipBad bool) {
		options := ImportOptions{SkipBad: skipBad, Types: map[string]allocation.ColumnType{}}
		for name, kind := range types {
			if head, _, _ := bytes.Cut(file, []byte("\n")); bytes.Contains(head, []byte(name)) {
				options.Types[name] = kind
			}
		}
		got := &memory{}
		report, err := importInto(t.Context(), got, bytes.NewReader(file), options)
		if err != nil {
			t.Fatalf("an error of reading: %v", err)
		}
		switch {
		case len(report.Problems) > MaxProblems:
			t.Errorf("%d problems", len(report.Problems))
		case (report.BadLines > 0) != (len(report.Problems) > 0):
			t.Errorf("%d bad lines, %d problems", report.BadLines, len(report.Problems))
		case report.Imported != (len(report.Columns) > 0 && (report.BadLines == 0 || skipBad)):
			t.Errorf("got %+v", report)
		case report.Imported && report.Rows != len(got.rows):
			t.Errorf("%d rows, and %d were given", report.Rows, len(got.rows))
		}
		for _, problem := range report.Problems {
			if text := problem.String(); len(text) > 8<<10 || strings.ContainsAny(text, "\n\r\x00\x1b") {
				t.Errorf("a problem that spoils a terminal: %q", text)
			}
		}
		if !report.Imported {
			return
		}
		var text bytes.Buffer
		out := csv.NewWriter(&text)
		cells := make([]string, len(report.Columns))
		for i, c := range report.Columns {
			cells[i] = c.Name
		}
		_ = out.Write(cells)
		for _, row := range got.rows {
			for i, value := range row {
				cells[i] = toText(value)
			}
			_ = out.Write(cells)
		}
		out.Flush()
		again := &memory{}
		second, err := importInto(t.Context(), again, &text, ImportOptions{Types: options.Types})
		if err != nil || !second.Imported || second.Lowered != 0 {
			t.Fatalf("%v, %+v", err, second)
		}
		if diff := cmp.Diff(got.rows, again.rows); diff != "" {
			t.Errorf("the rows are others after writing and reading (-first +second):\n%s", diff)
		}
	})
}
