// SPDX-License-Identifier: Apache-2.0

// Package netdial makes the connections on which the service and the hubs are spoken to, whatever the protocol: TCP to
// the address, or a tunnel to it through the site's HTTP proxy.
//
//	dialer := netdial.New(netdial.Config{})           // with the proxy that the environment names
//	conn, err := dialer.DialContext(ctx, "tcp", "global.azure-devices-provisioning.net:443")
//
// TLS to the service is the caller's business in both cases: the proxy sees a host, a port and ciphertext.
package netdial
