// SPDX-License-Identifier: Apache-2.0

// Package dpslocal is a Device Provisioning Service with its IoT hubs, for a
// test bench, a class room, or a site without a cloud. It is the other half of
// the protocol that package provisioning speaks, and shares no code with it: a
// double that borrowed the client's structs would agree with its mistakes.
//
// # What it answers
//
// One HTTPS and one MQTT listener serve everything. The device API (register,
// operation status, registration status lookup) is on both where the protocol
// has it on both. The hubs answer on the same MQTT listener; a client names
// the hub in its user name. MQTT comes over WebSocket too, on the HTTPS port at
// the path /$iothub/websocket or /. Credentials are SAS tokens signed with a key
// that was derived from an enrollment group's key, or with an individual
// enrollment's own; or TLS client certificates, of an individual enrollment or of
// an issuer that an enrollment group names. A hub knows a device with a
// certificate by its thumbprint.
//
// # Operators
//
// The enrollment API (dps-protocol 17) is on the HTTPS listener, under
// NAME.azure-devices-provisioning.net or any other of the server's names. A hub
// serves its twins, GET, PATCH and PUT of /twins/{id}, under its own name, and
// of /{hub}/twins/{id} under any other. Both want a token of a policy: of
// Config.PolicyKeys, or of the hub's. No key is generated, and without a policy
// there is no way in. An entry of the configuration that was deleted is made
// again at the next start.
//
// # A registration
//
//	device                     dpslocal                       webhook
//	  | register, SAS            |                               |
//	  |------------------------->| find enrollment, check token  |
//	  |<---- 202, Retry-After ---| operation on disk, then begun |
//	  |                          |---- AllocationRequest ------->|
//	  | operation status         |<--- 200 iotHubHostName -------|
//	  |------------------------->| device made on that hub       |
//	  |<---- 200 assigned -------|                               |
//
// A register is always answered 202, even when the result is known at once. An
// operation is stored before it is announced, with what it takes to carry on:
// after a restart it continues where it stopped, the count of webhook calls
// included. Time is the package time alone, so a test inside a synctest bubble
// can drive the seven minutes of a failing webhook in an instant.
//
// # Reading order
//
// server.go wires; service.go is the one door for a call of either transport;
// enrollment.go and sas.go decide who may come in; operation.go runs what was
// begun and allocation.go with webhook.go decide its hub; hub.go and twin.go are
// the hubs; serviceapi.go and hubapi.go are what operators call, behind policy.go;
// throttle.go and faultscript.go answer badly on purpose; store.go says what must
// be kept, sharedstore.go and lease.go how several servers work on one store. The
// MQTT framing with its limits is a package of its own below internal, since it
// knows neither DPS nor hubs.
//
// References such as "dps-protocol 5.3" name sections of the project's protocol
// reference.
package dpslocal
