// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
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

// tty is a port on a real device. All methods belong to one goroutine, its owner; a second one, the writer, writes for
// it, because the library's Write can block in the kernel for good.
type tty struct {
	path    string
	lib     library
	lock    int    // second descriptor, which holds the lock
	device  device // what the path led to
	reserve *reserve

	frames  chan []byte // to the writer; closing it ends the port
	written chan error  // from the writer; room for one, so that a late result is no trouble
	limit   *time.Timer // reused by every Write
	hung    bool        // a write hangs, or did: the port is lost; the owner's
	closed  atomic.Bool // set by the owner, asked before every call of the library
	freed   chan struct{}
}

var _ port = (*tty)(nil)

// opening is how a port is opened, beside its speed.
type opening struct {
	reserve *reserve // where its descriptors come from; nil = anywhere
	rs485   bool     // let the UART switch the direction
}

// openTTY opens and locks a port.
func openTTY(path string, s speed, how opening) (port, error) {
	t := &tty{path: path, reserve: how.reserve}
	err := t.reserve.lend(func() error { return withoutChildren(func() error { return t.open(s.mode(), how.rs485) }) })
	if err != nil {
		return nil, openError(path, err)
	}
	t.begin()
	return t, nil
}

// open locks the port and opens it; on an error nothing of it is left open.
func (t *tty) open(mode *serial.Mode, rs485 bool) (err error) {
	if t.lock, t.device, err = lockTTY(t.path); err != nil {
		return err
	}
	if rs485 {
		// Before the library opens the port and could send something.
		if err := switchRS485(t.lock); err != nil {
			_ = unix.Close(t.lock)
			return err
		}
	}
	// The library's Port is nil on an error, and must not end up in the interface then.
	lib, err := serial.Open(t.path, mode)
	if err != nil {
		_ = unix.Close(t.lock) // the error that counts is the one of the open
		return err
	}
	t.lib = lib
	return nil
}

// begin starts the writer.
func (t *tty) begin() {
	t.frames, t.written, t.freed = make(chan []byte), make(chan error, 1), make(chan struct{})
	t.limit = time.NewTimer(writeLimit)
	t.limit.Stop()
	go t.writer()
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
// exclusive mode would refuse it afterwards. It returns which device was locked, too.
func lockTTY(path string) (int, device, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, device{}, err
	}
	var st unix.Stat_t
	for _, step := range []func() error{
		func() error { return checkTTY(fd) },
		func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) },
		func() error { return unix.Fstat(fd, &st) },
	} {
		if err := step(); err != nil {
			_ = unix.Close(fd)
			return -1, device{}, err
		}
	}
	return fd, deviceOf(&st), nil
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
	case errors.Is(err, ErrNoRS485):
		return fmt.Errorf("%s: %w", path, err)
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%s: %w; plug the adapter in, or choose one of those under /dev/serial/by-id and by-path", path, ErrNoPort)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%s: %w; the daemon's user must be in group dialout, and its unit must allow the device", path, ErrNoAccess)
	case errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.EWOULDBLOCK):
		return busyError(path, Machine{})
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
	if t.closed.Load() {
		return 0, t.gone()
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

// Write hands the frame to the writer and waits until the kernel took it. A frame that is stuck may be sent at any time
// later, so it must not be changed.
func (t *tty) Write(frame []byte) error {
	switch {
	case t.closed.Load():
		return t.gone()
	case t.hung:
		return t.stuck()
	}
	t.frames <- frame
	t.limit.Reset(writeLimit)
	select {
	case err := <-t.written:
		t.limit.Stop()
		return err
	case <-t.limit.C:
		t.hung = true
		return t.stuck()
	}
}

// stuck is the error for a write that hangs.
func (t *tty) stuck() error {
	return &lostError{fmt.Errorf("%s: %w; the line is stopped or the adapter hangs: plug it in again", t.path, ErrWriteStuck)}
}

// gone is the error for a call after our own Close, which the library does not tell from an adapter that was pulled.
func (t *tty) gone() error { return &lostError{fmt.Errorf("%s: %w", t.path, os.ErrClosed)} }

// writer writes one frame after the other until the port closes, and gives the port back then. While a write hangs the
// descriptor stays open: its number could go to another file, and the late write into that (serial 3.2).
func (t *tty) writer() {
	for frame := range t.frames {
		t.written <- t.writeAll(frame)
	}
	// Nothing can be done about an error here, and the descriptors are gone either way. The lock goes last: whoever
	// waits for it may open the port at once. A driver may hold the close up until its last bytes are sent.
	_ = t.lib.Close()
	_ = unix.Close(t.lock)
	t.reserve.giveBack()
	close(t.freed)
}

// writeAll writes the frame in as many parts as the kernel takes it.
func (t *tty) writeAll(frame []byte) error {
	for len(frame) > 0 {
		if t.closed.Load() {
			return t.gone()
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
	if t.closed.Load() {
		return t.gone()
	}
	if err := t.lib.SetMode(s.mode()); err != nil {
		return t.lost(err)
	}
	return nil
}

// Flush implements port.
func (t *tty) Flush() error {
	if t.closed.Load() {
		return t.gone()
	}
	if err := t.lib.ResetInputBuffer(); err != nil {
		return t.lost(err)
	}
	return nil
}

// Check implements port. A name that leads nowhere is no loss as long as the device answers: somebody removed a link.
func (t *tty) Check() error {
	if t.closed.Load() {
		return t.gone()
	}
	if err := checkTTY(t.lock); err != nil {
		return t.lost(err)
	}
	if now := locate(t.path); now != t.device && now != (device{}) {
		return t.lost(errors.New("its name leads to another device now"))
	}
	return nil
}

// Errors implements port.
func (t *tty) Errors() (LineErrors, error) {
	if t.closed.Load() {
		return LineErrors{}, t.gone()
	}
	return readLineErrors(t.lock)
}

// Close implements port. The owner does not read when it calls this, so the library's close, which would pull the
// descriptor from under a reader, meets none.
func (t *tty) Close() <-chan struct{} {
	if !t.closed.Swap(true) {
		close(t.frames)
	}
	return t.freed
}
