// SPDX-License-Identifier: Apache-2.0

// Package mqttrpc makes calls over MQTT 3.1.1 the way Azure's services do: a request is a PUBLISH to a topic that
// ends in "?$rid=…", and its answer is a PUBLISH to ".../res/{status}/?$rid=…" with the same request ID
// (dps-protocol 6.4, 6.5, 18.2). It is the only package that knows the MQTT client library.
//
//	conn, err := mqttrpc.Connect(ctx, cfg)      // dial, TLS, CONNECT, SUBSCRIBE
//	answer, err := conn.Call(ctx, "$iothub/twin/GET/", "", nil)
//	conn.Close()
//
// A [Conn] is one connection and no more: it never reconnects, retries or queues. The library can do all three, but
// in step with every other device and with credentials that have expired, so its owner decides (libraries 2.2).
package mqttrpc
