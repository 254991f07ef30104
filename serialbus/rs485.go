// SPDX-License-Identifier: Apache-2.0

package serialbus

import (
	"errors"
	"fmt"
)

// rs485 is the kernel's struct serial_rs485.
type rs485 struct {
	flags  uint32
	before uint32 // ms between switching the driver on and the first bit
	after  uint32 // ms between the last bit and switching it off
	_      [5]uint32
}

// Flags of rs485 (linux/serial.h).
const (
	rs485Enabled      = 1 << 0
	rs485RTSOnSend    = 1 << 1 // RTS is high while sending
	rs485RTSAfterSend = 1 << 2 // RTS is high after sending
	rs485RXDuringTX   = 1 << 4 // what is sent is received, too
)

// enableRS485 makes the UART itself switch the line driver on to send and off after the last bit, which no program can
// do in time (serial 3.3). What the device tree has set up is right and stays as it is, and so do delays. get and set
// are the two ioctls on the port.
func enableRS485(get, set func(*rs485) error) error {
	var mode rs485
	if err := get(&mode); err != nil {
		return noRS485(err)
	}
	if mode.flags&rs485Enabled != 0 {
		return nil
	}
	mode.flags |= rs485Enabled | rs485RTSOnSend
	mode.flags &^= rs485RTSAfterSend | rs485RXDuringTX
	if err := set(&mode); err != nil {
		return noRS485(err)
	}
	// Some drivers take the call and leave out what they cannot do.
	if err := get(&mode); err != nil || mode.flags&rs485Enabled == 0 {
		return noRS485(errors.Join(errors.New("it did not take it"), err))
	}
	return nil
}

func noRS485(err error) error {
	return fmt.Errorf("%w (%v); a USB adapter switches direction by itself: leave rs485 out for it; other ports need a UART that can, set up in the device tree", ErrNoRS485, err)
}
