// SPDX-License-Identifier: Apache-2.0

package decisionlog

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/contoso/gatewayd/allocation"
)

// Limits of a file and of its writer.
const (
	// DefaultLimit is what a decision log takes on the disk, in bytes, unless
	// something else is wanted: about 30,000 decisions.
	DefaultLimit = 64 << 20
	// LeastLimit lets a quarter, which is one file, hold the longest record.
	LeastLimit = 4 * maxLine

	keptFiles = 3 // older files beside the one that is written

	// The queue is written once a second. What it holds is thereby also what a
	// flood can make of disk and processor in a second: some 4,000 decisions,
	// where the service asks for 1,000 a minute (dps-protocol 2.4).
	interval  = time.Second
	maxQueue  = 8 << 20  // bytes
	blockSize = 64 << 10 // bytes; what is written at a time
)

// Config is what a [Writer] is made of.
type Config struct {
	// Path is the file; see the package's documentation for those beside it.
	// Required.
	Path string

	// Limit bounds all files together, in bytes. Default: [DefaultLimit]; at least
	// [LeastLimit].
	Limit int64

	// Logger is told when the file cannot be written, and when it can again.
	// Default: nobody is.
	Logger *slog.Logger
}

// Stats is what a [Writer] has done.
type Stats struct {
	Written uint64
	// Lost counts decisions that are not in the file.
	Lost uint64
	// Err is why the file cannot be written at the moment, or nil.
	Err error
}

// Writer appends decisions to a file. [Writer.Add] may be called from many
// goroutines.
type Writer struct {
	cfg  Config
	wake chan struct{} // has an element when the queue is no longer empty
	stop chan struct{}
	done chan struct{}

	texts sync.Pool // of *bytes.Buffer, each for one line

	mu     sync.Mutex // guards what follows
	queue  [][]byte   // blocks of whole lines
	queued int        // bytes
	closed bool
	stats  Stats

	// What follows belongs to the goroutine of run.
	file *os.File // nil = to be opened
	size int64
	told uint64 // of the lost ones, those that a line in the file tells of
}

// NewWriter makes a writer and starts it. It does not fail: a file that cannot be
// written now may be writable later, and until then decisions are only counted.
// [Writer.Close] ends it.
func NewWriter(cfg Config) *Writer {
	cfg.Limit = max(cmp.Or(cfg.Limit, DefaultLimit), LeastLimit)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Writer{cfg: cfg, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w
}

// Add takes a decision for the file, if it is one that can be replayed. It never
// waits: when the queue is full the decision is lost, and counted.
func (w *Writer) Add(d allocation.Decision) {
	record, worth := FromDecision(d)
	if !worth || !w.mayTake(1) {
		return
	}
	text, ok := w.texts.Get().(*bytes.Buffer)
	if !ok {
		text = new(bytes.Buffer)
	}
	defer func() {
		if text.Cap() <= blockSize {
			text.Reset()
			w.texts.Put(text)
		}
	}()
	if appendRecord(text, record) != nil {
		w.lose() // it is too long
		return
	}
	w.enqueue(text.Bytes())
}

// room tells whether a line of so many bytes fits into the queue, and counts the
// decision as lost if it does not. The caller holds mu.
func (w *Writer) room(bytes int) bool {
	fits := !w.closed && w.queued+bytes <= maxQueue
	if !fits {
		w.stats.Lost++
	}
	return fits
}

// mayTake is room for the caller that does not hold mu: in a flood no line is made
// that has nowhere to go.
func (w *Writer) mayTake(bytes int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.room(bytes)
}

func (w *Writer) lose() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Lost++
}

// enqueue copies a line into the queue if it fits.
func (w *Writer) enqueue(line []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.room(len(line)) {
		return
	}
	if n := len(w.queue); n == 0 || len(w.queue[n-1])+len(line) > blockSize {
		w.queue = append(w.queue, make([]byte, 0, max(blockSize, len(line))))
	}
	last := &w.queue[len(w.queue)-1]
	*last = append(*last, line...)
	if w.queued == 0 {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	w.queued += len(line)
}

// Stats tells what has been done so far.
func (w *Writer) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats
}

// Close writes what is queued and closes the file. A decision that comes later is
// lost.
func (w *Writer) Close() error {
	w.mu.Lock()
	closed := w.closed
	w.closed = true
	w.mu.Unlock()
	if !closed {
		close(w.stop)
	}
	<-w.done
	return w.Stats().Err
}

// run writes the queue when a second has passed since its first record. Without
// decisions it sleeps.
func (w *Writer) run() {
	defer close(w.done)
	defer w.closeFile()
	for {
		select {
		case <-w.wake:
		case <-w.stop:
			w.flush()
			return
		}
		select {
		case <-time.After(interval):
		case <-w.stop: // seen again above
		}
		w.flush()
	}
}

