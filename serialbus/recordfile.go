// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"errors"
	"fmt"
	"os"
)

// RecordFile is a file for a recording that runs for long. It does not grow beyond a size: when it is half full, it
// gets the suffix ".1", in place of the one before, and a new one begins with the same head. So the two files together
// always hold the last half at the least.
type RecordFile struct {
	path string
	half int64
	file *os.File
	size int64
	head []byte // the lines with "#" at the beginning
}

// minRecordFile is the smallest size of a RecordFile: a head and some hundred frames.
const minRecordFile = 64 << 10

// CreateRecordFile makes the file, readable for its owner alone, since settings and identities are in it. A file that
// is there already gets the suffix ".1". maxSize is what both may have together, in bytes, at least 64 KiB.
func CreateRecordFile(path string, maxSize int64) (*RecordFile, error) {
	if maxSize < minRecordFile {
		return nil, fmt.Errorf("recording to %s: a size of %d bytes is too small; allowed are %d and more", path, maxSize, minRecordFile)
	}
	f := &RecordFile{path: path, half: maxSize / 2}
	if err := f.begin(); err != nil {
		return nil, fmt.Errorf("recording to %s: %w", path, err)
	}
	return f, nil
}

// begin moves an old file aside and makes a new one. Anything but a plain file stays: /dev/null is no recording.
func (f *RecordFile) begin() error {
	if info, err := os.Stat(f.path); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
		if err := os.Rename(f.path, f.path+".1"); err != nil {
			return err
		}
	}
	file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	f.file, f.size = file, 0
	return nil
}

// Write implements io.Writer. What is given at once stays in one file.
func (f *RecordFile) Write(record []byte) (int, error) {
	inHead := f.size == int64(len(f.head)) && len(record) > 0 && record[0] == '#'
	switch {
	case inHead:
		f.head = append(f.head, record...)
	case f.size+int64(len(record)) > f.half && f.size > int64(len(f.head)):
		if err := f.turn(); err != nil {
			return 0, err
		}
	}
	n, err := f.file.Write(record)
	f.size += int64(n)
	return n, err
}

// turn begins a new file.
func (f *RecordFile) turn() error {
	if err := f.file.Close(); err != nil {
		return err
	}
	if err := f.begin(); err != nil {
		return err
	}
	n, err := f.file.Write(f.head)
	f.size = int64(n)
	return err
}

// Close closes the file.
func (f *RecordFile) Close() error {
	if err := f.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("recording to %s: %w", f.path, err)
	}
	return nil
}
