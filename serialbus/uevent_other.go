// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package serialbus

import "errors"

// Other systems have no udev.
type uevents struct{}

func listenUevents() (*uevents, error) { return nil, errors.ErrUnsupported }

func (*uevents) next() (uevent, error) { return uevent{}, errors.ErrUnsupported }

func (*uevents) close() {}
