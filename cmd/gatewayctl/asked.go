// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/contoso/gatewayd/allocation"
	"github.com/contoso/gatewayd/allocation/decisionlog"
)

// maxRequestFile bounds a file of requests.
const maxRequestFile = 256 << 20

// asked is a request to put to a policy.
type asked struct {
	from     string // file, and which of several in it
	body     []byte
	request  allocation.Request
	refused  error          // body is no AllocationRequest
	device   allocation.Row // nil: none is known
	recorded *decisionlog.Record
}

func newAsked(from string, body []byte) asked {
	a := asked{from: from, body: body}
	a.request, a.refused = allocation.ParseRequest(body)
	return a
}

// id is the registration ID, or what stands in its place.
func (a *asked) id() string {
	if id := a.request.DeviceRuntimeContext.RegistrationID; id != nil {
		return *id
	}
	return "(none)"
}

// readRequests reads what is asked from files, directories of *.json, or standard
// input for "-". A file holds one request, or several one after the other.
func readRequests(cmd *cobra.Command, paths []string) ([]asked, error) {
	var all []asked
	for _, path := range paths {
		files := []string{path}
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			if files, err = filepath.Glob(filepath.Join(globEscape(path), "*.json")); err != nil {
				return nil, err
			}
			if len(files) == 0 {
				return nil, fmt.Errorf("%s: no *.json is in there", path)
			}
			slices.Sort(files)
		}
		for _, file := range files {
			requests, err := readRequestFile(cmd, file)
			if err != nil {
				return nil, err
			}
			all = append(all, requests...)
		}
	}
	return all, nil
}

// globEscape takes a directory's name for itself and not for a pattern.
func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

func readRequestFile(cmd *cobra.Command, path string) ([]asked, error) {
	var text []byte
	var err error
	if path == "-" {
		path = "standard input"
		text, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxRequestFile+1))
	} else {
		text, err = readBounded(path, maxRequestFile)
	}
	if err != nil {
		return nil, err
	}
	return splitRequests(path, text), nil
}

// splitRequests finds the requests of a text. What is not JSON is one request
// too: the webhook would get it as it is, and has an answer.
func splitRequests(path string, text []byte) []asked {
	var all []asked
	decoder := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(text, []byte("\ufeff"))))
	for {
		start := decoder.InputOffset()
		var document json.RawMessage
		err := decoder.Decode(&document)
		switch {
		case errors.Is(err, io.EOF) && len(all) > 0:
			return all
		case err != nil && len(all) == 0:
			return []asked{newAsked(path, text)}
		case err != nil:
			rest := bytes.TrimSpace(text[min(int(start), len(text)):])
			return append(all, newAsked(fmt.Sprintf("%s, request %d", path, len(all)+1), rest))
		}
		from := path
		if len(all) > 0 || decoder.More() {
			from = fmt.Sprintf("%s, request %d", path, len(all)+1)
		}
		all = append(all, newAsked(from, document))
	}
}

// logReader reads decision logs and keeps account of what it could not read.
type logReader struct {
	cmd       *cobra.Command
	paths     []string
	line      *progressLine // nil: none is shown
	records   int
	damaged   int
	fatal     error
	lastDrawn time.Time
}

// newLogReader reads each log with the older files beside it, oldest first.
func newLogReader(cmd *cobra.Command, logs []string) *logReader {
	l := &logReader{cmd: cmd, line: newProgressLine(cmd.ErrOrStderr())}
	for _, path := range logs {
		l.paths = append(l.paths, decisionlog.Files(path)...)
	}
	return l
}

// newProgressLine is a line on a terminal, or nil.
func newProgressLine(out io.Writer) *progressLine {
	file, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	return &progressLine{to: file, width: func() int {
		width, _, err := term.GetSize(int(file.Fd()))
		if err != nil || width <= 0 {
			return 80
		}
		return width
	}}
}

// all gives the recorded requests. A damaged line is told and passed over.
func (l *logReader) all() iter.Seq[asked] {
	return func(yield func(asked) bool) {
		defer l.line.clear()
		for record, err := range decisionlog.ReadFiles(l.paths...) {
			if lost, ok := errors.AsType[*decisionlog.LostError](err); ok {
				l.say("warning: %s: %v", l.paths[len(l.paths)-1], lost)
				continue
			}
			if damaged, ok := errors.AsType[*decisionlog.LineError](err); ok {
				if l.damaged++; l.damaged <= 10 {
					l.say("%v", damaged)
				}
				continue
			}
			if err != nil {
				l.fatal = err
				return
			}
			l.records++
			if l.line != nil && time.Since(l.lastDrawn) > 200*time.Millisecond {
				l.lastDrawn = time.Now()
				l.line.draw(fmt.Sprintf("%d decisions read", l.records))
			}
			a := newAsked(record.Time.Format(time.RFC3339), record.Request)
			a.device, a.recorded = record.Row(), &record
			if !yield(a) {
				return
			}
		}
	}
}

// aboveLine writes lines above a progress line.
type aboveLine struct {
	line *progressLine
	to   io.Writer
}

// Write makes room first.
func (a aboveLine) Write(text []byte) (int, error) {
	a.line.clear()
	return a.to.Write(text)
}

// say tells a person about a line, above the progress line.
func (l *logReader) say(format string, args ...any) {
	l.line.clear()
	fmt.Fprintf(l.cmd.ErrOrStderr(), "gatewayctl: %s\n", printable(fmt.Sprintf(format, args...)))
}

// err is why reading ended early, or that there was nothing.
func (l *logReader) err() error {
	if l.fatal == nil && l.records == 0 && l.damaged == 0 {
		return fmt.Errorf("%s: no decision is recorded there", l.paths[len(l.paths)-1])
	}
	return l.fatal
}

// failed tells whether something could not be read.
func (l *logReader) failed() error {
	if l.damaged == 0 {
		return nil
	}
	l.say("%s could not be read and took no part", counted(l.damaged, "line"))
	return errReported
}

// readDevice makes a row of the device directory by hand, from --device and
// --device-file. Nil means that neither was given.
func readDevice(cmd *cobra.Command, pairs []string, file string, use allocation.DirectoryUse) (allocation.Row, error) {
	if len(pairs) == 0 && file == "" {
		return nil, nil
	}
	row := allocation.Row{}
	if file != "" {
		text, err := readBounded(file, 1<<20)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(text, &row); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	for _, pair := range pairs {
		column, text, ok := strings.Cut(pair, "=")
		if !ok || column == "" {
			return nil, wrongUsage(cmd, "--device %q is not column=value", pair)
		}
		holds := use.Columns[column]
		value, err := parseCell(text, holds)
		if err != nil {
			return nil, wrongUsage(cmd, "--device %s: the policy expects %s in this column, and %q is none", column, holds, text)
		}
		row[column] = value
	}
	return row, nil
}

// parseCell reads a value by the type that the policy expects; a column that it
// does not read holds text.
func parseCell(text string, holds allocation.ColumnType) (any, error) {
	var row allocation.Row
	switch holds {
	case allocation.ColumnNumber, allocation.ColumnBool:
		if err := json.Unmarshal([]byte(`{"value":`+text+`}`), &row); err != nil {
			return nil, err
		}
		fitted, err := allocation.DirectoryUse{Columns: map[string]allocation.ColumnType{"value": holds}}.Fit(row)
		if err != nil {
			return nil, err
		}
		return fitted["value"], nil
	default:
		return text, nil
	}
}
