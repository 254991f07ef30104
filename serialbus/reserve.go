// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// selectLimit is the first descriptor that the library's select cannot watch: its Read panics there (serial 3.2).
	selectLimit = 1024
	// perPort is how many descriptors a port takes: the one that holds the lock, the tty, and the library's pipe.
	perPort = 4
)

// reserve keeps low file descriptors for the ports of a process. A daemon with many connections gets beyond 1,023, and
// an adapter that is plugged in then would get a descriptor that the library cannot read from; at the limit of open
// files it would get none at all. So placeholders hold numbers that are given up just before a port is opened, and
// taken again when it closes. A nil *reserve keeps none.
type reserve struct {
	mu   sync.Mutex // guards the rest; held while a port is opened, so that ports do not take each other's numbers
	want int        // placeholders there should be: enough for the ports that are not open
	held []int
	kept bool // between keep and release
}

// newReserve is a reserve for as many ports. It holds nothing before keep.
func newReserve(ports int) *reserve { return &reserve{want: ports * perPort} }

// keep takes the placeholders: the earlier in a process, the lower their numbers.
func (r *reserve) keep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = true
	r.fill()
}

// lend gives up the numbers for one port while open runs. If open succeeds they are the port's until giveBack.
func (r *reserve) lend(open func() error) error {
	if r == nil {
		return open()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(perPort)
	err := open()
	if err == nil {
		r.want -= perPort
	}
	r.fill()
	return err
}

// giveBack takes the numbers of a closed port again.
func (r *reserve) giveBack() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.want += perPort
	r.fill()
}

// release gives up all placeholders for good.
func (r *reserve) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = false
	r.drop(len(r.held))
}

// drop closes n placeholders, or those there are.
func (r *reserve) drop(n int) {
	for range min(n, len(r.held)) {
		last := len(r.held) - 1
		_ = unix.Close(r.held[last]) // a placeholder has nothing to lose
		r.held = r.held[:last]
	}
}

// fill takes placeholders as long as low numbers are free; those that are missing are tried for again the next time.
func (r *reserve) fill() {
	for r.kept && len(r.held) < r.want {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return
		}
		if fd >= selectLimit {
			_ = unix.Close(fd)
			return
		}
		r.held = append(r.held, fd)
	}
}
