// SPDX-License-Identifier: Apache-2.0

// Package provisioning registers devices with Azure's Device Provisioning Service (DPS), or with anything that speaks
// its protocol, over HTTPS, MQTT or MQTT over WebSocket.
//
// # The dance
//
// A device has a registration ID and a key. [GroupKey.Derive] makes the key from the enrollment group's; with it
// the device signs a short-lived token ([DeviceKey.SASToken]). [Client.Register] then
//
//	submits    PUT register            202 {operationId, "assigning"}, wait 3 s
//	polls      GET operations/{id}     202 {"assigning"}, wait 3 s      as often as it takes
//	finishes                           200 {"assigned", hub, device ID}
//
// and returns the [Assignment]. The service asks its allocation policy in between, which may take seven minutes
// before anybody should worry. Over MQTT the same three documents travel as messages, on a connection of the device's
// own; the rest of this package knows no difference.
//
// Register blocks until the end. Any number of goroutines may call it; all devices of a gateway share one [Client],
// because several of the rules below are about what they do together. Ending its context leaves no goroutine and no
// connection of the device behind, and so does [Client.Close], which ends all.
//
// # The endings
//
//   - an Assignment: the device belongs to a hub, which opens to the same device key ([HubResource]) or
//     certificate;
//   - [FailedError]: the service ended it, status failed or disabled. Both come with HTTP status 200;
//   - [CredentialError]: the service accepts none of the keys, or not the certificate (401);
//   - [ServiceError]: the service refused the request for another reason, with a status from 400 to 428;
//   - [ThrottledError]: the service asked for a long pause, and named its end;
//   - [UnreachableError]: there was no answer, or none that makes sense;
//   - [ErrRegistrationID], [ErrKey], [ErrCertificate], [ErrRequest]: nothing was sent.
//
// [Verdict] turns any of them into plain words: what happened, who can do something about it, what to do next.
// [Failures] lists all that it knows. After a ThrottledError or an UnreachableError a later attempt may do better, and
// when is the caller's to decide; the others are the service's word, or a mistake on this side.
//
// # Restarts
//
// [Request.Observe] is told of each step before it is taken. Who writes that down loses nothing: an attempt that was
// cut off is resumed with its OperationID or, if it had none yet, by saying that it was Interrupted.
//
// # Keys and certificates
//
// A [KeySource] has the keys of devices: [GroupKeys] derives them from the group's, [DerivedKeys] holds those of some
// devices, for a gateway that is not to know the group's; package sealedkeys brings them there. A device may have two,
// the primary and the secondary. The one that the service accepted last signs, at first the primary, and the other when
// that is refused, so that keys can be changed one after the other. [Assignment.Key] tells which was accepted.
//
// A device with an X.509 certificate ([ParseCertificate]) signs nothing. It shows the certificate in the TLS handshake,
// and its registration ID is the certificate's common name.
//
// Keys, certificates and tokens print as "[redacted]", in logs, errors and JSON.
//
// # Networks
//
// The service is at one host, on port 443 for HTTPS and MQTT over WebSocket, on port 8883 for MQTT. [TransportAuto] finds
// out which of them a site lets through. A site's HTTP proxy is taken from HTTPS_PROXY and NO_PROXY, or is what
// [Config.Proxy] says; it carries all transports, and a [ProxyError] tells its troubles from the service's.
// [Config.RootCAs] takes the roots of proxies that look into TLS.
//
// # Clock and budget
//
// A [Clock] keeps a wrong system clock from looking like a wrong key, and a [Budget] keeps a building from storming the
// service after a power cut. Without either a Client makes its own, which is right for a program that registers and
// ends. A daemon makes them, and keeps [Clock.Floor] and [Budget.State] across restarts.
//
// # The rules
//
// The tests name the rules they prove: "go test -run Conformance -v" lists what each asks, over every transport, and
// the suite runs on any client.
//
//   - Rule 1, poll wait. The service's hint, in seconds or as an HTTP date, is obeyed after every answer. Without one the
//     waits are 0.5, 1, then 2.5 s. No device is polled more than five times in ten seconds, whatever the hint.
//   - Rule 2, 429 and above. Before retry n of one request: the hint and up to a tenth more; without a hint
//     1 s + (n-1)·9 s and a random part of the time that the fleet needs within its budget. A hint above five minutes ends
//     the attempt, and so does the tenth failure in a row. A 429 to a register holds back all other registers of the client.
//   - Rule 3. A poll that fails keeps its operation ID. Only a 404 to it begins a new registration, once.
//   - Rule 4. Registers, a hundred a minute, and polls, twenty a second, are spread evenly over time. The [Budget] can be
//     kept across restarts, and with it the hold-back of rule 2.
//   - Rule 5, 401. When the answer shows that the clock is more than five minutes off, the service's time is used from then
//     on, which is logged once; else the device's next key is tried. The request is repeated after either, an operation
//     ID is kept. [Clock] also has a floor, for tokens and certificates alike.
//   - Rule 10. Tokens: upper-case escapes, the order sr, sig, se, skn, an hour, fresh for each request or connection.
//   - Rule 11. A registration ID is checked by the documented rule before anything is sent.
//   - Rule 12. One pool of HTTPS connections for all. Transport hiccups are retried twice and quickly, but never
//     a register of which something was written, and never an answer. Each certificate has connections of its own, which
//     end with its attempt.
package provisioning
