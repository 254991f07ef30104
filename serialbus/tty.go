// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"go.bug.st/serial"
	"golang.org/x/sys/unix"
)

// writeLimit is how long a port may take to accept a frame. A frame is at most 1 KiB, so only a line that is stopped
// needs longer.
const writeLimit = 2 * time.Second

// library is what we use of go.bug.st/serial's Port. No other file knows that library, and each of its habits that
// could hurt is dealt with in this one (serial 3.2).
type library interface {
	Read(buf []byte) (int, error)
	Write(data []byte) (int, error)
	SetReadTimeout(wait time.Duration) error
	SetMode(mode *serial.Mode) error
	ResetInputBuffer() error
	Close() error
}

// tty is a port on a real device. All methods belong to one goroutine; only a write that hangs outlives its call.
type tty struct {
	path  string
	lib   library
	lock  int           // second descriptor that holds the lock
	hung  chan struct{} // set when a write hangs, closed when it comes back
	freed chan struct{}

	mu     sync.Mutex // guards closed
	closed bool
}

var _ port = (*tty)(nil)

// openTTY opens and locks a port.
func openTTY(path string, s speed) (port, error) {
	lock, err := lockTTY(path)
	if err != nil {
		return nil, openError(path, err)
	}
	lib, err := serial.Open(path, s.mode())
	if err != nil {
		_ = unix.Close(lock) // the error that counts is the one of the open
		return nil, openError(path, err)
	}
	return &tty{path: path, lib: lib, lock: lock, freed: make(chan struct{})}, nil
}

// mode is the speed in the library's words.
func (s speed) mode() *serial.Mode {
	mode := &serial.Mode{BaudRate: s.baud, DataBits: 8, Parity: serial.NoParity, StopBits: serial.OneStopBit}
	switch s.parity {
	case ParityEven:
		mode.Parity = serial.EvenParity
	case ParityOdd:
		mode.Parity = serial.OddParity
	case ParityNone:
	}
	if s.stopBits == 2 {
		mode.StopBits = serial.TwoStopBits
	}
	return mode
}

// lockTTY takes the lock that keeps other programs of ours off the port. The library's own exclusive mode does not
// bind root, and any root process that opens and closes the port lifts it. The descriptor is opened before, because
// exclusive mode would refuse it afterwards.
func lockTTY(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if _, err := unix.IoctlGetTermios(fd, getTermios); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// openError puts the reason why a port cannot be opened into words with what to do next.
func openError(path string, err error) error {
	var known *serial.PortError
	if errors.As(err, &known) {
		switch known.Code() {
		case serial.PortBusy:
			err = syscall.EBUSY
		case serial.PermissionDenied:
			err = syscall.EACCES
		case serial.InvalidSerialPort:
			return fmt.Errorf("%s: %w that can be set up (%v); check the path, the speed and the parity", path, ErrNotSerial, err)
		default:
		}
	}
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%s: %w; plug the adapter in, or choose one of those under /dev/serial/by-id and by-path", path, ErrNoPort)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%s: %w; the daemon's user must be in group dialout, and its unit must allow the device", path, ErrNoAccess)
	case errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.EWOULDBLOCK):
		return fmt.Errorf("%s: %w; end it (fuser -v shows which one it is)", path, ErrPortBusy)
	case errors.Is(err, syscall.ENOTTY), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.EINVAL):
		return fmt.Errorf("%s: %w; check the path", path, ErrNotSerial)
	case errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.EIO):
		return fmt.Errorf("%s: %w; plug the adapter in again", path, ErrUnplugged)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return fmt.Errorf("%s: too many files are open (%w); configure fewer lines", path, err)
	default:
		return fmt.Errorf("%s: opening the port: %w", path, err)
	}
}

// lost says that the device went away while it was open. A vanished adapter shows as "closed by us" on reading and as
// EIO on writing.
func (t *tty) lost(err error) error {
	return &lostError{fmt.Errorf("%s: %w (%v); plug the adapter in again", t.path, ErrUnplugged, err)}
}

// Read implements port. It turns the library's time-out, no bytes and no error, into errTimeout.
func (t *tty) Read(buf []byte, wait time.Duration) (n int, err error) {
	// The library's select panics when the process has so many files open that the port's descriptor is 1,024 or more.
	defer func() {
		if caught := recover(); caught != nil {
			n, err = 0, &lostError{fmt.Errorf("%s: the process has too many files open to read the port (%v); configure fewer lines", t.path, caught)}
		}
	}()
	if t.isClosed() {
		return 0, t.lost(errors.New("closed"))
	}
	if err := t.lib.SetReadTimeout(max(wait, 0)); err != nil {
		return 0, t.lost(err)
	}
	n, err = t.lib.Read(buf)
	switch {
	case err != nil:
		return 0, t.lost(err)
	case n == 0:
		return 0, errTimeout
	default:
		return n, nil
	}
}

// Write hands the frame to a goroutine of its own, because the library's Write can block in the kernel for good.
func (t *tty) Write(frame []byte) error {
	if t.hung != nil {
		return t.stuck()
	}
	done, back := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(back)
		done <- t.writeAll(frame)
	}()
	limit := time.NewTimer(writeLimit)
	defer limit.Stop()
	select {
	case err := <-done:
		return err
	case <-limit.C:
		t.hung = back
		return t.stuck()
	}
}

// stuck is the error for a write that hangs.
func (t *tty) stuck() error {
	return &lostError{fmt.Errorf("%s: %w; the line is stopped or the adapter hangs: plug it in again", t.path, ErrWriteStuck)}
}

// writeAll writes the frame in as many parts as the kernel takes it.
func (t *tty) writeAll(frame []byte) error {
	for len(frame) > 0 {
		if t.isClosed() {
			return t.lost(errors.New("closed"))
		}
		n, err := t.lib.Write(frame)
		if err != nil {
			return t.lost(err)
		}
		frame = frame[n:]
	}
	return nil
}

// SetSpeed implements port.
func (t *tty) SetSpeed(s speed) error {
	if t.isClosed() {
		return t.lost(errors.New("closed"))
	}
	if err := t.lib.SetMode(s.mode()); err != nil {
		return t.lost(err)
	}
	return nil
}

// Flush implements port.
func (t *tty) Flush() error {
	if t.isClosed() {
		return t.lost(errors.New("closed"))
	}
	if err := t.lib.ResetInputBuffer(); err != nil {
		return t.lost(err)
	}
	return nil
}

// Close gives the port back. While a write hangs its descriptor must stay: the number could go to another file, and
// the late write into that (serial 3.2).
func (t *tty) Close() <-chan struct{} {
	t.mu.Lock()
	already := t.closed
	t.closed = true
	t.mu.Unlock()
	if already {
		return t.freed
	}
	if t.hung == nil {
		t.release()
		return t.freed
	}
	go func() {
		<-t.hung
		t.release()
	}()
	return t.freed
}

// release gives the descriptors back, the lock last: whoever waits for it may open the port at once.
func (t *tty) release() {
	// Nothing can be done about an error here, and the descriptors are gone either way.
	_ = t.lib.Close()
	_ = unix.Close(t.lock)
	close(t.freed)
}

// isClosed is asked before every call of the library, which would use the old descriptor's number (serial 3.2).
func (t *tty) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}
