// SPDX-License-Identifier: Apache-2.0

package dpslocal

// CallKind is what a device asks for.
type CallKind string

// The calls of the device API.
const (
	RegisterCall CallKind = "register"
	PollCall     CallKind = "poll"   // operation status
	LookupCall   CallKind = "lookup" // registration status, HTTPS only
)

// FaultPoint is the moment at which Options.Fault is asked: a device's call has
// arrived and nothing has been done about it.
type FaultPoint struct {
	Transport      string // "https" or "mqtt"
	Call           CallKind
	RegistrationID string // as presented
}

// Fault is how the service answers badly. The zero value answers well. It is
// for tests that run the server in their own process.
type Fault struct {
	// Status, when not 0, is answered with an error body, and the call has no
	// effect: 429 begins no operation.
	Status int

	// RetryAfter, when not "", is sent as the retry-after hint as it stands, with
	// an error or in place of the hint of a good answer.
	RetryAfter string

	// Drop lets the call take effect and closes the connection instead of
	// answering, as a line that breaks at the worst moment does.
	Drop bool
}
