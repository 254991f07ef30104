// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/contoso/gatewayd/allocation"
)

// Bounds of a CSV file.
const (
	maxRecord  = 64 << 10 // bytes of one record, quotes and line ends included
	maxColumns = 200
	maxRecords = 10_000_000
)

// readAhead is how much the CSV reader takes from its source before it needs it.
const readAhead = 4096

// leash ends a source that does not come to the end of a record, before that
// fills the memory.
type leash struct {
	source io.Reader
	left   int   // bytes until the leash is taut
	read   int64 // bytes so far
}

// errTaut ends the reading of a record that is too long.
var errTaut = fmt.Errorf("the line, or a quoted value that does not end, is longer than %d KiB", maxRecord>>10)

// Read reads from the source within the leash.
func (l *leash) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errTaut
	}
	n, err := l.source.Read(p[:min(len(p), l.left)])
	l.left -= n
	l.read += int64(n)
	return n, err
}

// csvFile is a CSV file: one line of column names, and one record for each device.
type csvFile struct {
	leash  *leash
	reader *csv.Reader
	names  []string
	last   int // line of the record that was read last
}

// openCSV reads the head of a CSV file. Problems with it are told all at once; an
// error is the source's.
func openCSV(source io.Reader, comma rune) (*csvFile, []Problem, error) {
	l := &leash{source: source, left: maxRecord + readAhead}
	buffered := bufio.NewReaderSize(l, readAhead)
	if mark, err := buffered.Peek(3); err == nil && string(mark) == "\ufeff" {
		_, _ = buffered.Discard(3) // it was peeked at
	}
	f := &csvFile{leash: l, reader: csv.NewReader(buffered)}
	f.reader.FieldsPerRecord = -1 // counted here, with better words
	f.reader.ReuseRecord = true
	if comma != 0 {
		f.reader.Comma = comma
	}
	head, line, problem, err := f.read()
	switch {
	case errors.Is(err, io.EOF):
		return nil, []Problem{{Line: 1, Reason: "the file is empty; its first line names the columns"}}, nil
	case problem != nil:
		return nil, []Problem{*problem}, nil
	case err != nil:
		return nil, nil, err
	}
	f.names = append(f.names, head...)
	return f, checkHead(f.names, line, f.reader.Comma), nil
}

// checkHead tells what is wrong with the column names.
func checkHead(names []string, line int, comma rune) (problems []Problem) {
	bad := func(i int, format string, args ...any) {
		problems = append(problems, Problem{Line: line, Field: i + 1, Reason: fmt.Sprintf(format, args...)})
	}
	if len(names) > maxColumns {
		bad(maxColumns, "there are %d columns, and at most %d are possible", len(names), maxColumns)
		return problems
	}
	if len(names) == 1 && comma == ',' && strings.ContainsAny(names[0], ";\t") {
		bad(0, "the columns are not separated by commas; give --delimiter")
		return problems
	}
	at := map[string]int{}
	for i, name := range names {
		if err := checkColumnName(name); err != nil {
			bad(i, "%v", err)
			continue
		}
		if first, twice := at[name]; twice {
			bad(i, "the column %s stands in field %d already", name, first+1)
			continue
		}
		at[name] = i
	}
	if _, ok := at[idColumn]; !ok && problems == nil {
		bad(0, "there is no column %s", idColumn)
	}
	return problems
}

// next gives the next record of the right length, and its line. The record is
// overwritten by the next one.
func (f *csvFile) next() (record []string, line int, problem *Problem, err error) {
	record, line, problem, err = f.read()
	if problem == nil && err == nil && len(record) != len(f.names) {
		problem = &Problem{Line: line, Reason: fmt.Sprintf("the line has %s, and there are %s", count(len(record), "value"), count(len(f.names), "column"))}
	}
	return record, line, problem, err
}

// read gives the next record and its line, or what is wrong with it. With an
// error, which is io.EOF at the end, nothing comes after it.
func (f *csvFile) read() (record []string, line int, problem *Problem, err error) {
	f.leash.left = maxRecord + readAhead
	record, err = f.reader.Read()
	var parse *csv.ParseError
	switch {
	case errors.Is(err, errTaut):
		return nil, 0, &Problem{Line: f.last + 1, Reason: err.Error()}, err
	case errors.As(err, &parse):
		f.last = parse.Line
		return nil, parse.StartLine, &Problem{Line: parse.StartLine, Reason: quoteTrouble(parse)}, nil
	case err != nil:
		return nil, 0, nil, err
	}
	line, _ = f.reader.FieldPos(0)
	f.last, _ = f.reader.FieldPos(len(record) - 1)
	return record, line, nil, nil
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// quoteTrouble words an error of the CSV reader, which knows two.
func quoteTrouble(err *csv.ParseError) string {
	switch {
	case errors.Is(err, csv.ErrBareQuote):
		return fmt.Sprintf("there is a quote within a value that has none around it, at byte %d of line %d; write the value as \"a \"\"word\"\" in quotes\"", err.Column, err.Line)
	case err.Line != err.StartLine:
		return fmt.Sprintf("a quoted value that begins here does not end well, at byte %d of line %d", err.Column, err.Line)
	default:
		return fmt.Sprintf("a quoted value does not end well, at byte %d", err.Column)
	}
}

// isRegistrationID is the documented rule (dps-protocol 2.2).
var isRegistrationID = regexp.MustCompile(`^[A-Za-z0-9\-._:]{0,127}[A-Za-z0-9\-]$`).MatchString

// isNumber is the form of a number that means the same to everyone.
var isNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$`).MatchString

// parseCell reads a cell of a column. An empty one is NULL.
func parseCell(text string, column Column) (any, error) {
	switch {
	case text == "":
		return nil, nil
	case !utf8.ValidString(text):
		return nil, errors.New("is not UTF-8; save the file as UTF-8")
	case strings.ContainsRune(text, 0):
		return nil, errors.New("holds a NUL byte, which no database takes")
	}
	switch column.Type {
	case allocation.ColumnNumber:
		return parseNumber(strings.TrimSpace(text), column.whole)
	case allocation.ColumnBool:
		return parseBool(strings.TrimSpace(text))
	default:
		return text, nil
	}
}

func parseNumber(text string, whole bool) (any, error) {
	if !isNumber(text) {
		return nil, fmt.Errorf("is %q and no number such as 12, -0.5 or 1e6", clip(text))
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, nil
	}
	n, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil, !strings.ContainsAny(text, ".eE"):
		return nil, fmt.Errorf("is %q, which is too large to be kept exactly", clip(text))
	case n == math.Trunc(n) && math.Abs(n) < 1<<53:
		return int64(n), nil // as databases keep it
	case whole:
		return nil, fmt.Errorf("is %q, and the column takes whole numbers only", clip(text))
	}
	return n, nil
}

func parseBool(text string) (any, error) {
	switch strings.ToLower(text) {
	case "true", "yes", "1":
		return true, nil
	case "false", "no", "0":
		return false, nil
	default:
		return nil, fmt.Errorf("is %q and neither true, yes or 1 nor false, no or 0", clip(text))
	}
}
