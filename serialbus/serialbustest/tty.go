// SPDX-License-Identifier: Apache-2.0

package serialbustest

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// tty is a pseudo-terminal: we hold the master side, and one descriptor of the other side, without which reading would
// fail whenever nobody has the port open.
type tty struct {
	path   string
	master *os.File
	slave  *os.File
	closes *os.File // inotify: tells when somebody closes the port; nil if the system has none to spare
}

// openTTY makes a pair whose other side is raw and free for a master to open.
func openTTY() (t *tty, err error) {
	blocking, slave, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("opening a pseudo-terminal: %w", err)
	}
	defer blocking.Close()
	defer func() {
		if err != nil {
			slave.Close()
		}
	}()
	if err := makeRaw(slave); err != nil {
		return nil, fmt.Errorf("setting %s raw: %w", slave.Name(), err)
	}
	master, err := pollable(blocking)
	if err != nil {
		return nil, fmt.Errorf("preparing the master of %s: %w", slave.Name(), err)
	}
	t = &tty{path: slave.Name(), master: master, slave: slave}
	// A user may have few of these (128 is common). Without one only forgetExclusive is missing.
	if closes, err := watchCloses(slave.Name()); err == nil {
		t.closes = closes
	}
	return t, nil
}

// pollable returns the file again, as one whose Read knows deadlines and is ended by Close. The pty library hands out
// a file that blocks a thread instead.
func pollable(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// makeRaw makes the line carry all bytes unchanged and unechoed, also before a master has set it up.
func makeRaw(f *os.File) error {
	fd := int(f.Fd())
	settings, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	settings.Iflag, settings.Oflag, settings.Lflag = 0, 0, 0
	settings.Cc[unix.VMIN], settings.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(fd, unix.TCSETS, settings)
}

// watchCloses returns a file that becomes readable when somebody closes the tty.
func watchCloses(path string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_CLOSE); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "closes of "+path), nil
}

// forgetExclusive lifts the exclusive mode whenever the port was closed, until the line is unplugged. A real port
// forgets it by itself; a pseudo-terminal keeps it, and a daemon that was killed could never open its port again
// unless it is root.
func (t *tty) forgetExclusive() {
	if t.closes == nil {
		return
	}
	var events [4096]byte
	for {
		if _, err := t.closes.Read(events[:]); err != nil {
			return
		}
		_ = t.control(t.slave, func(fd int) { _ = unix.IoctlSetInt(fd, unix.TIOCNXCL, 0) })
	}
}

// baud returns the speed that the port is set to.
func (t *tty) baud() int {
	speed := 9600 // what a port has that nobody set
	_ = t.control(t.master, func(fd int) {
		if settings, err := unix.IoctlGetTermios(fd, unix.TCGETS2); err == nil {
			speed = int(settings.Ospeed)
		}
	})
	return speed
}

// nearly is how long before a time the runtime's timers are trusted no more: they may be a millisecond late.
const nearly = 2 * time.Millisecond

// arm prepares read to wait until a time, the zero time for ever; interrupt, called later, still counts.
func (t *tty) arm(until time.Time) {
	if !until.IsZero() {
		until = until.Add(-nearly)
	}
	_ = t.master.SetReadDeadline(until) // it fails only after close, and read tells that
}

// interrupt ends a read that waits.
func (t *tty) interrupt() { _ = t.master.SetReadDeadline(time.Unix(1, 0)) }

// read waits for bytes until the time that arm was told, and a little less exactly for an interruption: then it
// returns none and no error. The long part of the wait costs no thread, the last two milliseconds are exact.
func (t *tty) read(buf []byte, until time.Time) (int, error) {
	n, err := t.master.Read(buf)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	if until.IsZero() {
		return 0, nil
	}
	left := time.Until(until)
	if left > nearly+nearly { // interrupted: there is something new
		return 0, nil
	}
	return t.await(buf, max(left, 0))
}

// await waits for bytes with the kernel's own clock, which is exact to a tenth of a millisecond.
func (t *tty) await(buf []byte, wait time.Duration) (n int, err error) {
	controlErr := t.control(t.master, func(fd int) {
		limit := unix.NsecToTimespec(int64(wait))
		ready, _ := unix.Ppoll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, &limit, nil)
		if ready <= 0 {
			return // nothing, or a signal: the caller looks at the clock
		}
		n, err = unix.Read(fd, buf)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			n, err = 0, nil
		}
	})
	return max(n, 0), errors.Join(controlErr, err)
}

// write sends what fits into the terminal's buffer and returns how much that was: a line does not wait for a master
// that does not read.
func (t *tty) write(data []byte) (n int, err error) {
	controlErr := t.control(t.master, func(fd int) {
		n, err = unix.Write(fd, data)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			n, err = 0, nil
		}
	})
	return max(n, 0), errors.Join(controlErr, err)
}

// flow lets what the master writes pass, or stops it.
func (t *tty) flow(on bool) error {
	action := unix.TCOOFF
	if on {
		action = unix.TCOON
	}
	var err error
	controlErr := t.control(t.slave, func(fd int) { err = unix.IoctlSetInt(fd, unix.TCXONC, action) })
	return errors.Join(controlErr, err)
}

// control does something with a file's descriptor, which cannot be closed meanwhile.
func (t *tty) control(f *os.File, do func(fd int)) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { do(int(fd)) })
}

// close takes the pair away: a master that has it open sees a hang-up.
func (t *tty) close() {
	if t.closes != nil {
		t.closes.Close()
	}
	t.slave.Close()
	t.master.Close()
}
