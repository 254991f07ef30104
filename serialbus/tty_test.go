// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/creack/pty"
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
	p := &tty{path: "/dev/ttyTEST", lib: lib, lock: lock}
	p.begin()
	return p
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
	if err := p.Check(); !isLost(err) || !errors.Is(err, os.ErrClosed) || errors.Is(err, ErrUnplugged) {
		t.Errorf("Check: %v; our own close is no pulled plug", err)
	}
	if _, err := p.Errors(); !isLost(err) {
		t.Errorf("Errors: %v", err)
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
	return openTTY(path, speed{19200, ParityEven, 1}, opening{})
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

// fillDescriptors opens files until the next descriptor is beyond what the library's select can watch.
func fillDescriptors(t *testing.T) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 1300 {
		t.Skipf("this process may open only %d files (%v)", limit.Cur, err)
	}
	for range 1100 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
	}
}

// TestManyOpenFiles: with more than 1,024 files open the library's select panics; it must come out as an error.
func TestManyOpenFiles(t *testing.T) {
	l := toasterLine(t)
	fillDescriptors(t)
	p, err := openTest(l.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { <-p.Close() }()
	if _, err := p.Read(make([]byte, 10), time.Millisecond); !isLost(err) {
		t.Errorf("got %v", err)
	}
}

// TestReserve: a port that is opened among 1,100 open files gets low descriptors and works, and so does the next one
// after it.
func TestReserve(t *testing.T) {
	l := toasterLine(t)
	r := newReserve(1)
	r.keep()
	defer r.release()
	fillDescriptors(t)
	for range 3 {
		p, err := openTTY(l.Path(), speed{19200, ParityNone, 1}, opening{reserve: r})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Read(make([]byte, 10), time.Millisecond); !errors.Is(err, errTimeout) {
			t.Errorf("reading: got %v, want a timeout", err)
		}
		if len(r.held) != 0 {
			t.Errorf("%d placeholders are left beside the port", len(r.held))
		}
		<-p.Close()
		if len(r.held) != perPort {
			t.Errorf("%d placeholders after the port closed, want %d", len(r.held), perPort)
		}
	}
	if _, err := openTTY("/dev/no-such-port", speed{19200, ParityNone, 1}, opening{reserve: r}); !errors.Is(err, ErrNoPort) {
		t.Errorf("got %v", err)
	}
	if len(r.held) != perPort {
		t.Errorf("%d placeholders after an open that failed, want %d", len(r.held), perPort)
	}
}

// TestReserveCounts: there are placeholders for every port that is not open, no more and no less.
func TestReserveCounts(t *testing.T) {
	r := newReserve(2)
	for _, step := range []struct {
		name string
		do   func()
		want int
	}{
		{"nothing is kept at first", func() {}, 0},
		{"a port opens early", func() { _ = r.lend(func() error { return nil }) }, 0},
		{"kept", r.keep, perPort},
		{"it closes", r.giveBack, 2 * perPort},
		{"a port opens", func() { _ = r.lend(func() error { return nil }) }, perPort},
		{"another cannot be opened", func() { _ = r.lend(func() error { return ErrNoPort }) }, perPort},
		{"released", r.release, 0},
		{"a port closes later", r.giveBack, 0},
	} {
		if step.do(); len(r.held) != step.want {
			t.Errorf("%s: %d placeholders, want %d", step.name, len(r.held), step.want)
		}
	}
}

// TestNoChildInheritsAPort: the library opens without the close-on-exec flag.
func TestNoChildInheritsAPort(t *testing.T) {
	l := toasterLine(t)
	p, err := openTest(l.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { <-p.Close() }()
	out, err := exec.Command("ls", "-l", "/proc/self/fd").Output()
	if err != nil {
		t.Skipf("no /proc here: %v", err)
	}
	if bytes.Contains(out, []byte(l.Path())) {
		t.Errorf("a child has the port:\n%s", out)
	}
}

// TestCheck: the name of a port may lead to another device while the old one is still there, or nowhere.
func TestCheck(t *testing.T) {
	first, second := toasterLine(t), toasterLine(t)
	name := filepath.Join(t.TempDir(), "usb-adapter")
	link := func(to string) {
		if err := os.Symlink(to, name+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
	link(first.Path())
	p, err := openTest(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { <-p.Close() }()
	if err := p.Check(); err != nil {
		t.Errorf("nothing changed: %v", err)
	}
	link(second.Path())
	if err := p.Check(); !isLost(err) || !errors.Is(err, ErrUnplugged) {
		t.Errorf("another device: %v", err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(); err != nil {
		t.Errorf("the name is gone and the device is not: %v", err)
	}
	first.Unplug()
	if err := p.Check(); !isLost(err) || !errors.Is(err, ErrUnplugged) {
		t.Errorf("unplugged: %v", err)
	}
}

// TestErrorsOfAPTY: a driver without counters says so.
func TestErrorsOfAPTY(t *testing.T) {
	p, err := openTest(toasterLine(t).Path())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { <-p.Close() }()
	if _, err := p.Errors(); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("got %v, want %v", err, unix.ENOTTY)
	}
}

func TestLineErrors(t *testing.T) {
	before, now := LineErrors{Frame: 3, Break: 1}, LineErrors{Frame: 5, Parity: 1, Break: 1}
	if got, want := now.since(before).String(), "2 framing, 1 parity"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := now.since(now).String(); got != "none" {
		t.Errorf("got %q", got)
	}
}

// TestStuckWriterOnAPTY: a peer that takes nothing blocks the library's Write in the kernel for good. The port is
// lost within writeLimit, given back when the adapter is unplugged, and holds nobody up meanwhile.
func TestStuckWriterOnAPTY(t *testing.T) {
	master, slave, err := pty.Open()
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	p, err := openTest(slave.Name())
	if err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	frame := bytes.Repeat([]byte("x"), 1024)
	for range 100 {
		if err = p.Write(frame); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrWriteStuck) || !isLost(err) {
		t.Fatalf("got %v, want %v", err, ErrWriteStuck)
	}
	free := p.Close()
	select {
	case <-free:
		t.Error("the port was given back under a write")
	default:
	}
	if _, err := openTest(slave.Name()); !errors.Is(err, ErrPortBusy) {
		t.Errorf("opened a second time: %v", err)
	}
	_ = master.Close()
	<-free
}

// BenchmarkWrite is the cost of handing a frame to the writer and back.
func BenchmarkWrite(b *testing.B) {
	p := &tty{path: "/dev/ttyTEST", lock: -1, lib: &fakeLibrary{write: func(data []byte) (int, error) { return len(data), nil }}}
	p.begin()
	defer func() { <-p.Close() }()
	frame := readRequest(1, 0, 1)
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Write(frame); err != nil {
			b.Fatal(err)
		}
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
