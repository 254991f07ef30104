// SPDX-License-Identifier: Apache-2.0

package decisionlog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
)

// maxLine bounds one line, in bytes, when it is written and when it is read. The
// largest request that the webhook takes has a quarter of it.
const maxLine = 1 << 20

// LineError is what is wrong with one line. The others are not affected.
type LineError struct {
	File string
	Line int // from 1
	Err  error
}

// Error gives file, line and what is wrong.
func (e *LineError) Error() string { return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err) }

// Unwrap gives what is wrong.
func (e *LineError) Unwrap() error { return e.Err }

// LostError is in the [LineError] of a line that tells of decisions which were not
// recorded.
type LostError struct{ Count uint64 }

// Error says how many.
func (e *LostError) Error() string {
	if e.Count == 1 {
		return "one decision before this line was not recorded"
	}
	return fmt.Sprintf("%d decisions before this line were not recorded", e.Count)
}

// Read gives the records of r in their order; name stands for it in errors. A line
// that is not a record gives a [*LineError], after which reading goes on. Any other
// error is the last.
//
// A last line without its end is passed over in silence when it is not a record:
// it is being written, or its writer was killed.
func Read(name string, r io.Reader) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		in := bufio.NewReaderSize(r, 64<<10)
		for number := 1; ; number++ {
			text, whole, err := readLine(in)
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errLongLine) {
				yield(Record{}, fmt.Errorf("reading %s: %w", name, err))
				return
			}
			switch {
			case errors.Is(err, errLongLine):
				if !yield(Record{}, &LineError{name, number, err}) {
					return
				}
			case len(bytes.TrimSpace(text)) > 0:
				record, lost, wrong := parseLine(bytes.TrimSpace(text))
				switch {
				case wrong != nil && !whole:
					return
				case wrong != nil:
					wrong = fmt.Errorf("not a record of the decision log: %w", wrong)
				case lost > 0:
					wrong = &LostError{lost}
				}
				if wrong != nil {
					wrong = &LineError{name, number, wrong}
				}
				if !yield(record, wrong) {
					return
				}
			}
			if !whole {
				return
			}
		}
	}
}

var errLongLine = fmt.Errorf("longer than %d KiB, which no record is", maxLine>>10)

// readLine gives the next line and whether it ended in a newline; one that is too
// long is read to its end and not kept.
func readLine(in *bufio.Reader) (text []byte, whole bool, err error) {
	long := false
	for {
		part, err := in.ReadSlice('\n')
		if long = long || len(text)+len(part) > maxLine; long {
			text = nil
		} else {
			text = append(text, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return nil, false, err
		case long:
			return nil, err == nil, errLongLine
		default:
			return text, err == nil, err
		}
	}
}

// ReadFiles gives the records of several files, one after the other, as [Read]
// does. A file that cannot be opened gives the last error.
func ReadFiles(paths ...string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for _, path := range paths {
			file, err := os.Open(path)
			if err != nil {
				yield(Record{}, err)
				return
			}
			for record, err := range Read(path, file) {
				var line *LineError
				if !yield(record, err) || err != nil && !errors.As(err, &line) {
					file.Close()
					return
				}
			}
			file.Close()
		}
	}
}

// Files gives the path of a decision log and those of the older files beside it
// that exist, oldest first, for [ReadFiles]. The path itself is always among them.
func Files(path string) []string {
	var paths []string
	for i := keptFiles; i >= 1; i-- {
		if _, err := os.Stat(rotated(path, i)); !errors.Is(err, fs.ErrNotExist) {
			paths = append(paths, rotated(path, i))
		}
	}
	return append(paths, path)
}
