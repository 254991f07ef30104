// SPDX-License-Identifier: Apache-2.0

// Package gateway is the daemon: it owns the appliances on the serial lines and
// leads each from its first word to proven settings, whatever the cloud is doing.
//
// The promise: an appliance is plugged into a line, and a minute later it is
// registered, assigned, configured and proven. After a power cut it is so again
// without asking the provisioning service, because the assignment is on disk.
//
// A byte's journey, and back:
//
//  1. serialbus reads an identity twice alike and hands it to the supervisor.
//  2. The supervisor turns it into a registration ID and checks it against the
//     rule and the line's allow list (supervisor.go).
//  3. The device key is derived from the enrollment group's key.
//  4. provisioning.Client registers; intent and operation ID are on disk before
//     the step that follows them (register.go).
//  5. Meanwhile the service asks our webhook which hub it shall be (webhook.go,
//     package allocation).
//  6. The assignment is stored (store.go).
//  7. A hub session opens; desired properties go out through serialbus, the
//     appliance's answer goes up as reported properties (serve.go).
//
// Reading order: state.go for the words, appliance.go for the loop, then
// register.go and serve.go; gateway.go wires it all, task.go runs it, status.go
// shows it. Only this package knows two leaves at once.
package gateway
