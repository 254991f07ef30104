// SPDX-License-Identifier: Apache-2.0

package allocation

import "context"

// Policy decides where an appliance belongs. Decide is a pure function of the
// question: it does no I/O, keeps no state, reads no clock, and gives the same
// answer to the same question. It is called from many goroutines at once. ctx
// only bounds how long it may think: Decide returns soon after ctx ends. It is
// waited for, since it cannot be stopped from outside; a policy that goes on
// thinking is kept from taking the machine only by the limit of requests at once.
//
// An error of type [Refusal] ends the registration for good. Any other error, a
// panic, and a hub that is not one of the request's LinkedHubs are trouble of
// our own, after which the service asks again.
type Policy interface {
	Decide(ctx context.Context, question Question) (Response, error)
}

// Question is everything that a decision depends on besides the policy itself.
type Question struct {
	Request Request

	// Device is the row of the site's device directory for the registration ID,
	// or nil: there is no directory, or no such row.
	Device Row
}

// Row is a row of the device directory, by column. A value is text, an int64, a
// float64 or a bool; a column that is NULL is absent.
type Row map[string]any
