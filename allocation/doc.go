// SPDX-License-Identifier: Apache-2.0

// Package allocation is the custom allocation webhook of a provisioning
// service: it is told which appliance asks to be registered and answers which
// of the linked IoT hubs the appliance belongs to.
//
// The pieces, in the order in which a request meets them:
//
//   - [Handler] takes POST /api/{any name}, checks the function key, bounds the
//     body, and turns the outcome into a status. The status is the contract
//     (dps-protocol 12.4), because it decides what happens to the appliance:
//     200 assigns it, 400 refuses it for good, 401 says that the key in the
//     webhook's URL is wrong, and 503 makes the service ask again for about
//     seven minutes. So a refusal of the policy is 400 and every trouble of our
//     own is 503.
//   - [Limits] bound what callers may ask; what is beyond is 503 as well.
//   - [Setup] is all that decides and can be replaced while requests come in.
//   - [ParseRequest] reads the AllocationRequest.
//   - An [Upstream], where there is one, is the cloud function that is asked first
//     (front mode). Its answer is passed on, refusals included; while it is
//     unavailable the policy decides in its place.
//   - A [Policy] decides. It is a pure function of the request, so the same
//     request always gets the same answer; the service may send one request
//     eleven times (dps-protocol 12.6). [Tutorial] is the built-in one.
//   - [Decision] is what remains: one log record, and one value for whoever
//     counts or keeps decisions, both without secrets.
//
// Nothing is required of the request's headers, since none are documented
// (dps-protocol 12.3).
package allocation
