// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package dpslocal

import "net"

// withQuickAck does nothing: only Linux lets a program hurry acknowledgements.
func withQuickAck(conn net.Conn) net.Conn { return conn }
