// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Holder is a process that has a port open.
type Holder struct {
	PID  int
	Name string // of the program, as the kernel has it: at most 15 bytes
}

// String returns the holder as people know it: minicom (PID 4711).
func (h Holder) String() string { return fmt.Sprintf("%s (PID %d)", h.Name, h.PID) }

// Holders looks up which processes have the ports open, with the caller's rights: all is false if there are processes
// that those did not suffice for. Ports are named by any path; the result has the same names.
func (m Machine) Holders(ports ...string) (holders map[string][]Holder, all bool) {
	wanted := make(map[string][]string) // device → names
	for _, port := range ports {
		device, err := filepath.EvalSymlinks(port)
		if err != nil {
			continue
		}
		if !slices.Contains(wanted[device], port) {
			wanted[device] = append(wanted[device], port)
		}
	}
	holders, all = make(map[string][]Holder), true
	processes, _ := os.ReadDir(m.proc())
	first := false // process 1 is in sight: others than our own are
	for _, process := range processes {
		pid, err := strconv.Atoi(process.Name())
		if err != nil {
			continue
		}
		first = first || pid == 1
		devices, err := m.open(process.Name())
		if errors.Is(err, fs.ErrPermission) {
			all = false
		}
		for _, device := range devices {
			for _, port := range wanted[device] {
				holders[port] = append(holders[port], Holder{PID: pid, Name: readText(m.proc(), process.Name(), "comm")})
			}
		}
	}
	return holders, all && first
}

// open returns the device nodes that a process has open, each once.
func (m Machine) open(process string) ([]string, error) {
	dir := filepath.Join(m.proc(), process, "fd")
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var devices []string
	for _, file := range files {
		target, err := os.Readlink(filepath.Join(dir, file.Name()))
		if err == nil && strings.HasPrefix(target, m.dev()+"/") && !slices.Contains(devices, target) {
			devices = append(devices, target)
		}
	}
	return devices, nil
}

// busyError says in words who holds a port.
func busyError(path string, m Machine) error {
	found, all := m.Holders(path)
	holders := found[path]
	switch {
	case len(holders) == 1 && holders[0].PID == os.Getpid():
		return fmt.Errorf("%s: %w: this very one; look whether two sections of its configuration name the port", path, ErrPortBusy)
	case len(holders) > 0:
		var names []string
		for _, h := range holders {
			names = append(names, h.String())
		}
		return fmt.Errorf("%s: %w: %s; end it", path, ErrPortBusy, strings.Join(names, ", "))
	case !all:
		return fmt.Errorf("%s: %w; end it (sudo gatewayctl ports shows which one it is)", path, ErrPortBusy)
	default:
		return fmt.Errorf("%s: %w, or did a moment ago", path, ErrPortBusy)
	}
}
