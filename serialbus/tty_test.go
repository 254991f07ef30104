// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.bug.st/serial"
	"golang.org/x/sys/unix"

	"github.com/contoso/gatewayd/serialbus/serialbustest"
)

// fakeLibrary stands for go.bug.st/serial with its defects (serial 3.2).
type fakeLibrary struct {
	read   func([]byte) (int, error)
	write  func([]byte) (int, error)
	closed bool
	after  int // calls after Close
}

func (f *fakeLibrary) Read(buf []byte) (int, error)       { f.count(); return f.read(buf) }
func (f *fakeLibrary) Write(data []byte) (int, error)     { f.count(); return f.write(data) }
func (f *fakeLibrary) SetMode(*serial.Mode) error         { f.count(); return nil }
func (f *fakeLibrary) SetReadTimeout(time.Duration) error { f.count(); return nil }
func (f *fakeLibrary) ResetInputBuffer() error            { f.count(); return nil }
func (f *fakeLibrary) Close() error                       { f.closed = true; return nil }

func (f *fakeLibrary) count() {
	if f.closed {
		f.after++
	}
}

// newTestTTY is a tty around the fake; its lock is a descriptor of its own.
func newTestTTY(t *testing.T, lib library) *tty {
	t.Helper()
	lock, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return &tty{path: "/dev/ttyTEST", lib: lib, lock: lock, freed: make(chan struct{})}
}

func TestTTYRead(t *testing.T) {
	for _, tc := range []struct {
		name string
		read func([]byte) (int, error)
		n    int
		want error
		lost bool
	}{
		{"bytes", func(buf []byte) (int, error) { return copy(buf, "abc"), nil }, 3, nil, false},
		{"its time-out is no bytes and no error", func([]byte) (int, error) { return 0, nil }, 0, errTimeout, false},
		{"the adapter is gone", func([]byte) (int, error) { return 0, errors.New("port has been closed") }, 0, ErrUnplugged, true},
		{"a descriptor of 1,024 and more panics", func([]byte) (int, error) { panic("index out of range [16] with length 16") }, 0, errAny, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newTestTTY(t, &fakeLibrary{read: tc.read})
			defer p.Close()
			n, err := p.Read(make([]byte, 10), time.Second)
			if n != tc.n || isLost(err) != tc.lost || tc.want != errAny && !errors.Is(err, tc.want) {
				t.Errorf("got %d, %v", n, err)
			}
		})
	}
}

func TestTTYWritesInParts(t *testing.T) {
	var got bytes.Buffer
	p := newTestTTY(t, &fakeLibrary{write: func(data []byte) (int, error) { return got.Write(data[:1]) }})
	defer p.Close()
	if err := p.Write([]byte("frame")); err != nil || got.String() != "frame" {
		t.Errorf("wrote %q, %v", &got, err)
	}
}

// TestTTYNothingAfterClose: the library would use the old descriptor number, which may be another file's by then.
func TestTTYNothingAfterClose(t *testing.T) {
	lib := &fakeLibrary{}
	p := newTestTTY(t, lib)
	<-p.Close()
	<-p.Close()
	if _, err := p.Read(make([]byte, 1), time.Second); !isLost(err) {
		t.Errorf("Read: %v", err)
	}
	if err := p.Write([]byte("x")); !isLost(err) {
		t.Errorf("Write: %v", err)
	}
	if err := p.Flush(); !isLost(err) {
		t.Errorf("Flush: %v", err)
	}
	if err := p.SetSpeed(usualSpeeds()[0]); !isLost(err) {
		t.Errorf("SetSpeed: %v", err)
	}
	if lib.after != 0 {
		t.Errorf("%d calls reached the library after Close", lib.after)
	}
}

// TestTTYHungWrite: a write that the kernel holds makes the port lost, and keeps its descriptor until it comes back.
func TestTTYHungWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		lib := &fakeLibrary{}
		lib.write = func([]byte) (int, error) { <-release; return 1, nil }
		p := newTestTTY(t, lib)
		start := time.Now()
		if err := p.Write([]byte("frame")); !errors.Is(err, ErrWriteStuck) || !isLost(err) || time.Since(start) != writeLimit {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		if err := p.Write([]byte("frame")); !errors.Is(err, ErrWriteStuck) {
			t.Errorf("second write: %v", err)
		}
		free := p.Close()
		synctest.Wait()
		if lib.closed {
			t.Error("the descriptor was closed under a write")
		}
		close(release)
		<-free
		if !lib.closed || lib.after != 0 {
			t.Errorf("closed %v, %d calls after that", lib.closed, lib.after)
		}
	})
}

func openTest(path string) (port, error) {
	return openTTY(path, speed{19200, ParityEven, 1})
}

func TestOpenErrorsAreWords(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, path string
		want       error
	}{
		{"missing", filepath.Join(dir, "ttyUSB7"), ErrNoPort},
		{"below a file", filepath.Join(file, "tty"), ErrNoPort},
		{"a file", file, ErrNotSerial},
		{"a folder", dir, ErrNotSerial},
		{"no tty", os.DevNull, ErrNotSerial},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := openTest(tc.path); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	for _, tc := range []struct {
		errno syscall.Errno
		want  error
	}{
		{syscall.EACCES, ErrNoAccess},
		{syscall.EPERM, ErrNoAccess},
		{syscall.EBUSY, ErrPortBusy},
		{syscall.ENXIO, ErrUnplugged},
		{syscall.EIO, ErrUnplugged},
		{syscall.ENODEV, ErrUnplugged},
		{syscall.EMFILE, syscall.EMFILE},
		{syscall.EINTR, syscall.EINTR},
	} {
		if err := openError("/dev/ttyTEST", tc.errno); !errors.Is(err, tc.want) {
			t.Errorf("%v: got %v, want %v", tc.errno, err, tc.want)
		}
	}
}

// TestPortIsLocked: two programs of ours never share a line, not even as root.
func TestPortIsLocked(t *testing.T) {
	l := toasterLine(t)
	first, err := openTest(l.Path())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openTest(l.Path()); !errors.Is(err, ErrPortBusy) {
		t.Errorf("second open: got %v, want %v", err, ErrPortBusy)
	}
	<-first.Close()
	again, err := openTest(l.Path())
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	<-again.Close()
}

func TestUnpluggedWhileOpen(t *testing.T) {
	l := toasterLine(t)
	p, err := openTest(l.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	l.Unplug()
	if _, err := p.Read(make([]byte, 10), time.Second); !errors.Is(err, ErrUnplugged) || !isLost(err) {
		t.Errorf("Read: %v", err)
	}
	if err := p.Write([]byte("x")); !errors.Is(err, ErrUnplugged) || !isLost(err) {
		t.Errorf("Write: %v", err)
	}
}

// TestManyOpenFiles: with more than 1,024 files open the library's select panics; it must come out as an error.
func TestManyOpenFiles(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 1300 {
		t.Skipf("this process may open only %d files (%v)", limit.Cur, err)
	}
	l := toasterLine(t)
	for range 1100 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	p, err := openTest(l.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Read(make([]byte, 10), time.Millisecond); !isLost(err) {
		t.Errorf("got %v", err)
	}
}

func toasterLine(t *testing.T) *serialbustest.Line {
	t.Helper()
	l, err := serialbustest.NewToasterLine(serialbustest.Toaster{RegistrationID: "breakroom499-contoso-tstrsd-007"})
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}
