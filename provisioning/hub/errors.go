// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"errors"
	"fmt"
	"time"

	"github.com/contoso/gatewayd/provisioning/internal/mqttrpc"
	"github.com/contoso/gatewayd/provisioning/internal/netdial"
)

var (
	// ErrClosed is the error of a session that its owner closed.
	ErrClosed = errors.New("the hub session was closed")

	// ErrLost is wrapped by the error of a session whose connection broke.
	ErrLost = errors.New("the connection to the hub was lost")

	// ErrAnswer is wrapped when the hub's answer makes no sense.
	ErrAnswer = errors.New("the hub's answer makes no sense")
)

// RefusedError is a hub that does not accept the device: CONNACK 4 or 5, the credentials are wrong or the device is
// gone; or 1 or 2, the protocol or the device ID is.
type RefusedError struct {
	Code byte // of the CONNACK
}

// Error gives one line.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("the hub refused the device (CONNACK %d)", e.Code)
}

// ProxyError is wrapped by the error of a session that the site's proxy did not let through. It is the same type as that of
// package provisioning.
type ProxyError = netdial.ProxyError

// BusyError is a hub that takes no connection just now: CONNACK 3. It is a reason to wait, and none to register
// again (rule 7).
type BusyError struct{}

// Error gives one line.
func (e *BusyError) Error() string { return "the hub is busy (CONNACK 3)" }

// TwinError is a twin operation that the hub answered with an error status.
type TwinError struct {
	Status     int           // 400 bad request, 429 throttled, 5xx trouble
	RetryAfter time.Duration // the hub's hint; 0 if it gave none
}

// Error gives one line.
func (e *TwinError) Error() string {
	text := fmt.Sprintf("the hub answered the twin operation with status %d", e.Status)
	if e.RetryAfter > 0 {
		text += fmt.Sprintf(" and asks to wait %s", e.RetryAfter)
	}
	return text
}

// translate puts the connection's errors in this package's words.
func translate(err error) error {
	var refused *mqttrpc.RefusedError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused) && refused.Code == 3:
		return &BusyError{}
	case errors.As(err, &refused):
		return &RefusedError{Code: refused.Code}
	case errors.Is(err, mqttrpc.ErrClosed):
		return ErrClosed
	case errors.Is(err, mqttrpc.ErrLost):
		return fmt.Errorf("%w: %w", ErrLost, err)
	default:
		return err
	}
}
