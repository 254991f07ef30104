// SPDX-License-Identifier: Apache-2.0

// Package conformancetest holds the rules that a client of the Device Provisioning Service has to keep, as a suite that
// can be run on any client and over any transport, and what it stands on: a scripted service on a network in memory,
// and a strict parser of what a client puts on the wire.
//
// Nothing here knows the client of package provisioning. A client is judged from outside, by what the service saw and
// when, and by the outcome that it reports. The tests of this package run the suite on a plain client that keeps the
// rules, and on the same client with one defect at a time, which the suite must catch.
package conformancetest
