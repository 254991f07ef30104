// SPDX-License-Identifier: Apache-2.0

// Package serialbustest simulates serial lines with appliances on them, on real pseudo-terminals.
//
// It is for tests, for the demo and for trying things out: what opens [Line.Path] sees a port on which a toaster, a
// row of heat pumps or whatever a script describes answers. It shares no code with package serialbus: frames and
// checksums are built here a second time, because two halves that share their code agree with each other's mistakes.
//
// Time is that of a wire. The simulator reads from its end of the terminal which speed the master has set, and each
// byte of a reply leaves when its last bit would be over, at start + i·c (serial 5.1): never early, and the last byte
// of a frame on time. The kernel hands over a request at once; its bytes count as under way for as long as they would
// be on a wire. On a bus all share one pair of wires, so that what overlaps is spoilt: two units with one address, a
// late reply and the next request, another master.
//
// What goes wrong follows rules ([Rule]) and a seed, so that it goes wrong again in the next run.
//
// Parity, framing errors and modem lines do not exist on a pseudo-terminal. A line costs three descriptors and a few
// kilobytes, and no processor time while nobody asks. It works on Linux.
package serialbustest
