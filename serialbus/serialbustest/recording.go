// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Recording is what happened on a line, as gatewayctl capture and the daemon write it down. It is read here by other
// code than it is written by.
type Recording struct {
	Head    map[string]string // "port", "baud", "parity", "mode", …
	Records []Record
}

// Record is one line of a recording.
type Record struct {
	At   time.Duration // since the start
	What string        // "tx", "rx", or what happened to the port: "opened", "lost", "closed"
	Data []byte        // of tx and rx
	Text string        // of the others, in words
}

// Passive reports whether the recording holds what was overheard: there is nothing in it that a master could be
// compared with.
func (r *Recording) Passive() bool { return r.Head["mode"] == "passive" }

// The bounds of a recording that is read.
const (
	maxRecordLine = 16 << 10
	maxRecords    = 4 << 20
)

// ParseRecording reads a recording. A last line without an end is ignored: its writer was killed.
func ParseRecording(text []byte) (*Recording, error) {
	first, rest, _ := bytes.Cut(text, []byte("\n"))
	version, is := strings.CutPrefix(string(first), "# serial line recording ")
	if !is {
		return nil, errors.New(`it is no recording of a serial line: the first line of one is "# serial line recording 1"`)
	}
	if version != "1" {
		return nil, fmt.Errorf("the recording has format %.20q; this program reads format 1", version)
	}
	r := &Recording{Head: make(map[string]string)}
	last := time.Duration(0)
	for number := 2; ; number++ {
		line, following, ended := bytes.Cut(rest, []byte("\n"))
		if !ended {
			return r, nil
		}
		rest = following
		if len(line) > maxRecordLine || len(r.Records) == maxRecords {
			return nil, fmt.Errorf("line %d: the recording is too long; allowed are %d records of %d bytes", number, maxRecords, maxRecordLine)
		}
		if !utf8.Valid(line) {
			return nil, fmt.Errorf("line %d: it is no text", number)
		}
		if fact, is := strings.CutPrefix(string(line), "# "); is {
			name, value, _ := strings.Cut(fact, ": ")
			r.Head[name] = value
			continue
		}
		record, err := parseRecord(string(line))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if record.At < last {
			return nil, fmt.Errorf("line %d: time runs backwards", number)
		}
		last = record.At
		r.Records = append(r.Records, record)
	}
}

// parseRecord reads one line: seconds, a word, and what belongs to it.
func parseRecord(line string) (Record, error) {
	seconds, rest, _ := strings.Cut(line, " ")
	word, rest, _ := strings.Cut(rest, " ")
	at, err := strconv.ParseFloat(seconds, 64)
	if err != nil || !(at >= 0 && at <= 1e8) || word == "" {
		return Record{}, fmt.Errorf("%.60q is no record: it begins with seconds and a word", line)
	}
	r := Record{At: time.Duration(math.Round(at*1e6)) * time.Microsecond, What: word}
	if word != "tx" && word != "rx" {
		r.Text = rest
		return r, nil
	}
	digits, _, _ := strings.Cut(rest, "|")
	r.Data, err = hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
	if err != nil || len(r.Data) == 0 {
		return Record{}, fmt.Errorf("%.60q: the bytes are no hex", line)
	}
	return r, nil
}