// flush writes what is queued, and says when the file begins or ends to be in
// trouble. What cannot be written is lost.
func (w *Writer) flush() {
	w.mu.Lock()
	blocks, lost, before := w.queue, w.stats.Lost, w.stats.Err
	w.queue, w.queued = nil, 0
	w.mu.Unlock()
	if len(blocks) == 0 && lost == w.told {
		return
	}
	all := 0
	for _, block := range blocks {
		all += lines(block)
	}
	written, err := w.write(blocks, lost)

	w.mu.Lock()
	w.stats.Written += uint64(written)
	w.stats.Lost += uint64(all - written)
	w.stats.Err = err
	lost = w.stats.Lost
	w.mu.Unlock()
	switch {
	case err != nil && before == nil:
		w.cfg.Logger.Error("decisions are not recorded for replay; they are answered, logged and counted as before", "file", w.cfg.Path, "err", err)
	case err == nil && before != nil:
		w.cfg.Logger.Info("decisions are recorded for replay again", "file", w.cfg.Path, "lost", lost)
	}
}

// lines counts the records in a block.
func lines(block []byte) int { return bytes.Count(block, []byte{'\n'}) }

// write gives how many records are in the file. lost is how many were lost before
// the first of them.
func (w *Writer) write(blocks [][]byte, lost uint64) (written int, err error) {
	if err := w.open(); err != nil {
		return 0, err
	}
	if lost > w.told {
		var text bytes.Buffer
		if err := appendLine(&text, line{Version: Version, Time: time.Now().UTC(), Lost: lost - w.told}); err != nil {
			return 0, err
		}
		if _, err := w.put(text.Bytes()); err != nil {
			return 0, err
		}
		w.told = lost
	}
	for _, block := range blocks {
		n, err := w.put(block)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// put writes a block into as many files as it needs, and gives how many of its lines
// are in them.
func (w *Writer) put(block []byte) (written int, err error) {
	for len(block) > 0 {
		part, err := w.fitting(block)
		if err == nil {
			err = w.append(part)
		}
		if err != nil {
			return written, err
		}
		written += lines(part)
		block = block[len(part):]
	}
	return written, nil
}

// fitting gives the lines at the beginning of a block for which the file has room,
// or a new one. A line that no file has room for stands in one of its own.
func (w *Writer) fitting(block []byte) ([]byte, error) {
	most := w.cfg.Limit / (keptFiles + 1)
	if w.size > 0 && w.size+int64(bytes.IndexByte(block, '\n')) >= most {
		if err := w.rotate(); err != nil {
			return nil, err
		}
	}
	room := most - w.size
	if int64(len(block)) <= room {
		return block, nil
	}
	end := bytes.IndexByte(block, '\n') + 1
	if int64(end) < room {
		end = bytes.LastIndexByte(block[:room], '\n') + 1
	}
	return block[:end], nil
}

// append writes text. What was written in part is taken back.
func (w *Writer) append(text []byte) error {
	if _, err := w.file.Write(text); err != nil {
		_ = w.file.Truncate(w.size)
		w.closeFile()
		return err
	}
	w.size += int64(len(text))
	return nil
}

// open makes sure that file is the one at the path: somebody may have deleted it,
// or moved it away.
func (w *Writer) open() error {
	if w.file != nil {
		mine, err := w.file.Stat()
		there, errThere := os.Stat(w.cfg.Path)
		if err == nil && errThere == nil && os.SameFile(mine, there) {
			w.size = mine.Size() // somebody may have emptied it
			return nil
		}
		w.closeFile()
	}
	file, err := os.OpenFile(w.cfg.Path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return err
	}
	w.file, w.size = file, info.Size()
	return w.endLine()
}

// endLine ends a line that a killed writer has left without an end.
func (w *Writer) endLine() error {
	if w.size == 0 {
		return nil
	}
	last := make([]byte, 1)
	if _, err := w.file.ReadAt(last, w.size-1); err != nil && !errors.Is(err, io.EOF) {
		w.closeFile()
		return err
	}
	if last[0] == '\n' {
		return nil
	}
	return w.append([]byte{'\n'})
}

// rotate puts an empty file in the place of the full one.
func (w *Writer) rotate() error {
	w.closeFile()
	for i := keptFiles; i >= 1; i-- {
		if err := os.Rename(rotated(w.cfg.Path, i-1), rotated(w.cfg.Path, i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return w.open()
}

// rotated is the path of the i-th older file; the 0th is the one that is written.
func rotated(path string, i int) string {
	if i == 0 {
		return path
	}
	return fmt.Sprintf("%s.%d", path, i)
}

func (w *Writer) closeFile() {
	if w.file != nil {
		w.file.Close()
		w.file = nil
	}
}
