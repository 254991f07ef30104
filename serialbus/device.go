// SPDX-License-Identifier: Apache-2.0

package serialbus

import "golang.org/x/sys/unix"

// device tells one device node from another behind the same name. The zero value is none.
type device struct{ number, inode uint64 }

// locate follows a port's name, a link by preference, to the device it leads to now.
func locate(path string) device {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return device{}
	}
	return deviceOf(&st)
}

// deviceOf takes from a file's status what identifies its device.
func deviceOf(st *unix.Stat_t) device {
	// The types of these fields differ between platforms.
	return device{number: uint64(st.Rdev), inode: uint64(st.Ino)}
}

// checkTTY returns an error unless the descriptor is a terminal that is still there: ENOTTY, or EIO after it hung up.
func checkTTY(fd int) error {
	_, err := unix.IoctlGetTermios(fd, getTermios)
	return err
}
