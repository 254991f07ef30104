// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/contoso/gatewayd/allocation"
)

// ImportOptions say how [Import] goes about it.
type ImportOptions struct {
	// Types are those of columns that hold something else than text. A column
	// that the table has already keeps its own.
	Types map[string]allocation.ColumnType

	// Replace makes the table hold what the file holds and nothing else. Without
	// it rows are added, or take new values in the columns of the file.
	Replace bool

	// DryRun reads the whole file and changes nothing.
	DryRun bool

	// SkipBad imports the good lines of a file with bad ones.
	SkipBad bool

	// Delimiter stands between the columns. Default: a comma.
	Delimiter rune

	// Progress, unless nil, is told now and then how many bytes of the file have
	// been read and how many rows were good.
	Progress func(read int64, rows int)
}

// Problem is what is wrong with one line of a file, or one value in it.
type Problem struct {
	Line   int    // from 1; 0 when the file as a whole is meant
	Field  int    // number of the value in its line, from 1; 0 for the whole line
	Column string // name of the value's column, or empty
	Reason string
}

// String puts the problem into one line.
func (p Problem) String() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	switch {
	case p.Column != "":
		fmt.Fprintf(&b, "%s ", p.Column)
	case p.Field > 0:
		fmt.Fprintf(&b, "field %d: ", p.Field)
	}
	return b.String() + p.Reason
}

// MaxProblems is how many problems a report lists; the rest is counted.
const MaxProblems = 100

// Report is what [Import] found and did.
type Report struct {
	Columns  []Column  // of the file, in its order
	Rows     int       // good ones
	BadLines int       // lines with a problem
	Lowered  int       // registration IDs that were not in lower case
	Problems []Problem // the first of them, MaxProblems at most
	Before   int       // rows in the table before
	After    int       // and after; both 0 after a dry run
	Imported bool      // whether the table was changed
}

// target is a table that rows go into, all at once when commit is called. abort
// leaves everything as it was; it may be called after commit and does nothing
// then.
type target interface {
	// existing gives the columns of the table that is there, or none.
	existing() []Column
	load(ctx context.Context, columns []Column, replace bool, rows iter.Seq[[]any]) error
	commit(ctx context.Context) (before, after int, err error)
	abort()
}

// Import reads a CSV file into the directory: one line of column names, then one
// line for each device. Either every good row is in the table afterwards or
// none: a bad line keeps all others out, unless they are to be skipped. Whoever
// reads the table meanwhile, a webhook above all, sees the old one or the new.
//
// The report tells what is wrong with the file; an error tells of trouble with
// reading or the database. A SQLite file that does not exist is made.
func Import(ctx context.Context, config Config, file io.Reader, options ImportOptions) (Report, error) {
	into, err := openTarget(ctx, config, options.DryRun)
	if err != nil {
		return Report{}, fmt.Errorf("opening the device directory: %w", err)
	}
	defer into.abort()
	return importInto(ctx, into, file, options)
}

func openTarget(ctx context.Context, config Config, dryRun bool) (target, error) {
	switch {
	case (config.File == "") == (config.URL == ""):
		return nil, errors.New("give either a SQLite file or a PostgreSQL URL")
	case dryRun:
		return openDryRun(ctx, config)
	case config.File != "":
		return openSQLiteTarget(ctx, config.File)
	default:
		return openPostgresTarget(ctx, config.URL)
	}
}

// importer is one import under way.
type importer struct {
	options ImportOptions
	csv     *csvFile
	columns []Column
	id      int            // index of the registration ID
	seen    map[string]int // line of each ID
	report  Report
	err     error // ends the import
}

func importInto(ctx context.Context, into target, file io.Reader, options ImportOptions) (Report, error) {
	i := &importer{options: options, seen: map[string]int{}}
	csv, problems, err := openCSV(file, options.Delimiter)
	if err != nil {
		return i.report, fmt.Errorf("reading the CSV: %w", err)
	}
	if problems == nil {
		i.columns, problems = chooseColumns(csv.names, into.existing(), options)
	}
	if problems != nil {
		i.report.Problems = problems
		i.report.BadLines = 1
		return i.report, nil
	}
	i.csv, i.report.Columns = csv, i.columns
	i.id = slices.IndexFunc(i.columns, func(c Column) bool { return c.Name == idColumn })

	if err := into.load(ctx, i.columns, options.Replace, i.rows(ctx)); err != nil {
		return i.report, fmt.Errorf("importing into the device directory: %w", err)
	}
	if i.err != nil {
		return i.report, fmt.Errorf("importing into the device directory: %w", i.err)
	}
	if options.DryRun || i.report.BadLines > 0 && !options.SkipBad {
		return i.report, nil
	}
	if i.report.Before, i.report.After, err = into.commit(ctx); err != nil {
		return i.report, fmt.Errorf("importing into the device directory: %w; the table is as it was", err)
	}
	i.report.Imported = true
	return i.report, nil
}

