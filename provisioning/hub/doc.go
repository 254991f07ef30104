// SPDX-License-Identifier: Apache-2.0

// Package hub keeps a device's session with its assigned IoT hub: the device twin over MQTT (dps-protocol 18).
//
// A [Session] is one connection. It reads the twin, takes pushed changes of the desired properties and reports what
// the device has become. It does not come back by itself when the connection ends: [Session.Done] says so,
// [Session.Err] says why, and its owner decides when to [Connect] again, with a fresh token.
//
// Desired changes that happen while there is no session are not queued by the hub. So the order is: connect, which
// subscribes; read the twin; then follow [Session.Desired], and read the twin again whenever a version is missing.
package hub
