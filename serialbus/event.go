// SPDX-License-Identifier: Apache-2.0

package serialbus

import "errors"

// EventKind says what an [Event] is about.
type EventKind int

// The kinds of events.
const (
	// LineUp: the port is open. Nothing is known yet of what is on it.
	LineUp EventKind = iota + 1
	// LineDown: the port could not be opened or was lost; Err says why. It is told once for each reason, and Run goes
	// on trying. Every appliance that was found there is told Lost before.
	LineDown
	// Found: an appliance answers at Unit and gave the same Identity twice.
	Found
	// Lost: nobody usable answers at Unit; Err says why. It is told when a found appliance has missed three looks in a
	// row, and for a configured place where nobody was found at all, silence only after a slow look; once for each
	// reason. When another appliance, or
	// the same one with new firmware, answers at a place, Lost comes first and Found follows, with the new Identity and the
	// old one in Was.
	Lost
	// Scanning: Progress tells how far the first round of looks at the line has got. It is told at each step's
	// beginning, once a second and at the end.
	Scanning
	// Diagnosed: Diagnoses are what is wrong with the line from now on, none if nothing is any more. It is told when the
	// first round of looks ends, and when that changes.
	Diagnosed
)

// String returns the kind as one word for logs.
func (k EventKind) String() string {
	switch k {
	case LineUp:
		return "line-up"
	case LineDown:
		return "line-down"
	case Found:
		return "found"
	case Lost:
		return "lost"
	case Scanning:
		return "scanning"
	case Diagnosed:
		return "diagnosed"
	default:
		return "unknown"
	}
}

// Event is one change on a line.
type Event struct {
	Kind     EventKind
	Unit     int      // Modbus address; 0 on a line with one appliance, and for LineUp and LineDown
	Identity Identity // Found: what was read twice alike. Lost: who was there, zero if nobody had been found
	Was      Identity // Found: who was found there last, if that was not the same; zero otherwise, and for the first one
	Err      error    // LineDown and Lost: why, in plain words with what to do next
	Progress Progress // Scanning
	// Diagnoses belong to Diagnosed: all that is wrong with the line, the worst first.
	Diagnoses []Diagnosis
}

// Swapped reports whether Found tells of another appliance than the last one at this place, however long ago that was,
// and not of the same one with other firmware.
func (e Event) Swapped() bool {
	was, is := e.Was, e.Identity
	return was != (Identity{}) &&
		(was.Vendor != is.Vendor || was.Model != is.Model || was.Serial != is.Serial || was.RegistrationID != is.RegistrationID)
}

// Why a line or a place does not answer. Err of an [Event] and the error of [Bus.Apply] wrap one of these where it
// applies; their text is complete without it.
var (
	ErrSilent      = errors.New("nobody answered")
	ErrNoise       = errors.New("bytes without a valid checksum came back")
	ErrStrange     = errors.New("it answers, but not in the words of its profile")
	ErrNotFound    = errors.New("no appliance was found there")
	ErrChanged     = errors.New("another appliance, or other firmware, answers there now")
	ErrNoPort      = errors.New("no such port")
	ErrNoAccess    = errors.New("no permission to open the port")
	ErrPortBusy    = errors.New("another program holds the port")
	ErrNotSerial   = errors.New("this is not a serial port")
	ErrNoRS485     = errors.New("the port has no RS-485 mode")
	ErrUnplugged   = errors.New("the port is gone")
	ErrWriteStuck  = errors.New("the port takes no more bytes")
	ErrLineStopped = errors.New("the line is not being run")
	// ErrAnotherMaster: somebody else sends requests on the line. Nothing is asked meanwhile.
	ErrAnotherMaster = errors.New("another master is talking on the line")
)
