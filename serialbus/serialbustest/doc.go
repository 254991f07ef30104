// SPDX-License-Identifier: Apache-2.0

// Package serialbustest simulates serial lines with appliances on them, on real pseudo-terminals.
//
// It is for tests, for the demo and for trying things out: what opens [Line.Path] sees a port on which a toaster or a
// row of heat pumps answers, at the speed that the port was set to. It shares no code with package serialbus: frames
// and checksums are built here a second time, because two halves that share their code agree with each other's
// mistakes. Parity, framing errors and modem lines do not exist on a pseudo-terminal.
//
// A line costs three descriptors and a few kilobytes, and no processor time while nobody asks. It works on Linux.
package serialbustest