// chooseColumns gives the file's columns with their types: those of the table
// that is there, else those of the options, else text.
func chooseColumns(names []string, existing []Column, options ImportOptions) (columns []Column, problems []Problem) {
	there := map[string]Column{}
	for _, c := range existing {
		there[c.Name] = c
	}
	for field, name := range names {
		bad := func(format string, args ...any) {
			problems = append(problems, Problem{Line: 1, Field: field + 1, Column: name, Reason: fmt.Sprintf(format, args...)})
		}
		wanted, asked := options.Types[name]
		column, known := there[name]
		switch {
		case name == idColumn:
			column.Type, column.whole = allocation.ColumnText, false
		case known && (!options.Replace || !asked):
			if asked && column.Type != wanted {
				bad("is a column of the table already, declared %s; %s=%s needs --replace", column.Declared, name, wanted)
			}
		case !known && len(existing) > 0 && !options.Replace:
			bad("is no column of the table, which has %s; --replace makes the table anew", listed(existing))
		case asked:
			column = Column{Type: wanted}
		default:
			column = Column{Type: allocation.ColumnText}
		}
		column.Name = name
		columns = append(columns, column)
	}
	for _, name := range slices.Sorted(maps.Keys(options.Types)) {
		if !slices.Contains(names, name) {
			problems = append(problems, Problem{Line: 1, Reason: fmt.Sprintf("has no column %s, for which a type is given", name)})
		}
	}
	return columns, problems
}

// rows reads the file to its end and gives its rows as long as they are of use.
// A row is overwritten by the next one.
func (i *importer) rows(ctx context.Context) iter.Seq[[]any] {
	return func(yield func([]any) bool) {
		row := make([]any, len(i.columns))
		wanted := true
		for n := 0; ; n++ {
			if n%1024 == 0 {
				if i.err = ctx.Err(); i.err != nil {
					return
				}
				i.progress()
			}
			record, line, problem, err := i.csv.next()
			if problem != nil {
				i.bad(*problem)
			}
			if err != nil {
				if problem == nil && !errors.Is(err, io.EOF) {
					i.err = fmt.Errorf("reading the CSV: %w", err)
				}
				i.progress()
				return
			}
			if problem != nil || !i.parse(row, record, line) {
				wanted = wanted && i.options.SkipBad
				continue
			}
			if i.report.Rows == maxRecords {
				i.err = fmt.Errorf("the file has more than %d rows", maxRecords)
				return
			}
			i.report.Rows++
			if wanted && !yield(row) {
				return // the target says why
			}
		}
	}
}

func (i *importer) progress() {
	if i.options.Progress != nil {
		i.options.Progress(i.csv.leash.read, i.report.Rows)
	}
}

// bad adds a problem of a line of its own.
func (i *importer) bad(problem Problem) {
	i.report.BadLines++
	i.note(problem)
}

func (i *importer) note(problem Problem) {
	if len(i.report.Problems) < MaxProblems {
		i.report.Problems = append(i.report.Problems, problem)
	}
}

// parse reads a record into a row. It tells whether the row is good.
func (i *importer) parse(row []any, record []string, line int) bool {
	good := true
	bad := func(field int, reason string) {
		if good {
			i.report.BadLines++
		}
		good = false
		i.note(Problem{Line: line, Field: field + 1, Column: i.columns[field].Name, Reason: reason})
	}
	for field, text := range record {
		if field == i.id {
			continue
		}
		value, err := parseCell(text, i.columns[field])
		if err != nil {
			bad(field, err.Error())
		}
		row[field] = value
	}
	id := strings.ToLower(record[i.id])
	switch first, twice := i.seen[id]; {
	case !isRegistrationID(record[i.id]):
		bad(i.id, fmt.Sprintf("is %q and no registration ID: those have 1 to 128 letters, digits and - . _ :, with a letter, digit or - at the end", clip(record[i.id])))
	case twice:
		bad(i.id, fmt.Sprintf("is %q, which line %d has already; case does not count", clip(record[i.id]), first))
	default:
		id = strings.Clone(id) // the record's memory holds a whole line
		i.seen[id] = line
	}
	row[i.id] = id
	if good && id != record[i.id] {
		i.report.Lowered++
	}
	return good
}
