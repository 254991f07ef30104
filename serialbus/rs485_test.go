// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

func TestEnableRS485(t *testing.T) {
	if size := unsafe.Sizeof(rs485{}); size != 32 {
		t.Errorf("the structure has %d bytes, the kernel's has 32", size)
	}
	for _, tc := range []struct {
		name           string
		before         uint32
		getErr, setErr error
		takes          uint32 // the flags that the driver knows
		want           uint32
		fails, sets    bool
	}{
		{"switched off", rs485RTSAfterSend | rs485RXDuringTX, nil, nil, 0xff, rs485Enabled | rs485RTSOnSend, false, true},
		{"the device tree has it inverted", rs485Enabled | rs485RTSAfterSend, nil, nil, 0xff, rs485Enabled | rs485RTSAfterSend, false, false},
		{"a USB adapter", 0, syscall.ENOTTY, nil, 0xff, 0, true, false},
		{"a UART that cannot", 0, nil, syscall.EINVAL, 0xff, 0, true, true},
		{"a UART that takes it and does not", 0, nil, nil, 0, 0, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			is, sets := rs485{flags: tc.before, before: 1, after: 2}, false
			err := enableRS485(
				func(mode *rs485) error { *mode = is; return tc.getErr },
				func(mode *rs485) error {
					sets = true
					if tc.setErr == nil {
						is = *mode
						is.flags &= tc.takes
					}
					return tc.setErr
				})
			if (err != nil) != tc.fails || tc.fails && !errors.Is(err, ErrNoRS485) || sets != tc.sets {
				t.Errorf("got %v, set %v", err, sets)
			}
			if is.flags != tc.want || is.before != 1 || is.after != 2 {
				t.Errorf("got %+v", is)
			}
		})
	}
}

// TestRS485OnAPTY: a port without the mode says so, gives everything back, and can be opened without it.
func TestRS485OnAPTY(t *testing.T) {
	l := toasterLine(t)
	_, err := openTTY(l.Path(), speed{19200, ParityNone, 1}, opening{rs485: true})
	if !errors.Is(err, ErrNoRS485) || !strings.HasPrefix(err.Error(), l.Path()+": ") || !strings.Contains(err.Error(), "leave rs485 out") {
		t.Errorf("got %v", err)
	}
	p, err := openTest(l.Path())
	if err != nil {
		t.Fatal(err)
	}
	<-p.Close()
}
