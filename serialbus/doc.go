// SPDX-License-Identifier: Apache-2.0

// Package serialbus finds appliances on serial lines, reads what they say of themselves and brings them to the
// settings that the cloud wants.
//
// A [Bus] is one port. Its [Bus.Run] owns that port: it opens it, looks for the configured appliances, watches the
// ones it found, and opens the port again for ever when it is lost. Whatever happens on the line becomes an [Event];
// no noise, no silence and no pulled plug ends Run. All bytes are read and written by the one goroutine that called
// Run; [Bus.Apply] hands its work over to it.
//
// Two drivers speak two protocols.
//
// The driver "modbus-rtu" is a Modbus RTU master for RS-485 lines with many units (serial 4). A frame is
//
//	+------+----------+----------------- … ---+--------+--------+
//	| unit | function | data (0 to 252 bytes) | CRC lo | CRC hi |
//	+------+----------+----------------- … ---+--------+--------+
//
// It is cut out of the byte stream by function code and length, never by silence: USB adapters destroy the time
// between characters. A frame of another unit, a late frame or a damaged one is dropped while the timer runs on. The
// time limits count characters: c is the time of one character on the wire, and the line rests for 3.5 c (1.75 ms
// above 19,200 baud) before each request. The first byte of a reply may take [Config].ReplyTimeout after the last
// byte of the request, a whole frame 256 c + 50 ms after its first byte (serial 4.2, 5.1). An adapter that echoes is
// noticed, and its echo taken off.
//
// Most addresses of such a line are silent, and silence is what costs time. So a scan has steps (serial 5.3): first the
// units that are known, then a fast look at all others, whose wait is learned from the replies of this line, then a
// slow look of 600 ms at those that were silent, spread over minutes and later over hours. Whoever answers is
// identified at once. [Scanning] events tell how far it has got. Where the speed of the line is not known,
// [Config].AutoBaud searches it first.
//
// The driver "line" speaks ALP/1 with the single appliance on the line: JSON-RPC 2.0, one compact message a line,
// closed by a CRC-32 (serial 6).
//
//	{"jsonrpc":"2.0","id":1,"method":"identify"}*2F104B70\n
//
// or it speaks in the words of a profile: queries, the expressions that take their answers apart, and what ends a reply
// (*IDN?, AT commands). A profile without a query only listens. Nothing is ever sent to a port whose profile does not
// say so: an unknown appliance may act on a query.
//
// A port is a name, by preference a stable one ([Machine.Ports]), behind which adapters come and go. Run looks every two
// seconds whether the name still leads to the device it has open, or to one again; [Ports] brings udev's news of
// adapters to all lines of a process, so that they look at once, and keeps descriptors for their ports. What the serial
// library does wrong is dealt with in tty.go and reserve.go, and nowhere else (serial 3.2).
//
// What the line tells, and what it is called:
//
//	a valid frame, even an exception    the unit is there
//	nothing                             [ErrSilent]: switched off, not connected, or another address
//	bytes without a valid checksum      [ErrNoise]: wrong speed or parity, noise, or two units on one address
//
// A serial line authenticates nobody and CRC-16 lets one random frame in 65,536 pass, so an identity counts only
// after two readings alike (serial 1.7, 5.4). What a product can be set to is data: the files in profiles/ name each
// property's register, unit, range and values, and their bounds win over the cloud (serial 7.6).
package serialbus
