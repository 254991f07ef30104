// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// burst is bytes that arrive some time after a request was written.
type burst struct {
	after time.Duration
	data  []byte
}

// wire is a port in memory: what arrives after each write is scripted, and its time is that of a synctest bubble.
type wire struct {
	answer func(request []byte) []burst

	mu      sync.Mutex // guards the rest
	coming  []arrival
	written [][]byte
	speed   speed // as last set
	lost    bool
	closed  bool
	moved   bool // its name leads to another device
	errors  LineErrors
}

type arrival struct {
	at   time.Time
	data []byte
}

var _ port = (*wire)(nil)

func (w *wire) Write(frame []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost || w.closed {
		return &lostError{errors.New("the wire is cut")}
	}
	w.written = append(w.written, append([]byte(nil), frame...))
	for _, b := range w.answer(frame) {
		w.coming = append(w.coming, arrival{time.Now().Add(b.after), b.data})
	}
	slices.SortStableFunc(w.coming, func(a, b arrival) int { return a.at.Compare(b.at) })
	return nil
}

func (w *wire) Read(buf []byte, wait time.Duration) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost || w.closed {
		return 0, &lostError{errors.New("the wire is cut")}
	}
	if len(w.coming) == 0 || time.Until(w.coming[0].at) > wait {
		w.sleep(wait)
		return 0, errTimeout
	}
	w.sleep(time.Until(w.coming[0].at))
	n := copy(buf, w.coming[0].data)
	if w.coming[0].data = w.coming[0].data[n:]; len(w.coming[0].data) == 0 {
		w.coming = w.coming[1:]
	}
	return n, nil
}

// sleep lets others touch the wire meanwhile.
func (w *wire) sleep(d time.Duration) {
	w.mu.Unlock()
	time.Sleep(max(d, 0))
	w.mu.Lock()
}

func (w *wire) SetSpeed(s speed) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.speed = s
	return nil
}

func (w *wire) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost || w.closed {
		return &lostError{errors.New("the wire is cut")}
	}
	for len(w.coming) > 0 && !w.coming[0].at.After(time.Now()) {
		w.coming = w.coming[1:]
	}
	return nil
}

func (w *wire) Check() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.moved {
		return &lostError{ErrUnplugged}
	}
	return nil
}

func (w *wire) Errors() (LineErrors, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.errors, nil
}

func (w *wire) Close() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	free := make(chan struct{})
	close(free)
	return free
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = true
}

func (w *wire) writes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.written)
}

// soon is one burst after 5 ms.
func soon(data []byte) []burst { return []burst{{5 * time.Millisecond, data}} }

// bytesOf reads hex with spaces.
func bytesOf(t testing.TB, text string) []byte {
	t.Helper()
	data, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// frameOf is unit, function and data given in hex, with a checksum.
func frameOf(t testing.TB, text string) []byte {
	t.Helper()
	return sealed(bytesOf(t, text))
}
